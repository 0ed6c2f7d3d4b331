"""The router: from a destination to a mailbox, here or on another node, and back.

    send("counter@bob", m)                            receive()
      encode once                                       decode
      route -> (node, target)                           ^
      local: mailbox window ------ Message ----------> mailbox
      peer:  channel credit -> session -> link ~~~> link -> session -> channel -> mailbox
                                                        |
                             credit <~~~~~~~~~~~~~~~~~~~+ when the process takes it

Local and remote take the same steps in the same order, so they behave the same (M5).  What a peer
sends is held against the policy once for each channel, and again when a name has changed hands: a
look at a number for each frame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from steinadler.errors import (
    ConfigError,
    MailboxFull,
    NodeDown,
    NoSuchProcess,
    NotAuthorized,
    RemoteProtocolError,
)
from steinadler.identity import (
    ANY_NODE,
    Destination,
    NodeId,
    ProcessId,
    ProcessName,
    parse_destination,
)
from steinadler.node.calls import Calls
from steinadler.node.guard import Guard, described
from steinadler.node.outlets import (
    CALL_ID,
    ChannelSource,
    LocalOutlet,
    Outlet,
    PeerOutlet,
    offer_in_turn,
)
from steinadler.node.peering import Peering
from steinadler.process.mailbox import CHECKPOINT_EVERY, Item, Run
from steinadler.process.messages import Call
from steinadler.process.process import SKIPPED, Process
from steinadler.process.table import Processes
from steinadler.security.policy import Action
from steinadler.transport.link import Link
from steinadler.wire.channels import (
    InboundChannel,
    Target,
    ToName,
    ToProcess,
    ToStream,
)
from steinadler.wire.codec import Codec
from steinadler.wire.frames import FrameType
from steinadler.wire.session import Arrived
from steinadler.wire.signals import (
    CancelCall,
    Signal,
    StreamAbort,
    StreamStop,
    decode_signal,
    encode_signal,
)

logger = logging.getLogger("steinadler.node")

_MAX_OUTLETS = 4096


@dataclass(slots=True)
class RouterCounters:
    """What became of messages since the node opened."""

    dropped: int = 0  # to nobody: no such process, or it ended first, or its node went down
    undecodable: int = 0


class Router:
    """Messages and calls between processes of this node and of others."""

    def __init__(
        self,
        node: NodeId,
        codec: Codec,
        processes: Processes,
        peering: Peering,
        guard: Guard,
        max_unanswered_calls: int,
    ) -> None:
        self._node = node
        self._codec = codec
        self._processes = processes
        self._names = processes.names
        self._peering = peering
        self._guard = guard
        # What others take or know; each is put here when it is made.  The signals that are not
        # about calls:
        self.on_signal: Callable[[NodeId, Target, Signal], None] = _ignore
        # The cluster-wide names:
        self.find_global: Callable[[str], ProcessId | None] = _unknown
        # And what concerns streams:
        self.on_stream_items: Callable[[Link, Arrived], None] = _ignore
        self.on_stream_signal: Callable[[NodeId, StreamStop | StreamAbort], None] = _ignore
        self.counters = RouterCounters()
        self.calls = Calls(node, codec, max_unanswered_calls, self.outlet, self.post)
        self.call = self.calls.call
        self.call_arrived = self.calls.arrived  # from this node, by way of a `LocalOutlet`
        self._outlets: dict[Destination, Outlet] = {}
        self._until_checkpoint = CHECKPOINT_EVERY

    # -- routes -------------------------------------------------------------------------------

    def resolve(self, destination: Destination) -> ProcessId | ProcessName:
        """Read a destination; a cluster-wide name that somebody has becomes the process.

        Raises `ConfigError` when it is none.
        """
        if isinstance(destination, str):
            destination = parse_destination(destination)
        if not isinstance(destination, (ProcessId, ProcessName)):
            raise ConfigError(f"{destination!r} is not a destination: give a ProcessId or a name")
        if isinstance(destination, ProcessName) and destination.node == ANY_NODE:
            return self.find_global(destination.name) or destination
        return destination

    def outlet(self, destination: Destination) -> Outlet:
        """The way to a destination.

        Raises `NodeDown`, `NodeClosed`, `ConfigError`, and `NoSuchProcess` for a cluster-wide name
        that nobody has.
        """
        outlet = self._outlets.get(destination)
        if outlet is None:
            where = self.resolve(destination)
            if isinstance(where, ProcessId) and where != destination:
                return self.outlet(where)  # the name may be another's the next time
            outlet = self._find_outlet(where)
            if len(self._outlets) >= _MAX_OUTLETS:
                self._outlets.clear()
            self._outlets[destination] = outlet
        return outlet

    def close(self) -> None:
        """Deliver nothing more: whoever tries is told that the node has closed."""
        self._outlets.clear()

    def _find_outlet(self, where: ProcessId | ProcessName) -> Outlet:
        self._peering.require_open()
        if isinstance(where, ProcessName):
            if where.node == ANY_NODE:
                raise NoSuchProcess(where)
            target: Target = ToName(where.name)
            if where.node in (None, self._node.name):
                return self._local_outlet(where, target)
            assert where.node is not None
            return PeerOutlet(where, self._peering.link_to(where.node), target)
        target = ToProcess(where.number)
        if where.node == self._node:
            return self._local_outlet(where, target)
        if where.node.name == self._node.name:
            raise NodeDown(self._node.name, "that life of the node is over")
        return PeerOutlet(where, self._peering.link_to_life(where.node), target)

    def _local_outlet(self, where: ProcessId | ProcessName, target: Target) -> LocalOutlet:
        return LocalOutlet(where, self._node, self._processes, target, self)

    # -- sending ------------------------------------------------------------------------------

    async def send(self, destination: Destination, message: object) -> None:
        self._until_checkpoint -= 1
        if self._until_checkpoint <= 0:
            self._until_checkpoint = CHECKPOINT_EVERY
            await trio.lowlevel.checkpoint()
        body = self._codec.encode(message)
        outlet = self._outlets.get(destination) or self.outlet(destination)
        if not outlet.offer_message(body):
            await offer_in_turn(outlet, lambda: outlet.offer_message(body))

    def send_nowait(self, destination: Destination, message: object) -> None:
        body = self._codec.encode(message)
        if not self.outlet(destination).offer_message(body):
            raise MailboxFull(
                f"{destination} has not consumed what was sent to it before; "
                "`await send(...)` waits until it has"
            )

    def dropped(self) -> None:
        """A message went to nobody."""
        self.counters.dropped += 1

    # -- signals ------------------------------------------------------------------------------

    def require_room(self, node: NodeId) -> None:
        """Raise `MailboxFull` when a program may ask nothing more of that node for now.

        For requests, which can be repeated.  News of an end and taking a request back cannot:
        there are no more of those than of requests.
        """
        link = self._peering.connections.link(node)
        if link is not None and not link.session.has_room_for_reply(0):
            raise MailboxFull(
                f"{node} has not read the replies and signals that wait for it "
                "(max_queued_reply_bytes)"
            )

    def post(self, node: NodeId, target: Target, signal: Signal) -> None:
        """Send a signal to `target` of a node, this one included.  To nobody when it is down."""
        if node == self._node:
            self._signalled(node, target, signal)
            return
        link = self._peering.connections.link(node)
        if link is not None:
            link.session.enqueue_signal(encode_signal(signal), target)
            link.flush()

    def _signalled(self, sender: NodeId, target: Target, signal: Signal) -> None:
        if isinstance(signal, CancelCall):
            self.calls.cancelled(sender, signal.call)
        elif isinstance(signal, (StreamStop, StreamAbort)):
            self.on_stream_signal(sender, signal)
        else:
            self.on_signal(sender, target, signal)

    # -- receiving ----------------------------------------------------------------------------

    def arrived(self, link: Link, items: Arrived) -> None:
        """Items came in on a link."""
        if type(items.channel.target) is ToStream:
            self.on_stream_items(link, items)
            return
        match items.type:
            case FrameType.MESSAGES:
                source = self._source(link, items.channel)
                if source.mailbox is not None and source.may_send:
                    source.mailbox.put(Run(source, items.bodies))
                else:
                    self._nowhere(source, items.bodies)
            case FrameType.CALLS:
                source = self._source(link, items.channel)
                refusal = None
                if not source.may_call:
                    refusal = self._refuse(source, Action.CALL, len(items.bodies))
                for body in items.bodies:
                    if len(body) < CALL_ID.size:
                        raise RemoteProtocolError("a call without an id")
                    if source.process is None or refusal is not None:
                        source.consumed(len(body), 1)
                    (call,) = CALL_ID.unpack_from(body)
                    if refusal is not None:
                        self.calls.refuse(link.node, call, source, refusal)
                        continue
                    request = body[CALL_ID.size :]
                    self.calls.arrived(link.node, call, source.process, source, request)
            case FrameType.REPLIES:
                for body in items.bodies:
                    self.calls.reply_arrived(link.node, body)
            case _:
                for body in items.bodies:
                    signal = decode_signal(body)
                    if signal is not None:
                        self._signalled(link.node, items.channel.target, signal)

    def _source(self, link: Link, channel: InboundChannel) -> ChannelSource:
        """The channel's window on its mailbox; looked up anew once that mailbox is closed."""
        source = channel.mailbox
        if not isinstance(source, ChannelSource):
            source = channel.mailbox = ChannelSource(link, channel)
        renamed = isinstance(channel.target, ToName)
        if source.mailbox is None or source.mailbox.closed or renamed:
            source.process = self._processes.find(channel.target)
            source.mailbox = source.process.mailbox if source.process is not None else None
            if not renamed:
                source.judged_at = -1
        if source.judged_at != self._names.changes:
            self._judge(source)
        return source

    def _judge(self, source: ChannelSource) -> None:
        """May this peer send to, and call, whoever is there now?"""
        source.judged_at = self._names.changes
        target = source.channel.target
        if source.process is None and isinstance(target, ToProcess):
            # It ended, or never was: who asks is told that, and not that it may not ask.
            source.may_send = source.may_call = True
            return
        held = self._names_at(source)
        source.may_send = self._guard.permits(source.link, Action.SEND, target, held)
        source.may_call = self._guard.permits(source.link, Action.CALL, target, held)

    def _names_at(self, source: ChannelSource) -> tuple[str, ...]:
        process = source.process
        return () if process is None else self._names.names_of(process.id.number)

    def _nowhere(self, source: ChannelSource, bodies: list[bytes]) -> None:
        """Messages that nobody is to get; what they cost is given back."""
        if source.may_send:
            self.counters.dropped += len(bodies)
        else:
            self._refuse(source, Action.SEND, len(bodies))
        source.consumed(sum(map(len, bodies)), len(bodies))

    def _refuse(self, source: ChannelSource, action: Action, times: int) -> NotAuthorized:
        target = described(source.channel.target, self._names_at(source))
        return self._guard.refuse(source.link, action, target, times)

    def open_item(self, process: Process, item: Item) -> Any:
        """What a process is to get for an item of its mailbox; `SKIPPED` for nothing."""
        try:
            if type(item) is bytes:
                return self._codec.decode(item)
            if type(item) is Call and not self.calls.open(item):
                return SKIPPED
            return item
        except RemoteProtocolError as error:
            self.counters.undecodable += 1
            # A call's error goes to its caller; and a flood is not to fill the log.
            if type(item) is bytes and self.counters.undecodable.bit_count() == 1:
                logger.warning(
                    "dropped a message to %s (%d in all did not decode): %s",
                    process,
                    self.counters.undecodable,
                    error,
                )
            return SKIPPED

    # -- ends ---------------------------------------------------------------------------------

    def process_ended(self, process: Process, reason: str) -> None:
        """A process can take and answer nothing more."""
        self.calls.process_ended(process, reason)
        self.counters.dropped += process.mailbox.close()

    def peer_lost(self, link: Link, reason: str) -> None:
        """Drop what was not delivered to a peer, and end every call to and from it (M4)."""
        self.counters.dropped += link.session.undelivered_items
        # Outlets hold on to the session and to all that it has buffered.
        self._outlets = {
            destination: outlet
            for destination, outlet in self._outlets.items()
            if isinstance(outlet, LocalOutlet) or outlet.link is not link
        }
        self.calls.peer_lost(link.node, reason)


def _unknown(name: str) -> None:
    """Nobody has a name yet."""


def _ignore(*_: object) -> None:
    """Nobody watches yet."""
