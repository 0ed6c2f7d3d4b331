"""Outlets: the near end of the way to one destination.

An outlet pays for an item and puts it on its way, or says that there is no credit; waiting for
credit is the same for a mailbox of this node and for a channel to another.  The router keeps an
outlet per destination in use, so that the second message to it finds its way without a look-up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol, TypeAlias

from steinadler.errors import MessageTooLarge, NodeDown
from steinadler.identity import NodeId, ProcessId, ProcessName
from steinadler.process.mailbox import LocalWindow, Mailbox, Run
from steinadler.process.messages import Source
from steinadler.process.process import Process
from steinadler.process.table import Processes
from steinadler.transport.link import Link, LinkState
from steinadler.wire.channels import (
    CONTROL,
    InboundChannel,
    OutboundChannel,
    Target,
)
from steinadler.wire.frames import FrameType

# A call on a channel is its id, then the request.
CALL_ID = struct.Struct(">Q")

_NO_CHANNEL = OutboundChannel(CONTROL.lane, CONTROL, 0)
_NO_CHANNEL.closed = True


class Desk(Protocol):
    """What a local outlet hands in."""

    def dropped(self) -> None: ...
    @property
    def call_arrived(self) -> Callable[[NodeId, int, Process | None, Source, bytes], None]: ...


class LocalOutlet:
    """The way to a process, or a name, of this node."""

    __slots__ = ("_desk", "_processes", "_window", "destination", "node", "target")

    def __init__(
        self,
        destination: ProcessId | ProcessName,
        node: NodeId,
        processes: Processes,
        target: Target,
        desk: Desk,
    ) -> None:
        self.destination = destination
        self._processes = processes
        self._desk = desk
        self._window: LocalWindow | None = None  # that we last waited for
        self.node = node
        self.target = target

    def offer_message(self, body: bytes) -> bool:
        """Deliver a message, or return False when there is no credit for it."""
        process = self._processes.find(self.target)
        if process is None:
            self._desk.dropped()
            return True
        mailbox = process.mailbox
        if not mailbox.local.take_credit(len(body)):
            return False
        mailbox.put(Run(mailbox.local, [body]))
        return True

    def offer_call(self, call: int, body: bytes) -> bool:
        """Deliver a call, or return False when there is no credit for it."""
        process = self._processes.find(self.target)
        source = process.mailbox.local if process is not None else LocalWindow(1)
        if not source.take_credit(len(body) + CALL_ID.size):
            return False
        self._desk.call_arrived(self.node, call, process, source, body)
        return True

    async def wait_for_credit(self) -> None:
        """Wait until it is worth offering again.  Cancellation takes nothing."""
        process = self._processes.find(self.target)
        if process is not None:
            window = process.mailbox.local
            await window.wait_for_credit()
            self._window = window  # the name may belong to another process by now

    def pass_on(self) -> None:
        """Somebody who waited got credit; when some is left, the next one may have it."""
        if self._window is not None:
            self._window.pass_on()


class PeerOutlet:
    """The way to a process, or a name, of another node: a channel of its link's session."""

    __slots__ = ("_channel", "_session", "destination", "link", "node", "target")

    def __init__(self, destination: ProcessId | ProcessName, link: Link, target: Target) -> None:
        self.destination = destination
        self.link = link
        self._session = link.session
        self._channel = _NO_CHANNEL  # a route alone, to watch a process, opens none
        self.node = link.node
        self.target = target

    def offer_message(self, body: bytes) -> bool:
        """Queue a message, or return False when there is no credit for it.

        Raises `MessageTooLarge` when the peer does not take messages of that size, and
        `DeliveryError` when it takes none for so many destinations.
        """
        return self._offer(FrameType.MESSAGES, body, 0)

    def offer_call(self, call: int, body: bytes) -> bool:
        """As `offer_message`, for a call."""
        return self._offer(FrameType.CALLS, CALL_ID.pack(call) + body, CALL_ID.size)

    def _offer(self, type_: FrameType, item: bytes, head_bytes: int) -> bool:
        session = self._session
        if len(item) - head_bytes > session.max_message_bytes:
            raise MessageTooLarge(len(item) - head_bytes, session.max_message_bytes)
        channel = self._channel
        if channel.closed:  # not opened yet, or idle for long
            channel = self._channel = session.channel(self.target)
        if not channel.take_credit(len(item)):
            return False
        session.enqueue(channel, type_, item)
        link = self.link
        if link.wants_flush:
            link.flush()
        return True

    async def wait_for_credit(self) -> None:
        """Wait until it is worth offering again.  Raises `NodeDown`.

        Cancellation takes nothing.
        """
        await self.link.wait_for_credit(self.target)
        if self.link.state is LinkState.ENDED:
            raise NodeDown(self.node.name, self.link.end_reason)

    def pass_on(self) -> None:
        """Somebody who waited got credit; when some is left, the next one may have it."""
        if self._channel.credit > 0:
            self.link.wake_for_credit(self.target)


class ChannelSource:
    """One peer's window on one of this node's mailboxes, and what it may put through it: as it was
    when names were last `judged_at`."""

    __slots__ = ("channel", "judged_at", "link", "mailbox", "may_call", "may_send", "process")

    def __init__(self, link: Link, channel: InboundChannel) -> None:
        self.link = link
        self.channel = channel
        self.process: Process | None = None
        self.mailbox: Mailbox | None = None
        self.may_send = self.may_call = False
        self.judged_at = -1

    def consumed(self, body_bytes: int, items: int) -> None:
        link = self.link
        if link.session.consumed(self.channel, body_bytes, items):
            link.flush()


Outlet: TypeAlias = LocalOutlet | PeerOutlet


async def offer_in_turn(outlet: Outlet, offer: Callable[[], bool]) -> None:
    """Wait for credit until `offer()` succeeds.  Cancellation leaves nothing offered."""
    offered = False
    while not offered:
        await outlet.wait_for_credit()
        try:
            offered = offer()
        finally:  # also when it raises: the wake-up was for the credit, which is still there
            outlet.pass_on()
