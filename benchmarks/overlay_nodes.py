"""Whole nodes on a simulated network: membership, registry, sessions and all.

Each node is a `SimulatedCluster`'s, at default settings, and knows one other to begin with.  What a
node sends is counted where it hands it to the network: a message is one write, which may carry
several frames, and its bytes are those of frames, without TLS.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio
import trio.testing

from benchmarks.overlay_figures import LOAD_ROUNDS, REPEATS, Accident, Figures, Load
from benchmarks.running import RunFailed
from steinadler.config import Config, DialSettings
from steinadler.node import Node, NodeDown, NodeUp
from steinadler.testing import SimulatedCluster, Trace

# So many start together, or half as many as are there; and so long before the next.
BATCH = 20
BATCH_INTERVAL_S = 0.1
# A virtual second of a thousand nodes takes half a minute, so that connections which nobody uses
# are closed sooner than by default; and until they are, after the cluster has grown.
DIAL = DialSettings(link_idle_s=3.0)
SETTLE_S = 5.0
# Looked at for so long at a time, until the bytes of one look are those of the one before, about:
# the news of a thousand that joined at once ride on probes for a quarter of a minute.
REST_S = 2.5
AT_REST = 0.95
LIMIT_S = 30.0


class Traffic(Trace):
    """A trace that only counts: what each host sent."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def record(self, time: float, event: str, source: str, target: str, size: int = 0) -> None:
        """See `Trace.record`."""
        if event == "data":
            self.messages[source] += 1
            self.bytes[source] += size


