"""The link to the program: is it up, and which types of entities does it have.

    nobody there --(GET /dapr/config answers)--> up --(/healthz fails)--> down --> nobody there

Either side may start and restart in any order.  The types that the program names are hosted while
it is up; while it is down they stay hosted for `APP_PATIENCE_S`, since most programs that go away
come back, and turns wait for it so long; then other nodes may have them.  When it is back its
configuration is read again: it may be another version.  So it is when it has restarted between two
looks, which `AppClient.life` tells.
"""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from steinadler.entity.behaviour import Behaviour
from steinadler.errors import ConfigError
from steinadler.sidecar.app_client import AppBroke, AppClient, AppDown, AppError
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

    def host(self, type: str, behaviour: Behaviour) -> None: ...
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
        # Whether it is there; what it said last that it hosts; and whether turns may wait for it
        # when it is not there.
        self.up = False
        self.known: frozenset[str] = frozenset()
        self.patient = True

    def seems_down(self) -> None:
        """A turn found nobody, or was hung up on: look now, and not at the next interval."""
        self._look.set()

    async def run(self) -> None:
        """Follow the program until cancelled."""
        while True:
            patience_ends = trio.current_time() + APP_PATIENCE_S
            life = self._app.life
            while (types := await self._read_config()) is None:
                self.up = False
                if self._hosted and trio.current_time() >= patience_ends:
                    await self._host({})
                await trio.sleep(SEARCH_INTERVAL_S)
                life = self._app.life
            self.known = frozenset(types)
            self.up = True
            await self._host(types)
            logger.info("the program is up, with %s", ", ".join(types) or "no entities")
            await self._watch(life)

    async def _read_config(self) -> dict[str, TypeSettings] | None:
        """What the program says it hosts; None when it is not there, or makes no sense."""
        try:
            with trio.fail_after(HEALTH_LIMIT_S):
                answer = await self._app.request("GET", "/dapr/config")
            if answer.status in (204, 404):
                return {}
            if answer.status != 200:
                raise ConfigError(f"/dapr/config answered with status {answer.status}")
            types = read_config(answer.body)
        except (AppError, ConfigError, trio.TooSlowError) as error:
            why = str(error) or "it does not answer /dapr/config"
            if self._told != why:
                self._told = why
                logger.warning("waiting for the program: %s", why)
            return None
        self._told = None
        return types

    async def _host(self, types: dict[str, TypeSettings]) -> None:
        gone = [type_ for type_ in self._hosted if type_ not in types]
        for type_, settings in types.items():
            known = self._hosted.get(type_)
            if known is not None:
                known.settings = settings
                continue
            behaviour = HttpBehaviour(self._app, self, self._observer, settings)
            self._hosted[type_] = behaviour
            self._entities.host(type_, behaviour)
        if gone:
            for type_ in gone:
                del self._hosted[type_]
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
        self.up = False
        self._app.close()
        logger.warning("the program is down")
