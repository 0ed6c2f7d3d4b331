"""The keeper of a node's store: opened once, closed with the node, whatever comes between."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from steinadler import StoreUnavailable
from steinadler.entity.keeper import REOPEN_INTERVAL_S, StoreKeeper
from steinadler.testing import MemoryStore


class SlowStore(MemoryStore):
    """Opens when it is told to, and tells what was done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.may_open = trio.Event()

    async def open(self) -> None:
        await self.may_open.wait()
        self.done.append("open")

    async def aclose(self) -> None:
        self.done.append("close")


class DownStore(MemoryStore):
    """Cannot be reached."""

    down = True

    async def open(self) -> None:
        if self.down:
            raise StoreUnavailable("it is down")


async def test_a_store_that_opens_while_the_node_closes_is_closed(nursery: trio.Nursery) -> None:
    store = SlowStore()
    keeper = StoreKeeper(store, owns_store=True)
    running = trio.CancelScope()

    async def run() -> None:
        with running:
            await keeper.run()

    nursery.start_soon(run)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(keeper.aclose)
    running.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert store.done == []
    store.may_open.set()
    await trio.testing.wait_all_tasks_blocked()
    assert store.done == ["open", "close"]


async def test_a_store_is_not_opened_after_it_was_closed() -> None:
    store = SlowStore()
    store.may_open.set()
    keeper = StoreKeeper(store, owns_store=True)
    await keeper.aclose()
    await keeper.run()
    assert store.done == []


async def test_a_store_that_cannot_be_opened_yet_is_told_of_and_tried_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    store = DownStore()
    keeper = StoreKeeper(store, owns_store=True)
    nursery.start_soon(keeper.run)
    with pytest.raises(StoreUnavailable, match="down"):
        await keeper.ready()
    store.down = False
    await trio.sleep(2 * REOPEN_INTERVAL_S)
    assert await keeper.ready() is store


async def test_a_store_that_was_closed_is_nobodys_any_more() -> None:
    keeper = StoreKeeper(MemoryStore(), owns_store=True)
    await keeper.run()
    await keeper.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await keeper.ready()


async def test_a_store_of_somebody_elses_is_open_before_and_after() -> None:
    store = SlowStore()
    keeper = StoreKeeper(store, owns_store=False)
    await keeper.run()
    await keeper.aclose()
    assert await keeper.ready() is store
    assert store.done == []
