"""What is due comes in order, and what is over is not kept."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from steinadler.entity.agenda import Agenda


@given(st.lists(st.floats(0, 100)), st.floats(0, 100))
def test_what_is_due_comes_in_the_order_of_time(times: list[float], now: float) -> None:
    agenda: Agenda[tuple[float, int]] = Agenda(lambda _: True)
    for number, at in enumerate(times):
        agenda.add(at, (at, number))
    assert agenda.next_at == min(times, default=math.inf)
    due = [(at, number) for number, at in enumerate(times) if at <= now]
    assert [agenda.take(now) for _ in range(len(due) + 1)] == [*sorted(due), None]
    assert len(agenda) == len(times) - len(due)


def test_what_is_over_does_not_come() -> None:
    agenda: Agenda[int] = Agenda(lambda number: number % 2 == 0)
    for number in range(5):
        agenda.add(number, number)
    assert [agenda.take(10) for _ in range(4)] == [0, 2, 4, None]
    assert len(agenda) == 0


@given(st.integers(0, 50), st.integers(0, 500))
def test_no_more_of_the_dead_are_kept_than_of_the_living(living: int, dying: int) -> None:
    stands: set[int] = set()
    agenda: Agenda[int] = Agenda(stands.__contains__)
    for number in range(living + dying):
        stands.add(number)
        agenda.add(1000.0, number)
        if number >= living:
            stands.remove(number)
        assert len(agenda) <= 2 * living + 10
    for _ in range(living):
        stands.remove(agenda.take(1000) or 0)
    assert agenda.take(1000) is None
    assert not stands
