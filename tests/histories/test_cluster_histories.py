"""Names, groups, monitors, calls and messages of whole nodes under faults (D1-D3, M1-M3, N2, N3).

`python tests/histories/run.py clusters` records any number of histories; here are some.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import cluster_simulating
import pytest
import trio
from cluster_simulating import MESH, Scene
from misfortunes import Misfortune
from verdicts import CLUSTERS, Broken, simulate_cluster, verdict

from steinadler.identity import NodeId, ProcessId
from steinadler.node.watching import Watching
from steinadler.process.process import Process
from steinadler.registry import Registry
from steinadler.registry.index import Index

AGAIN = "python tests/histories/run.py clusters --seeds 1 --keep FOLDER"
SOME = (0, 1, 6, 7, 9, 11)  # 1 to 3 s each


def scene(*script: Misfortune, nodes: int = 4) -> Scene:
    """A small cluster, whom this befalls."""
    names = tuple(f"n{number}" for number in range(1, nodes + 1))
    return Scene(names, 3, 1, actors=2, latency_s=(0.0002, 0.001), script=script, membership=MESH)


# Long enough that both halves give each other up; a process is killed; a node falls silent.
PARTED = scene(Misfortune("partition", ("n1", "n2"), 1.0, 5.0))
KILLED = scene(Misfortune("crash", ("n1",), 0.5, 0.02), Misfortune("crash", ("n2",), 1.0, 4.0))
CUT = scene(Misfortune("cuts", ("n1", "n2"), 0.2, 1.0, strength=1.0))


def judged(script: Scene, seed: int, folder: Path) -> Counter[str]:
    def record(seed: int, files: Path) -> str:
        return cluster_simulating.run(seed, files / "all.jsonl", script)

    return verdict("clusters", record, seed, folder, CLUSTERS)


def test_a_small_history_keeps_its_promises(tmp_path: Path) -> None:
    counts = judged(
        scene(Misfortune("partition", ("n1",), 0.5, 3.0), nodes=3), seed=1, folder=tmp_path
    )
    assert min(counts[each] for each in ("received", "answered", "granted", "joined")) > 5
    assert counts["monitor fired noconnection"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SOME)
def test_a_history_keeps_its_promises(seed: int, tmp_path: Path) -> None:
    counts = verdict("clusters", simulate_cluster, seed, tmp_path, CLUSTERS)
    assert counts["received"] > 100
    assert any(name.startswith("fault ") for name in counts)


def test_a_history_that_does_not_end_as_it_should_tells_how_to_play_it_again(
    tmp_path: Path,
) -> None:
    def record(seed: int, files: Path) -> str:
        raise trio.TooSlowError

    with pytest.raises(Broken, match=re.escape(f"again: {AGAIN}")) as broken:
        verdict("clusters", record, 1, tmp_path, CLUSTERS)
    assert broken.value.rules == {"TooSlowError": 1}


def test_a_thousand_seeds_are_of_all_sizes_and_meet_every_fault() -> None:
    """5 to 50 nodes; partitions that heal, crashes, pauses and restarts, and several at a time."""
    scenes = [cluster_simulating.scene_of(seed) for seed in range(1000)]
    sizes = Counter(len(scene.names) for scene in scenes)
    assert (min(sizes), max(sizes)) == (5, 50)
    assert all(sum(sizes[n] for n in range(a, a + 10)) >= 5 for a in range(5, 45, 10))
    kinds = Counter(misfortune.kind for scene in scenes for misfortune in scene.script)
    assert set(kinds) == {*cluster_simulating.KINDS} - {"three sides"}
    assert min(kinds.values()) > 100
    assert sum(bool(m.others) for scene in scenes for m in scene.script) > 100
    assert all(len(scene.script) >= 2 for scene in scenes)


@pytest.mark.slow
def test_a_seed_replays_its_history_of_nodes(tmp_path: Path) -> None:
    """What is found by a seed can be looked at again."""
    paths = [tmp_path / "one.jsonl", tmp_path / "again.jsonl"]
    digests = {cluster_simulating.run(3, path, PARTED) for path in paths}
    assert len(digests) == 1
    assert len({path.read_bytes() for path in paths}) == 1


# -- what would be found ---------------------------------------------------------------------------

Defect: TypeAlias = Callable[[pytest.MonkeyPatch], None]


def an_arbiter_that_lets_all_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Registry, "reserve", lambda *_: None)
    patch.setattr(Index, "find", lambda *_: None)


def losers_that_are_not_told(patch: pytest.MonkeyPatch) -> None:
    signal = Process.exit_signal

    def signalling(self: Process, source: ProcessId, reason: str, *, linked: bool) -> None:
        if not reason.startswith("NameConflict"):
            signal(self, source, reason, linked=linked)

    patch.setattr(Process, "exit_signal", signalling)


def names_that_outlive_their_node(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Registry, "member_down", lambda *_: [])


def monitors_that_hang_on_connections(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Watching, "peer_lost", lambda *_: None)


def monitors_that_do_not_know_lives(patch: pytest.MonkeyPatch) -> None:
    """Whoever loses one life of a node gives up what it holds of every node."""
    lost = Watching.peer_lost

    def losing(self: Watching, node: NodeId) -> None:
        me: Any = self
        for other in sorted({held.node for held in me._held._held.values()} - {me._node}):
            lost(self, other)

    patch.setattr(Watching, "peer_lost", losing)


def messages_that_are_taken(times: int) -> Defect:
    """Each tenth message comes out of the mailbox so many times."""

    def defect(patch: pytest.MonkeyPatch) -> None:
        receive = Process.receive
        numbers = itertools.count()
        again: dict[ProcessId, Any] = {}

        async def receiving(self: Process) -> Any:
            if self.id in again:
                return again.pop(self.id)
            message = await receive(self)
            if isinstance(message, tuple) and message[0] == "m" and next(numbers) % 10 == 0:
                if not times:
                    return await receiving(self)
                again[self.id] = message
            return message

        patch.setattr(Process, "__anext__", receiving)

    return defect


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defect", "rule", "script"),
    [
        (an_arbiter_that_lets_all_pass, "N2 one side", PARTED),
        (losers_that_are_not_told, "N2 told", PARTED),
        (names_that_outlive_their_node, "N2 agreed", KILLED),
        (monitors_that_hang_on_connections, "D1 fired", KILLED),
        (monitors_that_do_not_know_lives, "D1 cause", KILLED),
        (messages_that_are_taken(0), "M3 lost", CUT),
        (messages_that_are_taken(2), "M2 once", CUT),
    ],
)
def test_a_cluster_with_a_defect_is_found_out(
    defect: Defect,
    rule: str,
    script: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The faults are hard enough, and the record says enough, to see that a promise is broken."""
    judged(script, 1, tmp_path / "without")
    defect(monkeypatch)
    with pytest.raises(Broken) as broken:
        judged(script, 1, tmp_path / "with")
    assert broken.value.rules[rule] > 0, broken.value
    assert f"again: {AGAIN}" in str(broken.value)
