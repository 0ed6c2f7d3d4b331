"""The carts of examples/ do what their heads say, behind two sidecars, in each language."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from sdk_stage import Stage
from sidecar_processes import Running, knows

pytestmark = pytest.mark.slow  # two sidecars, two programs and a client

EXAMPLES = Path(__file__).parents[3] / "examples"


async def ask(sidecar: Running, cart: str, method: str, order: Any = None) -> tuple[int, Any]:
    body = b"" if order is None else json.dumps(order).encode()
    where = f"/v1.0/actors/Cart/{cart}/method/{method}"
    with trio.fail_after(30):
        answer = await sidecar.client.request(
            "POST", where, [("content-type", "application/json")], body
        )
    return answer.status, json.loads(answer.body)


async def works(stage: Stage, words: list[str], client: list[str], **env: str) -> None:
    """Carts on two nodes: calls, errors, the client, a program that dies, an abandoned cart."""
    alice, program = await stage.host("alice", words, ABANDONED_S="4", **env)
    bob, _ = await stage.host("bob", words, ABANDONED_S="4", **env)
    await knows(alice, 2)
    await knows(bob, 2)
    carts = [str(number) for number in range(6)]
    for cart in carts:
        assert await ask(alice, cart, "add", {"item": "nut", "count": 2}) == (200, {"total": 2})
        assert await ask(bob, cart, "add", {"item": "bolt"}) == (200, {"total": 3})
    for order, why in (
        ({"item": "air", "count": 0}, "a cart holds whole things"),
        ({"count": 1}, 'say which item: {"item": "nut"}'),
    ):
        status, told = await ask(bob, "0", "add", order)
        assert (status, told["errorCode"], told["message"]) == (500, "BAD_ORDER", why)

    port = bob.ready["http"][0].rpartition(":")[2]
    ran = await stage.run([*client, "1", "nut"], DAPR_HTTP_PORT=port, **env)
    assert ran.returncode == 0, ran.stderr
    assert b"nut" in ran.stdout
    assert (await ask(alice, "1", "show"))[1]["items"] == {"nut": 3, "bolt": 1}
    ran = await stage.run([*client, "1", "air", "0"], DAPR_HTTP_PORT=port, **env)
    assert ran.returncode == 1
    assert b"a cart holds whole things" in ran.stderr

    program.kill()
    alice.process.kill()
    await alice.process.wait()
    for cart in carts:
        with trio.fail_after(20):
            while (shown := await ask(bob, cart, "show"))[0] != 200:
                assert shown[0] in (502, 503, 504), shown
        assert shown[1]["items"].get("bolt") == 1 or shown[1]["emptied"] == 1
    for cart in carts:
        with trio.fail_after(20):
            emptied = (200, {"items": {}, "emptied": 1})
            while await ask(bob, cart, "show") != emptied:  # noqa: ASYNC110
                await trio.sleep(0.1)


async def test_the_cart_in_python(stage: Stage) -> None:
    folder = EXAMPLES / "sidecar_python"
    cart, client = ([sys.executable, f"{folder}/{name}.py"] for name in ("cart", "client"))
    await works(stage, cart, client)


async def test_the_cart_in_javascript(stage: Stage, node_path: Path) -> None:
    folder = EXAMPLES / "sidecar_javascript"
    cart, client = (["node", f"{folder}/{name}.js"] for name in ("cart", "client"))
    await works(stage, cart, client, NODE_PATH=str(node_path))
