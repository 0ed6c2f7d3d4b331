"""Calls: from a request to its one outcome (C1), at both of its ends.

    caller                                             process
      call()  -> pending, by id ---- CALLS ----> owed -> mailbox -> Call
      wait                                                            |
      answer  <- pending, by id <--- REPLIES --- owed <- reply, fail -+

The caller's end remembers the calls that tasks here wait for, the other end those that processes
here owe an answer to.  Whoever takes a call out of its table decides its outcome, and there is
only one to take it: the answer, the end of the process, the end of the node, or the caller's
cancellation; what comes after it finds nothing (C2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, assert_never

import trio

from steinadler.delivery import OwedCalls, PendingCalls
from steinadler.errors import (
    MessageTooLarge,
    NodeDown,
    NoSuchProcess,
    NotAuthorized,
    ProcessExited,
    RemoteError,
    RemoteProtocolError,
    SteinadlerError,
)
from steinadler.identity import Destination, NodeId
from steinadler.node.outlets import CALL_ID, ChannelSource, Outlet, offer_in_turn
from steinadler.process.messages import Call, Source
from steinadler.process.process import Process, describe
from steinadler.wire import plain
from steinadler.wire.codec import Codec
from steinadler.wire.signals import MAX_REASON_LENGTH, CancelCall

_REPLY_HEAD = struct.Struct(">QB")
# Behind type name and text of a failure: the caller may not do that.
_REFUSED = 1


class Status(IntEnum):
    """How a call was answered: the second field of a reply's head, on the wire."""

    REPLIED = 0
    FAILED = 1  # the type's name and the text (`encode_error`)
    NO_PROCESS = 2
    EXITED = 3  # the reason


_STATUS = {int(status): status for status in Status}


class _Waiting:
    """A task that waits for the answer to its call."""

    __slots__ = ("_calls", "answer", "id", "outlet", "task")

    def __init__(self, calls: Calls, outlet: Outlet) -> None:
        self._calls = calls
        self.outlet = outlet
        self.id = calls.pending.add(outlet.node, self)
        self.task: trio.lowlevel.Task | None = None
        self.answer: tuple[Status, bytes] | SteinadlerError | None = None

    def resolve(self, answer: tuple[Status, bytes] | SteinadlerError) -> None:
        self.answer = answer
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)

    def abandon(self, _: object) -> trio.lowlevel.Abort:
        """The task was cancelled while it slept."""
        self._calls.abandoned(self)
        return trio.lowlevel.Abort.SUCCEEDED


