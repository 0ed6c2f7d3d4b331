"""Python entities on real nodes: called from anywhere, moved, timed, and found again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import field
from typing import Any

import pytest
import trio

import steinadler
from steinadler import (
    Config,
    EntityKey,
    Node,
    NoSuchCommand,
    NotEncodable,
    RemoteError,
    WireSettings,
)


class Basket(steinadler.Entity):
    items: list[str] = field(default_factory=list)

    @steinadler.command
    def add(self, *items: str) -> int:
        self.items.extend(items)
        return len(self.items)

    @steinadler.command
    def keep(self, items: list[str]) -> None:
        self.items = items

    @steinadler.command
    def add_for_bytes(self, item: str, size: int) -> bytes:
        self.items.append(item)
        return bytes(size)

    @steinadler.command(read_only=True)
    async def look(self) -> list[str]:
        return self.items

    @steinadler.command
    def spoil(self) -> None:
        self.items.clear()
        raise KeyError("spoilt")

    @steinadler.command
    async def add_soon(self, item: str) -> None:
        self.start_timer("add", self.add, item, after_s=0.02)

    @steinadler.command
    async def add_later(self, item: str) -> None:
        await self.set_reminder("add", self.add, item, after_s=0.5)

    @steinadler.command
    async def move_to(self, other: str) -> int:
        items, self.items = self.items, []
        total: int = await self.entity("Basket", other).call("add", *items)
        return total

    @steinadler.command
    async def ask_nobody(self) -> None:
        self.items.append("lost")
        await self.entity("Basket", "x").call("no such command")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(10):
        while not await condition():  # noqa: ASYNC110  # an entity can only be asked
            await trio.sleep(0.01)


async def hosting(nodes: Any, *names: str) -> list[Node]:
    """Nodes that host baskets, and the customer, who hosts nothing."""
    opened = await nodes.open_all(*names, "customer")
    for node in opened[:-1]:
        node.host(Basket)
    return opened


async def test_an_entity_is_called_from_any_node_and_is_one(nodes: Any) -> None:
    """E1: whoever calls reaches the same state."""
    *_, customer = opened = await hosting(nodes, "alice", "bob")
    with trio.fail_after(10):
        for number in range(4):
            for total, node in enumerate(opened, start=1):
                assert await node.entity("Basket", str(number)).call("add", node.name) == total
        for number in range(4):
            basket = customer.entity("Basket", str(number))
            assert await basket.call("look") == ["alice", "bob", "customer"]


@pytest.mark.parametrize("caller", ["alice", "customer"])
async def test_arguments_and_answers_are_copies(nodes: Any, caller: str) -> None:
    """M5: on one node as between two, nobody shares an object with an entity's state."""
    opened = await hosting(nodes, "alice")
    basket = next(n for n in opened if n.name == caller).entity("Basket", "1")
    with trio.fail_after(10):
        items = ["nut"]
        await basket.call("keep", items)
        items.append("not in the basket")
        seen = await basket.call("look")
        seen.append("nor this")
        assert await basket.call("look") == ["nut"]
        with pytest.raises(NotEncodable):
            await basket.call("keep", object())


@pytest.mark.parametrize("caller", ["alice", "customer"])
async def test_what_went_wrong_is_told_alike_near_and_far(nodes: Any, caller: str) -> None:
    opened = await hosting(nodes, "alice")
    basket = next(n for n in opened if n.name == caller).entity("Basket", "1")
    with trio.fail_after(10):
        await basket.call("add", "nut")
        with pytest.raises(RemoteError) as raised:
            await basket.call("spoil")
        assert (raised.value.type_name, raised.value.text) == ("KeyError", "'spoilt'")
        with pytest.raises(NoSuchCommand, match="Basket has no command 'items'"):
            await basket.call("items")
        with pytest.raises(RemoteError) as raised:
            await basket.call("look", "at", "me")
        assert raised.value.type_name == "TypeError"
        assert await basket.call("look") == ["nut"]


@pytest.mark.parametrize("caller", ["alice", "customer"])
async def test_an_answer_too_large_to_travel_undoes_its_turn(nodes: Any, caller: str) -> None:
    config = Config(wire=WireSettings(max_message_bytes=20_000))
    alice = await nodes.open("alice", config=config)
    opened = {"alice": alice, "customer": await nodes.open("customer", config=config)}
    alice.host(Basket)
    await opened["customer"].wait_for_member("alice")
    basket = opened[caller].entity("Basket", "1")
    with trio.fail_after(10):
        await basket.call("add", "nut")
        for size in (19_950, 20_000, 30_000):
            with pytest.raises(RemoteError) as raised:
                await basket.call("add_for_bytes", "bolt", size)
            assert raised.value.type_name == "MessageTooLarge"
        assert await basket.call("look") == ["nut"]
        assert len(await basket.call("add_for_bytes", "bolt", 19_900)) == 19_900
        assert await basket.call("look") == ["nut", "bolt"]


async def test_one_command_may_call_another_entity(nodes: Any) -> None:
    _, bob, _ = await hosting(nodes, "alice", "bob")
    with trio.fail_after(10):
        await bob.entity("Basket", "from").call("add", "nut", "bolt")
        assert await bob.entity("Basket", "from").call("move_to", "to") == 2
        assert await bob.entity("Basket", "from").call("look") == []
        # E3: the turn did run, so its caller must not be told that it may call again.
        with pytest.raises(RemoteError) as raised:
            await bob.entity("Basket", "from").call("ask_nobody")
        assert raised.value.type_name == "NoSuchCommand"
        assert await bob.entity("Basket", "from").call("look") == []


async def test_state_is_found_on_another_node_when_the_owner_closes(nodes: Any) -> None:
    """E2, and no call fails: the owner hands over before it leaves."""
    alice, bob, customer = await hosting(nodes, "alice", "bob")
    with trio.fail_after(20):
        for number in range(8):
            await customer.entity("Basket", str(number)).call("add", "nut")
        assert 0 < bob.entities.active_count("Basket") < 8
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nodes.close, bob)
            for number in range(8):
                assert await customer.entity("Basket", str(number)).call("add", "bolt") == 2
        for number in range(8):
            assert await customer.entity("Basket", str(number)).call("add", "washer") == 3
    assert alice.entities.active_count("Basket") == 8


async def test_timers_run_commands(nodes: Any) -> None:
    _, customer = await hosting(nodes, "alice")
    basket = customer.entity("Basket", "1")
    await basket.call("add_soon", "nut")

    async def added() -> bool:
        return bool(await basket.call("look") == ["nut"])

    await until(added)


async def test_a_reminder_outlives_its_node(nodes: Any) -> None:
    """Set on one node, which closes, it runs on another, once (E3)."""
    alice, customer = await hosting(nodes, "alice")
    basket = customer.entity("Basket", "1")
    await basket.call("add_later", "nut")
    await nodes.close(alice)
    bob = await nodes.open("bob")
    bob.host(Basket)

    async def added() -> bool:
        return bool(await basket.call("look"))

    await until(added)
    assert await basket.call("add", "bolt") == 2


async def test_a_request_of_a_sidecar_is_answered_in_json(nodes: Any) -> None:
    _, customer = await hosting(nodes, "alice")
    request = {"verb": "POST", "headers": {}, "body": b'["nut", "bolt"]'}
    with trio.fail_after(10):
        response: Any = await customer.entities.call(EntityKey("Basket", "1"), "add", request)
    assert (response["status"], json.loads(response["body"])) == (200, 2)