class Nodes:
    """A cluster of so many nodes."""

    def __init__(self, cluster: SimulatedCluster, traffic: Traffic, nursery: trio.Nursery) -> None:
        self.rng = random.Random(cluster.seed)
        self.wrong = 0
        self._cluster = cluster
        self._traffic = traffic
        self._nursery = nursery
        self._started = 0
        self._dead: set[str] = set()
        # Of whoever the accident is about: who was told when.
        self._about = ""
        self._told_up: dict[str, float] = {}
        self._told_down: dict[str, float] = {}
        self._told = trio.Event()

    def running(self) -> list[Node]:
        return [node for node in self._cluster.running() if node.name not in self._dead]

    async def grow(self, members: int) -> None:
        """Start so many, each with the address of one that is there, and wait until they agree."""
        await self.add(())
        while self._started < members:
            names = [node.name for node in self.running()]
            async with trio.open_nursery() as nursery:
                for _ in range(min(max(BATCH, len(names) // 2), members - len(names))):
                    nursery.start_soon(self.add, (self.rng.choice(names),))
            await trio.sleep(BATCH_INTERVAL_S)
        with trio.move_on_after(LIMIT_S) as scope:
            await self._cluster.agreed()
        if scope.cancelled_caught:
            raise RunFailed(f"{members} nodes did not agree within {LIMIT_S:g} s")

    async def add(self, seeds: tuple[str, ...]) -> Node:
        name = f"node{self._started:05}"
        self._started += 1
        (node,) = await self._cluster.start(name, seeds=seeds)
        await self._nursery.start(self._listen, node)
        return node

    async def _listen(
        self, node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        events = node.events()
        task_status.started()
        async for event in events:
            match event:
                case NodeUp(member) if member.node.name == self._about:
                    self._told_up[node.name] = trio.current_time()
                case NodeDown(member) if member.node.name == self._about:
                    self._told_down[node.name] = trio.current_time()
                case NodeDown(member) if member.node.name not in self._dead:
                    self.wrong += 1
                case _:
                    continue
            self._told.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        with trio.move_on_after(LIMIT_S):
            while not condition():
                self._told = trio.Event()
                await self._told.wait()
            return
        raise RunFailed(f"not all were told of {self._about} within {LIMIT_S:g} s")

    # -- accidents ----------------------------------------------------------------------------

    async def join(self) -> float:
        """A new node, which knows of one; how long until all know of it, and it of all."""
        others = self.running()
        start = trio.current_time()
        self._expect(f"node{self._started:05}")
        node = await self.add((self.rng.choice(others).name,))
        await self._until(lambda: len(self._told_up) == len(others))
        with trio.fail_after(LIMIT_S):
            while len(node.members()) <= len(others):
                await anext(node.events())
        return max(trio.current_time(), *self._told_up.values()) - start

    async def kill(self) -> float:
        """A node's process is killed: connections are reset, dials refused."""
        return await self._end(self._cluster.crash)

    async def silence(self) -> float:
        """A node does not run any more, and nothing says so."""
        return await self._end(self._cluster.pause)

    async def _end(self, befall: Callable[[str], None]) -> float:
        name = self.rng.choice(self.running()).name
        self._expect(name)
        self._dead.add(name)
        start = trio.current_time()
        befall(name)
        expected = {node.name for node in self.running()}
        await self._until(lambda: expected <= self._told_down.keys())
        return max(self._told_down[other] for other in expected) - start

    def _expect(self, name: str) -> None:
        self._about = name
        self._told_up, self._told_down = {}, {}

    # -- what is so ---------------------------------------------------------------------------

    def sent(self) -> dict[str, tuple[int, int]]:
        traffic = self._traffic
        return {
            node.name: (traffic.messages[node.name], traffic.bytes[node.name])
            for node in self.running()
        }

    async def load_over(self, seconds: float) -> Load:
        before = self.sent()
        await trio.sleep(seconds)
        return Load.between(before, self.sent(), seconds)

    async def at_rest(self) -> Load:
        """The load, once it falls no more."""
        await trio.sleep(SETTLE_S)
        load = await self.load_over(REST_S)
        while True:
            before, load = load, await self.load_over(REST_S)
            if load.bytes > AT_REST * before.bytes:
                return load

    async def accident(self, befall: Callable[[], Awaitable[float]], interval_s: float) -> Accident:
        """Let one befall the cluster; the load is that of the rounds that follow it."""
        before, start = self.sent(), trio.current_time()
        seconds = await befall()
        window = max(LOAD_ROUNDS * interval_s, trio.current_time() - start)
        await trio.sleep_until(start + window)
        return Accident(round(seconds, 4), Load.between(before, self.sent(), window))


async def measure(
    members: int,
    seed: int,
    config: Config,
    told: Callable[[str], None],
    repeats: int = REPEATS,
) -> Figures:
    """All figures of one size.  `told` hears how far it is.  Raises `RunFailed`.

    Each accident befalls the cluster `repeats` times.
    """
    began = time.process_time()
    interval_s = config.membership.probe_interval_s
    async with SimulatedCluster(seed, config=config) as cluster, trio.open_nursery() as nursery:
        traffic = cluster.fabric.trace = Traffic()
        here = Nodes(cluster, traffic, nursery)
        await here.grow(members)
        told(f"{members} members agree, after {time.process_time() - began:.0f} s of CPU")
        rest = await here.at_rest()
        connections = [node.statistics().connections for node in here.running()]
        told(f"at rest: {rest}, {Counter(connections)}, {time.process_time() - began:.0f} s of CPU")
        accidents: list[list[Accident]] = [[], [], []]
        for _ in range(repeats):
            for befall, seen in zip((here.join, here.kill, here.silence), accidents, strict=True):
                seen.append(await here.accident(befall, interval_s))
                told(f"{befall.__name__}: {seen[-1]}, {time.process_time() - began:.0f} s of CPU")
        figures = Figures(
            members,
            (min(connections), round(sum(connections) / members, 2), max(connections)),
            rest,
            tuple(accidents[0]),
            tuple(accidents[1]),
            tuple(accidents[2]),
            here.wrong,
            round(time.process_time() - began, 1),
        )
        nursery.cancel_scope.cancel()
        for node in cluster.running():
            cluster.crash(node.name)
    return figures


def run(
    members: int,
    seed: int,
    config: Config,
    told: Callable[[str], None],
    repeats: int = REPEATS,
) -> Figures:
    """`measure`, in virtual time."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    config = replace(config, dial=DIAL)
    logger = logging.getLogger("steinadler")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it tells here is what we do
    try:
        return trio.run(measure, members, seed, config, told, repeats, clock=clock)
    finally:
        logger.setLevel(level)
