"""E1, E2 and E3 under faults: recorded histories, about which `checking` decides.

`python tests/histories/run.py` records any number of them; here are some.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import real_clusters
import simulating
from databases import Database
from simulating import Misfortune
from verdicts import Broken, simulate, verdict

from steinadler import EntityHostFailed, StaleEpoch, StoreUnavailable
from steinadler.entity.active import Entity
from steinadler.entity.router import Entities
from steinadler.entity.store import Commit
from steinadler.testing import MemoryStore

FEW, MANY = range(1), range(100, 110)
SEEDS = [*FEW, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MANY)]
REAL = [
    pytest.param(*each, id="-".join(map(str, each)), marks=pytest.mark.slow)
    for each in (("sqlite", 100), ("sqlite", 101), ("postgres", 100), ("postgres", 101))
]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_simulated_history_keeps_e1_e2_and_e3(seed: int, tmp_path: Path) -> None:
    counts = verdict("simulated", simulate, seed, tmp_path)
    assert counts["acknowledged"] > 20
    assert any(name.startswith("fault ") for name in counts)


def test_a_seed_replays_its_history(tmp_path: Path) -> None:
    """What is found by a seed can be looked at again."""
    (tmp_path / "again").mkdir()
    simulate(5, tmp_path)
    simulate(5, tmp_path / "again")
    assert (tmp_path / "all.jsonl").read_bytes() == (tmp_path / "again/all.jsonl").read_bytes()


@pytest.mark.parametrize(("database", "seed"), REAL, indirect=["database"])
def test_a_real_history_keeps_e1_e2_and_e3(database: Database, seed: int, tmp_path: Path) -> None:
    """Processes that are killed, stopped and restarted, and a store that fails: about 8 s each."""

    def record(seed: int, files: Path) -> None:
        real_clusters.run(seed, files, database)

    counts: Counter[str] = verdict(database.kind, record, seed, tmp_path)
    assert counts["acknowledged"] > 20
    assert any(name.startswith("fault ") for name in counts)


# -- what would be found ---------------------------------------------------------------------------


def without_a_fence(patch: pytest.MonkeyPatch) -> None:
    """The store takes what an owner of old writes."""
    commit = MemoryStore.commit

    async def committing(self: MemoryStore, asked: Commit) -> None:
        await commit(self, dataclasses.replace(asked, epoch=self._epoch(asked.key)))

    patch.setattr(MemoryStore, "commit", committing)


def acknowledging_what_was_not_written(patch: pytest.MonkeyPatch) -> None:
    """A turn is acknowledged, whatever became of its write."""
    write = Entity.write

    async def writing(self: Entity, *changes: Any) -> None:
        try:
            await write(self, *changes)
        except (StaleEpoch, StoreUnavailable):
            self.failure = None

    patch.setattr(Entity, "write", writing)


def running_again_what_may_have_run(patch: pytest.MonkeyPatch) -> None:
    """A call whose owner died is made again, behind the caller's back."""
    call = Entities.call

    async def calling(self: Entities, *args: Any, **options: Any) -> Any:
        try:
            return await call(self, *args, **options)
        except EntityHostFailed:
            return await call(self, *args, **options)

    patch.setattr(Entities, "call", calling)


# Both sides go on; writes come to nothing; turns run whose answers do not get back in time.
PARTITION = Misfortune("partition", ("alice", "bob"), 0.5, 5.0)
OUTAGES = Misfortune("outage", ("alice",), 0.5, 1.0), Misfortune("outage", ("bob",), 0.5, 1.0)
NO_ANSWERS = Misfortune("one-way partition", ("alice", "bob", "carol"), 0.5, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defect", "rule", "script"),
    [
        (without_a_fence, "E1 fence", [PARTITION]),
        (acknowledging_what_was_not_written, "E2 stored", OUTAGES),
        (running_again_what_may_have_run, "E3 once", [NO_ANSWERS]),
    ],
)
def test_a_library_with_a_defect_is_found_out(
    defect: Callable[[pytest.MonkeyPatch], None],
    rule: str,
    script: Sequence[Misfortune],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The faults are hard enough, and the record says enough, to see that a promise is broken."""

    def record(seed: int, files: Path) -> None:
        simulating.run(seed, files / "all.jsonl", script)

    verdict("simulated", record, 1, tmp_path / "without")
    defect(monkeypatch)
    with pytest.raises(Broken, match=rf"(?m)^{rule}: entity \d+: .*all\.jsonl:\d+"):
        verdict("simulated", record, 1, tmp_path / "with")
