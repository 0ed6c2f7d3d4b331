"""Messages as bytes: CBOR (RFC 8949) with a closed set of tags, never pickle.

What may travel: None, booleans, integers, floats, text, bytes, lists, dicts, tuples, sets,
frozensets, aware datetimes, dates, `Decimal`, `UUID`, IP addresses, `NodeId`, `ProcessId`,
`SourceRef`, `SinkRef`, and the dataclasses and enums that both sides registered with
`@steinadler.message`.  Decoding builds those and nothing else (but for cbor2's inert `undefined`,
simple values and, in dict keys, `frozendict`): no import by name, no call of anything that was
not registered.

Each arrives equal and of the same type, at every depth.  What merely behaves like one arrives as
the plain one: a bytearray or memoryview as bytes, a subclass of int, str, list or dict (so an
enum of those that is not registered) as its base, a namedtuple or another sequence as a list.
cbor2 offers no hook for them, and a look at every value would cost more than encoding it.

CBOR has one array, Python has lists and tuples, and code that matches on messages tells them
apart; so a list is a plain array and a tuple an array under our tag.  The top-level tuple, the
usual shape of a message, is written without going through a Python hook.

**Work.**  Python's dicts and sets take quadratic time for keys whose hashes collide, and the hashes
of numbers, and of tuples of them, are no secret: 100 KB made for it cost a second, a megabyte some
minutes.  Text and bytes are safe, but messages may have any key.  So what is larger than
`METERED_BYTES` is decoded under a meter (`_Metered`), which looks at the clock for each few KB and
gives up when it takes much more than its size can explain.  A limit on the number of such keys was
refused: whoever has many numbers would hit it.

Tags of our own come from the unassigned range of the IANA registry, in one block.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import io
import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, overload

import cbor2

from steinadler.errors import ConfigError, MessageTooLarge, NotEncodable, RemoteProtocolError
from steinadler.wire.values import (
    ENCODERS,
    NEUTRAL_DECODERS,
    SEMANTIC_DECODERS,
    TAG_DATACLASS,
    TAG_ENUM,
    TAG_SET,
    TAG_TUPLE,
    array_of,
    ignore_tag,
    refuse,
    refuse_tag,
)

# The precedent is JSON parsers' usual 100 to 1000; deeper than this is an attack or a mistake.
MAX_NESTING = 256
# What is no larger cannot take long.  What is may take so much processor time: ten times what the
# worst honest message takes, one of small dataclasses.
METERED_BYTES = 16 * 1024
MAX_WORK_S, MAX_WORK_S_PER_BYTE = 0.5, 1e-6
_METERED_STEP_BYTES, _METERED_ELEMENTS = 4096, 256
# Of the exception's text in ours: it may quote the message, which may be large.
_MAX_ERROR_LENGTH = 300

_T = TypeVar("_T", bound=type)
_TUPLE_HEAD = b"\xd9" + TAG_TUPLE.to_bytes(2, "big")
# Of byte strings, by length.
_SHORT_HEADS = [bytes((0x40 | n,)) if n < 24 else bytes((0x58, n)) for n in range(256)]
_NOT_CONTAINERS = bytes(b for b in range(256) if not (0x80 <= b <= 0xBF or 0xC0 <= b <= 0xDB))


class MessageTypes:
    """The dataclasses and enums that may travel, by the name they travel under.

    A registry of code, not of state: like a module, it is the same for every node of the
    interpreter.  `steinadler.message` is the default one's `register`.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, type] = {}
        # How cbor2 is to write each class: ours, and what cbor2 would do otherwise by itself.
        self.encoders: dict[type, Callable[[cbor2.CBOREncoder, Any], None]] = dict(ENCODERS)

    @overload
    def register(self, cls: _T) -> _T: ...
    @overload
    def register(self, *, name: str) -> Callable[[_T], _T]: ...

    def register(self, cls: _T | None = None, *, name: str | None = None) -> Any:
        """Let a dataclass or an enum travel in messages, under its class name or `name`.

        Use it as a decorator, above `@dataclass`.  Fields travel by name: one that the receiver
        does not know is dropped, one that the sender did not have takes its default, so two
        versions of a class can talk.  Raises `ConfigError` when the class is neither a dataclass
        nor an enum, or when another class has the name.
        """
        if cls is None:
            return lambda c: self._add(c, name or c.__name__)
        return self._add(cls, cls.__name__)

    def _add(self, cls: _T, name: str) -> _T:
        is_enum = issubclass(cls, enum.Enum)
        if not is_enum and not dataclasses.is_dataclass(cls):
            raise ConfigError(
                f"{cls.__qualname__} cannot be a message: register a dataclass or an enum, "
                "with @steinadler.message above @dataclass"
            )
        known = self._by_name.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ConfigError(
                f"the message name {name!r} belongs to {known.__module__}.{known.__qualname__}; "
                "give this class another: @steinadler.message(name=...)"
            )
        self._by_name[name] = cls
        if is_enum:
            member_name = _flag_name if issubclass(cls, enum.Flag) else _enum_name
            self.encoders[cls] = lambda encoder, value: encoder.encode_semantic(
                TAG_ENUM, [name, member_name(value)]
            )
        else:
            field_names = [field.name for field in dataclasses.fields(cls) if field.init]
            self.encoders[cls] = lambda encoder, value: encoder.encode_semantic(
                TAG_DATACLASS, [name, {n: getattr(value, n) for n in field_names}]
            )
        return cls

    def build_dataclass(self, name: object, fields: object) -> object:
        """Make the registered dataclass `name`; raise ValueError when that cannot be."""
        cls = self._by_name.get(name) if isinstance(name, str) else None
        if cls is None or not dataclasses.is_dataclass(cls) or not isinstance(fields, Mapping):
            raise ValueError(f"no message class {name!r} is registered here")
        known = {field.name for field in dataclasses.fields(cls) if field.init}
        return cls(**{key: value for key, value in fields.items() if key in known})

    def build_enum(self, name: object, member: object) -> object:
        """Find the member of the registered enum `name`; raise ValueError when it has none.

        A flag's value comes as the names of its bits with "|" between.
        """
        cls = self._by_name.get(name) if isinstance(name, str) else None
        if cls is None or not issubclass(cls, enum.Enum) or not isinstance(member, str):
            raise ValueError(f"no message enum {name!r} is registered here")
        try:
            if issubclass(cls, enum.Flag):
                names = member.split("|") if member else []
                return functools.reduce(operator.or_, (cls[n] for n in names), cls(0))
            return cls[member]
        except KeyError:
            raise ValueError(f"the enum {name!r} has no member {member!r} here") from None


