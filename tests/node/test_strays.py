"""D1: links to nodes that are down end, and no sooner than these had time to say that they live."""

from __future__ import annotations

from typing import Any

from steinadler.node.strays import STRAY_S, Strays


def link() -> Any:
    return object()  # nothing is asked of it


def test_a_link_that_was_one_for_long_is_over() -> None:
    strays, stray = Strays(), link()
    assert [strays.over({stray: 0.0}, now) for now in (1.0, 3.0, 5.0)] == [[], [], []]
    assert strays.over({stray: 0.0}, 1.0 + STRAY_S) == [stray]


def test_one_that_is_a_member_again_begins_anew() -> None:
    strays, stray = Strays(), link()
    for now in (1.0, 3.0):
        assert not strays.over({stray: 0.0}, now)
    assert not strays.over({}, 5.0)
    assert not strays.over({stray: 0.0}, 7.0)


def test_one_that_has_just_connected_has_its_time_still() -> None:
    strays, stray = Strays(), link()
    for now in (1.0, 3.0, 5.0):
        assert not strays.over({stray: 0.0}, now)
    assert not strays.over({stray: 6.9}, 7.0)


def test_who_has_not_run_itself_ends_nobody_at_once() -> None:
    """What came meanwhile may not have been read."""
    strays, stray = Strays(), link()
    assert not strays.over({stray: 0.0}, 1.0)
    assert not strays.over({stray: 0.0}, 60.0)
    assert not strays.over({stray: 0.0}, 62.0)
