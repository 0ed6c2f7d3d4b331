"""Where a call goes that was sent on: hints are believed once, pauses grow, patience ends (E3)."""

from __future__ import annotations

import random

import pytest

from steinadler.entity.search import FIRST_PAUSE_S, LONGEST_PAUSE_S, Search

MEMBERS = ("alice", "bob", "carol")


class Longest(random.Random):
    """Draws the largest number that it may."""

    def uniform(self, a: float, b: float) -> float:
        return b


def is_member(name: str) -> bool:
    return name in MEMBERS


def search(patience_s: float = 10.0) -> Search:
    return Search(patience_s, Longest())


def sent_on(one: Search, asked: str, named: str, now: float = 0.0) -> tuple[float | None, str]:
    pause_s = one.sent_on(asked, named, is_member, now)
    return pause_s, one.hint or "-"


@pytest.mark.parametrize(
    ("asked", "named", "pause_s", "hint"),
    [
        ("alice", "bob", 0.0, "bob"),  # at once to the one that was named
        ("alice", "", FIRST_PAUSE_S, "-"),  # it knows nobody
        ("alice", "alice", FIRST_PAUSE_S, "-"),  # it names itself, and did not run it
        ("alice", "mallory", FIRST_PAUSE_S, "-"),  # no member of ours, not yet or not any more
    ],
)
def test_the_first_answer(asked: str, named: str, pause_s: float, hint: str) -> None:
    assert sent_on(search(), asked, named) == (pause_s, hint)


def test_two_that_name_each_other_do_not_keep_a_call() -> None:
    one = search()
    assert sent_on(one, "alice", "bob") == (0.0, "bob")
    assert sent_on(one, "bob", "alice") == (FIRST_PAUSE_S, "-")  # now look ourselves
    assert sent_on(one, "carol", "bob") == (0.0, "bob")  # and believe once more


def test_pauses_double_up_to_the_longest() -> None:
    one = search()
    pauses = [sent_on(one, "alice", "")[0] for _ in range(8)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-2:] == [LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_patience_counts_from_the_first_answer_and_ends() -> None:
    one = search(patience_s=10.0)
    assert sent_on(one, "alice", "bob", now=100.0)[0] is not None
    assert sent_on(one, "bob", "", now=109.9)[0] is not None
    assert sent_on(one, "bob", "", now=110.0)[0] is None