def _enum_name(value: enum.Enum) -> str:
    return value.name


def _flag_name(value: enum.Flag) -> str:
    bits = list(value)
    if functools.reduce(operator.or_, bits, type(value)(0)) != value:
        raise ValueError(f"{value!r} has bits without a name")
    return "|".join(str(bit.name) for bit in bits)


DEFAULT_MESSAGE_TYPES = MessageTypes()


class Codec:
    """Encodes and decodes messages with one set of message types and one size limit.

    `clock` tells how much processor time this thread has taken, in seconds; without one the work
    that a message makes is not limited, which is for messages of nobody else's.
    """

    def __init__(
        self,
        types: MessageTypes,
        max_message_bytes: int,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._limit = max_message_bytes
        self._clock = clock
        # Kept, because to make one costs as much as to encode a small message with it.
        self._dumps = cbor2.CBOREncoder(
            io.BytesIO(), encoders=types.encoders, default=refuse
        ).encode_to_bytes
        decoders = {
            **SEMANTIC_DECODERS,
            TAG_DATACLASS: lambda value, immutable: types.build_dataclass(*array_of(value, 2)),
            TAG_ENUM: lambda value, immutable: types.build_enum(*array_of(value, 2)),
        }
        self._decoders: dict[int, Any] = decoders
        self._options: dict[str, Any] = {"tag_hook": refuse_tag, "max_depth": MAX_NESTING}
        loads: Any = cbor2.loads  # for mypy, which takes the options for something else
        self._loads_at_once = partial(loads, semantic_decoders=decoders, **self._options)

    @property
    def max_message_bytes(self) -> int:
        return self._limit

    def encode(self, message: object) -> bytes:
        """Return `message` as bytes, or raise `NotEncodable` or `MessageTooLarge`."""
        if type(message) is bytes:
            # By ourselves: cbor2 takes five times as long, for short ones and for long ones.
            size = len(message)
            data = (_SHORT_HEADS[size] if size < 256 else _bytes_head(size)) + message
            if len(data) > self._limit:
                raise MessageTooLarge(len(data), self._limit)
            return data
        try:
            if type(message) is tuple:
                data = _TUPLE_HEAD + self._dumps(list(message))
            else:
                data = self._dumps(message)
        # A registered class's attribute may be missing, or a property that raises anything.
        except Exception as error:
            raise NotEncodable(f"the message cannot be encoded: {_text_of(error)}") from error
        size = len(data)
        if size > self._limit:
            raise MessageTooLarge(size, self._limit)
        # Nesting too deep for the receiver must fail here (M5).  Only a message with that
        # many container heads can have it, and only that one pays for a look.
        if (
            size > MAX_NESTING
            and len(data.translate(None, _NOT_CONTAINERS)) > MAX_NESTING
            and _nested_too_deep(data)
        ):
            raise NotEncodable(f"the message is nested deeper than {MAX_NESTING} levels")
        return data

    def _loads(self, data: bytes) -> Any:
        if len(data) <= METERED_BYTES or self._clock is None:
            return self._loads_at_once(data)
        meter = _Metered(data, self._clock)
        decoders = {**self._decoders, TAG_SET: meter.set_decoder()}
        return cbor2.CBORDecoder(
            meter, read_size=_METERED_STEP_BYTES, semantic_decoders=decoders, **self._options
        ).decode()

    def decode(self, data: bytes) -> Any:
        """Return the message that `data` holds; raise `RemoteProtocolError` when it holds none.

        Bytes after the message are ignored: the frame around it gave its length.
        """
        try:
            if 0x40 <= data[0] <= 0x5A:
                if data[0] == 0x58 and data[1] + 2 == len(data):
                    return data[2:]
                if (body := _bytes_in(data)) is not None:
                    return body
            if data.startswith(_TUPLE_HEAD):
                items = self._loads(data[3:])
                if type(items) is list:
                    return tuple(items)
                raise ValueError("a tuple that is not an array")
            return self._loads(data)
        # A class's own __init__ or __post_init__ may raise anything; it was fed by the peer.
        except Exception as error:
            text = _text_of(_root(error))
            raise RemoteProtocolError(f"the message cannot be decoded: {text}") from error


class _Metered(io.BytesIO):
    """Bytes that are handed out for as long as their decoder does not take too long for them.

    cbor2 makes dicts as it reads them, and sets when it has all elements, so sets are made here.
    """

    def __init__(self, data: bytes, clock: Callable[[], float]) -> None:
        super().__init__(data)
        self._clock = clock
        self._until = clock() + MAX_WORK_S + MAX_WORK_S_PER_BYTE * len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return super().read(size)

    def set_decoder(self) -> Any:
        """What cbor2 is to make sets by; the elements come as hashable ones."""

        def begin(immutable: bool) -> tuple[Any, Callable[[Any], Any]]:
            made: set[Any] = set()

            def fill(elements: Any) -> set[Any] | frozenset[Any]:
                if not isinstance(elements, (list, tuple)):
                    raise ValueError("a set that is not an array")
                for start in range(0, len(elements), _METERED_ELEMENTS):
                    made.update(elements[start : start + _METERED_ELEMENTS])
                    self._check()
                return frozenset(made) if immutable else made

            return None if immutable else made, fill

        return cbor2.shareable_decoder(name="set", immutable=True)(begin)

    def _check(self) -> None:
        if self._clock() > self._until:
            raise ValueError("it takes too much work for its size; do its keys collide?")


def _bytes_head(size: int) -> bytes:
    """The head of a byte string of 256 bytes or more."""
    for head, width in ((0x59, 2), (0x5A, 4)):
        if size < 256**width:
            return bytes((head,)) + size.to_bytes(width, "big")
    return b"\x5b" + size.to_bytes(8, "big")


def _bytes_in(data: bytes) -> bytes | None:
    """The byte string whose head, of up to four bytes of length, `data` begins with; None when it
    is cut short."""
    head = data[0]
    width = (1, 2, 4)[head - 0x58] if head >= 0x58 else 0
    start = 1 + width
    size = int.from_bytes(data[1:start], "big") if width else head - 0x40
    body = data[start : start + size]
    return body if len(body) == size and len(data) >= start else None


def _nested_too_deep(data: bytes) -> bool:
    try:
        cbor2.loads(
            data, tag_hook=ignore_tag, semantic_decoders=NEUTRAL_DECODERS, max_depth=MAX_NESTING
        )
    except cbor2.CBORDecodeError:  # what encoded well is well-formed: it can only be the depth
        return True
    return False


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_ERROR_LENGTH]
    except Exception:  # it quotes something that has no text, as an integer of 4301 digits
        return type(error).__name__


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
