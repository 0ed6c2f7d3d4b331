"""One simulated history: its seed draws the cluster, the clients and everything that befalls them.

When all faults have ended (`misfortunes`) the cluster must recover: every ledger takes one more
turn.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import trio
from ledgers import Client, Ledger, Plan
from misfortunes import Fate, Misfortune
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
        self._failure: Exception | None = None

    async def play(self, names: tuple[str, ...], script: Sequence[Misfortune]) -> None:
        for name in names:
            (node,) = await self._cluster.start(name)
            self._begin(node)
        (caller,) = await self._cluster.start(CALLER)
        with trio.fail_after(RECOVERED_WITHIN_S):
            await self._cluster.agreed()
        self._call(caller, 2)
        fate = Fate(self._cluster, self._recorder, self._begin)
        await fate.befall(script, victims=names, everybody=(*names, CALLER))
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
