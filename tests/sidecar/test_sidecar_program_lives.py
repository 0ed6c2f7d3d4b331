"""The program's lives: what an earlier one knew is gone, even when no look fell between two."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from app_program import Program, client, path
from sidecar_pairs import Pair, Sidecars, until

import steinadler
from steinadler import Config
from steinadler.config import EntitySettings
from steinadler.identity import EntityKey


async def call(pair: Pair, method: str, body: bytes = b"", id_: str = "42") -> Any:
    return await pair.ask("POST", path("Cart", id_, f"method/{method}"), body)


async def set_timer(pair: Pair, name: str) -> None:
    timer = {"dueTime": "20ms", "period": "20ms", "callback": "tick"}
    request = {"verb": "PUT", "path": f"timers/{name}", "body": timer}
    assert json.loads((await call(pair, "ask", json.dumps(request).encode())).body)[0] == 204


async def test_a_restart_that_nobody_saw_is_noticed(sidecars: Sidecars) -> None:
    """No call fails for it, and its configuration is read again: it may be another version."""
    pair = await sidecars.open()
    assert (await call(pair, "add", b"1")).body == b"1"
    pair.program.config = {"entities": ["Cart", "Basket"]}
    sidecars.restart_app(pair)
    assert (await call(pair, "add", b"1")).body == b"2"
    await until(lambda: pair.node.entities.hosted() == ("Basket", "Cart"))
    assert pair.sidecar.app_up()


async def test_a_restart_is_noticed_without_any_call(
    sidecars: Sidecars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steinadler.sidecar.app_link.HEALTH_INTERVAL_S", 0.1)
    pair = await sidecars.open()
    pair.program.config = {"entities": ["Basket"]}
    sidecars.restart_app(pair)
    await until(lambda: pair.node.entities.hosted() == ("Basket",))


async def test_timers_end_with_the_life_of_their_program(sidecars: Sidecars) -> None:
    """They live with what the program keeps in memory; the next life sets its own."""
    pair = await sidecars.open()
    await set_timer(pair, "old")
    await until(lambda: pair.program.count("PUT", "/method/timer/old") > 1)
    sidecars.restart_app(pair)
    await until(lambda: pair.program.count("GET", "/dapr/config") == 2)
    pair.program.seen.clear()
    await set_timer(pair, "new")
    await until(lambda: pair.program.count("PUT", "/method/timer/new") > 3)
    assert pair.program.count("PUT", "/method/timer/old") == 0


async def test_a_program_that_restarted_is_not_told_to_forget(sidecars: Sidecars) -> None:
    """@dapr/dapr 3 dies of a DELETE of an actor that it does not know."""
    pair = await sidecars.open()
    await call(pair, "echo", id_="before")
    sidecars.restart_app(pair)
    await trio.testing.wait_all_tasks_blocked()
    await pair.node.entities.stop_hosting()
    assert pair.program.count("DELETE", "/before") == 0


async def test_a_connection_whose_end_was_announced_ends_no_life(sidecars: Sidecars) -> None:
    """A server that closes after each answer, and says so, lives on, and so do its timers."""
    pair = await sidecars.open()
    pair.program.says_also.append((b"connection", b"close"))
    await set_timer(pair, "t")
    await until(lambda: pair.program.count("PUT", "/method/timer/t") > 3)
    assert pair.program.count("GET", "/dapr/config") == 1


async def test_connections_of_a_burst_are_closed_while_others_are_in_use(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """A program that closes what is idle would otherwise leave them half closed here for ever."""
    monkeypatch.setattr("steinadler.sidecar.app_client.IDLE_S", 0.2)
    opened = 0

    async def program(stream: trio.SocketStream) -> None:
        nonlocal opened
        opened += 1
        async with stream:
            while await stream.receive_some():
                await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        opened -= 1

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, program, listeners)
    app = client(listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as burst:
        for _ in range(5):
            burst.start_soon(app.request, "GET", "/")
    assert opened == 5
    with trio.fail_after(10):
        while opened > 1:
            await app.request("GET", "/")
    app.close()


async def test_a_request_that_ends_after_the_client_was_closed_leaves_nothing_open(
    nursery: trio.Nursery,
) -> None:
    """A turn may outlast the sidecar by a moment."""
    came, answer, gone = trio.Event(), trio.Event(), trio.Event()

    async def program(stream: trio.SocketStream) -> None:
        async with stream:
            assert await stream.receive_some()
            came.set()
            await answer.wait()
            await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert not await stream.receive_some()
            gone.set()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, program, listeners)
    app = client(listeners[0].socket.getsockname()[1])
    with trio.fail_after(5):
        async with trio.open_nursery() as asking:
            asking.start_soon(app.request, "GET", "/")
            await came.wait()
            app.close()
            answer.set()
        await gone.wait()


@pytest.mark.parametrize(
    ("config", "ends"),
    [
        ({"drainOngoingCallTimeout": "100ms"}, False),
        ({"drainOngoingCallTimeout": "1h", "drainRebalancedActors": False}, False),
        ({"drainOngoingCallTimeout": "1h"}, True),
        ({}, True),
    ],
)
async def test_how_long_a_turn_may_run_on_is_for_the_program_to_say(
    sidecars: Sidecars, config: dict[str, Any], ends: bool
) -> None:
    """E2, E3: a turn that is cut is not acknowledged, and one that may end is."""
    settings = Config(entities=EntitySettings(drain_s=2.0))
    pair = await sidecars.open(config={"entities": ["Cart"], **config}, node_config=settings)
    began, go_on = trio.Event(), trio.Event()

    async def long(app: Program, key: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        began.set()
        await go_on.wait()
        return 200, b"%d" % await app.add(key, "count", 1)

    pair.program.commands["long"] = long
    answers: list[Any] = []

    async def caller() -> None:
        answers.append(await call(pair, "long"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await began.wait()
        nursery.start_soon(pair.node.entities.stop_hosting)
        if ends:
            with trio.move_on_after(0.3):
                await until(lambda: answers)
            assert not answers
            go_on.set()
        else:
            await until(lambda: answers)
            go_on.set()
    if ends:
        assert (answers[0].status, answers[0].body) == (200, b"1")
    else:
        assert json.loads(answers[0].body)["errorCode"] == "ERR_ACTOR_TIMEOUT"
        assert EntityKey("Cart", "42") not in sidecars.contents.state


MANY = [f"{number:0250}" for number in range(10)]


class Taken(steinadler.Entity):
    """A type that the sidecar's node hosts itself."""

    @steinadler.command
    async def peek(self) -> None: ...


@pytest.mark.parametrize(
    ("types", "why"), [(MANY, "2048 characters at most"), (["Taken"], "Taken is hosted here")]
)
async def test_a_configuration_that_cannot_be_hosted_stops_nothing(
    sidecars: Sidecars, caplog: pytest.LogCaptureFixture, types: list[str], why: str
) -> None:
    """The log says why, and of whom; none of its types is hosted; a later one is taken."""
    pair = await sidecars.open(app=False)
    pair.node.host(Taken)
    pair.program.config = {"entities": ["Cart", *types]}
    await sidecars.start_app(pair)
    await until(lambda: pair.program.count("GET", "/dapr/config") > 1)
    told = [text for each in caplog.records if why in (text := each.getMessage())]
    assert len(told) == 1, "told once"
    assert told[0].startswith("waiting for the program: ")
    assert not pair.sidecar.app_up()
    assert pair.node.entities.hosted() == ("Taken",)
    pair.program.config = {"entities": ["Cart"]}
    assert pair.sidecar.link is not None
    with trio.fail_after(10):
        await pair.sidecar.link.wait(up=True)
    assert pair.node.entities.hosted() == ("Cart", "Taken")