class Calls:
    """The calls that this node's tasks have made, and those that its processes owe an answer to.

    Of one peer, no more than `max_unanswered` of the latter.
    """

    def __init__(
        self,
        node: NodeId,
        codec: Codec,
        max_unanswered: int,
        outlet: Callable[[Destination], Outlet],
        post: Callable[..., None],
    ) -> None:
        self._node = node
        self._codec = codec
        self._outlet = outlet  # the way to a destination, as `Router.outlet`
        self._post = post  # a signal, as `Router.post`
        self._max_unanswered = max_unanswered
        self.pending: PendingCalls[_Waiting] = PendingCalls()
        self.owed: OwedCalls[Call] = OwedCalls()
        self.refused_replies = 0  # because the caller's node does not read those that it has

    # -- the caller's end ---------------------------------------------------------------------

    async def call(self, destination: Destination, request: object) -> Any:
        """Make a call, and return its answer or raise its error."""
        body = self._codec.encode(request)
        outlet = self._outlet(destination)
        waiting = _Waiting(self, outlet)
        try:
            if not outlet.offer_call(waiting.id, body):
                await offer_in_turn(outlet, lambda: outlet.offer_call(waiting.id, body))
        except BaseException:
            self.pending.remove(waiting.id)
            raise
        if waiting.answer is None:
            waiting.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(waiting.abandon)
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
        answer = waiting.answer
        assert answer is not None
        if isinstance(answer, SteinadlerError):
            raise answer
        status, body = answer
        match status:
            case Status.REPLIED:
                try:
                    return self._codec.decode(body)
                except RemoteProtocolError as error:
                    raise RemoteError("RemoteProtocolError", f"the reply: {error}") from error
            case Status.FAILED:
                raise decode_error(body)
            case Status.NO_PROCESS:
                raise NoSuchProcess(outlet.destination)
            case Status.EXITED:
                raise ProcessExited(outlet.destination, body.decode(errors="replace"))
            case _:
                assert_never(status)

    def abandoned(self, waiting: _Waiting) -> None:
        """The caller was cancelled."""
        if self.pending.remove(waiting.id) is None:
            return
        # On the call's own channel, so that it cannot overtake the call.
        self._post(waiting.outlet.node, waiting.outlet.target, CancelCall(waiting.id))

    def reply_arrived(self, peer: NodeId, body: bytes) -> None:
        """A peer answers.  Raises `RemoteProtocolError` for what is no answer."""
        if len(body) < _REPLY_HEAD.size:
            raise RemoteProtocolError("a reply without a head")
        call, number = _REPLY_HEAD.unpack_from(body)
        status = _STATUS.get(number)
        if status is None:
            raise RemoteProtocolError(f"a reply of kind {number}")
        waiting = self.pending.remove(call, peer)
        if waiting is not None:  # else the caller gave up: the reply goes nowhere (C2)
            waiting.resolve((status, body[_REPLY_HEAD.size :]))

    # -- the process's end --------------------------------------------------------------------

    def arrived(
        self, caller: NodeId, id_: int, process: Process | None, source: Source, body: bytes
    ) -> None:
        """Put a call into a process's mailbox, or answer that there is no process.

        Raises `RemoteProtocolError` for an id that the caller has in use.
        """
        if process is None:
            self._send_answer(Call(caller, id_, self, source, b""), Status.NO_PROCESS, b"")
            return
        call = Call(caller, id_, self, source, body)
        if caller != self._node and self.owed.count_for(caller) >= self._max_unanswered:
            source.consumed(len(body) + CALL_ID.size, 1)
            self._send_answer(call, Status.FAILED, _TOO_MANY_CALLS)
            return
        if not self.owed.add(caller, id_, process.id.number, call):
            raise RemoteProtocolError(f"call {id_} came twice")
        process.mailbox.put(call)

    def refuse(self, caller: NodeId, id_: int, source: Source, error: NotAuthorized) -> None:
        """A peer may not make this call: answer it, and tell no process."""
        self._send_answer(Call(caller, id_, self, source, b""), Status.FAILED, encode_error(error))

    def open(self, call: Call) -> bool:
        """Decode a call for its process; False when nobody waits for it any more.

        Raises `RemoteProtocolError` when it does not decode; then it is answered.
        """
        if call.abandoned:
            return False
        try:
            call.request = self._codec.decode(call.body)
        except RemoteProtocolError as error:
            self.answer(call, None, error)
            raise
        call.body = b""
        return True

    def answer(self, call: Call, value: Any, error: BaseException | None) -> None:
        """A process answers a call.  Nothing happens when the caller no longer waits.

        Raises `NotEncodable` and `MessageTooLarge`; then it is not answered.
        """
        if error is None:
            body, status = self._codec.encode(value), Status.REPLIED
            source = call.source
            if type(source) is ChannelSource:
                limit = source.link.session.max_message_bytes
                if len(body) > limit:
                    raise MessageTooLarge(len(body), limit)
        else:
            body, status = encode_error(error), Status.FAILED
        if self.owed.settle(call.caller, call.id) is not None:
            self._send_answer(call, status, body)

    def _send_answer(self, call: Call, status: Status, body: bytes) -> None:
        source = call.source
        if type(source) is not ChannelSource:
            waiting = self.pending.remove(call.id, self._node)
            if waiting is not None:
                waiting.resolve((status, body))
            return
        link = source.link
        if status is Status.REPLIED and not link.session.has_room_for_reply(len(body)):
            self.refused_replies += 1
            status, body = Status.FAILED, _REPLY_REFUSED
        link.session.enqueue_reply(_REPLY_HEAD.pack(call.id, status) + body)
        link.flush()

    def cancelled(self, caller: NodeId, id_: int) -> None:
        """The caller no longer waits."""
        call = self.owed.settle(caller, id_)
        if call is not None:
            call.abandon()

    # -- ends ---------------------------------------------------------------------------------

    def process_ended(self, process: Process, reason: str) -> None:
        """Answer for a process that no longer can."""
        for call in self.owed.process_ended(process.id.number):
            text = plain.clipped(reason, MAX_REASON_LENGTH)
            self._send_answer(call, Status.EXITED, text.encode())

    def peer_lost(self, peer: NodeId, reason: str) -> None:
        """End every call to and from a peer (M4)."""
        for waiting in self.pending.node_down(peer):
            waiting.resolve(NodeDown(peer.name, reason))
        for call in self.owed.node_down(peer):
            call.abandon()


def encode_error(error: BaseException) -> bytes:
    """The body of a `Status.FAILED` reply: type name and text, and for `NotAuthorized` a mark.

    By its name alone it could be a class of the user's that is called so too.
    """
    type_name, _, text = describe(error).partition(": ")
    mark = [_REFUSED] if isinstance(error, NotAuthorized) else []
    return plain.dumps([type_name[:256], text[:8192], *mark])


def decode_error(body: bytes) -> RemoteError | NotAuthorized:
    """Undo `encode_error`; a body that is none is an error of its own."""
    try:
        type_name, text, *mark = plain.array(plain.loads(body), 2)
        text = plain.text(text, 8192)
        if mark[:1] == [_REFUSED]:
            return NotAuthorized(text)
        return RemoteError(plain.text(type_name, 256), text)
    except RemoteProtocolError as error:
        return RemoteError("RemoteProtocolError", f"the error reply: {error}")


_REPLY_REFUSED = plain.dumps(
    ["MailboxFull", "the reply was dropped: this node does not read those that wait for it"]
)
_TOO_MANY_CALLS = plain.dumps(
    ["MailboxFull", "so many calls of this node wait for an answer there (max_unanswered_calls)"]
)
