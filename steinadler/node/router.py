"""The router: from a destination to a mailbox, here or on another node, and back.

    send("counter@bob", m)                            receive()
      encode once                                       decode
      route -> (node, target)                           ^
      local: mailbox window ------ Message ----------> mailbox
      peer:  channel credit -> session -> link ~~~> link -> session -> channel -> mailbox
                                                        |
                             credit <~~~~~~~~~~~~~~~~~~~+ when the process takes it

Local and remote take the same steps in the same order, so they behave the same (M5).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from steinadler.delivery import OwedCalls, PendingCalls
from steinadler.errors import (
    ConfigError,
    MailboxFull,
    MessageTooLarge,
    NodeDown,
    NoSuchProcess,
    ProcessExited,
    RemoteError,
    RemoteProtocolError,
    SteinadlerError,
)
from steinadler.identity import Destination, NodeId, ProcessId, ProcessName, parse_destination
from steinadler.node.outlets import CALL_ID, ChannelSource, LocalOutlet, Outlet, PeerOutlet
from steinadler.node.peering import Peering
from steinadler.process.mailbox import CHECKPOINT_EVERY, Item, Request, Run, Source
from steinadler.process.messages import Call, Debt
from steinadler.process.process import SKIPPED, Process, describe
from steinadler.process.table import Processes
from steinadler.transport.link import Link
from steinadler.wire import plain
from steinadler.wire.channels import (
    InboundChannel,
    Target,
    ToName,
    ToProcess,
)
from steinadler.wire.codec import Codec
from steinadler.wire.frames import FrameType
from steinadler.wire.session import Arrived
from steinadler.wire.signals import (
    MAX_REASON_LENGTH,
    CancelCall,
    Signal,
    decode_signal,
    encode_signal,
)

logger = logging.getLogger("steinadler.node")

_REPLY_HEAD = struct.Struct(">QB")
# How a call was answered.
REPLIED, FAILED, NO_PROCESS, EXITED = range(4)
_MAX_OUTLETS = 4096


@dataclass(slots=True)
class RouterCounters:
    """What became of messages since the node opened."""

    dropped: int = 0  # to nobody: no such process, or it ended first, or its node went down
    undecodable: int = 0
    replies_refused: int = 0  # because the caller's node does not read those that it has


class Waiter:
    """A task that waits for the answer to its call."""

    __slots__ = ("_answer", "_task")

    def __init__(self) -> None:
        self._answer: tuple[int, bytes] | SteinadlerError | None = None
        self._task: trio.lowlevel.Task | None = None

    def resolve(self, answer: tuple[int, bytes] | SteinadlerError) -> None:
        self._answer = answer
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    async def wait(self, abandon: Callable[[], None]) -> tuple[int, bytes] | SteinadlerError:
        """Wait for the answer; on cancellation call `abandon()`."""
        if self._answer is None:
            self._task = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                abandon()
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
            assert self._answer is not None
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return self._answer


class Router:
    """Messages and calls between processes of this node and of others."""

    def __init__(
        self,
        node: NodeId,
        codec: Codec,
        processes: Processes,
        peering: Peering,
        max_unanswered_calls: int,
    ) -> None:
        self._node = node
        self._codec = codec
        self._processes = processes
        self._peering = peering
        self._max_unanswered_calls = max_unanswered_calls  # of one peer
        # Who takes the signals that are not about calls; `Watching` puts itself here.
        self.on_signal: Callable[[NodeId, Target, Signal], None] = _ignore
        self.counters = RouterCounters()
        self.pending: PendingCalls[Waiter] = PendingCalls()
        self.owed: OwedCalls[Debt] = OwedCalls()
        self._outlets: dict[Destination, Outlet] = {}
        self._until_checkpoint = CHECKPOINT_EVERY

    # -- routes -------------------------------------------------------------------------------

    def resolve(self, destination: Destination) -> ProcessId | ProcessName:
        """Read a destination; raise `ConfigError` when it is none."""
        if isinstance(destination, str):
            return parse_destination(destination)
        if not isinstance(destination, (ProcessId, ProcessName)):
            raise ConfigError(f"{destination!r} is not a destination: give a ProcessId or a name")
        return destination

    def outlet(self, destination: Destination) -> Outlet:
        """The way to a destination.  Raises `NodeDown`, `NodeClosed`, `ConfigError`."""
        outlet = self._outlets.get(destination)
        if outlet is None:
            outlet = self._find_outlet(self.resolve(destination))
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
            target: Target = ToName(where.name)
            if where.node in (None, self._node.name):
                return self._local_outlet(target)
            assert where.node is not None
            return PeerOutlet(self._peering.link_to(where.node), target)
        target = ToProcess(where.number)
        if where.node == self._node:
            return self._local_outlet(target)
        if where.node.name == self._node.name:
            raise NodeDown(self._node.name, "that life of the node is over")
        return PeerOutlet(self._peering.link_to_life(where.node), target)

    def _local_outlet(self, target: Target) -> LocalOutlet:
        return LocalOutlet(self._node, self._processes, target, self)

    # -- sending ------------------------------------------------------------------------------

    async def send(self, destination: Destination, message: object) -> None:
        self._until_checkpoint -= 1
        if self._until_checkpoint <= 0:
            self._until_checkpoint = CHECKPOINT_EVERY
            await trio.lowlevel.checkpoint()
        body = self._codec.encode(message)
        outlet = self._outlets.get(destination) or self.outlet(destination)
        if not outlet.offer_message(body):
            await _offer_in_turn(outlet, lambda: outlet.offer_message(body))

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

    # -- calling ------------------------------------------------------------------------------

    async def call(self, destination: Destination, request: object) -> Any:
        body = self._codec.encode(request)
        outlet = self.outlet(destination)
        waiter = Waiter()
        call = self.pending.add(outlet.node, waiter)
        try:
            if not outlet.offer_call(call, body):
                await _offer_in_turn(outlet, lambda: outlet.offer_call(call, body))
        except BaseException:
            self.pending.remove(call)
            raise

        def abandon() -> None:
            if self.pending.remove(call) is not None:
                # On the call's own channel, so that it cannot overtake the call.
                self.post(outlet.node, outlet.target, CancelCall(call))

        answer = await waiter.wait(abandon)
        if isinstance(answer, SteinadlerError):
            raise answer
        return self._read_answer(destination, *answer)

    def _read_answer(self, destination: Destination, status: int, body: bytes) -> Any:
        if status == REPLIED:
            try:
                return self._codec.decode(body)
            except RemoteProtocolError as error:
                raise RemoteError("RemoteProtocolError", f"the reply: {error}") from error
        if status == NO_PROCESS:
            raise NoSuchProcess(self.resolve(destination))
        if status == EXITED:
            raise ProcessExited(self.resolve(destination), body.decode(errors="replace"))
        raise decode_error(body)

    def answer(self, debt: Debt, value: Any, error: BaseException | None) -> None:
        """A process answers a call.  Nothing happens when the caller no longer waits."""
        if error is None:
            body, status = self._codec.encode(value), REPLIED
            link = self._peering.connections.link(debt.caller)
            if link is not None:
                limit = link.session.max_message_bytes
                if len(body) > limit:
                    raise MessageTooLarge(len(body), limit)
        else:
            body, status = encode_error(error), FAILED
        if self.owed.settle(debt.caller, debt.call) is not None:
            self._deliver_answer(debt.caller, debt.call, status, body)

    def _deliver_answer(self, caller: NodeId, call: int, status: int, body: bytes) -> None:
        if caller == self._node:
            waiter = self.pending.remove(call, self._node)
            if waiter is not None:
                waiter.resolve((status, body))
            return
        link = self._peering.connections.link(caller)
        if link is not None:
            if status == REPLIED and not link.session.has_room_for_reply(len(body)):
                self.counters.replies_refused += 1
                status, body = FAILED, _REPLY_REFUSED
            link.session.enqueue_reply(_REPLY_HEAD.pack(call, status) + body)
            link.flush()

    def cancel_call(self, caller: NodeId, call: int) -> None:
        """The caller no longer waits."""
        debt = self.owed.settle(caller, call)
        if debt is not None:
            debt.abandon()

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
            self.cancel_call(sender, signal.call)
        else:
            self.on_signal(sender, target, signal)

    # -- receiving ----------------------------------------------------------------------------

    def arrived(self, link: Link, items: Arrived) -> None:
        """Items came in on a link."""
        match items.type:
            case FrameType.MESSAGES:
                source = self._source(link, items.channel)
                if source.mailbox is not None:
                    source.mailbox.put(Run(source, items.bodies))
                else:
                    self.counters.dropped += len(items.bodies)
                    source.consumed(sum(map(len, items.bodies)), len(items.bodies))
            case FrameType.CALLS:
                for body in items.bodies:
                    self._remote_call(link, items.channel, body)
            case FrameType.REPLIES:
                for body in items.bodies:
                    self._reply(link, body)
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
        return source

    def _remote_call(self, link: Link, channel: InboundChannel, body: bytes) -> None:
        if len(body) < CALL_ID.size:
            raise RemoteProtocolError("a call without an id")
        (call,) = CALL_ID.unpack_from(body)
        source = self._source(link, channel)
        if source.process is None:
            source.consumed(len(body), 1)
        self.call_arrived(link.node, call, source.process, source, body)

    def call_arrived(
        self, caller: NodeId, call: int, process: Process | None, source: Source, body: bytes
    ) -> None:
        """Put a call into a process's mailbox, or answer that there is no process."""
        if process is None:
            self._deliver_answer(caller, call, NO_PROCESS, b"")
            return
        if self.owed.count_for(caller) >= self._max_unanswered_calls and caller != self._node:
            source.consumed(len(body), 1)
            self._deliver_answer(caller, call, FAILED, _TOO_MANY_CALLS)
            return
        debt = Debt(caller, call)
        if not self.owed.add(caller, call, process.id.number, debt):
            raise RemoteProtocolError(f"call {call} came twice")
        process.mailbox.put(Request(source, body, debt))

    def _reply(self, link: Link, body: bytes) -> None:
        if len(body) < _REPLY_HEAD.size:
            raise RemoteProtocolError("a reply without a head")
        call, status = _REPLY_HEAD.unpack_from(body)
        if status > EXITED:
            raise RemoteProtocolError(f"a reply of kind {status}")
        waiter = self.pending.remove(call, link.node)
        if waiter is not None:  # else the caller gave up: the reply goes nowhere (C2)
            waiter.resolve((status, body[_REPLY_HEAD.size :]))

    def open_item(self, process: Process, item: Item) -> Any:
        """What a process is to get for an item of its mailbox; `SKIPPED` for nothing."""
        try:
            if type(item) is bytes:
                return self._codec.decode(item)
            if type(item) is not Request:
                return item
            debt = item.debt
            if debt.abandoned:
                return SKIPPED  # nobody waits for it any more
            remote = item.source is not process.mailbox.local
            body = item.body[CALL_ID.size :] if remote else item.body
            return Call(self._codec.decode(body), debt.caller, debt, self)
        except RemoteProtocolError as error:
            self.counters.undecodable += 1
            if type(item) is Request:
                self.answer(item.debt, None, error)
            elif self.counters.undecodable.bit_count() == 1:  # a flood is not to fill the log
                logger.warning(
                    "dropped a message to %s (the %dth that does not decode): %s",
                    process,
                    self.counters.undecodable,
                    error,
                )
            return SKIPPED

    # -- ends ---------------------------------------------------------------------------------

    def process_ended(self, process: Process, reason: str) -> None:
        """Answer for a process that no longer can."""
        for caller, call, _ in self.owed.process_ended(process.id.number):
            text = plain.clipped(reason, MAX_REASON_LENGTH)
            self._deliver_answer(caller, call, EXITED, text.encode())
        self.counters.dropped += process.mailbox.close()

    def peer_lost(self, link: Link, reason: str) -> None:
        """End every call to and from a peer (M4)."""
        self.counters.dropped += link.session.undelivered_items
        # Outlets hold on to the session and to all that it has buffered.
        self._outlets = {
            destination: outlet
            for destination, outlet in self._outlets.items()
            if isinstance(outlet, LocalOutlet) or outlet.link is not link
        }
        for waiter in self.pending.node_down(link.node):
            waiter.resolve(NodeDown(link.node.name, reason))
        for _, _, debt in self.owed.node_down(link.node):
            debt.abandon()


