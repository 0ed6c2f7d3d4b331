"""What members notice of strangers who flood their ports.

    python -m benchmarks.strangers [--connections N] [--seconds S] [--json FILE]

Two members in processes of their own, one of which calls the other 100 times a second: for some
seconds before, during and after a third process opens N connections in S seconds to both ports,
from the members' own address, which is the worst case.  The connections are of seven kinds in
turn: silent; a TLS hello and then silence; a hello at a byte a second; garbage; HTTP; TLS without a
certificate; TLS with a certificate of another cluster.  Each is held for as long as the member
holds it.  It ends by itself, and so does everything when this process goes.

Reported: the calls' p50 and p99, and the caller's processor time, of each phase; both members'
memory (RSS) before, at its most, and afterwards; and who was declared down, which must be nobody.
All processes share the machine's processors: part of what calls lose is what the attacker itself
takes, so its processor time is reported too, and how many connections it got to open.
"""

from __future__ import annotations

import json
import logging
import random
import resource
import ssl
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

import steinadler
from benchmarks.running import RunFailed
from steinadler.identity import NODE
from steinadler.node.events import NodeDown
from steinadler.security import Home

KINDS = ("silent", "hello", "slow", "garbage", "http", "no certificate", "another cluster")
CALL_INTERVAL_S = 0.01
HOLD_S = 20.0
QUIET_S = 10.0


