"""What requests and the program's configuration mean, without any I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

from steinadler import errors
from steinadler.entity.store import Reminder
from steinadler.errors import ConfigError, EntityError, SteinadlerError
from steinadler.sidecar import openapi
from steinadler.sidecar.app_config import TypeSettings, read_config
from steinadler.sidecar.bodies import (
    describe_reminder,
    read_changes,
    read_json,
    read_reminder,
    read_timer,
    write_json,
)
from steinadler.sidecar.problems import STATUS_OF, Problem, problem_of
from steinadler.sidecar.routes import ROUTES, Operation, find

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def status_of(read: Callable[[], object]) -> int | None:
    """The status of the problem that it raised, if it did."""
    try:
        read()
    except Problem as problem:
        return problem.status
    return None


@given(JSON)
def test_values_come_back_as_they_were_stored(value: Any) -> None:
    body = json.dumps([{"operation": "upsert", "request": {"key": "k", "value": value}}]).encode()
    stored = read_changes(body).values["k"]
    assert stored is not None
    assert json.loads(stored) == value
    assert read_json(write_json(value)) == value


@given(st.binary() | JSON.map(write_json))
def test_any_body_is_read_or_is_a_bad_request(body: bytes) -> None:
    for read in (
        read_changes,
        lambda b: read_timer("t", b, 0.0),
        lambda b: read_reminder("r", b, 0.0),
    ):
        assert status_of(lambda read=read: read(body)) in (None, 400)
    with suppress(ConfigError):
        read_config(body)


def test_the_last_operation_on_a_key_counts() -> None:
    operations = [
        {
            "operation": "upsert",
            "request": {"key": "a", "value": 1, "metadata": {"ttlInSeconds": 5}},
        },
        {"operation": "upsert", "request": {"key": "b", "metadata": {"ttlInSeconds": "7"}}},
        {"operation": "delete", "request": {"key": "a"}},
        {
            "operation": "upsert",
            "request": {"key": "c", "value": 3, "metadata": {"ttlInSeconds": -1}},
        },
        {"operation": "upsert", "request": {"key": "c", "value": 4, "metadata": {}}},
    ]
    changes = read_changes(json.dumps(operations).encode())
    assert changes.values == {"a": None, "b": b"null", "c": b"4"}
    assert changes.ttl_s == {"b": 7.0}


@pytest.mark.parametrize("ttl", [0, -2, "x", 1.5, True, "9" * 5000, [], "1.5"])
def test_bad_times_to_live(ttl: Any) -> None:
    request = {"key": "a", "value": 1, "metadata": {"ttlInSeconds": ttl}}
    with pytest.raises(Problem):
        read_changes(json.dumps([{"operation": "upsert", "request": request}]).encode())


@pytest.mark.parametrize(
    "operation",
    [
        {"operation": "upsert", "request": {"key": ""}},
        {"operation": "upsert", "request": {"key": 1}},
        {"operation": "upsert", "request": {}},
        {"operation": "upsert"},
        {"operation": "delete", "request": {"key": "\ud800"}},
        {"operation": "upsert", "request": {"key": "a", "metadata": 5}},
        5,
    ],
)
def test_bad_operations(operation: Any) -> None:
    with pytest.raises(Problem):
        read_changes(json.dumps([operation]).encode())


def test_a_timer_as_the_python_sdk_sends_it() -> None:
    body = {
        "callback": "tick",
        "data": "x",
        "dueTime": "0h0m5s0ms0µs",
        "period": "0h0m10s0ms0µs",
        "ttl": "0h1m0s0ms0µs",
    }
    timer = read_timer("t", json.dumps(body).encode(), 0.0)
    assert (timer.due_s, timer.period_s, timer.repeats, timer.ttl_s) == (5.0, 10.0, None, 60.0)
    assert json.loads(timer.argument) == body


def test_a_reminder_is_described_as_it_was_set() -> None:
    body = {"reminderName": "r", "dueTime": "PT5S", "period": "R3/PT10S", "data": {"a": 1}}
    reminder = read_reminder("r", json.dumps(body).encode(), 1000.0)
    assert (reminder.due_at, reminder.period_s, reminder.repeats) == (1005.0, 10.0, 2)
    assert json.loads(reminder.data) == {"data": {"a": 1}, "dueTime": "PT5S", "period": "R3/PT10S"}
    told = json.loads(describe_reminder(reminder))
    assert told == {"data": {"a": 1}, "dueTime": "1970-01-01T00:16:45Z", "period": "R3/PT10S"}
    of_another_kind = Reminder("r", 0.0, data=b"\xa0")
    assert describe_reminder(of_another_kind) == b'{"dueTime":"1970-01-01T00:00:00Z"}'


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "-1e400", "[" * 100_000])
def test_what_no_json_can_say_is_a_bad_request_wherever_it_stands(value: str) -> None:
    """It could be read, but neither stored nor told to the program."""
    told = f'[{{"operation": "upsert", "request": {{"key": "k", "value": {value}}}}}]'
    assert status_of(lambda: read_changes(told.encode())) == 400
    description = f'{{"dueTime": "1s", "data": {value}}}'.encode()
    assert status_of(lambda: read_timer("t", description, 0.0)) == 400
    assert status_of(lambda: read_reminder("r", description, 0.0)) == 400


@given(st.floats(allow_nan=False, allow_infinity=False), st.binary() | JSON.map(write_json))
def test_any_reminder_that_a_store_can_hold_is_described(due_at: float, data: bytes) -> None:
    told = json.loads(describe_reminder(Reminder("r", due_at, data=data)))
    assert re.match(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z\Z", told["dueTime"])


@pytest.mark.parametrize("data", [b"NaN", b'{"data": NaN}', b'{"data": 1e999}', b"[" * 100_000])
def test_a_reminder_whose_data_no_json_can_say_is_described_without(data: bytes) -> None:
    assert describe_reminder(Reminder("r", 1e300, data=data)) == (
        b'{"dueTime":"9999-12-31T23:59:59Z"}'
    )


# -- the program's configuration -------------------------------------------------------------


def test_a_configuration() -> None:
    told = {
        "entities": ["A", "B"],
        "actorIdleTimeout": "0h5m0s0ms0µs",
        "actorScanInterval": "30s",
        "drainRebalancedActors": True,
        "drainOngoingCallTimeout": "1m",
        "reentrancy": {"enabled": True, "maxStackDepth": 4},
        "entitiesConfig": [
            {
                "entities": ["B", "C"],
                "actorIdleTimeout": "1s",
                "drainRebalancedActors": False,
                "reentrancy": {"enabled": False},
            }
        ],
        "somethingNew": 5,
    }
    assert read_config(json.dumps(told).encode()) == {
        "A": TypeSettings(300.0, 60.0, max_depth=4),
        "B": TypeSettings(1.0, 60.0, drains=False),
        "C": TypeSettings(1.0, 60.0, drains=False),
    }
    assert read_config(b"{}") == {}
    assert read_config(b'{"entities": ["A"], "actorIdleTimeout": ""}') == {"A": TypeSettings()}


@pytest.mark.parametrize(
    "told",
    [
        "null",
        "[]",
        "{",
        '{"entities": "A"}',
        '{"entities": [5]}',
        '{"entities": ["A/B"]}',
        '{"entities": ["A,B"]}',
        '{"actorIdleTimeout": 5}',
        '{"actorIdleTimeout": "soon"}',
        '{"drainOngoingCallTimeout": "soon"}',
        '{"drainRebalancedActors": "no"}',
        '{"reentrancy": true}',
        '{"reentrancy": {"enabled": 1}}',
        '{"reentrancy": {"enabled": true, "maxStackDepth": 0}}',
        '{"entitiesConfig": {"entities": ["A"]}}',
        '{"entitiesConfig": ["A"]}',
    ],
)
def test_configurations_that_make_no_sense(told: str) -> None:
    with pytest.raises(ConfigError):
        read_config(told.encode())


# -- routes, problems and the document -------------------------------------------------------


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_id_and_key_are_found_again_in_a_path(id_: str, key: str) -> None:
    try:
        path = f"/v1.0/actors/T/{quote(id_, safe='')}/state/{quote(key, safe='')}"
    except UnicodeEncodeError:
        return
    found = find("GET", path.encode())
    assert found.operation is Operation.STATE_GET
    assert found.arguments == {"type": "T", "id": id_, "key": key}


@given(st.text(), st.binary())
def test_any_request_is_found_or_is_a_problem(verb: str, path: bytes) -> None:
    for where in (path, b"/" + path, b"/v1.0/actors/" + path):
        assert status_of(lambda where=where: find(verb, where)) in (None, 400, 404, 405)


def all_errors() -> list[type[SteinadlerError]]:
    found = [each for each in vars(errors).values() if isinstance(each, type)]
    return [each for each in found if issubclass(each, SteinadlerError)]


@pytest.mark.parametrize("error", all_errors())
def test_every_error_is_one_problem(error: type[SteinadlerError]) -> None:
    """E3: only where nothing ran is a caller told to try again."""
    raised = error.__new__(error)
    Exception.__init__(raised, "the text")
    problem = problem_of(raised)
    told = json.loads(problem.body)
    assert told["errorCode"] in STATUS_OF
    again = any(name == "retry-after" for name, _ in problem.headers)
    nothing_ran = (errors.EntityUnavailable, errors.MailboxFull, errors.NodeClosed)
    assert again == issubclass(error, nothing_ran)
    if issubclass(error, EntityError):
        assert problem.code not in ("ERR_INTERNAL", "ERR_MALFORMED_REQUEST")


def test_the_reference_tells_every_code_and_path() -> None:
    text = (Path(__file__).parents[2] / "docs/sidecar.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (\d{3}) \| `(ERR_\w+)` \|", text, re.MULTILINE)
    assert {code: int(status) for status, code in told} == STATUS_OF
    for path in ROUTES:
        assert f"`{path}`" in text


def test_the_openapi_document_is_valid_and_tells_of_all_that_is_served() -> None:
    document = openapi.document("1.2.3")
    validate(document)
    for path, verbs in ROUTES.items():
        told = set(document["paths"][path]) - {"parameters"}
        assert told == {verb.lower() for verb in verbs}
    assert set(document["paths"]) == set(ROUTES)
    told_codes = document["components"]["schemas"]["Problem"]["properties"]["errorCode"]["enum"]
    assert set(told_codes) == set(STATUS_OF)
    described = json.dumps(document["paths"])
    for code in set(STATUS_OF) - {"ERR_NOT_FOUND", "ERR_METHOD_NOT_ALLOWED"}:
        assert code in described, f"{code} is no answer of anything"
