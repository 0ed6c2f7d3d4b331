"""What one entity does next: every state x every input, and the queue (E1, E3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.entity.turns import TABLE, Action, Input, State, Turns
from steinadler.errors import LocalProtocolError

D, A, U, I, R, LT, LO, P, L = State  # noqa: E741 - the table is easier to read so
NO, WAIT, ACT, RUN, DEA, DIS, ON, FAIL, _ = Action

# state: input: (state, action), and a second pair for when somebody waits; as it should be.
EXPECTED = {
    D: {"ARRIVE": (A, ACT), "LEAVE": (D, NO), "IDLE_TIMEOUT": (D, NO), "LOSE": (D, NO)},
    A: {
        "ARRIVE": (A, WAIT),
        "ACTIVATED": (I, NO, R, RUN),
        "ACTIVATION_FAILED": (D, FAIL),
        "LEAVE": (U, ON),
        "IDLE_TIMEOUT": (A, NO),
        "LOSE": (A, NO),
    },
    U: {
        "ARRIVE": (U, ON),
        "ACTIVATED": (L, DEA),
        "ACTIVATION_FAILED": (D, NO),
        "LEAVE": (U, NO),
        "IDLE_TIMEOUT": (U, NO),
        "LOSE": (U, NO),
    },
    I: {"ARRIVE": (R, RUN), "LEAVE": (L, DEA), "IDLE_TIMEOUT": (P, DEA), "LOSE": (L, DIS)},
    R: {
        "ARRIVE": (R, WAIT),
        "TURN_ENDED": (I, NO, R, RUN),
        "LEAVE": (LT, ON),
        "IDLE_TIMEOUT": (R, NO),
        "LOSE": (LO, ON),
    },
    LT: {
        "ARRIVE": (LT, ON),
        "TURN_ENDED": (L, DEA),
        "LEAVE": (LT, NO),
        "IDLE_TIMEOUT": (LT, NO),
        "LOSE": (LO, NO),
    },
    LO: {
        "ARRIVE": (LO, ON),
        "TURN_ENDED": (L, DIS),
        "LEAVE": (LO, NO),
        "IDLE_TIMEOUT": (LO, NO),
        "LOSE": (LO, NO),
    },
    P: {
        "ARRIVE": (P, WAIT),
        "DEACTIVATED": (D, NO, A, ACT),
        "LEAVE": (L, ON),
        "IDLE_TIMEOUT": (P, NO),
        "LOSE": (P, NO),
    },
    L: {
        "ARRIVE": (L, ON),
        "DEACTIVATED": (D, NO),
        "LEAVE": (L, NO),
        "IDLE_TIMEOUT": (L, NO),
        "LOSE": (L, NO),
    },
}


@dataclass(eq=False)
class Waiter:
    name: str = ""
    size: int = 1
    deadline: float = math.inf


def in_state(state: State, *waiting: Waiter) -> Turns[Waiter]:
    turns: Turns[Waiter] = Turns()
    turns.state = A  # where calls wait
    for call in waiting:
        turns.arrive(call, 100, 100)
    turns.state = state
    return turns


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("event", Input)
@pytest.mark.parametrize("state", State)
def test_every_state_and_input(state: State, event: Input, waiting: bool) -> None:
    turns = in_state(state, *[Waiter()] * waiting)
    expected = EXPECTED[state].get(event.name)
    if expected is None:
        with pytest.raises(LocalProtocolError, match=f"{event.name} in state {state.name}"):
            turns.handle(event)
        assert turns.state is state
        return
    then, action = expected[2:] if waiting and len(expected) == 4 else expected[:2]
    assert turns.handle(event) is action
    assert turns.state is then


@given(st.lists(st.sampled_from(Input), max_size=60), st.data())
def test_turns_never_overlap_e1(events: list[Input], data: st.DataObject) -> None:
    """Whatever happens from outside, one thing at a time is done, and each is reported once."""
    turns: Turns[Waiter] = Turns()
    doing: Action | None = None
    results = {
        ACT: [Input.ACTIVATED, Input.ACTIVATION_FAILED],
        RUN: [Input.TURN_ENDED],
        DEA: [Input.DEACTIVATED],
        DIS: [Input.DEACTIVATED],
    }
    outside = (Input.ARRIVE, Input.LEAVE, Input.IDLE_TIMEOUT, Input.LOSE)
    for event in events:
        if event is Input.ARRIVE:
            action = turns.arrive(Waiter(), 5, 100)
        elif event in outside:
            action = turns.handle(event)
        elif doing is not None:
            if doing is RUN:
                turns.next(0)
            action = turns.handle(data.draw(st.sampled_from(results[doing])))
            doing = None
        else:
            continue
        if action in (ON, FAIL):
            turns.take_all()
        if action in results:
            assert doing is None, "it was told to do two things at once"
            doing = action
    busy = turns.state not in (D, I)
    assert busy == (doing is not None)
    assert busy or len(turns) == 0, "somebody waits, and nobody will come"


def test_calls_have_their_turns_in_the_order_they_came() -> None:
    first, second, third = (Waiter(name) for name in ("first", "second", "third"))
    turns: Turns[Waiter] = Turns()
    assert [turns.arrive(call, 10, 10) for call in (first, second, third)] == [ACT, WAIT, WAIT]
    assert turns.handle(Input.ACTIVATED) is RUN
    assert turns.next(0) == (first, [])
    assert turns.handle(Input.TURN_ENDED) is RUN
    assert turns.next(0) == (second, [])
    assert turns.withdraw(third)
    assert not turns.withdraw(third)
    assert not turns.withdraw(second)
    assert turns.handle(Input.TURN_ENDED) is NO
    assert turns.state is I


def test_a_call_whose_deadline_passed_is_not_run() -> None:
    late, later, in_time = Waiter(deadline=5), Waiter(deadline=9.9), Waiter(deadline=10.1)
    assert in_state(R, late, later, in_time).next(10) == (in_time, [late, later])
    assert in_state(R, late, later).next(10) == (None, [late, later])


def test_what_waits_is_bounded() -> None:
    """By number and by bytes; but one call alone has its turn whatever its size."""
    turns = in_state(R, Waiter(), Waiter())
    assert turns.arrive(Waiter(), 2, 100) is Action.REFUSE
    assert turns.arrive(Waiter(size=99), 3, 100) is Action.REFUSE
    assert turns.arrive(Waiter(size=98), 3, 100) is WAIT
    assert len(turns) == 3
    assert in_state(I).arrive(Waiter(size=1000), 1, 100) is RUN
    emptied = in_state(R, Waiter(size=90))
    emptied.next(0)
    assert emptied.arrive(Waiter(size=90), 1, 100) is WAIT  # what has left is not counted
    withdrawn = in_state(R, gone := Waiter(size=90), Waiter(size=5))
    withdrawn.withdraw(gone)
    assert withdrawn.arrive(Waiter(size=90), 9, 100) is WAIT


def test_who_is_sent_on_did_not_run_and_does_not_wait_e3() -> None:
    one, two = Waiter("one"), Waiter("two")
    turns = in_state(R, one, two)
    assert turns.handle(Input.LEAVE) is ON
    assert turns.take_all() == [one, two]
    assert len(turns) == 0
    assert turns.arrive(Waiter(), 10, 10) is ON
    assert len(turns) == 0


def test_the_table_speaks_of_every_state() -> None:
    assert set(TABLE) == set(State)
