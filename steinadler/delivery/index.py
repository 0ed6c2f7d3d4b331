"""From one key to several values: the index that every table here needs beside its entries."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Hashable)


class Index(Generic[Key, Value]):
    """Ordered sets of values by key; a key without values takes no room."""

    def __init__(self) -> None:
        self._values: dict[Key, dict[Value, None]] = {}

    def add(self, key: Key, value: Value) -> None:
        self._values.setdefault(key, {})[value] = None

    def discard(self, key: Key, value: Value) -> bool:
        """Remove `value`; False when it was not there."""
        values = self._values.get(key, {})
        if value not in values:
            return False
        del values[value]
        if not values:
            del self._values[key]
        return True

    def count(self, key: Key) -> int:
        """How many values `key` has."""
        return len(self._values.get(key, ()))

    def get(self, key: Key) -> list[Value]:
        """The values of `key`, in the order they were added; a copy."""
        return list(self._values.get(key, ()))
