"""Looking at the connections for a moment before the thread goes to sleep.

An answer from a node of the same machine, or of the same rack, takes less time than it takes the
kernel to put a thread to sleep, wake it, and bring its memory back into the processor's caches.
So when nothing in the program can run, and the connections of late brought something soon after,
they are polled for up to `limit_s` before Trio waits in earnest.  Erlang's schedulers do the same
(erl, +sbwt), and so does Linux for its virtual machines, whose rule for how long this is (kernel
documentation, virt/kvm/halt-polling.rst):

    a connection brought something after a wait <= limit   poll twice as long the next time
    while we polled                                        poll as long again
    later, or something else ended the wait                do not poll the next time

An idle program therefore never polls, nor does one that waits for anything but its peers, and one
that does gives its core away at each look, should another thread want it.  Within a program
nothing is delayed but what arrives elsewhere than on a connection, by `limit_s` at most.

A Trio instrument, because only Trio knows that nothing can run: a task that polled would either
keep others from running or be run between them.  It needs Linux's epoll and two cores; without
them nothing is polled.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

import trio

_FIRST_POLL_S = 25e-6


class IdlePolling(trio.abc.Instrument):
    """The connections of one Trio run, and for how long it is worth polling them: `poll_s`."""

    def __init__(self) -> None:
        self._sockets = select.epoll()
        self._limits_s: dict[int, float] = {}
        self._limit_s = 0.0
        self.poll_s = 0.0
        self._since: float | None = None  # when the present wait began, if a long one did

    def add(self, sock: socket.socket, limit_s: float) -> None:
        if not self._limits_s:
            trio.lowlevel.add_instrument(self)
        self._sockets.register(sock, select.EPOLLIN)
        self._limits_s[sock.fileno()] = limit_s
        self._limit_s = max(self._limits_s.values())

    def remove(self, sock: socket.socket) -> None:
        if self._limits_s.pop(sock.fileno(), None) is not None:
            self._sockets.unregister(sock)
            self._limit_s = max(self._limits_s.values(), default=0.0)
            if not self._limits_s:
                trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        self._since = None
        if timeout <= 0:
            return
        self._since = now = time.perf_counter()
        end = now + min(self.poll_s, timeout)
        while now < end:
            if self._sockets.poll(0, 1):
                self._since = None
                return
            os.sched_yield()
            now = time.perf_counter()

    def after_io_wait(self, timeout: float) -> None:
        if self._since is None:
            return
        waited = time.perf_counter() - self._since
        if waited <= self._limit_s and self._sockets.poll(0, 1):
            self.poll_s = min(max(_FIRST_POLL_S, 2 * self.poll_s), self._limit_s)
        else:
            self.poll_s = 0.0


_of_run: trio.lowlevel.RunVar[IdlePolling | None] = trio.lowlevel.RunVar("steinadler.idle_polling")


def watch(sock: socket.socket, limit_s: float) -> None:
    """From now on, poll `sock` too, for up to `limit_s` at a time."""
    if sys.platform != "linux" or limit_s <= 0 or len(os.sched_getaffinity(0)) < 2:
        return
    polling = _of_run.get(None)
    if polling is None:
        polling = IdlePolling()
        _of_run.set(polling)
    polling.add(sock, limit_s)


def unwatch(sock: socket.socket) -> None:
    """Poll `sock` no more; it must still be open."""
    polling = _of_run.get(None)
    if polling is not None:
        polling.remove(sock)
