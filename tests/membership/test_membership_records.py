"""The record lattice: which of two records wins, and what follows from it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.errors import ConfigError
from steinadler.identity import Address, NodeId
from steinadler.membership import Cleared, Down, Member, MemberState, Suspected, Up, Updated
from steinadler.membership.events import Effect
from steinadler.membership.members import MAX_ACCUSERS, MAX_RECORD_BYTES, join
from steinadler.membership.messages import Gossip, encode
from steinadler.membership.table import transition

ALIVE, SUSPECT, DOWN, LEFT = MemberState

addresses = st.lists(
    st.builds(Address, st.text(max_size=8), st.integers(0, 65535)), max_size=2
).map(tuple)
labels = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2).map(
    lambda mapping: tuple(sorted(mapping.items()))
)
accusers = st.sets(st.sampled_from("abcdef"), max_size=MAX_ACCUSERS)


@st.composite
def records_of_n(draw: st.DrawFn) -> Member:
    """Few values, so that ties at every level of the rule are common."""
    node = NodeId("n", draw(st.integers(1, 3)))
    member = Member(node, draw(addresses), draw(labels), refutation=draw(st.integers(0, 2)))
    state = draw(st.sampled_from(MemberState))
    return member.in_state(state, *(sorted(draw(accusers)) if state is SUSPECT else ()))


records = records_of_n()


@given(records, records, records)
def test_join_is_commutative_associative_and_idempotent(a: Member, b: Member, c: Member) -> None:
    """D3, N2's sort of promise: nodes that heard the same records believe the same."""
    assert join(a, b) == join(b, a)
    assert join(a, join(b, c)) == join(join(a, b), c)
    assert join(a, a) == a


@given(st.lists(accusers, min_size=1, max_size=6))
def test_one_suspicion_gathers_its_accusers(sets: list[set[str]]) -> None:
    """Lifeguard IV-B: confirmations add up, whoever tells of them; four say all there is to say."""
    held = record(1, SUSPECT, 0)
    for names in sets:
        held = join(held, record(1, SUSPECT, 0).in_state(SUSPECT, *sorted(names)))
    assert list(held.accusers) == sorted(set().union(*sets))[:MAX_ACCUSERS]
    assert join(held, record(1, DOWN, 0)).accusers == ()
    assert join(held, record(1, ALIVE, 1)).accusers == ()


def record(incarnation: int, state: MemberState, refutation: int) -> Member:
    return Member(NodeId("n", incarnation), (), (), state, refutation)


@pytest.mark.parametrize(
    ("held", "new"),
    list(itertools.product(itertools.product(MemberState, (0, 1), (1, 2)), repeat=2)),
)
def test_the_rule_on_every_pair_of_records(
    held: tuple[MemberState, int, int], new: tuple[MemberState, int, int]
) -> None:
    """D3: the table in `join`, row by row, written another way."""
    (held_state, held_refutation, held_life), (new_state, new_refutation, new_life) = held, new
    if new_life != held_life:
        expected = new_life > held_life
    elif new_refutation != held_refutation:
        expected = new_refutation > held_refutation
    else:
        order = [ALIVE, SUSPECT, DOWN, LEFT]
        expected = order.index(new_state) > order.index(held_state)
    one = record(held_life, held_state, held_refutation)
    other = record(new_life, new_state, new_refutation)
    assert join(one, other) == (other if expected else one)


SAME_LIFE: dict[tuple[MemberState | None, MemberState], tuple[type, ...]] = {
    (None, ALIVE): (Up,),
    (None, SUSPECT): (Up, Suspected),
    (None, DOWN): (),
    (None, LEFT): (),
    (ALIVE, ALIVE): (),
    (ALIVE, SUSPECT): (Suspected,),
    (ALIVE, DOWN): (Down,),
    (ALIVE, LEFT): (Down,),
    (SUSPECT, ALIVE): (Cleared,),
    (SUSPECT, SUSPECT): (),
    (SUSPECT, DOWN): (Down,),
    (SUSPECT, LEFT): (Down,),
    (DOWN, ALIVE): (Up,),
    (DOWN, SUSPECT): (Up, Suspected),
    (DOWN, DOWN): (),
    (DOWN, LEFT): (),
    (LEFT, ALIVE): (Up,),
    (LEFT, SUSPECT): (Up, Suspected),
    (LEFT, DOWN): (),
    (LEFT, LEFT): (),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product((None, *MemberState), MemberState)))
def test_events_of_every_transition(old: MemberState | None, new: MemberState) -> None:
    """Up and Down alternate per life; another life begins after the Down of the former."""
    before = None if old is None else record(1, old, 0)
    same_life = transition(before, record(1, new, 1), "why")
    assert tuple(type(event) for event in same_life) == SAME_LIFE[old, new]
    later_life = transition(before, record(2, new, 0), "why")
    first: tuple[type, ...] = (Down,) if old in (ALIVE, SUSPECT) else ()
    assert tuple(type(event) for event in later_life) == first + SAME_LIFE[None, new]
    for event in [*same_life, *later_life]:
        if isinstance(event, Down):
            assert event.reason in ("why", "replaced by a new incarnation")


@pytest.mark.parametrize("state", [ALIVE, SUSPECT])
def test_changed_addresses_or_labels_are_an_update(state: MemberState) -> None:
    """A member that is and stays a member tells what changed; one that comes up needs not."""
    old = record(1, state, 0)
    moved = Member(old.node, (Address("h", 1),), (), state, 1)
    events: list[Effect] = [Updated(moved)]
    assert transition(old, moved, "") == events
    assert Updated(moved) not in transition(record(1, DOWN, 0), moved, "")


@given(records)
def test_the_size_bound_is_a_bound(member: Member) -> None:
    """X4: what fits by `size_bound` fits a frame."""
    assert len(encode(Gossip((member,)))) - len(encode(Gossip(()))) <= member.size_bound()


def test_a_record_is_bounded_and_its_labels_sorted() -> None:
    """X4: no record can overflow a frame; equal records have equal bytes."""
    node = NodeId("n", 1)
    with pytest.raises(ConfigError, match=str(MAX_RECORD_BYTES)):
        Member(node, labels=(("k", "v" * MAX_RECORD_BYTES),))
    for wrong in ((("b", ""), ("a", "")), (("a", ""), ("a", ""))):
        with pytest.raises(ConfigError, match="sorted"):
            Member(node, labels=wrong)
    wrong_accusers: list[tuple[MemberState, tuple[str, ...]]] = [
        *((state, ("a",)) for state in (ALIVE, DOWN, LEFT)),
        *((SUSPECT, names) for names in (("b", "a"), ("a", "a"), tuple("abcde"))),
    ]
    for state, names in wrong_accusers:
        with pytest.raises(ConfigError, match="accusers"):
            Member(node, state=state, accusers=names)
    member = Member(node, labels=(("role", "gpu"), ("zone", "a")))
    assert (member.label("role"), member.label("none")) == ("gpu", None)
