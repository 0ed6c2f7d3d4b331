"""The node's store: opened when it is first needed, and closed with the node if it is ours.

A store that cannot be reached when the node opens it is tried again until it can; meanwhile
everybody who needs it is told.  One that can never work ends the node.
"""

from __future__ import annotations

import logging

import trio

from steinadler.entity.store import Store
from steinadler.errors import StoreUnavailable

logger = logging.getLogger("steinadler.entity")

REOPEN_INTERVAL_S = 1.0


class StoreKeeper:
    """Opens and closes a store; with `ours` False it is open already, and stays so."""

    def __init__(self, store: Store, *, ours: bool) -> None:
        self._store = store
        self._ours = ours
        self._opened = not ours
        self._failure: StoreUnavailable | None = None
        self._tried = trio.Event()
        self._closing = False
        self._lock = trio.Lock()  # a store that is being opened is closed only after that

    async def run(self) -> None:
        """Open the store, however long it takes.  Raises `ConfigError` when it can never work."""
        while not self._opened:
            with trio.CancelScope(shield=True):  # half open is no state to leave it in
                async with self._lock:
                    if self._closing:
                        return
                    await self._open()
            self._tried.set()
            if not self._opened:
                await trio.sleep(REOPEN_INTERVAL_S)

    async def _open(self) -> None:
        try:
            await self._store.open()
        except StoreUnavailable as error:
            if self._failure is None:
                logger.warning("the entities' store cannot be opened yet: %s", error)
            self._failure = error
        else:
            self._opened = True
            self._failure = None

    async def ready(self) -> Store:
        """The store, once it is open.  Raises `StoreUnavailable`."""
        if not self._opened:
            await self._tried.wait()
            if self._failure is not None:
                raise StoreUnavailable(str(self._failure))
        return self._store

    async def aclose(self) -> None:
        """Close the store, if it is ours."""
        async with self._lock:
            self._closing = True
            if self._ours and self._opened:
                self._opened = False
                await self._store.aclose()
