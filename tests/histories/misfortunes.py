"""What may befall a simulated cluster, and how it is done to it.

Misfortunes overlap: each begins a while after the one before it and lasts as long as it likes, so
that a partition may meet a restart, or an outage of the store a node that has just been resumed.
Only what befalls one node waits for nobody: it passes by when something is on that node already.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

import trio
from recording import Recorder

from steinadler import Node
from steinadler.testing import SimulatedCluster

# What befalls nodes themselves.
OF_NODES = ("crash", "stop", "pause", "rolling restart")
STOPPED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Misfortune:
    """What befalls whom: `after_s` after the one before it began, and for how long.

    A partition is between `targets` and the rest of the cluster; with `others`, between the three
    sides that this makes.
    """

    kind: str
    targets: tuple[str, ...]
    after_s: float
    for_s: float
    strength: float = 0.5
    others: tuple[str, ...] = ()


class Fate:
    """Lets misfortunes befall a cluster; each is written down when it begins and when it ends.

    `victims` are those of `everybody` whom nothing is on now.  `begin(node)` is told of each life
    that starts, `closing(name)` before a stop, `over(name)` when a life has ended.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        recorder: Recorder,
        begin: Callable[[Node], None],
        closing: Callable[[str], None] = lambda _: None,
        over: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._cluster = cluster
        self._recorder = recorder
        self._begin = begin
        self._closing = closing
        self._over = over
        self._free: set[str] = set()
        self._everybody: set[str] = set()

    async def befall(
        self, script: Sequence[Misfortune], victims: Collection[str], everybody: Collection[str]
    ) -> None:
        """Let all of this happen; return when the last one has ended."""
        self._free, self._everybody = set(victims), set(everybody)
        async with trio.open_nursery() as nursery:
            for misfortune in script:
                await trio.sleep(misfortune.after_s)
                nursery.start_soon(self._befall, misfortune)

    async def _befall(self, what: Misfortune) -> None:
        targets = {name for name in what.targets if what.kind not in OF_NODES or name in self._free}
        if not targets:
            return
        if what.kind in OF_NODES:
            self._free -= targets
        told = " ".join(sorted(targets))
        self._recorder.note("fault", kind=what.kind, target=told)
        match what.kind:
            case "crash":
                self._cluster.crash(what.targets[0])
                self._over(what.targets[0])
                await self._restart(what.targets[0], what.for_s)
            case "stop":
                await self._stop(what.targets[0], what.for_s)
            case "rolling restart":
                for name in sorted(targets):
                    await self._stop(name, what.for_s / 4)
                    await trio.sleep(what.for_s / 4)
            case _:
                async with self._fault(what):
                    await trio.sleep(what.for_s)
        self._recorder.note("fault", kind="heal", target=f"{what.kind} {told}")
        if what.kind in OF_NODES:
            self._free |= targets

    async def _stop(self, name: str, for_s: float) -> None:
        self._closing(name)
        with trio.fail_after(STOPPED_WITHIN_S):
            await self._cluster.stop(name)
        self._over(name)
        await self._restart(name, for_s)

    async def _restart(self, name: str, after_s: float) -> None:
        await trio.sleep(after_s)
        self._begin(await self._cluster.restart(name))

    @asynccontextmanager
    async def _fault(self, what: Misfortune) -> AsyncIterator[None]:
        """A fault that ends with the block."""
        cluster, targets = self._cluster, what.targets
        with ExitStack() as stack:
            match what.kind:
                case "pause":
                    cluster.pause(targets[0])
                    stack.callback(cluster.resume, targets[0])
                case "partition" | "one-way partition":
                    one_way = what.kind != "partition"
                    rest = self._everybody - {*targets}
                    stack.enter_context(cluster.partition(targets, rest, one_way=one_way))
                    if what.others:
                        rest -= {*what.others}
                        stack.enter_context(cluster.partition(what.others, rest))
                case "cut path":
                    stack.enter_context(cluster.partition(targets[:1], targets[1:]))
                case "outage" | "total outage":
                    for name in targets:
                        stack.enter_context(cluster.store(name).outage())
                case "cuts":
                    for _ in range(math.ceil(10 * what.strength)):
                        cluster.cut(*targets)
                        await trio.sleep(what.for_s / 10)
                case "resets":
                    stack.enter_context(cluster.resetting(0.02 * what.strength))
                case "loss":
                    stack.enter_context(cluster.lossy(0.2 * what.strength))
                case "slowness":
                    stack.enter_context(cluster.slow(0.0, what.strength))
                case _:
                    raise ValueError(f"nobody knows the misfortune {what.kind!r}")
            yield
