"""A flood from the members' own address, in small, as the benchmark makes it (X4)."""

from __future__ import annotations

import pytest
import trio

from benchmarks.strangers import KINDS, measure


@pytest.mark.slow
async def test_members_keep_talking_and_their_memory_returns() -> None:
    with trio.fail_after(120):
        figures = await measure(700, 5.0, quiet_s=2.0)
    assert figures["downs"] == []
    assert set(figures["attacker"]["done"]) == set(KINDS)
    for phase in ("before", "during", "after"):
        assert figures["phases"][phase]["calls"] > 20
    for before, after in zip(
        figures["rss_mib"]["before"], figures["rss_mib"]["after"], strict=True
    ):
        assert after < before * 1.15
