"""Signals: what nodes and processes tell each other that is not a message.

Monitor requests and cancelled calls go to the peer's node, ahead of everything.  Down and Exit
are news of a process, and go to the process that is concerned on its own channel, behind
whatever the ended process sent it before, as in Erlang (the "signals" of the OTP reference
manual's chapter on processes, where this vocabulary comes from).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from steinadler.errors import RemoteProtocolError
from steinadler.identity import MAX_PROCESS_NAME_BYTES, ProcessId
from steinadler.wire import plain

# Exit reasons that have a meaning of their own.  A process that raises exits with
# "ErrorType: text".
NORMAL = "normal"
KILLED = "killed"
SHUTDOWN = "shutdown"
NO_PROCESS = "noproc"
NO_CONNECTION = "noconnection"
CLOSING = f"{SHUTDOWN}: its node closes"
NOT_AUTHORIZED = "notauthorized"
MAX_REASON_LENGTH = 4096
# Of a failure: within one frame, if each character took four bytes.
MAX_TYPE_NAME_LENGTH, MAX_TEXT_LENGTH = 256, 3_800

# An error as others hear of it: its type name and its text.
Failure: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class MonitorRequest:
    """Watch a process (by number or name) and tell `watcher`, under `reference`.

    `watcher` is a process of the sender, or 0 for a handle held outside of any process.
    """

    reference: int
    target: int | str
    watcher: int


@dataclass(frozen=True, slots=True)
class DemonitorRequest:
    """Forget the monitor `reference`."""

    reference: int


@dataclass(frozen=True, slots=True)
class DownNotice:
    """The watched process ended; `process` is None when there was none."""

    reference: int
    process: ProcessId | None
    reason: str


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """Tie `source`, of the sender, to process `target` of the receiver."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class UnlinkRequest:
    """Untie them again."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class ExitNotice:
    """`source` ended, or (`linked` false) asks the channel's process to end."""

    source: ProcessId
    reason: str
    linked: bool


@dataclass(frozen=True, slots=True)
class CancelCall:
    """The caller no longer waits for the answer to this call."""

    call: int


@dataclass(frozen=True, slots=True)
class StreamStop:
    """Nobody reads one direction of a stream any more: the one in which the receiver of this sends.

    `number` and `by_sender` are those of that direction's target (`ToStream`), `failure` the type
    name and text of the error that ended the reading, if one did.
    """

    number: int
    by_sender: bool
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class StreamAbort:
    """The sender of this gave up opening a stream: the receiver is to forget it, if it has it."""

    number: int


Signal: TypeAlias = (
    MonitorRequest
    | DemonitorRequest
    | DownNotice
    | LinkRequest
    | UnlinkRequest
    | ExitNotice
    | CancelCall
    | StreamStop
    | StreamAbort
)


def encode_signal(signal: Signal) -> bytes:
    """A signal as a CBOR array: its code, then its fields.

    A reason is cut to MAX_REASON_LENGTH characters.
    """
    match signal:
        case MonitorRequest(reference, target, watcher):
            return plain.dumps([1, reference, target, watcher])
        case DemonitorRequest(reference):
            return plain.dumps([2, reference])
        case DownNotice(reference, process, reason):
            encoded = None if process is None else plain.process_id_array(process)
            return plain.dumps([3, reference, encoded, plain.clipped(reason, MAX_REASON_LENGTH)])
        case LinkRequest(source, target):
            return plain.dumps([4, source, target])
        case UnlinkRequest(source, target):
            return plain.dumps([5, source, target])
        case ExitNotice(process, reason, linked):
            origin = plain.process_id_array(process)
            return plain.dumps([6, origin, plain.clipped(reason, MAX_REASON_LENGTH), linked])
        case CancelCall(call):
            return plain.dumps([7, call])
        case StreamStop(number, by_sender, failure):
            return plain.dumps([8, number, by_sender, failure and failure_array(failure)])
        case StreamAbort(number):
            return plain.dumps([9, number])
        case _:
            assert_never(signal)


def decode_signal(data: bytes) -> Signal | None:
    """Undo `encode_signal`; None for a signal of a later version (codes above 63).

    Raises `RemoteProtocolError` for anything else that is none.
    """
    natural = plain.natural
    match plain.array(plain.loads(data), 1):
        case [1, reference, str() as target, watcher, *_]:
            return MonitorRequest(
                natural(reference), plain.text(target, MAX_PROCESS_NAME_BYTES), natural(watcher)
            )
        case [1, reference, target, watcher, *_]:
            return MonitorRequest(natural(reference), natural(target), natural(watcher))
        case [2, reference, *_]:
            return DemonitorRequest(natural(reference))
        case [3, reference, process, reason, *_]:
            return DownNotice(
                natural(reference),
                None if process is None else plain.process_id(process),
                plain.text(reason, MAX_REASON_LENGTH),
            )
        case [4, source, target, *_]:
            return LinkRequest(natural(source), natural(target))
        case [5, source, target, *_]:
            return UnlinkRequest(natural(source), natural(target))
        case [6, source, reason, bool() as linked, *_]:
            return ExitNotice(
                plain.process_id(source), plain.text(reason, MAX_REASON_LENGTH), linked
            )
        case [7, call, *_]:
            return CancelCall(natural(call))
        case [8, number, bool() as by_sender, failure, *_]:
            return StreamStop(
                natural(number), by_sender, None if failure is None else failure_of(failure)
            )
        case [9, number, *_]:
            return StreamAbort(natural(number))
        case [int() as code, *_] if code > 63:
            return None
    raise RemoteProtocolError("a signal that is none of ours")


def failure_array(failure: Failure) -> list[object]:
    """A failure as it travels, cut to the lengths that a peer accepts."""
    name, text = failure
    return [plain.clipped(name, MAX_TYPE_NAME_LENGTH), plain.clipped(text, MAX_TEXT_LENGTH)]


def failure_of(value: object) -> Failure:
    """Undo `failure_array`; raise `RemoteProtocolError` when it is none."""
    name, text = plain.array(value, 2)[:2]
    return plain.text(name, MAX_TYPE_NAME_LENGTH), plain.text(text, MAX_TEXT_LENGTH)
