"""`HttpBehaviour`: turns that a program behind the sidecar runs, each a PUT to it.

    PUT    /actors/{type}/{id}/method/{method}            a call
    PUT    /actors/{type}/{id}/method/timer/{name}        a timer is due
    PUT    /actors/{type}/{id}/method/remind/{name}       a reminder is due
    DELETE /actors/{type}/{id}                            the entity is deactivated

What the program answers is the answer: 2xx, 4xx and 500 go to the caller as they are, but for
404, an unknown method.  All else is the host's failure: a connection that breaks in the turn, an
answer that is no HTTP, a status that says nothing of the method (502, 503).

A turn whose caller has given up still runs, and the next one waits for it: the state's requests
do not say which turn they are of, so two at a time could not be told apart (E1).  Only after
`EntitySettings.turn_timeout_s` the host cancels it, which hangs up on the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import quote

import trio

from steinadler.entity.behaviour import Active, Behaviour, Kind, Turn
from steinadler.errors import (
    EntityError,
    EntityHostFailed,
    EntityUnavailable,
    NoSuchCommand,
)
from steinadler.identity import EntityKey
from steinadler.sidecar.app_client import (
    HOP_BY_HOP,
    AppAnew,
    AppAnswer,
    AppBroke,
    AppClient,
    AppDown,
)
from steinadler.sidecar.app_config import TypeSettings
from steinadler.sidecar.bodies import read_json, write_json
from steinadler.sidecar.problems import Problem

TIMEOUT_HEADER = "steinadler-timeout-ms"
TOKEN_HEADER = "dapr-api-token"
REENTRANCY_HEADER = "dapr-reentrancy-id"
# How long a turn waits for a program that is not there, which restarts maybe.
APP_PATIENCE_S = 10.0
DEACTIVATE_LIMIT_S = 5.0
# Between two attempts to reach a program that is not there.
_AGAIN_S = 0.1

# What a caller's request does not bring to the program: it is of the connection, or the sidecar's.
_KEPT_BACK = HOP_BY_HOP | {TIMEOUT_HEADER, TOKEN_HEADER, REENTRANCY_HEADER}
_JSON = ("content-type", "application/json")


class AppLife(Protocol):
    """What a turn asks of the link to the program."""

    @property
    def patient(self) -> bool:
        """Whether it makes sense to wait for a program that is not there."""

    def seems_down(self) -> None:
        """Nobody listened, or it hung up: look."""


class Observer(Protocol):
    """Who counts turns."""

    def turn(self, type: str, kind: Kind, outcome: str, seconds: float) -> None: ...


@dataclass(slots=True)
class Memory:
    """What is kept with an activation."""

    # The life of the program that knows of the entity: in another there is nothing to deactivate,
    # and no timer that it could know.
    life: int | None = None


class HttpBehaviour(Behaviour):
    """Runs the turns of one type of entity.  `settings` may be replaced at any time."""

    def __init__(
        self,
        app: AppClient,
        life: AppLife,
        observer: Observer,
        settings: TypeSettings,
    ) -> None:
        self._app = app
        self._life = life
        self._observer = observer
        self.settings = settings

    @property
    def settings(self) -> TypeSettings:
        return self._settings

    @settings.setter
    def settings(self, settings: TypeSettings) -> None:
        self._settings = settings
        self.idle_s = settings.idle_s
        self.drain_s = settings.drain_s if settings.drains else 0.0
        self.max_depth = settings.max_depth

    async def activate(self, entity: Active) -> None:
        entity.memory = Memory()

    def chain_of(self, turn: Turn) -> str | None:
        match turn.argument:
            case {"headers": Mapping() as headers}:
                chain = headers.get(REENTRANCY_HEADER)
                return chain if isinstance(chain, str) and chain else None
        return None

    async def run(self, entity: Active, turn: Turn) -> Any:
        """The answer is `{"status": int, "headers": {name: text}, "body": bytes}`."""
        path, headers, body = _request(entity.key, turn)
        if turn.deadline < trio.current_time() + 1e9:
            left_ms = max(1, round((turn.deadline - trio.current_time()) * 1000))
            headers.append((TIMEOUT_HEADER, str(left_ms)))
        if entity.chain is not None:
            headers.append((REENTRANCY_HEADER, entity.chain))
        began = trio.current_time()
        outcome = "cancelled"
        try:
            answer = await self._put(entity, turn, path, headers, body)
            outcome = "ok" if answer.status < 400 else "error"
            return _result(entity.key, turn, answer)
        except EntityError as error:
            outcome = _OUTCOMES.get(type(error), "failed")
            raise
        finally:
            seconds = trio.current_time() - began
            self._observer.turn(entity.key.type, turn.kind, outcome, seconds)

    async def _put(
        self,
        entity: Active,
        turn: Turn,
        path: str,
        headers: list[tuple[str, str]],
        body: bytes,
    ) -> AppAnswer:
        """Wait for a program that is not there, as long as nothing was sent."""
        memory: Memory = entity.memory
        # A caller whose time is up would not hear that nothing ran.
        now = trio.current_time()
        patience_ends = now + min(APP_PATIENCE_S, max(0.0, 0.9 * (turn.deadline - now)))
        while True:
            try:
                answer = await self._app.request("PUT", path, headers, body, life=memory.life)
            except AppAnew as error:
                memory.life = None
                entity.stop_timers()
                self._life.seems_down()
                if turn.kind is Kind.TIMER:
                    raise EntityUnavailable(f"{error}; its timers are gone") from error
                continue
            except AppDown as error:
                self._life.seems_down()
                if not self._life.patient or trio.current_time() >= patience_ends:
                    raise EntityUnavailable(f"{error}; nothing ran") from error
            except AppBroke as error:
                self._life.seems_down()
                raise EntityHostFailed(str(error)) from error
            except ValueError as error:
                raise NoSuchCommand(f"it cannot be sent to the program: {error}") from error
            else:
                memory.life = answer.life
                return answer
            await trio.sleep(min(_AGAIN_S, max(0.0, patience_ends - trio.current_time())))

    async def deactivate(self, entity: Active) -> None:
        memory: Memory | None = entity.memory
        # A program that never ran a turn of it, or was restarted, does not know it: and one that
        # uses @dapr/dapr 3 dies of being told.
        if memory is None or memory.life is None:
            return
        entity.memory = None
        with trio.move_on_after(DEACTIVATE_LIMIT_S):
            try:
                answer = await self._app.request("DELETE", _path(entity.key), life=memory.life)
            except AppDown:
                return
            except AppBroke as error:
                raise EntityHostFailed(str(error)) from error
            if answer.status >= 300 and answer.status != HTTPStatus.NOT_FOUND:
                raise EntityHostFailed(f"deactivating {entity.key}: status {answer.status}")


_OUTCOMES: dict[type[EntityError], str] = {
    NoSuchCommand: "no_such_method",
    EntityUnavailable: "unavailable",
}


def _path(key: EntityKey) -> str:
    return f"/actors/{quote(key.type, safe='')}/{quote(key.id, safe='')}"


def _request(key: EntityKey, turn: Turn) -> tuple[str, list[tuple[str, str]], bytes]:
    """Path, headers and body of the PUT that runs a turn."""
    method = quote(turn.method, safe="")
    match turn.kind, turn.argument:
        case Kind.CALL, {"headers": Mapping() as told, "body": bytes() as body}:
            headers = [
                (name, value)
                for name, value in told.items()
                if isinstance(name, str)
                and isinstance(value, str)
                and name.isascii()
                and name.lower() not in _KEPT_BACK
            ]
            return f"{_path(key)}/method/{method}", headers, body
        case Kind.CALL, tuple() | list() as arguments:  # by `Node.entity(...).call`
            try:
                body = write_json(arguments[0] if len(arguments) == 1 else list(arguments))
            except (TypeError, ValueError, RecursionError) as error:
                raise NoSuchCommand(f"{key.type} takes what JSON can say: {error}") from None
            return f"{_path(key)}/method/{method}", [_JSON], body if arguments else b""
        case Kind.TIMER, bytes() as body:
            return f"{_path(key)}/method/timer/{method}", [_JSON], body
        case Kind.REMINDER, bytes() as body:
            return f"{_path(key)}/method/remind/{method}", [_JSON], body
    raise NoSuchCommand(f"{key.type} lives behind a sidecar, and this is no request to one")


def _result(key: EntityKey, turn: Turn, answer: AppAnswer) -> Any:
    status = answer.status
    if status == HTTPStatus.NOT_FOUND:
        raise NoSuchCommand(f"{key.type} has no method {turn.method!r}")
    if not (200 <= status < 300 or 400 <= status <= 500):
        raise EntityHostFailed(f"the program answered with status {status}")
    if isinstance(turn.argument, (tuple, list)):
        return _plain(key, answer)
    return {"status": status, "headers": dict(answer.headers), "body": answer.body}


def _plain(key: EntityKey, answer: AppAnswer) -> Any:
    """What a Python caller gets: the JSON that the program answered, or its bytes."""
    if answer.status >= 400:
        text = answer.body[:1000].decode(errors="replace")
        raise RuntimeError(f"{key} answered with status {answer.status}: {text}")
    if not answer.body:
        return None
    try:
        return read_json(answer.body)
    except Problem:
        return answer.body