# -- the members ------------------------------------------------------------------------------


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def be_member(name: str, home: str, seed: str | None) -> None:
    """A node that answers; with a `seed` it calls, and tells percentiles for each line it reads."""
    logging.getLogger("steinadler.transport").setLevel(logging.ERROR)
    seeds = [seed] if seed else []
    times: list[float] = []
    downs: list[str] = []
    async with (
        steinadler.open_node(
            name, host="127.0.0.1", seeds=seeds, mdns=False, home=Path(home)
        ) as node,
        trio.open_nursery() as nursery,
    ):
        _say(address=str(node.addresses[0]))

        async def watch() -> None:
            async for event in node.events():
                match event:
                    case NodeDown(gone):
                        downs.append(gone.node.name)

        async def keep_calling() -> None:
            while True:
                began = time.perf_counter()
                await node.call("$echo@alice", b"x" * 100)
                times.append(time.perf_counter() - began)
                await trio.sleep(CALL_INTERVAL_S)

        nursery.start_soon(watch)
        if seed:
            await node.wait_for_member("alice")
            nursery.start_soon(keep_calling)
        before = time.process_time()
        stdin = trio.wrap_file(sys.stdin)
        async for _ in stdin:
            ordered, times[:] = sorted(times), []
            told = {
                f"p{share}_ms": round(1000 * ordered[len(ordered) * share // 100], 3)
                for share in ((50, 99) if ordered else ())
            }
            used = time.process_time()
            _say(calls=len(ordered), downs=downs, processor_s=round(used - before, 2), **told)
            before = used
        nursery.cancel_scope.cancel()


# -- the strangers ----------------------------------------------------------------------------


def _hello() -> bytes:
    out = ssl.MemoryBIO()
    tls = _context(None).wrap_bio(ssl.MemoryBIO(), out)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def _context(credentials: Any) -> ssl.SSLContext:
    if credentials is not None:
        context: ssl.SSLContext = credentials.client_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["steinadler/1"])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def attack(ports: list[int], connections: int, seconds: float) -> None:
    """Open the connections evenly over the time, and hold each as long as it is let."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    hello, done = _hello(), Counter[str]()
    with tempfile.TemporaryDirectory() as home:
        elsewhere = Home(Path(home))
        foreign = elsewhere.credentials(elsewhere.create_cluster("default"), NODE, "mallory")
        contexts = {"no certificate": _context(None), "another cluster": _context(foreign)}
        began = trio.current_time()
        with trio.move_on_after(seconds + HOLD_S):
            async with trio.open_nursery() as nursery:
                for number in range(connections):
                    await trio.sleep_until(began + seconds * number / connections)
                    kind = KINDS[number % len(KINDS)]
                    port = ports[number // len(KINDS) % len(ports)]
                    nursery.start_soon(_stranger, kind, port, hello, contexts.get(kind), done)
    _say(done=done, processor_s=round(time.process_time(), 1))


async def _stranger(
    kind: str, port: int, hello: bytes, context: ssl.SSLContext | None, done: Counter[str]
) -> None:
    with trio.move_on_after(HOLD_S), suppress(OSError, trio.BrokenResourceError):
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            done[kind] += 1
            match kind:
                case "hello":
                    await stream.send_all(hello)
                case "slow":
                    for at in range(len(hello)):
                        await stream.send_all(hello[at : at + 1])
                        await trio.sleep(1)
                case "garbage":
                    await stream.send_all(random.randbytes(500))
                case "http":
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                case "silent":
                    pass
                case _:
                    assert context is not None
                    stream = trio.SSLStream(stream, context, https_compatible=True)
                    await stream.do_handshake()  # type: ignore[attr-defined]
            while await stream.receive_some():
                pass


# -- the run ----------------------------------------------------------------------------------


class _Program:
    """A process of this module, that says and is told lines."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._said = b""

    async def next(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while b"\n" not in self._said:
            more = await self.process.stdout.receive_some()
            if not more:
                raise RunFailed("a process of the benchmark ended before its time")
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    async def ask(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"\n")
        return await self.next()

    @property
    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)


async def measure(connections: int, seconds: float, quiet_s: float = QUIET_S) -> dict[str, Any]:
    """The whole run; see the module's text for what it tells."""
    with tempfile.TemporaryDirectory() as home:
        async with trio.open_nursery() as nursery:

            async def start(*arguments: str) -> _Program:
                command = [sys.executable, "-m", "benchmarks.strangers", *arguments]
                run = partial(trio.run_process, command, stdin=-1, stdout=-1, check=False)
                return _Program(await nursery.start(run))

            alice = await start("--member", "alice", "--home", home)
            address = (await alice.next())["address"]
            bob = await start("--member", "bob", "--home", home, "--seed", address)
            addresses = [address, (await bob.next())["address"]]
            await trio.sleep(2.0)
            await bob.ask()
            await trio.sleep(quiet_s)
            phases = {"before": await bob.ask()}
            before = [each.rss_mib for each in (alice, bob)]
            ports = ",".join(each.rpartition(":")[2] for each in addresses)
            attacker = await start(
                "--attack", ports, "--connections", str(connections), "--seconds", str(seconds)
            )
            most = before
            end = trio.current_time() + seconds
            while trio.current_time() < end:
                await trio.sleep(0.5)
                most = [max(*pair) for pair in zip(most, (alice.rss_mib, bob.rss_mib), strict=True)]
            phases["during"] = await bob.ask()
            attacked = await attacker.next()
            await trio.sleep(2.0)
            await bob.ask()
            await trio.sleep(quiet_s)
            phases["after"] = await bob.ask()
            after = [each.rss_mib for each in (alice, bob)]
            downs = [*phases["after"]["downs"], *(await alice.ask())["downs"]]
            nursery.cancel_scope.cancel()
    memory = {"before": before, "most": most, "after": after}
    return {"phases": phases, "rss_mib": memory, "downs": downs, "attacker": attacked}


@click.command()
@click.option("--connections", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True)
@click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write figures."
)
@click.option("--member", hidden=True)
@click.option("--home", hidden=True)
@click.option("--seed", hidden=True)
@click.option("--attack", "ports", hidden=True)
def main(
    connections: int,
    seconds: float,
    file: Path | None,
    member: str | None,
    home: str | None,
    seed: str | None,
    ports: str | None,
) -> None:
    """What members notice of strangers who flood their ports."""
    if member is not None and home is not None:
        trio.run(be_member, member, home, seed)
    elif ports is not None:
        trio.run(attack, [int(port) for port in ports.split(",")], connections, seconds)
    else:
        try:
            figures = trio.run(measure, connections, seconds)
        except* RunFailed as failed:
            raise click.ClickException(str(failed.exceptions[0])) from None
        text = json.dumps(figures, indent=1) + "\n"
        click.echo(text, nl=False)
        if file is not None:
            file.write_text(text)


if __name__ == "__main__":
    main()
