"""Seeds are proposed at once, and again for as long as the node runs."""

from __future__ import annotations

import itertools
import random

import pytest
import trio
import trio.testing

from steinadler.discovery import Candidate, Seeds
from steinadler.errors import ConfigError
from steinadler.identity import Address

ALICE = Address("192.0.2.7", 4370)
BOB = Address("bob.example", 4371)


async def proposals(seeds: Seeds, seconds: float) -> list[tuple[float, Candidate]]:
    seen: list[tuple[float, Candidate]] = []
    start = trio.current_time()
    with trio.move_on_after(seconds):
        await seeds.run(lambda candidate: seen.append((trio.current_time() - start, candidate)))
    return seen


async def test_every_seed_is_proposed_at_once(autojump_clock: trio.testing.MockClock) -> None:
    seen = await proposals(Seeds([ALICE, BOB], rng=random.Random(1)), 0.1)
    assert seen == [(0.0, Candidate(ALICE, "seed")), (0.0, Candidate(BOB, "seed"))]


async def test_seeds_are_proposed_again_and_again(autojump_clock: trio.testing.MockClock) -> None:
    """A seed that starts late, or comes back after an hour, is found."""
    seen = await proposals(Seeds([ALICE], rng=random.Random(1), interval_s=4.0), 3600)
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(seen)]
    assert all(3.0 <= gap <= 5.0 for gap in gaps)
    assert 3600 / 5 < len(seen) < 3600 / 3
    assert len(set(gaps)) > 100


async def test_one_generator_gives_one_course(autojump_clock: trio.testing.MockClock) -> None:
    """A seeded run can be repeated; nodes with different generators do not ask together."""
    first = await proposals(Seeds([ALICE], rng=random.Random(1)), 60)
    again = await proposals(Seeds([ALICE], rng=random.Random(1)), 60)
    other = await proposals(Seeds([ALICE], rng=random.Random(2)), 60)
    assert [round(at, 6) for at, _ in first] == [round(at, 6) for at, _ in again]
    assert [round(at, 6) for at, _ in first] != [round(at, 6) for at, _ in other]


async def test_no_seeds_is_no_work() -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(Seeds([], rng=random.Random(1)).run, pytest.fail)


def test_an_interval_is_a_length_of_time() -> None:
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="interval_s"):
            Seeds([ALICE], rng=random.Random(1), interval_s=wrong)
