"""The keeper of a node's store: opened once, closed with the node, whatever comes between."""

from __future__ import annotations

import trio
import trio.testing

from steinadler.entity.keeper import StoreKeeper
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


async def test_a_store_that_opens_while_the_node_closes_is_closed(nursery: trio.Nursery) -> None:
    store = SlowStore()
    keeper = StoreKeeper(store, ours=True)
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
    keeper = StoreKeeper(store, ours=True)
    await keeper.aclose()
    await keeper.run()
    assert store.done == []
