"""One simulated history: its seed draws the cluster, the clients and everything that befalls them.

Faults overlap: each begins a while after the one before it and lasts as long as it likes, so that
a partition may meet a restart, or an outage of the store a node that has just been resumed.  When
all have ended the cluster must recover: every ledger takes one more turn.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from ledgers import Client, Ledger, Plan
from recording import Recorder
from trio.testing import MockClock

from steinadler import Config, EntityKey, EntitySettings, Node, Process
from steinadler.entity.database import Activate, Write
from steinadler.entity.store import Commit, Put
from steinadler.testing import SimulatedCluster

NAMES = ("alice", "bob", "carol", "dave", "eve")
# A node that hosts nothing and that nothing befalls, but partitions.
CALLER = "zoe"
# What befalls one node, which nothing else may befall meanwhile; and what befalls the rest.
OF_A_NODE = ("crash", "crash", "stop", "pause", "pause")
OF_THE_REST = (
    *("partition", "partition", "one-way partition", "outage", "outage", "total outage"),
    *("cuts", "resets", "loss", "slowness", "rolling restart"),
)
# How long a partition, an outage ... lasts; 2.7 s make a silent node a dead one.
SHORT_S, LONG_S = (0.01, 1.0), (1.0, 6.0)
RECOVERED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Misfortune:
    """What befalls whom: `after_s` after the one before it began, and for how long."""

    kind: str
    targets: tuple[str, ...]
    after_s: float
    for_s: float
    strength: float = 0.5


def run(seed: int, path: Path, script: Sequence[Misfortune] | None = None) -> None:
    """Play the history of a seed, and write it to a new file; with these faults, if they are
    given, and not with those of the seed."""
    trio.run(_simulate, seed, path, script, clock=MockClock(autojump_threshold=0))


async def _simulate(seed: int, path: Path, script: Sequence[Misfortune] | None) -> None:
    draw = random.Random(f"history {seed}")
    names = NAMES[: draw.randint(3, len(NAMES))]
    entities = tuple(f"{number}" for number in range(draw.randint(2, 6)))
    plan = Plan(entities, pause_s=(0.01, draw.choice((0.1, 0.3))), timeout_s=(1.0, 8.0))
    drawn = [_misfortune(draw, names) for _ in range(draw.randint(3, 7))]
    # Refused, too late and cut short are answers that promise something too.
    settings = EntitySettings(
        max_waiting_calls=draw.choice((1, 1000)),
        turn_timeout_s=draw.choice((0.15, 60.0)),
        wait_for_host_s=draw.choice((0.5, 10.0)),
    )
    with Recorder(path, trio.current_time) as recorder:
        cluster = SimulatedCluster(
            seed,
            config=Config(entities=settings),
            latency_s=draw.choice(((0.0005, 0.005), (0.001, 0.03))),
            store_latency_s=draw.choice(((0.0005, 0.005), (0.001, 0.05))),
        )
        _record_writes(cluster, recorder)
        async with cluster:
            history = _History(cluster, recorder, plan)
            await history.play(names, drawn if script is None else script)
        for key, state in sorted(cluster.contents.state.items(), key=lambda item: item[0].id):
            recorder.stored(key.id, state["state"].value)


def _misfortune(draw: random.Random, names: tuple[str, ...]) -> Misfortune:
    kind = draw.choice(draw.choice((OF_A_NODE, OF_THE_REST)))
    everybody = [*names, CALLER]
    draw.shuffle(everybody)
    match kind:
        case "partition" | "one-way partition":
            targets = tuple(everybody[: draw.randint(1, len(everybody) - 1)])
        case "cuts":
            targets = tuple(everybody[:2])
        case "crash" | "stop" | "pause" | "outage":
            targets = (draw.choice(names),)
        case _:
            targets = names
    for_s = draw.uniform(*draw.choice((SHORT_S, LONG_S)))
    return Misfortune(kind, targets, draw.uniform(0, 2.5), for_s, draw.random())


def _record_writes(cluster: SimulatedCluster, recorder: Recorder) -> None:
    """Have the store tell of every write that stands, when it does."""
    contents, numbers = cluster.contents, itertools.count()

    def on_write(write: Write) -> None:
        match write:
            case Activate(key, (name, life)):
                facts = {"epoch": contents.held[key].epoch, "owner": f"{name}/{life}"}
                recorder.write("activate", n=next(numbers), entity=key.id, **facts)
            case Commit(EntityKey() as key, _, (Put("state", value),)):
                held = contents.held[key].epoch
                recorder.commit(next(numbers), key.id, held, value, trio.current_time())

    contents.on_write = on_write


class _History:
    """The cluster while the history goes: who is up, and which clients call."""

    def __init__(self, cluster: SimulatedCluster, recorder: Recorder, plan: Plan) -> None:
        self._cluster = cluster
        self._recorder = recorder
        self._plan = plan
        self._stop = trio.Event()
        self._calling = 0
        self._idle = trio.Event()
        self._free: set[str] = set()  # of nodes on whom nothing is
        self._everybody: set[str] = set()
        self._failure: Exception | None = None

    async def play(self, names: tuple[str, ...], script: Sequence[Misfortune]) -> None:
        for name in names:
            (node,) = await self._cluster.start(name)
            self._begin(node)
        (caller,) = await self._cluster.start(CALLER)
        with trio.fail_after(RECOVERED_WITHIN_S):
            await self._cluster.agreed()
        self._free = set(names)
        self._everybody = {*names, CALLER}
        self._call(caller, 2)
        async with trio.open_nursery() as nursery:
            for misfortune in script:
                await trio.sleep(misfortune.after_s)
                nursery.start_soon(self._befall, misfortune)
        with trio.fail_after(RECOVERED_WITHIN_S):
            await self._cluster.agreed()
            self._stop.set()
            await self._idle.wait()
            await Client("last", caller, self._recorder, self._plan).recover()
        if self._failure is not None:
            raise self._failure

    # -- nodes and clients --------------------------------------------------------------------

    def _begin(self, node: Node) -> None:
        node.host(Ledger)
        if not self._stop.is_set():
            self._call(node, 1)

    def _call(self, node: Node, clients: int) -> None:
        for number in range(clients):
            name = f"{node.name}/{node.id.incarnation}/{number}"
            self._calling += 1
            node.spawn(self._run_client, Client(name, node, self._recorder, self._plan))

    async def _run_client(self, me: Process, client: Client) -> None:
        """A process of the node, so that it is paused and killed with it."""
        try:
            await client.keep_calling(self._stop)
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._calling -= 1
            if not self._calling:
                self._idle.set()

    # -- what befalls them --------------------------------------------------------------------

    async def _befall(self, what: Misfortune) -> None:
        of_nodes = what.kind in OF_A_NODE or what.kind == "rolling restart"
        targets = {name for name in what.targets if not of_nodes or name in self._free}
        if not targets:
            return
        if of_nodes:
            self._free -= targets
        told = " ".join(sorted(targets))
        self._recorder.note("fault", kind=what.kind, target=told)
        match what.kind:
            case "crash":
                await self._restart(what.targets[0], self._cluster.crash, what.for_s)
            case "stop":
                await self._stop_node(what.targets[0], what.for_s)
            case "rolling restart":
                for name in sorted(targets):
                    await self._stop_node(name, what.for_s / 4)
                    await trio.sleep(what.for_s / 4)
            case _:
                async with self._fault(what):
                    await trio.sleep(what.for_s)
        self._recorder.note("fault", kind="heal", target=f"{what.kind} {told}")
        if of_nodes:
            self._free |= targets

    async def _stop_node(self, name: str, for_s: float) -> None:
        with trio.fail_after(RECOVERED_WITHIN_S):
            await self._cluster.stop(name)
        await self._restart(name, lambda _: None, for_s)

    async def _restart(self, name: str, end: Callable[[str], None], for_s: float) -> None:
        end(name)
        await trio.sleep(for_s)
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
                    others = self._everybody - {*targets}
                    stack.enter_context(cluster.partition(targets, others, one_way=one_way))
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
            yield
