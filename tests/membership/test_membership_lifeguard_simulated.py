"""Lifeguard on simulated clusters: how soon silence is noticed at any size, and nobody else.

All connections there are cost a simulation the square of its members: a thousand members pass too,
in three minutes, which is too long to be done each time.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from swim_simulation import Simulation, mesh

from steinadler.config import MembershipSettings
from steinadler.membership import Down, Suspected


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        *((count, seed) for count in (3, 9, 32) for seed in range(4)),
        *(pytest.param(100, seed, marks=pytest.mark.slow) for seed in range(4)),
        *(pytest.param(300, seed, marks=pytest.mark.slow) for seed in range(1)),
    ],
)
def test_silence_is_noticed_as_soon_in_a_large_cluster(count: int, seed: int) -> None:
    """S1 and S2: after 2 to 3 s everywhere, from any phase of the probe clock; SWIM 4 for load."""
    simulation = mesh(count, seed)
    simulation.run(random.Random(seed).uniform(0.5, 1.0))
    assert simulation.agreed()
    victim, silent_at = "n001", simulation.now
    simulation.crash(victim, refuses=False)
    simulation.run(3.0)
    assert simulation.agreed()
    for host in simulation.running():
        (at,) = host.times(Down, victim)
        assert 2.0 < at - silent_at < 3.0
    assert len(simulation.events(Down)) == count - 1


@pytest.mark.parametrize("seed", range(4))
def test_two_that_fall_silent_together_are_both_noticed(seed: int) -> None:
    """S1: of four, so that neither of the two left has more than one to confirm its word."""
    simulation = mesh(4, seed)
    simulation.run(random.Random(seed).uniform(0.5, 1.5))
    silent_at = simulation.now
    for victim in ("n001", "n002"):
        simulation.crash(victim, refuses=False)
    simulation.run(3.0)
    for host in simulation.running():
        for victim in ("n001", "n002"):
            (at,) = host.times(Down, victim)
            assert 2.0 < at - silent_at < 3.0


@pytest.mark.parametrize("seed", range(4))
def test_a_node_cut_off_from_all_others_knows_as_soon_as_they_do(seed: int) -> None:
    """S1: it has nobody to confirm its word, and waits for nobody."""
    simulation = mesh(9, seed)
    simulation.run(random.Random(seed).uniform(0.5, 1.5))
    cut_at = simulation.now
    others = [name for name in simulation.hosts if name != "n001"]
    for other in others:
        simulation.cut("n001", other, breaks=False)
    simulation.run(3.0)
    for one, downs in ((simulation.hosts["n001"], others), (simulation.hosts["n000"], ["n001"])):
        for name in downs:
            assert 2.0 < one.times(Down, name)[0] - cut_at < 3.0
    assert not simulation.hosts["n000"].times(Suspected, "n002")


def starved(seed: int, seconds: float, *, local_health: bool) -> Simulation:
    """A while in which half of sixteen run for some hundredths of a second now and then."""
    settings = MembershipSettings(local_health=local_health)
    simulation = mesh(16, seed, settings=settings)
    simulation.dialling = True  # who was declared down is dialled again
    simulation.run(1)
    rng = random.Random(seed)

    def starve(name: str) -> Callable[[], None]:
        def stop() -> None:
            simulation.pause(name)
            simulation.at(simulation.now + rng.uniform(0.1, 1.9), go_on)

        def go_on() -> None:
            simulation.resume(name, timer_first=rng.random() < 0.5)
            simulation.at(simulation.now + rng.expovariate(1 / 0.05), stop)

        return stop

    for name in list(simulation.hosts)[:8]:
        simulation.at(simulation.now + rng.uniform(0, 2), starve(name))
    simulation.run(seconds)
    return simulation


@pytest.mark.parametrize(
    ("seed", "seconds"),
    [(0, 6), *(pytest.param(seed, 60, marks=pytest.mark.slow) for seed in range(2))],
)
def test_the_starved_declare_nobody_down_and_are_not_declared_so(seed: int, seconds: int) -> None:
    """S2: however often, as long as each time is under 2 s."""
    simulation = starved(seed, seconds, local_health=True)
    assert simulation.events(Suspected)  # it was a close call
    assert not simulation.events(Down)


def test_without_local_health_the_starved_declare_others_down() -> None:
    """The test above can fail: plain SWIM does."""
    assert starved(0, 6, local_health=False).events(Down)
