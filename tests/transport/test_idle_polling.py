"""Idle polling: connections that bring something soon are polled, and nothing else ever is."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator

import pytest
import trio

from steinadler.transport import idle_polling
from steinadler.transport.idle_polling import IdlePolling

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it needs epoll")

LIMIT_S = 0.5  # so long that no machine is too slow to be within it
LONG = 60.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
async def polling(ends: tuple[socket.socket, socket.socket]) -> IdlePolling:
    polling = IdlePolling()
    polling.add(ends[0], LIMIT_S)
    trio.lowlevel.remove_instrument(polling)  # the tests call the hooks themselves
    return polling


def wait_ended_by_peer(polling: IdlePolling, ends: tuple[socket.socket, socket.socket]) -> None:
    polling.before_io_wait(LONG)
    ends[1].send(b"x")
    polling.after_io_wait(LONG)
    ends[0].recv(1)


async def test_each_short_wait_for_a_peer_doubles_the_polling(
    polling: IdlePolling, ends: tuple[socket.socket, socket.socket]
) -> None:
    assert polling.poll_s == 0
    seen = []
    for _ in range(3):
        wait_ended_by_peer(polling, ends)
        seen.append(polling.poll_s)
    assert seen == [seen[0], 2 * seen[0], 4 * seen[0]]


async def test_the_polling_never_exceeds_its_limit(
    polling: IdlePolling, ends: tuple[socket.socket, socket.socket]
) -> None:
    polling.poll_s = 0.9 * LIMIT_S
    ends[1].send(b"x")
    polling.before_io_wait(0.0)  # no wait: nothing is learnt from it
    polling.after_io_wait(0.0)
    assert polling.poll_s == 0.9 * LIMIT_S
    ends[0].recv(1)
    polling.poll_s = 0.0
    for _ in range(30):
        wait_ended_by_peer(polling, ends)
        polling.poll_s, reached = 0.0, polling.poll_s  # so that the next does not poll for real
        assert reached <= LIMIT_S


async def test_something_there_already_ends_the_polling_at_once(
    polling: IdlePolling, ends: tuple[socket.socket, socket.socket]
) -> None:
    polling.poll_s = LONG
    ends[1].send(b"x")
    started = time.perf_counter()
    polling.before_io_wait(LONG)
    polling.after_io_wait(LONG)
    assert time.perf_counter() - started < LONG / 2
    assert polling.poll_s == LONG


async def test_a_wait_that_something_else_ended_stops_the_polling(
    polling: IdlePolling, ends: tuple[socket.socket, socket.socket]
) -> None:
    wait_ended_by_peer(polling, ends)
    polling.before_io_wait(LONG)
    polling.after_io_wait(LONG)
    assert polling.poll_s == 0


async def test_a_late_arrival_stops_the_polling(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    polling = IdlePolling()
    polling.add(ends[0], 1e-9)  # whatever comes, comes later than that
    trio.lowlevel.remove_instrument(polling)
    wait_ended_by_peer(polling, ends)
    assert polling.poll_s == 0


async def test_what_is_no_longer_watched_is_no_reason_to_poll(
    polling: IdlePolling, ends: tuple[socket.socket, socket.socket]
) -> None:
    other = IdlePolling()
    other.add(ends[0], LIMIT_S)
    other.remove(ends[0])
    other.remove(ends[1])  # never watched: nothing happens
    wait_ended_by_peer(other, ends)
    assert other.poll_s == 0


async def test_one_instrument_watches_all_connections_of_a_run(
    monkeypatch: pytest.MonkeyPatch, ends: tuple[socket.socket, socket.socket]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    added: list[trio.abc.Instrument] = []
    monkeypatch.setattr(trio.lowlevel, "add_instrument", added.append)
    monkeypatch.setattr(trio.lowlevel, "remove_instrument", added.remove)
    for end in ends:
        idle_polling.watch(end, LIMIT_S)
    assert len(added) == 1
    idle_polling.unwatch(ends[0])
    assert len(added) == 1
    idle_polling.unwatch(ends[1])
    assert not added


async def test_on_one_core_nothing_is_polled(
    monkeypatch: pytest.MonkeyPatch, ends: tuple[socket.socket, socket.socket]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(trio.lowlevel, "add_instrument", lambda _: pytest.fail("it polls"))
    idle_polling.watch(ends[0], LIMIT_S)
    idle_polling.unwatch(ends[0])
