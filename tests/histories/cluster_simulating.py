"""One simulated history of whole nodes: its seed draws the cluster, its programs and its faults.

When the last fault has ended nobody begins anything any more.  `SETTLED_S` later every node is
asked what it believes (phase 1); then all processes are ended, and the nodes are asked once more
(phase 2): so a monitor that one end had forgotten is found, and a name that outlives its process.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from cluster_programs import Directory, Inhabitants, life, text
from misfortunes import Fate, Misfortune
from recording import Recorder
from trio.testing import MockClock

from steinadler import Config, MembershipSettings, Node
from steinadler.testing import SimulatedCluster

# Within so long after healing everybody agrees, and has got what was sent.
SETTLED_S = 10.0
# And within so long everybody knows that processes have ended, when nothing hinders.
ENDED_S = 4.0
# How often it is looked whether all agree already.
LOOK_S = 0.1
MET_WITHIN_S = 20.0
# How long a fault lasts; 2.7 s make a silent node a dead one.
SHORT_S, LONG_S = (0.01, 1.0), (2.0, 7.0)
MESH, OVERLAY = MembershipSettings(mesh_size=50), MembershipSettings(mesh_size=4, rings=2)
KINDS = (
    *("crash", "crash", "crash", "stop", "pause", "pause", "rolling restart"),
    *("partition", "partition", "three sides", "one-way partition", "cut path"),
    *("cuts", "resets", "loss", "slowness"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """How large a cluster, how many names and groups are wanted by all, and what befalls it."""

    names: tuple[str, ...]
    wanted_names: int
    wanted_groups: int
    actors: int
    latency_s: tuple[float, float]
    script: tuple[Misfortune, ...]
    membership: MembershipSettings


def scene_of(seed: int) -> Scene:
    """What a seed draws: 5 to 8 nodes mostly, and in one history of ten 17 to 50; half of them all
    connected to all, the others with some neighbours each."""
    draw = random.Random(f"clusters {seed}")
    least, most = draw.choices(((5, 8), (9, 16), (17, 30), (31, 50)), (72, 18, 6, 4))[0]
    names = tuple(f"n{number}" for number in range(1, draw.randint(least, most) + 1))
    return Scene(
        names,
        wanted_names=draw.randint(2, 12),
        wanted_groups=draw.randint(1, 4),
        actors=3 if len(names) < 17 else 1,
        latency_s=draw.choice(((0.0002, 0.001), (0.0005, 0.005), (0.001, 0.03))),
        script=tuple(_misfortune(draw, names) for _ in range(draw.randint(2, 6))),
        membership=draw.choice((MESH, OVERLAY)),
    )


def _misfortune(draw: random.Random, names: tuple[str, ...]) -> Misfortune:
    kind = draw.choice(KINDS)
    shuffled = draw.sample(names, len(names))
    targets, others = tuple(names), ()
    match kind:
        case "partition" | "one-way partition":
            targets = tuple(shuffled[: draw.randint(1, len(names) - 1)])
        case "three sides":
            kind = "partition"
            first, second = sorted(draw.sample(range(1, len(names)), 2))
            targets, others = tuple(shuffled[:first]), tuple(shuffled[first:second])
        case "cut path" | "cuts":
            targets = tuple(shuffled[:2])
        case "rolling restart":
            targets = tuple(shuffled[:3])
        case "crash" | "stop" | "pause":
            targets = (shuffled[0],)
    for_s = draw.uniform(*draw.choice((SHORT_S, LONG_S)))
    return Misfortune(kind, targets, draw.uniform(0, 4), for_s, draw.random(), others)


def run(seed: int, path: Path, scene: Scene | None = None) -> str:
    """Play the history of a seed, or this scene, and write it to a new file; return the digest
    of the network's trace."""
    clock = MockClock(autojump_threshold=0)
    return trio.run(_simulate, seed, path, scene or scene_of(seed), clock=clock)


async def _simulate(seed: int, path: Path, scene: Scene) -> str:
    with Recorder(path, trio.current_time) as recorder:
        config = Config(membership=scene.membership)
        async with SimulatedCluster(seed, latency_s=scene.latency_s, config=config) as cluster:
            async with trio.open_nursery() as lookers:
                await _History(cluster, recorder, scene, lookers).play(scene)
                lookers.cancel_scope.cancel()
        return cluster.trace.digest()


class _History:
    """The lives of all nodes, while the history goes."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        recorder: Recorder,
        scene: Scene,
        lookers: trio.Nursery,
    ) -> None:
        self._cluster = cluster
        self._recorder = recorder
        self._lookers = lookers
        self._actors = scene.actors
        self._directory = Directory(scene.wanted_names, scene.wanted_groups)
        self._present: dict[str, Inhabitants] = {}

    async def play(self, scene: Scene) -> None:
        for name in scene.names:
            (node,) = await self._cluster.start(name)
            self._begin(node)
        with trio.fail_after(MET_WITHIN_S):
            await self._cluster.agreed()
        fate = Fate(self._cluster, self._recorder, self._begin, self._closing, self._over)
        await fate.befall(scene.script, scene.names, scene.names)
        self._recorder.note("healed")
        async with trio.open_nursery() as nursery:
            for inhabitants in self._present.values():
                nursery.start_soon(inhabitants.rest)
            nursery.start_soon(self._notice_agreement)
            await trio.sleep(SETTLED_S)
            nursery.cancel_scope.cancel()  # whoever has not ended what it began never will
        await self._ask(1)
        for inhabitants in self._present.values():
            inhabitants.dismiss()
        await trio.sleep(ENDED_S)
        await self._ask(2)
        for inhabitants in self._present.values():
            inhabitants.silent = True
            if inhabitants.failure is not None:
                raise inhabitants.failure

    def _begin(self, node: Node) -> None:
        self._recorder.note("start", node=life(node.id))
        inhabitants = Inhabitants(
            node, self._recorder, self._directory, self._actors, self._lookers
        )
        self._present[node.name] = inhabitants
        inhabitants.settle()

    def _closing(self, name: str) -> None:
        self._recorder.note("closing", node=life(self._present[name].node.id))

    def _over(self, name: str) -> None:
        inhabitants = self._present.pop(name)
        self._recorder.note("end", node=life(inhabitants.node.id))
        inhabitants.silent = True
        if inhabitants.failure is not None:
            raise inhabitants.failure

    async def _notice_agreement(self) -> None:
        """Write down when all nodes believe the same, with nobody changing it any more."""
        while True:
            beliefs = [await self._belief(each.node) for each in self._present.values()]
            if all(belief == beliefs[0] for belief in beliefs):
                break
            await trio.sleep(LOOK_S)
        self._recorder.note("agreed")

    async def _belief(self, node: Node) -> dict[str, Any]:
        """Whom a node counts as members, who holds names, who is in groups."""
        holders = [(name, await node.whereis(f"{name}@*")) for name in self._directory.names]
        groups = [(name, node.group(name).members()) for name in self._directory.groups]
        return {
            "members": [life(member.node) for member in node.members()],
            "names": [(name, text(holder)) for name, holder in holders if holder is not None],
            "groups": [(name, list(map(text, members))) for name, members in groups if members],
        }

    async def _ask(self, phase: int) -> None:
        """Have every node tell what it believes."""
        for inhabitants in self._present.values():
            node = inhabitants.node
            belief = await self._belief(node)
            self._recorder.note("view", node=life(node.id), phase=phase, **belief)
