"""A member that says of others what is not so: what it can do, and that it can do no more (X4)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from swim_simulation import Simulation
from test_membership_engine import (
    ALIVE,
    BOB,
    CAROL,
    DAVE,
    DOWN,
    LEFT,
    ME,
    SETTINGS,
    START,
    SUSPECT,
    advance,
    engine,
    events,
    gossip,
    member,
    sent,
)
from test_membership_simulated import started

from steinadler.membership import (
    Cleared,
    Connected,
    Down,
    MemberState,
    Received,
    Relabel,
    Suspected,
    Up,
    Usurped,
)
from steinadler.membership.beliefs import MAX_REFUTATIONS_AHEAD
from steinadler.membership.messages import MAX_INTEGER, Gossip, SyncReply

# Where the liar is not to be told from anybody else.
LIAR = CAROL


# -- about one who is at hand -----------------------------------------------------------------


def test_a_down_told_of_one_who_is_at_hand_is_a_suspicion_that_it_hears_of() -> None:
    swim = engine(BOB, LIAR)
    suspect = replace(BOB, state=SUSPECT)
    effects = gossip(swim, LIAR, replace(BOB, state=DOWN))
    assert events(effects) == [Suspected(suspect)]
    assert sent(effects, BOB) == [Gossip((suspect,))]
    refuted = replace(BOB, refutation=1)
    assert events(gossip(swim, BOB, refuted, at=START + 0.01)) == [Cleared(refuted)]


def test_a_suspicion_and_the_verdict_in_one_message_are_no_more_than_a_suspicion() -> None:
    swim = engine(BOB, LIAR)
    effects = gossip(swim, LIAR, replace(BOB, state=SUSPECT), replace(BOB, state=DOWN))
    assert events(effects) == [Suspected(replace(BOB, state=SUSPECT))]


def test_the_verdict_of_others_counts_where_the_silence_is_known_s1() -> None:
    swim = engine(BOB, CAROL)
    gossip(swim, CAROL, replace(BOB, state=SUSPECT))
    down = replace(BOB, state=DOWN)
    later = START + SETTINGS.suspicion_s / 2
    advance(swim, later)
    assert events(gossip(swim, CAROL, down, at=later)) == [Down(down, "declared down by carol")]


def test_a_left_told_of_one_who_is_at_hand_is_passed_on_to_it() -> None:
    swim = engine(BOB, LIAR)
    left = replace(BOB, state=LEFT)
    effects = gossip(swim, LIAR, left)
    assert events(effects) == []
    assert sent(effects, BOB) == [Gossip((left,))]
    assert swim.find("bob") == BOB


def test_a_later_life_told_of_one_who_is_at_hand_makes_it_a_suspect_d3() -> None:
    """A later life that exists then gets in as soon as it connects."""
    swim = engine(BOB, LIAR)
    later = member("bob", 11)
    assert events(gossip(swim, LIAR, later)) == [Suspected(replace(BOB, state=SUSPECT))]
    assert swim.handle(Received(LIAR.node, SyncReply((later,))), START) is not None
    assert swim.find("bob") == replace(BOB, state=SUSPECT)
    effects = events(swim.handle(Connected(later), START + 0.1))
    assert effects == [
        Down(replace(BOB, state=SUSPECT), "replaced by a new incarnation"),
        Up(later),
    ]


# -- about oneself ----------------------------------------------------------------------------


def test_that_i_have_left_is_refuted_like_any_accusation() -> None:
    swim = engine(BOB, LIAR)
    effects = gossip(swim, LIAR, replace(ME, state=LEFT, refutation=4))
    refuted = replace(ME, refutation=5)
    assert sent(effects, BOB) == [Gossip((refuted,))]
    other = engine(LIAR)
    gossip(other, LIAR, replace(BOB, state=LEFT))
    assert events(gossip(other, LIAR, replace(BOB, refutation=1))) == [
        Up(replace(BOB, refutation=1))
    ]


@pytest.mark.parametrize("state", [ALIVE, SUSPECT, DOWN, LEFT])
def test_a_word_far_ahead_of_what_a_node_said_is_passed_over_x4(state: MemberState) -> None:
    """Whoever refuted the largest number would have none for its next word."""
    lie = {"state": state, "refutation": MAX_INTEGER}
    swim = engine(BOB, LIAR)
    assert gossip(swim, LIAR, replace(ME, **lie)) == []
    assert swim.me == ME
    for known in (BOB, None):
        about = known or DAVE
        assert gossip(swim, LIAR, replace(about, **lie)) == []
        assert swim.find(about.node.name) == known
    assert events(gossip(swim, LIAR, DAVE)) == [Up(DAVE)], "and what is true is heard"
    swim.handle(Relabel((("zone", "a"),)), START)
    assert swim.me.refutation == 1


def test_a_lie_just_ahead_is_refuted_and_only_the_node_itself_may_be_further() -> None:
    swim = engine(BOB, LIAR)
    gossip(swim, LIAR, replace(ME, state=SUSPECT, refutation=MAX_REFUTATIONS_AHEAD))
    assert swim.me == replace(ME, refutation=MAX_REFUTATIONS_AHEAD + 1)
    gossip(swim, BOB, replace(BOB, refutation=MAX_INTEGER))
    assert swim.find("bob") == replace(BOB, refutation=MAX_INTEGER)


# -- whole clusters ---------------------------------------------------------------------------


def tell_all(simulation: Simulation, liar: str, *records: object) -> None:
    source = simulation.hosts[liar]
    for name, host in simulation.hosts.items():
        if name != liar:
            simulation.tell(host, Received(source.id, Gossip(records)))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_one_liar_ends_nobody_and_fires_no_down_however_often_it_lies(seed: int) -> None:
    """DOWN, LEFT, later lives, every second for half a minute, to everybody."""
    simulation = started(6, seed)
    rng = random.Random(seed)
    liar, victim = "n000", "n003"
    before = {name: len(host.log) for name, host in simulation.hosts.items()}
    for _ in range(30):
        told = simulation.hosts[victim].engine.me
        lie = rng.choice(
            [
                replace(told, state=DOWN, refutation=told.refutation + rng.randrange(3)),
                replace(told, state=LEFT, refutation=told.refutation + rng.randrange(3)),
                replace(told, node=replace(told.node, incarnation=told.node.incarnation + 9)),
            ]
        )
        tell_all(simulation, liar, replace(told, state=SUSPECT), lie)
        simulation.run(1.0)
    simulation.run_until(simulation.agreed, 5)
    for name, host in simulation.hosts.items():
        happened = [event for _, event in host.log[before[name] :]]
        assert not [event for event in happened if isinstance(event, (Down, Usurped))], name
