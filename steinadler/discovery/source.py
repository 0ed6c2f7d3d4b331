"""What a source of addresses is: the vocabulary that all of them share.

A source calls back instead of returning a list, because news comes at any time and from several
sources at once; it repeats itself instead of remembering whom it told, because only the
connection manager knows to which addresses a connection is missing.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import trio

from steinadler.identity import Address


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address at which a node of this cluster may be listening.

    `source` tells where it came from (`"mdns"`, `"seed"`, `"runtime"`, or a user's own word).
    `name` and `incarnation` are hints, good for a log line or for not dialling twice; they prove
    nothing, since anybody can announce them.
    """

    address: Address
    source: str
    name: str | None = None
    incarnation: int | None = None


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What a node tells others of itself.

    `fingerprint` is the SHA-256 of the cluster's id, as hexadecimal text: two clusters on one
    network see by it that they have nothing to say to each other.
    """

    node: str
    incarnation: int
    addresses: tuple[Address, ...]
    fingerprint: str


Found: TypeAlias = Callable[[Candidate], None]


class Source(abc.ABC):
    """Something that knows where nodes may be.  Write your own by overriding `run`.

    A source belongs to one node: it is run once, and shares no state with others of its kind.
    `problem` is what keeps it from finding anything now, for people; empty while nothing does.
    """

    problem: str = ""

    @abc.abstractmethod
    async def run(
        self,
        found: Found,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled, and call `found(candidate)` for every candidate seen.

        `found` is called on the Trio thread, never blocks, and may be called with the same
        candidate again and again; calling it every few seconds for whatever still seems to be
        there is what lets a node come back to a peer that it lost.

        `task_status.started()` is called as soon as the source is at work, or has given up on
        its set-up.  A source that cannot work (no network, no permission) says so in one warning
        on the logger `steinadler.discovery` and returns; it does not raise, because a node must
        not fail over one of several ways to find others.  One that raises all the same is in the
        log with its traceback, and is not run again.

        On cancellation it withdraws what it announced and leaves no thread, file or socket
        behind, within about a second.
        """
