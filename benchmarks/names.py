"""A hundred thousand names in the registry: who learns them how soon, and what they cost.

    python -m benchmarks.names nodes   [--names N] [--members N] [--one] [--json FILE]
    python -m benchmarks.names engines [--names N] [--json FILE]

**nodes**: members are processes of their own on loopback, with mutual TLS.  All of them register
names, a hundred processes each, but for one that only listens; with `--one` a single member has
them all.  Then a new node starts: the time from its `open_node` until it holds every name.  Memory
is the growth of resident memory, from before the first name to after the last, of the one that
listens and of one that registers; a look-up is what a message to `"name@*"` does first.

**engines**: two registries in one process that talk through the codec; memory is what Python
allocated for the second one, which learned everything, and for the first.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

import click
import trio

import steinadler
from benchmarks.comparing import IDLE_LOAD
from benchmarks.measuring import resident_bytes
from benchmarks.running import Program, RunFailed, environment, started
from steinadler.identity import NodeId
from steinadler.registry import Effect, Registry, Tell
from steinadler.registry.messages import decode, encode

JOIN_LIMIT_S = 5.0
LOOK_UP_LIMIT_US = 5.0
MEMORY_LIMIT = 500.0
PROCESSES = 100
# Claims under way at once: each waits for the arbiter's answer.
CLAIMERS = 64
LOOK_UPS = 20_000
PATIENCE_S = 600.0


def name_of(node: str, number: int) -> str:
    """Some twenty bytes, as names of services have."""
    return f"service-{number:06}-{node}"


# -- nodes, each in a process of its own ----------------------------------------------------------


async def idle(me: steinadler.Process) -> None:
    await trio.sleep_forever()


async def member(name: str) -> None:
    """One member: does what a line of standard input asks for, and answers with one."""
    began, cpu_began = time.perf_counter(), time.process_time()
    async with steinadler.open_node(name, host="127.0.0.1", mdns=False) as node:
        registry = node._runtime.naming.registry
        _say({"name": name, "opened_s": time.perf_counter() - began})
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            rest = b""
            async for chunk in stdin:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    match json.loads(line):
                        case {"do": "memory"}:
                            gc.collect()
                            _say({"bytes": resident_bytes(os.getpid())})
                        case {"do": "meet", "members": members}:
                            while len(node.members()) < members:
                                await anext(node.events())
                            _say({})
                        case {"do": "register", "names": count}:
                            start = time.perf_counter()
                            await _register(node, count)
                            _say({"seconds": time.perf_counter() - start})
                        case {"do": "hold", "names": count}:
                            while len(registry) < count:  # noqa: ASYNC110 - nobody says when
                                await trio.sleep(0.005)
                            _say(
                                {
                                    "since_start_s": time.perf_counter() - began,
                                    "cpu_s": time.process_time() - cpu_began,
                                }
                            )
                        case {"do": "look up", "shares": shares}:
                            _say(await _look_up(node, shares))


async def _register(node: steinadler.Node, count: int) -> None:
    processes = [node.spawn(idle) for _ in range(min(count, PROCESSES))]
    numbers = iter(range(count))

    async def claim() -> None:
        for number in numbers:
            process = processes[number % len(processes)]
            await node.register_global(name_of(node.name, number), process)

    async with trio.open_nursery() as nursery:
        for _ in range(CLAIMERS):
            nursery.start_soon(claim)


async def _look_up(node: steinadler.Node, shares: list[int]) -> dict[str, float]:
    drawn = random.Random(1)
    holders = [drawn.randrange(len(shares)) for _ in range(LOOK_UPS)]
    names = [name_of(f"holder{holder}", drawn.randrange(shares[holder])) for holder in holders]
    find_us = _find_us(node._runtime.naming.registry, names)
    start = time.perf_counter()
    for name in names:
        if await node.whereis(f"{name}@*") is None:
            raise RunFailed(f"{name} is nobody's: was its holder, starved, declared down?")
    return {
        "find_us": find_us,
        "whereis_us": (time.perf_counter() - start) / len(names) * 1e6,
    }


def _find_us(registry: Registry, names: list[str]) -> float:
    """CPU time of a look-up: on a machine that others use, time would be theirs."""
    times = []
    for _ in range(7):
        start = time.process_time()
        for name in names:
            registry.find(name)
        times.append((time.process_time() - start) / len(names) * 1e6)
    return median(times)


def _say(answer: dict[str, Any]) -> None:
    click.echo(json.dumps(answer))


def measure_nodes(names: int, members: int, *, one: bool) -> dict[str, Any]:
    """Processes that register, one that listens, and one that comes.  Raises `RunFailed`."""
    with (
        tempfile.TemporaryDirectory(prefix="steinadler-bench-") as folder,
        contextlib.ExitStack() as stack,
    ):
        variables = environment(Path(folder))

        def start(name: str) -> Program:
            command = [sys.executable, "-m", "benchmarks.names", "member", name]
            return stack.enter_context(started(command, variables))

        listener = start("listener")  # which makes the cluster's credentials
        holders = [start(f"holder{number}") for number in range(members)]
        for each in (listener, *holders):
            each.ask({"do": "meet", "members": members + 1})
        before = [each.ask({"do": "memory"})["bytes"] for each in (listener, holders[0])]
        shares = [names] if one else [names // members] * members
        total = sum(shares)
        registering_s = 0.0
        for holder, share in zip(holders, shares, strict=False):
            told = holder.ask({"do": "register", "names": share}, PATIENCE_S)
            registering_s += told["seconds"]
        for each in (listener, *holders):
            each.ask({"do": "hold", "names": total}, PATIENCE_S)
        after = [each.ask({"do": "memory"})["bytes"] for each in (listener, holders[0])]
        looked_up = listener.ask({"do": "look up", "shares": shares}, PATIENCE_S)
        joins, cpu = [], []
        for number in range(3):
            newcomer = start(f"newcomer{number}")
            told = newcomer.ask({"do": "hold", "names": total}, PATIENCE_S)
            joins.append(round(told["since_start_s"], 3))
            cpu.append(round(told["cpu_s"], 3))
        return {
            "names": total,
            "members": members + 1,
            "holders": len(shares),
            "join_s": joins,
            "join_cpu_s": cpu,  # of the newcomer
            "find_us": round(looked_up["find_us"], 3),
            "whereis_us": round(looked_up["whereis_us"], 1),
            "bytes_of_a_name": round((after[0] - before[0]) / total),
            "bytes_of_a_name_at_a_holder": round((after[1] - before[1]) / total),
            "registered_per_s": round(total / registering_s),
        }


# -- engines --------------------------------------------------------------------------------------


def measure_engines(names: int) -> dict[str, Any]:
    """Two registries; the second one learns all that the first one has."""
    here, there = NodeId("holder", 1), NodeId("newcomer", 1)
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    holder = Registry(here, random.Random(1), lambda: [there])
    newcomer = Registry(there, random.Random(2), lambda: [here])
    for number in range(names):
        holder.register(name_of("holder", number), number % PROCESSES + 1, 1_750_000_000_000_000)
    held = tracemalloc.get_traced_memory()[0]
    _join(holder, newcomer, here, there)
    learned = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    if len(newcomer) != names:
        raise RunFailed(f"the newcomer has {len(newcomer)} of {names} names")
    again = Registry(there, random.Random(2), lambda: [here])
    began = time.process_time()
    messages = _join(holder, again, here, there)
    took = time.process_time() - began
    drawn = random.Random(1)
    wanted = [name_of("holder", drawn.randrange(names)) for _ in range(LOOK_UPS)]
    return {
        "names": names,
        "join_cpu_s": round(took, 2),
        "messages": messages,
        "find_us": round(_find_us(newcomer, wanted), 3),
        "bytes_of_a_name": round((learned - held) / names),
        "bytes_of_a_name_at_a_holder": round((held - start) / names),
    }


def _join(holder: Registry, newcomer: Registry, here: NodeId, there: NodeId) -> int:
    """Let both meet, and talk until there is nothing more to say; how many messages it took."""
    engines = {here: holder, there: newcomer}
    holder.member_up(there)
    newcomer.member_up(here)
    holder.news()  # told to others, before
    waiting: deque[tuple[NodeId, NodeId, bytes]] = deque()
    count = 0

    def carry_out(sender: NodeId, effects: list[Effect]) -> None:
        waiting.extend(
            (sender, effect.to, encode(effect.message))
            for effect in effects
            if isinstance(effect, Tell)
        )

    carry_out(there, newcomer.neighbour_connected(here))
    while waiting:
        sender, to, data = waiting.popleft()
        count += 1
        message = decode(data)
        assert message is not None
        carry_out(to, engines[to].received(sender, message, 0.0))
    return count


# -- the command line -----------------------------------------------------------------------------


@click.group()
def main() -> None:
    """Measure the registry with many names."""


names_option = click.option(
    "--names", type=click.IntRange(min=1000), default=100_000, show_default=True
)
json_option = click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path))


def _report(figures: dict[str, Any], limits: dict[str, float], file: Path | None) -> None:
    figures["load_before"] = round(os.getloadavg()[0], 2)
    for key, limit in limits.items():
        found = figures[key]
        worst = max(found) if isinstance(found, list) else found
        verdict = "reached" if worst <= limit else "NOT REACHED"
        click.echo(f"{verdict}: {key} {worst:g}, at most {limit:g}", err=True)
    if figures["load_before"] > IDLE_LOAD:
        click.echo("the machine was not idle", err=True)
    click.echo(json.dumps(figures, indent=1))
    if file is not None:
        file.write_text(json.dumps(figures, indent=1) + "\n")


@main.command("nodes")
@names_option
@click.option("--members", type=click.IntRange(min=1, max=16), default=3, show_default=True)
@click.option("--one", is_flag=True, help="A single member has them all.")
@json_option
def nodes_command(names: int, members: int, one: bool, file: Path | None) -> None:
    """Processes on loopback."""
    limits = {
        "join_s": JOIN_LIMIT_S,
        "find_us": LOOK_UP_LIMIT_US,
        "bytes_of_a_name": MEMORY_LIMIT,
        "bytes_of_a_name_at_a_holder": MEMORY_LIMIT,
    }
    try:
        _report(measure_nodes(names, members, one=one), limits, file)
    except RunFailed as error:
        raise click.ClickException(str(error)) from None


@main.command("engines")
@names_option
@json_option
def engines_command(names: int, file: Path | None) -> None:
    """Two engines."""
    limits = {
        "join_cpu_s": JOIN_LIMIT_S,
        "find_us": LOOK_UP_LIMIT_US,
        "bytes_of_a_name": MEMORY_LIMIT,
        "bytes_of_a_name_at_a_holder": MEMORY_LIMIT,
    }
    _report(measure_engines(names), limits, file)


@main.command("member", hidden=True)
@click.argument("name")
def member_command(name: str) -> None:
    """One member, of which the others are made."""
    trio.run(member, name)


if __name__ == "__main__":
    main()