async def _offer_in_turn(outlet: Outlet, offer: Callable[[], bool]) -> None:
    """Wait for credit until `offer()` succeeds.  Cancellation leaves nothing offered."""
    offered = False
    while not offered:
        await outlet.wait_for_credit()
        try:
            offered = offer()
        finally:  # also when it raises: the wake-up was for the credit, which is still there
            outlet.pass_on()


def _ignore(sender: NodeId, target: Target, signal: Signal) -> None:
    """Nobody watches yet."""


def encode_error(error: BaseException) -> bytes:
    """The body of a FAILED reply: type name and text."""
    type_name, _, text = describe(error).partition(": ")
    return plain.dumps([type_name[:256], text[:8192]])


_REPLY_REFUSED = plain.dumps(
    ["MailboxFull", "the reply was dropped: this node does not read those that wait for it"]
)
_TOO_MANY_CALLS = plain.dumps(
    ["MailboxFull", "so many calls of this node wait for an answer there (max_unanswered_calls)"]
)


def decode_error(body: bytes) -> RemoteError:
    """Undo `encode_error`; a body that is none is an error of its own."""
    try:
        type_name, text = plain.array(plain.loads(body), 2)[:2]
        return RemoteError(plain.text(type_name, 256), plain.text(text, 8192))
    except RemoteProtocolError as error:
        return RemoteError("RemoteProtocolError", f"the error reply: {error}")
