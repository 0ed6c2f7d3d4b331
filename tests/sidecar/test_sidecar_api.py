"""The sidecar's API, with a program behind it: what sidecar.md promises, one by one."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
import trio.lowlevel
from app_program import JSON, Program, path
from sidecar_pairs import Pair, Sidecars, until

from steinadler import Config
from steinadler.config import EntitySettings
from steinadler.entity.store import Held
from steinadler.identity import EntityKey
from steinadler.sidecar import SidecarSettings
from steinadler.sidecar.problems import STATUS_OF
from steinadler.testing.stores import MemoryStore


def problem(answer: Any, code: str) -> str:
    """Check that an answer is that problem, and return its text."""
    told = json.loads(answer.body)
    assert (answer.status, told["errorCode"]) == (STATUS_OF[code], code), answer
    assert set(told) == {"errorCode", "message"}
    assert dict(answer.headers)["content-type"] == "application/json"
    return str(told["message"])


async def call(pair: Pair, method: str, body: bytes = b"", id_: str = "42", **headers: str) -> Any:
    return await pair.ask("POST", path("Cart", id_, f"method/{method}"), body, headers)


async def test_calls_reach_the_program_and_its_state_is_durable(sidecars: Sidecars) -> None:
    """E2: what a turn wrote is in the store when the caller hears of it."""
    pair = await sidecars.open()
    assert (await call(pair, "add", b"2")).body == b"2"
    assert (await call(pair, "add", b"3")).body == b"5"
    key = EntityKey("Cart", "42")
    assert sidecars.contents.state[key]["count"].value == b"5"
    assert pair.node.entities.active_count("Cart") == 1


@pytest.mark.parametrize("verb", ["POST", "PUT", "GET", "DELETE"])
async def test_bodies_and_content_types_pass_through(sidecars: Sidecars, verb: str) -> None:
    pair = await sidecars.open()
    body = bytes(range(256)) * 100
    answer = await pair.ask(
        verb,
        path("Cart", "42", "method/echo"),
        body,
        {
            "content-type": "application/x-odd",
            "traceparent": "00-1-2-01",
            "dapr-api-token": "mine",
            "connection": "keep-alive",
        },
    )
    assert (answer.status, answer.body) == (200, body)
    assert dict(answer.headers)["content-type"] == "application/x-odd"
    assert dict(answer.headers)["x-program"] == "yes"
    assert pair.program.headers["traceparent"] == "00-1-2-01"
    assert "dapr-api-token" not in pair.program.headers, "a caller's token is not the program's"


async def test_headers_that_come_in_several_lines_pass_through(sidecars: Sidecars) -> None:
    """Both ways, as one line each, which means the same."""
    pair = await sidecars.open()
    pair.program.says_also += [(b"x-said", b"c"), (b"x-said", b"d")]
    headers = [("x-a", "1"), ("tracestate", "a=1"), ("x-a", "2"), ("tracestate", "b=2")]
    with trio.fail_after(30):
        answer = await pair.client.request("PUT", path("Cart", "42", "method/echo"), headers)
    assert answer.status == 200
    assert pair.program.headers["x-a"] == "1, 2"
    assert pair.program.headers["tracestate"] == "a=1, b=2"
    assert dict(answer.headers)["x-said"] == "c, d"


@pytest.mark.parametrize(
    "id_", ["a/b", "with space", "grün/ß€🐦", "..", "%2F", "a?b#c", "x" * 1024]
)
async def test_any_text_is_an_id(sidecars: Sidecars, id_: str) -> None:
    pair = await sidecars.open()
    assert (await call(pair, "add", b"1", id_=id_)).body == b"1"
    assert EntityKey("Cart", id_) in sidecars.contents.state
    assert (await call(pair, "add", b"1", id_=id_ + "x" if len(id_) < 1024 else "y")).body == b"1"


@pytest.mark.parametrize("id_", ["x" * 1025, "x" * 10_000, "ü" * 5000])
async def test_an_id_that_is_too_long_is_a_bad_request(sidecars: Sidecars, id_: str) -> None:
    pair = await sidecars.open()
    assert "1024 bytes" in problem(await call(pair, "add", id_=id_), "ERR_MALFORMED_REQUEST")


async def test_calls_travel_between_sidecars(sidecars: Sidecars) -> None:
    """Each entity has one owner: whoever is asked, the same program runs its turns (E1)."""
    alice = await sidecars.open("alice")
    bob = await sidecars.open("bob")
    with trio.fail_after(10):
        await alice.node.wait_for_members(2)
        await bob.node.wait_for_members(2)
    await until(lambda: len(alice.node.members(**{"$entities": "Cart"})) == 2)
    await until(lambda: len(bob.node.members(**{"$entities": "Cart"})) == 2)
    for number in range(20):
        for expected, pair in ((b"1", alice), (b"2", bob), (b"3", alice)):
            answer = await call(pair, "add", b"1", id_=str(number))
            assert answer.body == expected, answer
    turns = [pair.program.count("PUT", "/add") for pair in (alice, bob)]
    assert sum(turns) == 60
    assert all(turns), "20 entities, two owners"
    counts = [pair.node.entities.active_count("Cart") for pair in (alice, bob)]
    assert [3 * count for count in counts] == turns


async def test_what_the_program_says_went_wrong_is_relayed(sidecars: Sidecars) -> None:
    pair = await sidecars.open()
    answer = await call(pair, "fail")
    assert answer.status == 500
    assert json.loads(answer.body) == {"errorCode": "OUT_OF_INK", "message": "refill"}


async def test_other_statuses_of_the_program(sidecars: Sidecars) -> None:
    pair = await sidecars.open()
    status = 200

    async def odd(app: Program, key: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        return status, b"" if status == 204 else b"so"

    pair.program.commands["odd"] = odd
    for status, relayed in ((201, True), (204, True), (400, True), (418, True), (302, False)):
        answer = await call(pair, "odd")
        if relayed:
            assert (answer.status, answer.body) == (status, b"" if status == 204 else b"so")
        else:
            problem(answer, "ERR_ACTOR_HOST_FAILED")
    status = 503
    assert "503" in problem(await call(pair, "odd"), "ERR_ACTOR_HOST_FAILED")


async def test_unknown_method_and_unknown_type(sidecars: Sidecars) -> None:
    settings = Config(entities=EntitySettings(wait_for_host_s=0.1))
    pair = await sidecars.open(node_config=settings)
    assert "'fly'" in problem(await call(pair, "fly"), "ERR_ACTOR_METHOD_NOT_FOUND")
    answer = await pair.ask("POST", path("Plane", "1", "method/fly"))
    assert "Plane" in problem(answer, "ERR_ACTOR_TYPE_NOT_FOUND")


@pytest.mark.parametrize(
    ("verb", "where", "code"),
    [
        ("GET", "/", "ERR_NOT_FOUND"),
        ("GET", "/v1.0/actors/Cart/42", "ERR_NOT_FOUND"),
        ("POST", "/v1.0/actors/Cart/42/method/a/b", "ERR_NOT_FOUND"),
        ("POST", "/v1.0/actors/Cart/42/method/timer%2Ftick", "ERR_MALFORMED_REQUEST"),
        ("POST", "/v1.0/actors/Cart/%FF/method/a", "ERR_MALFORMED_REQUEST"),
        ("POST", "/v1.0/actors/Cart//method/a", "ERR_MALFORMED_REQUEST"),
        ("POST", "/v1.0/actors/Ca%2Crt/1/method/a", "ERR_MALFORMED_REQUEST"),
        ("PATCH", "/v1.0/actors/Cart/42/method/a", "ERR_METHOD_NOT_ALLOWED"),
        ("GET", "/v1.0/actors/Cart/42/timers/a", "ERR_METHOD_NOT_ALLOWED"),
    ],
)
async def test_requests_that_make_no_sense(
    sidecars: Sidecars, verb: str, where: str, code: str
) -> None:
    pair = await sidecars.open()
    answer = await pair.ask(verb, where)
    problem(answer, code)
    assert (answer.status == 405) == ("allow" in dict(answer.headers))


async def test_two_turns_at_a_time_never_run(sidecars: Sidecars) -> None:
    """E1: the program asserts it."""
    pair = await sidecars.open()
    results: list[bytes] = []

    async def one() -> None:
        results.append((await call(pair, "add", b"1")).body)

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(one)
    assert sorted(map(int, results)) == list(range(1, 31))


# -- the state -------------------------------------------------------------------------------


async def within(pair: Pair, verb: str, where: str, body: Any = None, **headers: str) -> Any:
    """Make a request about the entity in the middle of its own turn."""
    request = json.dumps({"verb": verb, "path": where, "body": body}).encode()
    answer = await call(pair, "ask", request, **headers)
    assert answer.status == 200, answer
    status, text = json.loads(answer.body)
    return status, (json.loads(text) if text else None)


async def test_transactions_are_all_or_nothing(sidecars: Sidecars) -> None:
    pair = await sidecars.open()
    values = {"a": {"deep": [1, None, "ü"]}, "b": 1.5, "c/ d": "text", "n": None}
    upserts = [
        {"operation": "upsert", "request": {"key": k, "value": v}} for k, v in values.items()
    ]
    assert await within(pair, "POST", "state", upserts) == (204, None)
    for name, value in values.items():
        quoted = name.replace("/", "%2F").replace(" ", "%20")
        assert await within(pair, "GET", f"state/{quoted}") == (200, value)
    delete = {"operation": "delete", "request": {"key": "a"}}
    status, told = await within(pair, "PUT", "state", [delete, {"operation": "frobnicate"}])
    assert (status, told["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
    assert (await within(pair, "GET", "state/a"))[0] == 200, "nothing of it was done"
    assert await within(pair, "PUT", "state", [delete]) == (204, None)
    assert await within(pair, "GET", "state/a") == (204, None)


async def test_keys_expire(sidecars: Sidecars) -> None:
    pair = await sidecars.open()
    request = {"key": "a", "value": 1, "metadata": {"ttlInSeconds": "1"}}
    assert await within(pair, "POST", "state", [{"operation": "upsert", "request": request}]) == (
        204,
        None,
    )
    assert await within(pair, "GET", "state/a") == (200, 1)
    with trio.fail_after(10):
        while (await within(pair, "GET", "state/a"))[0] != 204:  # noqa: ASYNC110
            await trio.sleep(0.05)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[NaN]", b"[" * 100_000, b'{"a": 1}'])
async def test_state_that_is_not_json_is_a_bad_request(sidecars: Sidecars, body: bytes) -> None:
    pair = await sidecars.open()
    answer = await pair.ask("POST", path("Cart", "42", "state"), body)
    problem(answer, "ERR_MALFORMED_REQUEST")


async def test_state_and_timers_are_the_turns_own(sidecars: Sidecars) -> None:
    """Where the entity is not active, nobody reads or writes it."""
    pair = await sidecars.open()
    for verb, rest, body in (
        ("GET", "state/a", b""),
        ("POST", "state", b"[]"),
        ("PUT", "timers/t", b"{}"),
        ("DELETE", "timers/t", b""),
    ):
        answer = await pair.ask(verb, path("Cart", "cold", rest), body)
        problem(answer, "ERR_ACTOR_NOT_ACTIVE")
    assert pair.node.entities.active_count("Cart") == 0


@pytest.mark.slow
async def test_a_write_that_is_refused_fails_the_turn(sidecars: Sidecars) -> None:
    """E1: another node has taken the entity over; that the program says 200 changes nothing."""
    pair = await sidecars.open()
    seen: list[int] = []

    async def careless(app: Program, key: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        other = MemoryStore(sidecars.contents)
        await other.open()
        await other.activate(EntityKey("Cart", "42"), ("elsewhere", 1), 0.0)
        await other.aclose()
        operation = {"operation": "upsert", "request": {"key": "count", "value": 99}}
        seen.append((await app.ask("POST", f"/v1.0/actors/{key}/state", [operation])).status)
        return 200, b"fine"

    await call(pair, "add", b"7")
    pair.program.commands["careless"] = careless
    problem(await call(pair, "careless"), "ERR_ACTOR_STALE_OWNER")
    assert seen == [409]
    assert (await call(pair, "add", b"1")).body == b"8", "and the next activation reads the store"
    assert pair.program.count("DELETE", "/actors/Cart/42") == 1, "the program forgets it too"


async def test_a_store_that_is_down(sidecars: Sidecars) -> None:
    store = MemoryStore(sidecars.contents)
    pair = await sidecars.open(store=store)
    with store.outage():
        answer = await call(pair, "add")
        problem(answer, "ERR_STATE_STORE")
        assert "retry-after" not in dict(answer.headers)
    assert (await call(pair, "add", b"1")).body == b"1"


# -- timers and reminders --------------------------------------------------------------------


async def test_timers_fire_and_end(sidecars: Sidecars) -> None:
    pair = await sidecars.open()
    timer = {"dueTime": "10ms", "period": "R3/PT0.2S", "callback": "tick", "data": {"a": 1}}
    assert await within(pair, "POST", "timers/tick", timer) == (204, None)
    await until(lambda: pair.program.count("PUT", "/method/timer/tick") == 3)
    sent = {name: pair.program.headers[name] for name in ("content-type",)}
    assert sent == {"content-type": "application/json"}
    assert await within(pair, "GET", "state/ticks") == (200, 3)
    endless = {"dueTime": "0h0m0s10ms0\u00b5s", "period": "0h0m0s10ms0\u00b5s", "callback": "x"}
    assert await within(pair, "PUT", "timers/on", endless) == (204, None)
    await until(lambda: pair.program.count("PUT", "/method/timer/on") > 3)
    assert await within(pair, "DELETE", "timers/on") == (204, None)
    count = pair.program.count("PUT", "/method/timer/on")
    await within(pair, "GET", "state/ticks")
    assert pair.program.count("PUT", "/method/timer/on") == count


async def test_a_timers_turn_gets_what_was_said(sidecars: Sidecars) -> None:
    pair = await sidecars.open()
    bodies: list[Any] = []

    async def keep(app: Program, key: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        bodies.append(json.loads(body))
        return 200, b""

    pair.program.commands["timer"] = pair.program.commands["remind"] = keep
    timer = {"dueTime": "0.01s", "callback": "tick", "data": {"a": [1, "ü"]}}
    assert (await within(pair, "POST", "timers/a%2Fb", timer))[0] == 204
    await until(lambda: bodies)
    assert bodies.pop() == {**timer, "period": ""}
    assert pair.program.count("PUT", "/method/timer/a%2Fb") == 1
    reminder = {"dueTime": "0.01s", "period": "", "data": "YWJj"}
    where = path("Cart", "42", "reminders/wake")
    answer = await pair.ask("POST", where, json.dumps(reminder).encode(), dict([JSON]))
    assert answer.status == 204, answer
    await until(lambda: bodies)
    assert bodies == [reminder]


async def test_reminders_wake_an_entity_that_is_not_active(sidecars: Sidecars) -> None:
    """And can be looked at and deleted, from anywhere."""
    pair = await sidecars.open()
    where = path("Cart", "cold one", "reminders/wake up")
    where = where.replace(" ", "%20")
    missing = problem(await pair.ask("GET", where), "ERR_ACTOR_REMINDER_NOT_FOUND")
    assert missing
    soon = json.dumps({"dueTime": "50ms", "period": "1h", "data": 7}).encode()
    assert (await pair.ask("PUT", where, soon)).status == 204
    await until(lambda: pair.program.count("PUT", "/method/remind/wake%20up") == 1)
    told = json.loads((await pair.ask("GET", where)).body)
    assert (told["period"], told["data"]) == ("1h", 7)
    assert told["dueTime"].endswith("Z")
    assert (await pair.ask("DELETE", where)).status == 204
    assert (await pair.ask("GET", where)).status == 404
    assert (await pair.ask("DELETE", where)).status == 204, "nothing happens when there is none"


@pytest.mark.parametrize(
    "body",
    [
        {"dueTime": "soon"},
        {"dueTime": 5},
        {"period": "R0/PT1S"},
        {"period": "P1Y"},
        {"dueTime": "1h", "ttl": "1m"},
        {"dueTime": "2030-01-02T03:04:05"},
        [],
        "1m",
    ],
)
async def test_a_reminder_with_a_bad_time_is_a_bad_request(sidecars: Sidecars, body: Any) -> None:
    pair = await sidecars.open()
    answer = await pair.ask(
        "POST", path("Cart", "42", "reminders/r"), json.dumps(body).encode(), dict([JSON])
    )
    problem(answer, "ERR_MALFORMED_REQUEST")
    assert not sidecars.contents.reminders.get(EntityKey("Cart", "42"))


# -- time and reentrancy ---------------------------------------------------------------------


async def test_a_callers_deadline_travels_and_ends_its_wait(sidecars: Sidecars) -> None:
    pair = await sidecars.open()
    answer = await call(pair, "slow", b"0.5", **{"Steinadler-Timeout-Ms": "100"})
    problem(answer, "ERR_ACTOR_TIMEOUT")
    assert 0 < int(pair.program.headers["steinadler-timeout-ms"]) <= 100
    # The turn runs on; the next one waits for it (the program asserts that).
    assert (await call(pair, "add", b"1")).body == b"1"
    for bad in ("0", "-1", "1.5", "x", "9" * 30):
        answer = await call(pair, "echo", **{"Steinadler-Timeout-Ms": bad})
        problem(answer, "ERR_MALFORMED_REQUEST")


async def test_a_callers_deadline_holds_for_reminders_too(sidecars: Sidecars) -> None:
    class Slow(MemoryStore):
        answers = trio.Event()

        async def look_up(self, key: EntityKey) -> Held | None:
            await self.answers.wait()
            return await super().look_up(key)

    pair = await sidecars.open(store=Slow(sidecars.contents))
    reminder = path("Cart", "42", "reminders/r")
    for verb in ("POST", "GET", "DELETE"):
        answer = await pair.ask(verb, reminder, b"", {"Steinadler-Timeout-Ms": "50"})
        problem(answer, "ERR_ACTOR_TIMEOUT")
        answer = await pair.ask(verb, reminder, b"", {"Steinadler-Timeout-Ms": "0"})
        problem(answer, "ERR_MALFORMED_REQUEST")
    Slow.answers.set()
    assert (await pair.ask("GET", reminder)).status == 404


async def test_a_turn_that_takes_too_long_is_hung_up_on(sidecars: Sidecars) -> None:
    settings = Config(entities=EntitySettings(turn_timeout_s=0.2))
    pair = await sidecars.open(node_config=settings)
    problem(await call(pair, "slow", b"30"), "ERR_ACTOR_TIMEOUT")


@pytest.mark.parametrize("enabled", [True, False])
async def test_reentrancy_is_for_those_who_ask_for_it(sidecars: Sidecars, enabled: bool) -> None:
    config = {"entities": ["Cart"], "reentrancy": {"enabled": enabled, "maxStackDepth": 4}}
    pair = await sidecars.open(config=config)
    answer = await call(pair, "reenter", b"3")
    if enabled:
        assert (answer.status, answer.body) == (200, b"3")
        too_deep = await call(pair, "reenter", b"4")
        assert too_deep.status == 500
        assert b"ERR_ACTOR_TIMEOUT" in too_deep.body, "the fifth waits for the first"
    else:
        assert b"ERR_ACTOR_TIMEOUT" in answer.body
    with trio.fail_after(10):
        assert (await call(pair, "echo", b"free")).body == b"free"


# -- the program's life ----------------------------------------------------------------------


async def test_either_side_may_come_first(sidecars: Sidecars) -> None:
    pair = await sidecars.open(app=False)
    problem(await pair.ask("GET", "/v1.0/healthz"), "ERR_NOT_READY")
    assert (await pair.ask("GET", "/v1.0/healthz/outbound")).status == 204
    await sidecars.start_app(pair)
    await until(lambda: pair.node.entities.hosted() == ("Cart",))
    assert (await pair.ask("GET", "/v1.0/healthz")).status == 204


@pytest.mark.slow
async def test_a_call_waits_for_a_program_that_restarts(sidecars: Sidecars) -> None:
    """And it has other types then: they follow."""
    pair = await sidecars.open()
    assert (await call(pair, "add", b"1")).body == b"1"
    pair.stop_app.cancel()
    await until(lambda: not pair.sidecar.app_up())
    pair.program.config = {"entities": ["Cart", "Basket"]}
    answers: list[Any] = []

    async def waiting() -> None:
        answers.append(await call(pair, "add", b"1"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting)
        with trio.move_on_after(0.3) as waited:
            await until(lambda: answers)
        assert waited.cancelled_caught
        await sidecars.start_app(pair)
    assert answers[0].body == b"2"
    await until(lambda: pair.node.entities.hosted() == ("Basket", "Cart"))
    pair.program.config = {"entities": ["Basket"]}
    pair.stop_app.cancel()
    await until(lambda: not pair.sidecar.app_up())
    await sidecars.start_app(pair)
    await until(lambda: pair.node.entities.hosted() == ("Basket",))
    assert pair.program.count("DELETE", "/actors/Cart/42") == 0, "no turn of it in this life"


async def test_a_program_that_is_down_fails_calls_in_time(
    sidecars: Sidecars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says by its code that nothing ran, so that a caller may call again (E3)."""
    monkeypatch.setattr("steinadler.sidecar.behaviour.APP_PATIENCE_S", 0.3)
    monkeypatch.setattr("steinadler.sidecar.app_link.APP_PATIENCE_S", 0.6)
    settings = Config(entities=EntitySettings(wait_for_host_s=0.1))
    pair = await sidecars.open(node_config=settings)
    await call(pair, "echo")
    pair.stop_app.cancel()
    await until(lambda: not pair.sidecar.app_up())
    answer = await call(pair, "echo")
    assert "cannot be reached" in problem(answer, "ERR_ACTOR_UNAVAILABLE")
    assert "retry-after" in dict(answer.headers)
    await until(lambda: not pair.node.entities.hosted())
    answer = await call(pair, "echo")
    assert "down" in problem(answer, "ERR_ACTOR_UNAVAILABLE")
    assert "retry-after" in dict(answer.headers)


