"""The sidecar's HTTP API, a handler: a request in, the node's entities asked, the answer out.

What a caller gets is the program's answer, or one of the problems of `problems`; never 200 with an
error inside, and never an exception of ours.  The API is in `routes`, and told to the world by
docs/sidecar.md.

A web framework was refused: there is one table of eleven paths, and bodies pass through unread.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Protocol

import trio

from steinadler.entity.behaviour import Active
from steinadler.entity.store import Reminder
from steinadler.errors import NoSuchEntityType, SteinadlerError
from steinadler.identity import EntityKey
from steinadler.sidecar import openapi
from steinadler.sidecar.app_client import HOP_BY_HOP
from steinadler.sidecar.behaviour import TIMEOUT_HEADER, TOKEN_HEADER
from steinadler.sidecar.bodies import (
    describe_reminder,
    read_changes,
    read_reminder,
    read_timer,
    write_json,
)
from steinadler.sidecar.exchange import Answer, BodyCutShort, BodyTooLarge, Request
from steinadler.sidecar.metrics import CONTENT_TYPE, Metrics
from steinadler.sidecar.problems import STATUS_OF, Problem, malformed, problem_of
from steinadler.sidecar.routes import WITHOUT_TOKEN, Found, Operation, find

logger = logging.getLogger("steinadler.sidecar")

JSON_TYPE = (b"content-type", b"application/json")
LONGEST_TIMEOUT_MS = 24 * 3600 * 1000

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
# RFC 9110 section 5.5, as h11 takes it.
_HEADER_VALUE = re.compile(rb"(?:[^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?\Z")
_KEPT_BACK = HOP_BY_HOP | {TOKEN_HEADER, TIMEOUT_HEADER}
# With these, somebody had heard of the type.
_PROVING = frozenset(
    {
        "ok",
        "error",
        "ERR_ACTOR_METHOD_NOT_FOUND",
        "ERR_ACTOR_STALE_OWNER",
        "ERR_ACTOR_INVOKE_METHOD",
        "ERR_ACTOR_HOST_FAILED",
    }
)


class Phase(Enum):
    """Where a sidecar stands: see `service`."""

    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


class Entities(Protocol):
    """What the API asks of the node's entities."""

    async def call(
        self, key: EntityKey, method: str, argument: Any, *, timeout_s: float | None = None
    ) -> Any: ...
    def active(self, key: EntityKey) -> Active | None: ...
    async def set_reminder(
        self, key: EntityKey, reminder: Reminder, *, timeout_s: float | None = None
    ) -> None: ...
    async def delete_reminder(
        self, key: EntityKey, name: str, *, timeout_s: float | None = None
    ) -> None: ...
    async def get_reminder(
        self, key: EntityKey, name: str, *, timeout_s: float | None = None
    ) -> Reminder | None: ...
    def hosted(self) -> tuple[str, ...]: ...
    def active_count(self, type: str) -> int: ...


class App(Protocol):
    """What the API asks of the link to the program."""

    @property
    def up(self) -> bool: ...
    @property
    def known(self) -> frozenset[str]: ...


NOTHING = Answer(204)


