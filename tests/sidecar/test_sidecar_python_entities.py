"""Entities that are Python classes are called by the same paths, as docs/entities.md says."""

from __future__ import annotations

import json
import re
from dataclasses import field
from pathlib import Path
from typing import Any

import pytest
import trio
from app_program import path
from sidecar_pairs import Pair, Sidecars, until

import steinadler
from steinadler.testing.stores import MemoryStore

GUIDE = Path(__file__).parents[2] / "docs" / "entities.md"


class Basket(steinadler.Entity):
    items: dict[str, int] = field(default_factory=dict)

    @steinadler.command
    def add(self, item: str, count: int = 1) -> int:
        if count < 1:
            raise ValueError("a cart holds whole things")
        self.items[item] = self.items.get(item, 0) + count
        return sum(self.items.values())

    @steinadler.command(read_only=True)
    def show(self) -> dict[str, int]:
        return self.items


@pytest.fixture
async def pair(sidecars: Sidecars, nodes: Any) -> Pair:
    """A sidecar, and another node that hosts the class."""
    opened = await sidecars.open("alice")
    bob = await nodes.open("bob", store=MemoryStore(sidecars.contents))
    bob.host(Basket)
    with trio.fail_after(10):
        await opened.node.wait_for_members(2)
    await until(lambda: opened.node.members(**{"$entities": "Basket"}))
    return opened


async def call(pair: Pair, method: str, body: bytes = b"") -> tuple[int, Any]:
    answer = await pair.ask("POST", path("Basket", "42", f"method/{method}"), body)
    return answer.status, json.loads(answer.body)


async def test_a_list_is_the_arguments_and_any_other_value_the_only_one(pair: Pair) -> None:
    written = re.search(r"method/add --json '(.*)'$", GUIDE.read_text(encoding="utf-8"), re.M)
    assert written
    assert await call(pair, "add", written[1].encode()) == (200, 2)
    assert await call(pair, "add", b'"bolt"') == (200, 3)
    assert await call(pair, "show") == (200, {"nut": 2, "bolt": 1})


@pytest.mark.parametrize(
    ("method", "body", "status", "code", "text"),
    [
        ("add", b'["air", 0]', 500, "ERR_ACTOR_INVOKE_METHOD", "a cart holds whole things"),
        ("fly", b"", 404, "ERR_ACTOR_METHOD_NOT_FOUND", "'fly'"),
        ("add", b"[1, 2, 3, 4]", 500, "ERR_ACTOR_INVOKE_METHOD", "but 5 were given"),
        ("add", b"{", 400, "ERR_MALFORMED_REQUEST", "the body is not JSON"),
    ],
)
async def test_what_goes_wrong_has_a_code(
    pair: Pair, method: str, body: bytes, status: int, code: str, text: str
) -> None:
    told = await call(pair, method, body)
    assert (told[0], told[1]["errorCode"]) == (status, code), told
    assert text in told[1]["message"], told