async def test_a_program_that_dies_in_the_turn(sidecars: Sidecars) -> None:
    """E3: it may have run, so it is not run again."""
    pair = await sidecars.open()

    async def hang_up(app: Program, key: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        pair.stop_app.cancel()
        await trio.sleep_forever()
        raise AssertionError

    pair.program.commands["hang up"] = hang_up
    answer = await pair.ask("POST", path("Cart", "42", "method/hang%20up"))
    problem(answer, "ERR_ACTOR_HOST_FAILED")
    await sidecars.start_app(pair)
    assert (await call(pair, "echo", b"back")).body == b"back"
    assert pair.program.count("PUT", "/method/hang%20up") == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        b"HTTP/1.1 101 X\r\n\r\n",
    ],
)
async def test_a_program_that_answers_garbage(sidecars: Sidecars, garbage: bytes) -> None:
    pair = await sidecars.open()
    pair.stop_app.cancel()
    await until(lambda: not pair.sidecar.app_up())

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            got = b""
            while b"\r\n\r\n" not in got:
                more = await stream.receive_some()
                if not more:
                    return
                got += more
            config = b'{"entities": ["Cart"]}'
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
            if got.startswith(b"GET"):
                await stream.send_all(head % len(config) + config)
            else:
                await stream.send_all(garbage)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(pair.app_port, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        await until(lambda: pair.sidecar.app_up())
        problem(await call(pair, "echo"), "ERR_ACTOR_HOST_FAILED")
        nursery.cancel_scope.cancel()


async def test_a_configuration_that_makes_no_sense_is_told_once(
    sidecars: Sidecars, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await sidecars.open(app=False)
    pair.program.config = {"entities": "Cart"}
    with caplog.at_level(logging.WARNING, "steinadler.sidecar"):
        await sidecars.start_app(pair)
        await until(lambda: pair.program.count("GET", "/dapr/config") > 2)
    told = [record for record in caplog.records if "entities is not a list" in record.getMessage()]
    assert len(told) == 1
    pair.program.config = {"entities": ["Cart"]}
    await until(lambda: pair.sidecar.app_up())


async def test_what_the_program_never_saw_it_is_not_told_to_forget(sidecars: Sidecars) -> None:
    """@dapr/dapr 3 dies of a DELETE of an actor that it does not know."""
    pair = await sidecars.open()
    await call(pair, "echo", id_="seen")
    pair.stop_app.cancel()
    await until(lambda: not pair.sidecar.app_up())
    await sidecars.start_app(pair)
    await until(lambda: pair.sidecar.app_up())
    await call(pair, "echo", id_="new")
    await pair.node.entities.stop_hosting()
    deleted = [where for verb, where in pair.program.seen if verb == "DELETE"]
    assert deleted == ["/actors/Cart/new"]


async def test_draining_gives_entities_up_in_order(sidecars: Sidecars) -> None:
    """Not ready at once; the running turn ends, with its state; then 503 until all is closed."""
    pair = await sidecars.open()
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
        nursery.start_soon(pair.sidecar.drain)
        with trio.fail_after(5):
            while (await pair.ask("GET", "/v1.0/healthz")).status != 500:
                await trio.lowlevel.checkpoint()
        assert not answers
        go_on.set()
    assert (answers[0].status, answers[0].body) == (200, b"1")
    assert pair.node.entities.active_count("Cart") == 0
    assert pair.program.count("DELETE", "/actors/Cart/42") == 1
    held = sidecars.contents.held[EntityKey("Cart", "42")]
    assert held.owner is None, "let go of"


# -- limits, tokens, documents ---------------------------------------------------------------


async def test_bodies_over_the_limit(sidecars: Sidecars) -> None:
    pair = await sidecars.open(settings=SidecarSettings(max_body_bytes=10_000))
    assert (await call(pair, "echo", b"x" * 10_000)).status == 200
    for size in (10_001, 3_000_000):
        answer = await call(pair, "echo", b"x" * size)
        problem(answer, "ERR_BODY_TOO_LARGE")
    assert (await call(pair, "echo", b"next")).body == b"next"
    # Without a length, in chunks, and never ending.
    stream = await trio.open_tcp_stream("127.0.0.1", pair.port)
    head = b"POST /v1.0/actors/Cart/42/method/echo HTTP/1.1\r\nHost: a\r\n"
    await stream.send_all(head + b"Transfer-Encoding: chunked\r\n\r\n")
    got = b""
    with trio.fail_after(10):
        for _ in range(20):
            await stream.send_all(b"400\r\n" + b"x" * 1024 + b"\r\n")
        while b"ERR_BODY_TOO_LARGE" not in got:
            got += await stream.receive_some()
    await stream.aclose()


async def test_answers_over_the_limit(sidecars: Sidecars) -> None:
    pair = await sidecars.open(settings=SidecarSettings(max_body_bytes=10_000))

    async def much(app: Program, key: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        return 200, b"x" * 10_001

    pair.program.commands["much"] = much
    assert "10000 bytes" in problem(await call(pair, "much"), "ERR_ACTOR_HOST_FAILED")


async def test_tokens(sidecars: Sidecars) -> None:
    settings = SidecarSettings(api_token="sesame", app_token="simsim")
    pair = await sidecars.open(settings=settings)
    problem(await call(pair, "echo"), "ERR_API_TOKEN")
    problem(await call(pair, "echo", **{"dapr-api-token": "Sesame"}), "ERR_API_TOKEN")
    problem(await pair.ask("GET", "/v1.0/metadata"), "ERR_API_TOKEN")
    answer = await call(pair, "echo", b"open", **{"dapr-api-token": "sesame"})
    assert answer.body == b"open"
    assert pair.program.headers["dapr-api-token"] == "simsim"
    for free in ("/v1.0/healthz", "/v1.0/healthz/outbound", "/metrics", "/openapi.json"):
        assert (await pair.ask("GET", free)).status in (200, 204)


async def test_metadata(sidecars: Sidecars) -> None:
    pair = await sidecars.open()
    await call(pair, "echo")
    told = json.loads((await pair.ask("GET", "/v1.0/metadata")).body)
    assert told.pop("runtimeVersion")
    assert told == {"id": "alice", "actors": [{"type": "Cart", "count": 1}], "extended": {}}


async def test_metrics(sidecars: Sidecars) -> None:
    settings = Config(entities=EntitySettings(wait_for_host_s=0.01))
    pair = await sidecars.open(node_config=settings)
    await call(pair, "echo")
    await call(pair, "fail")
    await call(pair, "fly")
    for number in range(5):
        await pair.ask("POST", path(f"Made{number}", "1", "method/up"))
    text = (await pair.ask("GET", "/metrics")).body.decode()
    lines = text.splitlines()
    for line in (
        'steinadler_sidecar_requests_total{operation="call",outcome="ok",type="Cart"} 1.0',
        'steinadler_sidecar_requests_total{operation="call",outcome="error",type="Cart"} 1.0',
        'steinadler_entity_turns_total{kind="call",outcome="no_such_method",type="Cart"} 1.0',
        'steinadler_entities_active{type="Cart"} 1.0',
        "steinadler_app_up 1.0",
        "steinadler_node_members 1.0",
    ):
        assert line in lines, text
    assert 'outcome="ERR_ACTOR_TYPE_NOT_FOUND",type=""} 5.0' in text
    assert "Made" not in text, "names that anybody makes up are no labels"
    assert 'steinadler_entity_turn_seconds_count{kind="call",type="Cart"} 3.0' in lines


async def test_a_connection_that_goes_wrong_harms_no_other(sidecars: Sidecars) -> None:
    """X4, for HTTP: garbage, a path that is no ASCII over HTTP/2, a WebSocket, a hang-up."""
    pair = await sidecars.open()
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    upgrade += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    import h2.config
    import h2.connection

    odd = h2.connection.H2Connection(
        h2.config.H2Configuration(validate_outbound_headers=False, header_encoding=None)
    )
    odd.initiate_connection()
    fields = [(":method", "GET"), (":path", b"/\xff"), (":scheme", "http"), (":authority", "a")]
    odd.send_headers(1, fields, end_stream=True)
    for sent in (b"\x00" * 100, b"GET", upgrade, odd.data_to_send(), b"GET /a HTTP/9\r\n\r\n"):
        stream = await trio.open_tcp_stream("127.0.0.1", pair.port)
        await stream.send_all(sent)
        await stream.send_eof()
        with trio.fail_after(10):
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
        await stream.aclose()
        assert (await call(pair, "echo", b"well")).body == b"well"
