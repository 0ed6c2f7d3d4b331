"""A peer that asks for what costs more to answer than to ask, as often as it can (X4)."""

from __future__ import annotations

import pytest

from steinadler.wire.quotas import Quota


def test_a_burst_and_then_so_many_in_a_second() -> None:
    quota = Quota(4, 2.0)
    assert [quota.allows("peer", 10.0) for _ in range(6)] == [True] * 4 + [False] * 2
    allowed = sum(quota.allows("peer", 10.0 + n / 100) for n in range(1000))
    assert allowed == pytest.approx(20, abs=1)
    assert [quota.allows("peer", 100.0) for _ in range(5)] == [True] * 4 + [False]


def test_peers_have_buckets_of_their_own() -> None:
    quota = Quota(1, 1.0)
    assert quota.allows("one", 0.0)
    assert quota.allows("two", 0.0)
    assert not quota.allows("one", 0.0)


def test_ever_new_peers_do_not_make_it_grow() -> None:
    quota = Quota(2, 1.0)
    for number in range(10_000):
        assert quota.allows(number, float(number))
    assert len(quota) <= 1025


def test_a_clock_that_goes_back_gives_nothing() -> None:
    quota = Quota(1, 1.0)
    assert quota.allows("peer", 10.0)
    assert not quota.allows("peer", 5.0)
