"""The membership promises (S1, S2, D3), on simulated clusters: see `swim_simulation`."""

from __future__ import annotations

import random

import pytest
from swim_simulation import Simulation

from steinadler.config import MembershipSettings
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Down,
    Member,
    Received,
    Suspected,
    Swim,
    Up,
    Usurped,
)
from steinadler.membership.messages import SyncReply


def names(count: int) -> list[str]:
    return [f"n{number:03}" for number in range(count)]


def started(count: int, seed: int = 0, **options: object) -> Simulation:
    simulation = Simulation(names(count), seed, **options)  # type: ignore[arg-type]
    simulation.run_until(simulation.agreed, 5)
    assert not simulation.events(Down)
    # Somewhere in the probe clock, another place for each seed.
    simulation.run(random.Random(seed).uniform(0.5, 1.5))
    return simulation


@pytest.mark.parametrize("count", [2, 3, 10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_new_cluster_agrees_within_a_second_and_stays_quiet(count: int) -> None:
    """S2: nothing is suspected where nothing is wrong."""
    simulation = Simulation(names(count), through_codec=count <= 10)
    simulation.run_until(simulation.agreed, 1)
    simulation.run(5 if count <= 10 else 2)
    assert simulation.agreed()
    assert not simulation.events(Suspected)
    assert not simulation.events(Down)


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_node_is_down_everywhere_within_a_tenth_of_a_second(seed: int) -> None:
    """S1: sockets close, the re-dial is refused."""
    simulation = started(3, seed)
    killed_at = simulation.now
    simulation.crash("n001", refuses=True)
    simulation.run(0.1)
    for host in simulation.running():
        (at,) = host.times(Down, "n001")
        assert at - killed_at <= 0.1
    simulation.run(2)
    assert simulation.agreed()


@pytest.mark.parametrize("seed", range(60))
def test_silence_of_one_of_three_is_declared_after_two_to_three_seconds(seed: int) -> None:
    """S1 and S2: from any phase of the probe clock, for all survivors, paused or cut off."""
    simulation = started(3, seed)
    silent_at = simulation.now
    if seed % 2:
        simulation.pause("n001")
    else:
        simulation.crash("n001", refuses=False)
    simulation.run(3.0)
    for host in simulation.running():
        (at,) = host.times(Down, "n001")
        assert 2.0 < at - silent_at < 3.0


@pytest.mark.parametrize("count", [2, 9])
@pytest.mark.parametrize("seed", range(8))
def test_silence_is_bounded_up_to_nine_members(count: int, seed: int) -> None:
    """S1 and S2, as `timing` computes it."""
    simulation = started(count, seed)
    silent_at = simulation.now
    simulation.crash("n001", refuses=False)
    simulation.run(3.0)
    for host in simulation.running():
        (at,) = host.times(Down, "n001")
        assert 2.0 < at - silent_at < 3.0


@pytest.mark.parametrize("timer_first", [True, False])
@pytest.mark.parametrize("length", [0.4, 1.5, 1.9])
@pytest.mark.parametrize("seed", range(12))
def test_a_pause_of_less_than_two_seconds_downs_nobody(
    seed: int, length: float, timer_first: bool
) -> None:
    """S2: neither the paused node by the others, nor the others by the paused node."""
    simulation = started(3, seed)
    simulation.pause("n001")
    simulation.run(length)
    simulation.resume("n001", timer_first=timer_first)
    simulation.run(3)
    assert not simulation.events(Down)
    assert simulation.agreed()
    assert not simulation.hosts["n001"].times(Suspected, "n000")
    if length > 1.4:
        assert simulation.events(Suspected)  # it was a close call, and the refutation helped


@pytest.mark.parametrize("seed", range(8))
def test_a_starved_node_hears_a_refutation_before_it_gives_its_verdict(seed: int) -> None:
    """S2: n000 suspects n001, is itself stopped when the refutation comes, and waits for it."""
    simulation = started(3, seed)
    simulation.pause("n001")
    simulation.run_until(lambda: bool(simulation.hosts["n000"].times(Suspected, "n001")), 1.5)
    simulation.pause("n000")
    simulation.pause("n002")
    simulation.run(0.2)
    simulation.resume("n001", timer_first=True)
    simulation.run(1.7)
    simulation.resume("n000", timer_first=True)
    simulation.resume("n002", timer_first=True)
    simulation.run(3)
    assert not simulation.events(Down)
    assert simulation.agreed()


@pytest.mark.parametrize("breaks", [True, False])
@pytest.mark.parametrize("count", [3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_a_cut_between_two_nodes_downs_nobody_while_others_reach_both(
    seed: int, count: int, breaks: bool
) -> None:
    """S2: the indirect probes go around the cut."""
    simulation = started(count, seed)
    simulation.cut("n000", "n001", breaks=breaks)
    simulation.run(15)
    assert not simulation.events(Suspected)
    assert not simulation.events(Down)
    simulation.heal()
    simulation.run(1)
    assert simulation.agreed()


@pytest.mark.parametrize("count", [3, 10])
def test_a_goodbye_is_believed_at_once(count: int) -> None:
    """Design 7: a goodbye is final; nobody waits for a timer."""
    simulation = started(count)
    left_at = simulation.now
    simulation.leave("n001")
    simulation.run(0.05)
    for host in simulation.running():
        ((at, down),) = [(at, e) for at, e in host.log if isinstance(e, Down)]
        assert at - left_at < 0.02
        assert down.reason == "left"
    simulation.run(3)
    assert simulation.agreed()
    assert not simulation.events(Suspected)
    assert not any(host.engine.reconnectable() for host in simulation.running())


@pytest.mark.parametrize(
    ("count", "breaks"),
    [(3, True), (3, False), (10, True), pytest.param(30, False, marks=pytest.mark.slow)],
)
def test_a_healed_partition_ends_in_agreement(count: int, breaks: bool) -> None:
    """Both sides go on alone; when the cut heals they refute, and nobody is downed on the way."""
    simulation = started(count, seed=count)
    small, large = names(count)[: count // 3], names(count)[count // 3 :]
    for one in small:
        for other in large:
            simulation.cut(one, other, breaks=breaks)
    simulation.run(6)
    for host in simulation.running():
        side = small if host.id.name in small else large
        assert [member.node.name for member in host.engine.members()] == side
    simulation.heal()
    downs = len(simulation.events(Down))
    simulation.run_until(simulation.agreed, 3)
    simulation.run(3)
    assert simulation.agreed()
    assert len(simulation.events(Down)) == downs


@pytest.mark.parametrize("seed", range(6))
def test_a_long_pause_is_a_down_and_then_a_return_of_the_same_life(seed: int) -> None:
    """D3 and S1: the node refutes with a higher refutation and is up again, the same life."""
    simulation = started(3, seed)
    paused = simulation.hosts["n001"]
    simulation.pause("n001")
    simulation.run(6)
    assert len(simulation.events(Down)) == 2
    simulation.resume("n001", timer_first=bool(seed % 2))
    simulation.run_until(simulation.agreed, 4)
    for name in ("n000", "n002"):
        assert simulation.hosts[name].members["n001"] == paused.id
    assert not paused.times(Down, "n000") or len(paused.times(Up, "n000")) == 2


@pytest.mark.parametrize("seed", range(6))
def test_a_restart_is_a_new_life(seed: int) -> None:
    """D3: Down of the old life comes before Up of the new, however fast the restart."""
    simulation = started(3, seed)
    old = simulation.hosts["n001"].id
    simulation.crash("n001", refuses=seed % 2 == 0)
    simulation.run(random.Random(seed).choice([0.0, 0.01, 1.0]))
    new = simulation.start("n001").id
    simulation.run_until(simulation.agreed, 4)
    for name in ("n000", "n002"):
        events = [
            e
            for _, e in simulation.hosts[name].log
            if isinstance(e, Up | Down) and e.member.node.name == "n001"
        ]
        assert [(type(e), e.member.node) for e in events] == [(Up, old), (Down, old), (Up, new)]


def test_a_node_whose_name_was_taken_in_its_absence_is_told() -> None:
    """D3: the former life, back after a pause, is Usurped instead of believed."""
    simulation = started(3)
    former = simulation.hosts["n001"]
    simulation.pause("n001")
    simulation.run(4)
    simulation.start("n001")
    simulation.run_until(simulation.agreed, 2)
    simulation.hosts["n001"], current = former, simulation.hosts["n001"]
    simulation.resume("n001", timer_first=True)
    other = simulation.hosts["n000"]
    table = SyncReply(other.engine.members())
    simulation.connect(former, other)
    simulation.tell(former, Received(other.id, table))
    assert [e.by for _, e in former.log if isinstance(e, Usurped)] == [current.id]
    assert other.members["n001"] == current.id


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_accidents_at_random_end_in_agreement(seed: int) -> None:
    """Up and Down alternate, D3 holds, and ten nodes agree once the accidents stop."""
    simulation = started(10, seed, through_codec=True, loss=0.02)
    rng = random.Random(seed)
    for _ in range(12):
        victim = rng.choice(names(10)[1:])
        match rng.randrange(5):
            case 0:
                simulation.crash(victim, refuses=True)
                simulation.run(rng.uniform(0, 1))
                simulation.start(victim)
            case 1:
                simulation.pause(victim)
                simulation.run(rng.uniform(0, 5))
                simulation.resume(victim, timer_first=rng.random() < 0.5)
            case 2:
                for other in rng.sample(names(10), 6):
                    if other != victim:
                        simulation.cut(victim, other, breaks=rng.random() < 0.5)
            case 3:
                simulation.crash(victim, refuses=False)
                simulation.run(rng.uniform(0, 4))
                simulation.start(victim)
            case 4:
                simulation.leave(victim)
                simulation.run(rng.uniform(0, 1))
                simulation.start(victim)
        simulation.run(rng.uniform(0, 2))
        if rng.random() < 0.4:
            simulation.heal()
    simulation.heal()
    simulation.loss = 0
    simulation.run_until(simulation.agreed, 15)


def test_an_observer_sees_everything_and_is_seen_by_nobody() -> None:
    """The command line watches: it is in nobody's members, and learns what the members learn."""
    simulation = started(3)
    observer = simulation.start("watcher", observer=True)
    simulation.run(0.2)
    assert simulation.agreed()
    simulation.crash("n001", refuses=True)
    simulation.run(0.1)
    assert len(observer.times(Down, "n001")) == 1
    simulation.pause("n002")
    simulation.run(3)
    assert len(observer.times(Down, "n002")) == 1
    simulation.resume("n002", timer_first=True)
    simulation.run(2)
    assert simulation.agreed()
    assert "watcher" not in {e.member.node.name for e in simulation.events(Up)}


def test_one_seed_gives_one_trace() -> None:
    """Design 9: a failure that a seed shows can be shown again."""

    def trace() -> list[str]:
        simulation = started(5, 7, loss=0.01)
        simulation.pause("n003")
        simulation.run(4)
        simulation.resume("n003", timer_first=True)
        simulation.run(2)
        return [repr(entry) for host in simulation.hosts.values() for entry in host.log]

    assert trace() == trace()


def test_a_settings_change_moves_the_bounds() -> None:
    """The formula in MembershipSettings, at another scale: ten times faster."""
    settings = MembershipSettings(
        probe_interval_s=0.1, direct_timeout_s=0.1, indirect_timeout_s=0.1, suspicion_s=0.3
    )
    simulation = started(3, settings=settings)
    silent_at = simulation.now
    simulation.crash("n001", refuses=False)
    simulation.run(1)
    for host in simulation.running():
        (at,) = host.times(Down, "n001")
        assert 0.5 - 0.01 < at - silent_at < 0.7 + 0.05


def test_a_lone_engine_has_nothing_to_say() -> None:
    """No peers, no probes, and still a clock."""
    me = Member(NodeId("alone", 1), (Address("h", 1),))
    engine = Swim(me, MembershipSettings(), random.Random(0))
    now = 0.0
    for _ in range(100):
        assert engine.tick(now) == []
        assert engine.next_deadline() > now
        now = engine.next_deadline()
    assert engine.members() == (me,)