class Api:
    """The handler.  `phase` is set by whoever runs it.

    `app` is None for a sidecar without a program.  `token`: what `dapr-api-token` must be.
    """

    def __init__(
        self,
        entities: Entities,
        app: App | None,
        metrics: Metrics,
        *,
        name: str,
        version: str,
        token: str | None,
        max_body_bytes: int,
        timeout_s: float,
    ) -> None:
        self.phase = Phase.SERVING
        self.turned_away = 0  # requests that came when it had stopped
        self._entities = entities
        self._app = app
        self._metrics = metrics
        self._name = name
        self._version = version
        self._token = token.encode() if token is not None else None
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    async def __call__(self, request: Request) -> Answer:
        """Answer a request; raises nothing."""
        began = trio.current_time()
        operation, type_, outcome = "unknown", "", "ok"
        try:
            found = find(request.verb, request.path)
            operation, type_ = found.operation.value, found.arguments.get("type", "")
            answer = await self._answer(found, request)
            if answer.status >= 400:
                outcome = "error"
        except Problem as problem:
            answer, outcome = _told(problem), problem.code
        except SteinadlerError as error:
            told = problem_of(error)
            answer, outcome = _told(told), told.code
        except Exception:
            logger.exception("a bug in the sidecar: %s %r", request.verb, request.path)
            told = Problem("ERR_INTERNAL", "the sidecar failed; its log tells more")
            answer, outcome = _told(told), told.code
        if self.phase is not Phase.SERVING:
            answer = replace(answer, closes=True)
        seconds = trio.current_time() - began
        self._metrics.request(operation, type_, outcome, seconds, proven=outcome in _PROVING)
        return answer

    # -- what is asked ------------------------------------------------------------------------

    async def _answer(self, found: Found, request: Request) -> Answer:
        operation = found.operation
        match operation:
            case Operation.HEALTH:
                if self._app is not None and not self._app.up:
                    raise Problem("ERR_NOT_READY", "the program is not there")
                return self._health()
            case Operation.HEALTH_OUTBOUND:
                return self._health()
            case Operation.METRICS:
                return Answer(
                    200, ((b"content-type", CONTENT_TYPE.encode()),), self._metrics.text()
                )
            case Operation.OPENAPI:
                return _json(openapi.document(self._version))
        self._admit(operation, request.headers)
        if operation is Operation.METADATA:
            return _json(self._metadata())
        arguments = found.arguments
        key = EntityKey(arguments["type"], arguments["id"])
        match operation:
            case Operation.CALL:
                return await self._call(key, arguments["method"], request)
            case Operation.STATE_GET:
                value = self._active(key).read(arguments["key"])
                return NOTHING if value is None else Answer(200, (JSON_TYPE,), value)
            case Operation.STATE_CHANGE:
                await self._change(key, await self._body(request))
            case Operation.TIMER_SET:
                body = await self._body(request)
                active = self._active(key)
                active.start_timer(read_timer(arguments["name"], body, active.now()))
            case Operation.TIMER_DELETE:
                self._active(key).stop_timer(arguments["name"])
            case Operation.REMINDER_SET:
                body = await self._body(request)
                reminder = read_reminder(arguments["name"], body, time.time())
                timeout_s = self._timeout(request.headers)
                await self._entities.set_reminder(key, reminder, timeout_s=timeout_s)
            case Operation.REMINDER_DELETE:
                timeout_s = self._timeout(request.headers)
                await self._entities.delete_reminder(key, arguments["name"], timeout_s=timeout_s)
            case Operation.REMINDER_GET:
                timeout_s = self._timeout(request.headers)
                told = await self._entities.get_reminder(
                    key, arguments["name"], timeout_s=timeout_s
                )
                if told is None:
                    raise Problem("ERR_ACTOR_REMINDER_NOT_FOUND", "it has no such reminder")
                return Answer(200, (JSON_TYPE,), describe_reminder(told))
        return NOTHING

    def _admit(self, operation: Operation, headers: dict[bytes, bytes]) -> None:
        if self._token is not None and operation not in WITHOUT_TOKEN:
            shown = headers.get(TOKEN_HEADER.encode(), b"")
            if not hmac.compare_digest(shown, self._token):
                raise Problem("ERR_API_TOKEN", f"{TOKEN_HEADER} is missing or wrong")
        if self.phase is Phase.STOPPED:
            self.turned_away += 1
            raise Problem("ERR_DRAINING", "this sidecar is leaving")

    def _health(self) -> Answer:
        if self.phase is not Phase.SERVING:
            raise Problem("ERR_NOT_READY", "this sidecar is leaving")
        return NOTHING

    def _metadata(self) -> dict[str, Any]:
        entities = self._entities
        return {
            "id": self._name,
            "runtimeVersion": self._version,
            "actors": [
                {"type": type_, "count": entities.active_count(type_)}
                for type_ in entities.hosted()
            ],
            "extended": {},
        }

    async def _call(self, key: EntityKey, method: str, request: Request) -> Answer:
        body = await self._body(request)
        # Programs that decode a path before they route it would take it for a timer's turn.
        if "/" in method:
            raise malformed("a method's name has no slash")
        headers = request.headers
        argument = {"verb": request.verb, "headers": _passed_on(headers), "body": body}
        try:
            answer = await self._entities.call(
                key, method, argument, timeout_s=self._timeout(headers)
            )
        except NoSuchEntityType as error:
            if self._app is None or self._app.up:
                raise
            if key.type in self._app.known:
                text = "the program is down; nothing ran"
                raise Problem("ERR_ACTOR_UNAVAILABLE", text) from error
            text = f"{error}; the program of this sidecar is not there, and may have it"
            raise Problem("ERR_ACTOR_TYPE_NOT_FOUND", text) from error
        match answer:
            case {"status": int(status), "headers": Mapping() as told, "body": bytes() as content}:
                if not (200 <= status < 300 or 400 <= status <= 500):
                    raise Problem("ERR_ACTOR_HOST_FAILED", f"the answer has the status {status}")
                return Answer(status, _of_answer(told), content)
        return _json(answer)

    def _timeout(self, headers: dict[bytes, bytes]) -> float:
        told = headers.get(TIMEOUT_HEADER.encode())
        if told is None:
            return self._timeout_s
        if not told.isdigit() or len(told) > 12 or not 0 < int(told) <= LONGEST_TIMEOUT_MS:
            raise malformed(f"{TIMEOUT_HEADER} is milliseconds, from 1 to {LONGEST_TIMEOUT_MS}")
        return int(told) / 1000

    def _active(self, key: EntityKey) -> Active:
        active = self._entities.active(key)
        if active is None:
            raise Problem(
                "ERR_ACTOR_NOT_ACTIVE",
                f"{key} is not active behind this sidecar; its state and timers are its turns' "
                "own, so ask while one runs, at the sidecar of its program",
            )
        return active

    async def _change(self, key: EntityKey, body: bytes) -> None:
        changes = read_changes(body)
        active = self._active(key)
        if not changes.values:
            return
        await active.write(changes.values, changes.ttl_s)

    # -- bodies -------------------------------------------------------------------------------

    async def _body(self, request: Request) -> bytes:
        try:
            return await request.read_body(self._max_body_bytes)
        except BodyTooLarge:
            text = f"a body has {self._max_body_bytes} bytes at most (--max-body)"
            raise Problem("ERR_BODY_TOO_LARGE", text) from None
        except BodyCutShort as error:
            raise malformed(str(error)) from None


def _passed_on(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """What of a request's headers travels with the call."""
    return {
        text: value.decode("latin-1")
        for name, value in headers.items()
        if (text := name.decode("latin-1")) not in _KEPT_BACK
    }


def _of_answer(told: Mapping[Any, Any]) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of an answer, which another node sent: only what can be sent on."""
    return tuple(
        (name.encode(), sent)
        for name, value in told.items()
        if isinstance(name, str)
        and isinstance(value, str)
        and _HEADER_NAME.match(name)
        and _HEADER_VALUE.match(sent := value.encode("latin-1", "replace"))
        and name.lower() not in HOP_BY_HOP
    )


def _json(value: Any) -> Answer:
    try:
        return Answer(200, (JSON_TYPE,), write_json(value))
    except (TypeError, ValueError):
        text = "the entity's answer is nothing that JSON can say"
        raise Problem("ERR_ACTOR_INVOKE_METHOD", text) from None


def _told(problem: Problem) -> Answer:
    headers = tuple((name.encode(), value.encode()) for name, value in problem.headers)
    return Answer(STATUS_OF[problem.code], (JSON_TYPE, *headers), problem.body)
