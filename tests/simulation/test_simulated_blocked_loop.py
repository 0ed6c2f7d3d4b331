"""A loop that is blocked, or a process that is stopped: what others see, and what it says."""

from __future__ import annotations

import logging
import re

import pytest
import trio
from simulated import events_of, meet
from trio.testing import MockClock

from steinadler.testing import SimulatedCluster


@pytest.mark.parametrize("blocked_s", [1.2, 1.9])
async def test_less_than_two_seconds_is_one_warning(
    blocked_s: float, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """S2: nobody is declared down, and the node says how long it was away."""
    async with SimulatedCluster(1) as cluster:
        nodes = await meet(cluster, "alice", "bob", "carol")
        await trio.sleep(2)
        async with events_of(*nodes) as told:
            with caplog.at_level(logging.WARNING, "steinadler.node"), cluster.paused("bob"):
                await trio.sleep(blocked_s)
            await trio.sleep(5)
        assert not any(told.values())
    assert warned_of(caplog) == [pytest.approx(blocked_s, abs=0.3)]


async def test_five_seconds_is_a_down_and_a_return(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """S1: what docs/operations.md says of it, at both ends."""
    async with SimulatedCluster(1) as cluster:
        alice, bob, carol = await meet(cluster, "alice", "bob", "carol")
        await trio.sleep(2)
        async with events_of(alice, bob, carol) as told:
            start = trio.current_time()
            with cluster.paused("bob"):
                await trio.sleep(5)
            with trio.fail_after(5):
                await cluster.agreed()
            await trio.sleep(5)
        for node in (alice, carol):
            (down_at, *down), (_, *up) = told[node.name]
            assert (down, up) == (["down", "bob"], ["up", "bob"])
            assert 2 < down_at - start < 3
        of_alice = [kind for _, kind, name in told["bob"] if name == "alice"]
        assert of_alice == ["down", "up"]
    assert warned_of(caplog) == [pytest.approx(5, abs=0.3)]


def warned_of(caplog: pytest.LogCaptureFixture) -> list[float]:
    """The times in the warnings of a blocked loop."""
    found = (re.match(r"this node's loop was blocked for ([0-9.]+) s", m) for m in caplog.messages)
    return [float(match[1]) for match in found if match]
