"""Machines that are network namespaces, each with an interface, an address and a firewall.

    a switch, in a namespace of its own
     ├── alice    10.77.0.1
     ├── bob      10.77.0.2
     └── router   10.77.0.3 ── 10.88.3.1 ── carol 10.88.3.2, behind its NAT

Packets that are cut are dropped where they arrive, as if they had got lost on the way: whoever
sent them is told nothing.

No namespace has a name.  It lives as long as a process is in it: a `cat` whose standard input is a
pipe of this process, and the test's programs, which end with their standard input too.  So nothing
is left when a test is killed, nothing of the machine's own network is touched, and test runs do
not see each other.  Names (`ip netns add`) would have to be swept by whoever comes next.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

_NEEDED = ("ip", "iptables", "nsenter", "unshare")


def why_not() -> str | None:
    """Why this machine cannot play several, if so."""
    if missing := [tool for tool in _NEEDED if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    checks = ("ip link add v0 type veth peer name v1", "iptables -A INPUT -s 10.77.0.1 -j DROP")
    try:
        subprocess.run(
            ["unshare", "--net", "sh", "-c", " && ".join(checks)],
            check=True,
            capture_output=True,
            timeout=10,
        )
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"
    return None


class Machine:
    """One namespace.  Everything raises `CalledProcessError` when the system refuses it."""

    def __init__(self, name: str, pid: int, address: str = "") -> None:
        self.name = name
        self.pid = pid
        self.address = address

    def inside(self, *command: str) -> list[str]:
        """The command, to be run in this machine."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command]

    async def run(self, *command: str, stdin: str = "") -> str:
        """Run a command in it, to its end; return what it prints."""
        done = await trio.run_process(
            self.inside(*command), stdin=stdin.encode(), capture_stdout=True
        )
        return done.stdout.decode()

    async def ip(self, *lines: str) -> None:
        """Configure its network: lines of `ip`, all in one run."""
        await self.run("ip", "-batch", "-", stdin="\n".join(lines))

    async def deaf_to(self, others: Iterable[Machine]) -> None:
        """Drop what comes from these."""
        sources = ",".join(other.address for other in others)
        await self.run("iptables", "-A", "INPUT", "-s", sources, "-j", "DROP")

    async def hear_all(self) -> None:
        """Drop nothing any more."""
        await self.run("iptables", "-F", "INPUT")


class Switch:
    """Machines that are connected by one switch, and some by a router behind it."""

    def __init__(self, nursery: trio.Nursery, core: Machine) -> None:
        self._nursery = nursery
        self._core = core
        self._ports: dict[Machine, str] = {}
        self._addresses = 0  # given out so far

    async def machine(self, name: str) -> Machine:
        """A machine with an address that all others reach."""
        machine = await _boot(self._nursery, name)
        machine.address = self._new_address()
        port = self._ports[machine] = f"port{self._addresses}"
        await self._core.ip(
            f"link add {port} type veth peer name eth0 netns {machine.pid}",
            f"link set {port} master switch up",
        )
        await machine.ip(
            "link set lo up",
            "link set eth0 addrgenmode none",  # no IPv6 address, which takes seconds to be usable
            f"addr add {machine.address}/24 dev eth0",
            "link set eth0 up",
        )
        return machine

    async def behind_nat(self, name: str) -> tuple[Machine, Machine]:
        """A machine that reaches all others and that none reaches; and the router before it."""
        router = await self.machine(f"{name}'s router")
        machine = await _boot(self._nursery, name)
        network = f"10.88.{self._addresses}"
        machine.address = f"{network}.2"
        await router.ip(
            f"link add inside type veth peer name eth0 netns {machine.pid}",
            f"addr add {network}.1/24 dev inside",
            "link set inside up",
        )
        await machine.ip(
            "link set lo up",
            f"addr add {machine.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {network}.1",
        )
        await router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        masquerade = ("-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE")
        await router.run("iptables", *masquerade)
        for chain in ("FORWARD", "INPUT"):
            answers = ("-m", "conntrack", "!", "--ctstate", "ESTABLISHED,RELATED")
            await router.run("iptables", "-A", chain, "-i", "eth0", *answers, "-j", "DROP")
        return router, machine

    async def readdress(self, router: Machine) -> None:
        """Give a router another outer address, as providers do: its NAT forgets all it had."""
        old, router.address = router.address, self._new_address()
        await router.ip(
            f"addr del {old}/24 dev eth0",
            f"addr add {router.address}/24 dev eth0",
        )

    async def unplug(self, machine: Machine) -> float:
        """Pull its cable; return when that began, by the monotonic clock."""
        begun = time.monotonic()
        await self._core.ip(f"link set {self._ports[machine]} down")
        return begun

    async def plug(self, machine: Machine) -> None:
        """Put its cable back."""
        await self._core.ip(f"link set {self._ports[machine]} up")

    @asynccontextmanager
    async def deafened(self, machine: Machine, *others: Machine) -> AsyncIterator[None]:
        """Let nothing that these send reach a machine, for the length of the block; what it sends
        reaches them."""
        await machine.deaf_to(others)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await machine.hear_all()

    @asynccontextmanager
    async def parted(self, one: list[Machine], other: list[Machine]) -> AsyncIterator[float]:
        """Let nothing pass between two sides for the length of the block; since when that is so,
        by the monotonic clock."""
        begun = time.monotonic()
        try:
            for side, rest in ((one, other), (other, one)):
                for machine in side:
                    await machine.deaf_to(rest)
            yield begun
        finally:
            with trio.CancelScope(shield=True):
                for machine in (*one, *other):
                    await machine.hear_all()

    def _new_address(self) -> str:
        """An address that nobody has had."""
        self._addresses += 1
        return f"10.77.0.{self._addresses}"


@asynccontextmanager
async def switched() -> AsyncIterator[Switch]:
    """A switch, for the length of the block; its machines are gone afterwards."""
    async with trio.open_nursery() as nursery:
        core = await _boot(nursery, "switch")
        await core.ip("link add switch type bridge mcast_snooping 0", "link set switch up")
        yield Switch(nursery, core)
        nursery.cancel_scope.cancel()


async def _boot(nursery: trio.Nursery, name: str) -> Machine:
    machine: Machine = await nursery.start(_hold, name)
    return machine


async def _hold(name: str, *, task_status: trio.TaskStatus[Machine]) -> None:
    """Keep a namespace until cancelled."""
    holder = await trio.lowlevel.open_process(
        ["unshare", "--net", "sh", "-c", "echo && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert await holder.stdout.receive_some(), "no namespace"
        task_status.started(Machine(name, holder.pid))
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await holder.stdin.aclose()
            await holder.wait()
            await holder.stdout.aclose()
