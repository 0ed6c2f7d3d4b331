"""The node's store: opened when it is first needed, and closed with the node that owns it.

A store that cannot be reached when the node opens it is tried again until it can; meanwhile
everybody who needs it is told.  One that can never work ends the node.
"""

from __future__ import annotations

import logging
from enum import Enum, auto
from typing import assert_never

import trio

from steinadler.entity.store import Store
from steinadler.errors import StoreUnavailable

logger = logging.getLogger("steinadler.entity")

REOPEN_INTERVAL_S = 1.0


class StoreState(Enum):
    """What has become of a store."""

    OPENING = auto()  # or not begun yet
    OPEN = auto()
    CLOSED = auto()


class StoreKeeper:
    """Opens and closes a store; with `owns_store` False it is open already, and stays so."""

    def __init__(self, store: Store, *, owns_store: bool) -> None:
        self._store = store
        self._owns_store = owns_store
        self._state = StoreState.OPENING if owns_store else StoreState.OPEN
        self._tried = trio.Event()
        self._failure: StoreUnavailable | None = None  # of the last try
        self._lock = trio.Lock()  # a store that is being opened is closed only after that

    async def run(self) -> None:
        """Open the store, however long it takes.  Raises `ConfigError` when it can never work."""
        while self._state is StoreState.OPENING:
            with trio.CancelScope(shield=True):  # half open is no state to leave it in
                async with self._lock:
                    if self._state is StoreState.OPENING:
                        await self._open()
            self._tried.set()
            if self._state is StoreState.OPENING:
                await trio.sleep(REOPEN_INTERVAL_S)

    async def _open(self) -> None:
        try:
            await self._store.open()
        except StoreUnavailable as error:
            if self._failure is None:
                logger.warning("the entities' store cannot be opened yet: %s", error)
            self._failure = error
        else:
            self._state = StoreState.OPEN

    async def ready(self) -> Store:
        """The store, once it is open.  Raises `StoreUnavailable`."""
        if self._state is StoreState.OPENING:
            await self._tried.wait()
        match self._state:
            case StoreState.OPENING:
                raise StoreUnavailable(str(self._failure))
            case StoreState.OPEN:
                return self._store
            case StoreState.CLOSED:
                raise StoreUnavailable("the store is closed; is the node closing?")
            case _:
                assert_never(self._state)

    async def aclose(self) -> None:
        """Close the store, if the node owns it."""
        if not self._owns_store:
            return
        async with self._lock:
            former, self._state = self._state, StoreState.CLOSED
            if former is StoreState.OPEN:
                await self._store.aclose()
