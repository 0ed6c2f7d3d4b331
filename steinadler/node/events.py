"""What a node tells its program about the cluster, and how it is listened to.

`NodeUp` and `NodeDown` tell of one member each, at once; `MembersLost` and `SidesMerged`
(`steinadler.membership.partition`) of those that went or came together, a second later.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeAlias

import trio

from steinadler.identity import ProcessId
from steinadler.membership import Member, MembersLost, SidesMerged

# What a listener may leave unread before it loses the oldest events.
MAX_UNREAD_EVENTS = 4096


@dataclass(frozen=True, slots=True)
class NodeUp:
    """A node is a member from now on."""

    member: Member


@dataclass(frozen=True, slots=True)
class NodeDown:
    """A node is no longer a member, or its session was lost.  `reason` is for people.

    The exception of the same name, in `steinadler.errors`, is what calls to it raise.
    """

    member: Member
    reason: str


@dataclass(frozen=True, slots=True)
class EventsLost:
    """This listener did not keep up: so many events before this point are gone."""

    count: int


@dataclass(frozen=True, slots=True)
class NameConflict:
    """Two processes had one name of the cluster, and `winner` keeps it; `loser` was told to exit.

    The loser's node always tells so.  Any other does when it hears of both: one may be gone when it
    hears of the other; and that a process took a name may be heard before that another let it go.

    The exception of the same name, in `steinadler.errors`, is what registering raises.
    """

    name: str
    winner: ProcessId
    loser: ProcessId


Event: TypeAlias = NodeUp | NodeDown | MembersLost | SidesMerged | NameConflict | EventsLost


class EventStream(AsyncIterator[Event]):
    """The events since this stream was made, in order.  Made by `Node.events`.

    Iterating waits for the next one and ends when the node closes; cancellation loses nothing.
    """

    def __init__(self) -> None:
        self._unread: deque[Event] = deque()
        self._lost = 0
        self._ended = False
        self._readers = trio.lowlevel.ParkingLot()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint()
        while not self._unread and not self._lost and not self._ended:
            await self._readers.park()
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(lost)
        if self._unread:
            return self._unread.popleft()
        raise StopAsyncIteration

    def _put(self, event: Event) -> None:
        if len(self._unread) >= MAX_UNREAD_EVENTS:
            self._unread.popleft()
            self._lost += 1
        self._unread.append(event)
        self._readers.unpark()

    def _end(self) -> None:
        self._ended = True
        self._readers.unpark_all()


class EventHub:
    """Tells every stream that somebody still holds."""

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._closed = False

    def open(self) -> EventStream:
        stream = EventStream()
        if self._closed:
            stream._end()
        self._streams.add(stream)
        return stream

    def publish(self, event: Event) -> None:
        for stream in list(self._streams):
            stream._put(event)

    def close(self) -> None:
        self._closed = True
        for stream in list(self._streams):
            stream._end()
