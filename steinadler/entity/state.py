"""The declared state of an entity class: what is stored, and whether it can be.

Every annotated attribute of the class is a field of its state, as in a dataclass, with a default:
an entity that was never stored begins with the defaults.  `field(init=False)` is kept with the
object and not stored.  Stored is one map from the names to the values, in the messages' encoding,
so two versions of a class can read each other's state: a field that was not stored takes its
default, and one that the class no longer has is dropped, and gone with the next write.

A state that could not come back as it was is refused when the class is hosted and not when it is
lost: the defaults must survive their encoding, and the annotations may name nothing that messages
cannot hold.  Pickle, which holds anything, was refused: reading it runs what it says, and it ties
stored state to the names of modules.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import ipaddress
import types
import typing
import uuid
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from steinadler.config import WireSettings
from steinadler.errors import ConfigError, NotEncodable, RemoteProtocolError
from steinadler.identity import NodeId, ProcessId
from steinadler.wire.codec import DEFAULT_MESSAGE_TYPES, Codec

_T = TypeVar("_T")

CODEC = Codec(DEFAULT_MESSAGE_TYPES, WireSettings().max_message_bytes)

_SAYABLE: frozenset[object] = frozenset(
    (
        *(type(None), bool, int, float, str, bytes, list, dict, tuple, set, frozenset, object, Any),
        *(datetime.datetime, datetime.date, decimal.Decimal, uuid.UUID, NodeId, ProcessId),
        *(ipaddress.IPv4Address, ipaddress.IPv6Address),
        *(ipaddress.IPv4Network, ipaddress.IPv6Network),
        # What a list, dict or set may be called by what is done with it.
        *(collections.abc.Iterable, collections.abc.Collection, collections.abc.Container),
        *(collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Hashable),
        *(collections.abc.Mapping, collections.abc.MutableMapping),
        *(collections.abc.Set, collections.abc.MutableSet),
    )
)


class StateOf(Generic[_T]):
    """How objects of one class become bytes, and come back.

    Makes a dataclass of the class.  Raises `ConfigError` when it cannot be one, or when a field
    has no default.
    """

    def __init__(self, cls: type[_T]) -> None:
        if "__init__" in vars(cls):
            raise ConfigError(
                f"{cls.__qualname__} has an __init__: an entity is made by the library, from its "
                "state; declare that as annotated attributes, and derive more in __post_init__"
            )
        try:
            declared = dataclasses.fields(dataclasses.dataclass(eq=False, kw_only=True)(cls))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the state of {cls.__qualname__}: {error}") from error
        for field in declared:
            if field.default is field.default_factory is dataclasses.MISSING:
                raise ConfigError(
                    f"{cls.__qualname__}.{field.name} has no default, and an entity that was never "
                    "stored begins with the defaults"
                )
        self._cls = cls
        self._names = tuple(field.name for field in declared if field.init)

    def encode(self, entity: _T) -> bytes:
        """The state that an object has.

        Raises `NotEncodable` for what messages cannot hold, `MessageTooLarge` above 64 MiB.
        """
        return CODEC.encode({name: getattr(entity, name) for name in self._names})

    def decode(self, data: bytes | None) -> _T:
        """An object with this state, or with the defaults.  Raises `ConfigError` when it cannot
        be made: of a class that is no longer registered, say."""
        if data is None:
            return self._cls()
        try:
            stored = CODEC.decode(data)
        except RemoteProtocolError as error:
            raise ConfigError(f"stored state cannot be read: {error}") from error
        if not isinstance(stored, dict):
            raise ConfigError("stored state cannot be read: it is no Python entity's")
        return self._cls(**{name: stored[name] for name in self._names if name in stored})

    def check(self) -> bytes:
        """Return the encoded defaults; raise `ConfigError` for a state that cannot be stored."""
        for name, hint in self._hints():
            wrong = _unsayable(hint)
            if wrong is not None:
                raise ConfigError(f"{self._cls.__qualname__}.{name} cannot be stored: {wrong}")
        try:
            fresh = self._cls()
            encoded = self.encode(fresh)
        except NotEncodable as error:
            raise ConfigError(f"the state of {self._cls.__qualname__}: {error}") from error
        again = self.decode(encoded)
        for name in self._names:
            before, after = type(getattr(fresh, name)), type(getattr(again, name))
            if before is not after:
                raise ConfigError(
                    f"{self._cls.__qualname__}.{name} cannot be stored: a {before.__qualname__} "
                    f"comes back as a {after.__qualname__}"
                )
        return encoded

    def _hints(self) -> Iterator[tuple[str, object]]:
        try:
            hints = typing.get_type_hints(self._cls)
        except Exception:  # it names what only a type checker sees: the first turn will tell
            return
        for name in self._names:
            yield name, hints[name]


def _unsayable(hint: object) -> str | None:
    """Why no value of this type can be stored; None when one may be."""
    if isinstance(hint, typing.NewType):
        return _unsayable(hint.__supertype__)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return None
    if origin is not None:
        parts = [part for part in typing.get_args(hint) if part is not Ellipsis]
        if origin not in (typing.Union, types.UnionType):
            parts.insert(0, origin)
        return next(filter(None, map(_unsayable, parts)), None)
    if not isinstance(hint, type) or typing.is_typeddict(hint) or _may_be_stored(hint):
        return None
    if dataclasses.is_dataclass(hint) or issubclass(hint, enum.Enum):
        return f"put @steinadler.message above {hint.__qualname__}"
    return f"messages cannot hold a {hint.__module__}.{hint.__qualname__}"


def _may_be_stored(cls: type) -> bool:
    is_message = dataclasses.is_dataclass(cls) or issubclass(cls, enum.Enum)
    return (
        cls in _SAYABLE
        or (is_message and cls in DEFAULT_MESSAGE_TYPES.encoders)
        or any(map(_may_be_stored, type.__subclasses__(cls)))
    )
