"""The link to the program: is it up, and which types of entities does it have.

    nobody there --(GET /dapr/config answers)--> up --(/healthz fails)--> down --> nobody there

Either side may start and restart in any order.  The types that the program names are hosted while
it is up; while it is down they stay hosted for `APP_PATIENCE_S`, since most programs that go away
come back, and turns wait for it so long; then other nodes may have them.  When it is back its
configuration is read again: it may be another version.  So it is when it has restarted between two
looks, which `AppClient.life` tells.  A configuration that cannot be hosted is as one that makes no
sense: none of its types is, and it is read again until it is another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

import trio

from steinadler.entity.behaviour import Behaviour
from steinadler.errors import ConfigError, NotAuthorized
from steinadler.sidecar.app_client import AppAnswer, AppBroke, AppClient, AppDown, AppError
from steinadler.sidecar.app_config import TypeSettings, read_config
from steinadler.sidecar.behaviour import APP_PATIENCE_S, HttpBehaviour, Observer

logger = logging.getLogger("steinadler.sidecar")

# How often to look, while the program is there and while it is not.
HEALTH_INTERVAL_S = 1.0
SEARCH_INTERVAL_S = 0.25
HEALTH_LIMIT_S = 5.0
# So many looks in a row must go unanswered, or be answered by 5xx: a busy program is not down.
MOST_FAILURES = 3


class Hosting(Protocol):
    """What the link asks of the node's entities."""

    def host_all(self, behaviours: Mapping[str, Behaviour]) -> None: ...
    async def stop_hosting(self, *types: str) -> None: ...


class AppLink:
    """Follows one program.  `run` must run."""

    def __init__(self, app: AppClient, entities: Hosting, observer: Observer) -> None:
        self._app = app
        self._entities = entities
        self._observer = observer
        self._hosted: dict[str, HttpBehaviour] = {}
        self._look = trio.Event()
        self._told: str | None = None
        self._up = False
        self._turned = trio.Event()
        # What it said last that it hosts; and whether turns may wait for it when it is not there.
        self.known: frozenset[str] = frozenset()
        self.patient = True

    @property
    def up(self) -> bool:
        """Whether the program is there."""
        return self._up

    async def wait(self, *, up: bool) -> None:
        """Wait until the program is there, or is not there."""
        while self._up is not up:
            await self._turned.wait()

    def seems_down(self) -> None:
        """A turn found nobody, or was hung up on: look now, and not at the next interval."""
        self._look.set()

    async def run(self) -> None:
        """Follow the program until cancelled."""
        while True:
            patience_ends = trio.current_time() + APP_PATIENCE_S
            life = self._app.life
            while (types := await self._begin()) is None:
                self._turn(up=False)
                if trio.current_time() >= patience_ends:
                    await self._give_up(tuple(self._hosted))
                await trio.sleep(SEARCH_INTERVAL_S)
                life = self._app.life
            self.known = frozenset(types)
            self._turn(up=True)
            await self._give_up([type_ for type_ in self._hosted if type_ not in types])
            logger.info("the program is up, with %s", ", ".join(types) or "no entities")
            await self._watch(life)

    def _turn(self, *, up: bool) -> None:
        if self._up is not up:
            self._up = up
            self._turned.set()
            self._turned = trio.Event()

    async def _begin(self) -> dict[str, TypeSettings] | None:
        """Host what the program says that it has; None when it is not there, or makes no sense."""
        try:
            with trio.fail_after(HEALTH_LIMIT_S):
                answer = await self._app.request("GET", "/dapr/config")
            types = _types(answer)
            self._host(types)
        except (AppError, ConfigError, NotAuthorized, trio.TooSlowError) as error:
            why = str(error) or "it does not answer /dapr/config"
            if self._told != why:
                self._told = why
                logger.warning("waiting for the program: %s", why)
            return None
        self._told = None
        return types

    def _host(self, types: dict[str, TypeSettings]) -> None:
        new = {
            type_: HttpBehaviour(self._app, self, self._observer, settings)
            for type_, settings in types.items()
            if type_ not in self._hosted
        }
        if new:
            self._entities.host_all(new)
        for type_, behaviour in self._hosted.items():
            behaviour.settings = types.get(type_, behaviour.settings)
        self._hosted.update(new)

    async def _give_up(self, types: Iterable[str]) -> None:
        gone = [type_ for type_ in types if self._hosted.pop(type_, None) is not None]
        if gone:
            await self._entities.stop_hosting(*gone)

    async def _watch(self, life: int) -> None:
        """Return when the program is down, or has begun another life."""
        failures = 0
        while failures < MOST_FAILURES:
            self._look = trio.Event()
            with trio.move_on_after(HEALTH_INTERVAL_S):
                await self._look.wait()
            try:
                with trio.fail_after(HEALTH_LIMIT_S):
                    answer = await self._app.request("GET", "/healthz")
                failures = failures + 1 if answer.status >= 500 else 0
            except AppDown:
                break
            except (AppBroke, trio.TooSlowError):
                failures += 1
            if failures == 0 and self._app.life != life:
                logger.warning("the program was started anew")
                return
        self._turn(up=False)
        self._app.close()
        logger.warning("the program is down")


def _types(answer: AppAnswer) -> dict[str, TypeSettings]:
    """What an answer to /dapr/config says that the program has.  Raises `ConfigError`."""
    if answer.status in (204, 404):
        return {}
    if answer.status != 200:
        raise ConfigError(f"/dapr/config answered with status {answer.status}")
    return read_config(answer.body)
