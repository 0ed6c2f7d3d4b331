"""Callers of counters behind several sidecars, as a client behind a load balancer calls.

A call goes to the next sidecar in turn of those that are up.  What is answered `503` with
`Retry-After`, and what could not be sent at all (the connection was refused), did not run: it goes
to the next sidecar at once, and counts as *turned away*, not as failed.  A sidecar that turned
somebody away gets no calls until its `/v1.0/healthz` says 204 again.  All else that is not 200 is a
failed call; the ones after which the turn may have run (E3) are counted by entity, so that the
stored counts can be checked in the end.

The loop is open: calls are due at fixed times, and a call's time counts from then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import trio

from steinadler.sidecar.app_client import AppAnswer, AppBroke, AppClient, AppDown, tcp

HEALTH_INTERVAL_S = 0.1
# How long a call waits while no sidecar is up, and for its answer.
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Done:
    """One call that was answered with a count: when it was due and answered, and by whom."""

    id: str
    due_at: float
    ended_at: float
    at: str


@dataclass(frozen=True, slots=True)
class Failure:
    """One call that failed: through which sidecar, and how."""

    id: str
    through: str | None
    why: str


class Sidecars:
    """The sidecars that callers know of, by name: up, or not just now."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.clients = {
            name: AppClient(tcp("127.0.0.1", port), f"127.0.0.1:{port}", max_body_bytes=1 << 20)
            for name, port in ports.items()
        }
        self.up = list(ports)
        self._turn = 0

    def next(self) -> str | None:
        """The next one in turn."""
        self._turn += 1
        return self.up[self._turn % len(self.up)] if self.up else None

    def turned_away(self, name: str) -> None:
        if name in self.up:
            self.up.remove(name)

    async def watch(self) -> None:
        """Notice those that are up again."""
        while True:
            for name, client in self.clients.items():
                if name not in self.up and await _healthy(client):
                    self.up.append(name)
            await trio.sleep(HEALTH_INTERVAL_S)

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


async def _healthy(client: AppClient) -> bool:
    with trio.move_on_after(1):
        try:
            return (await client.request("GET", "/v1.0/healthz")).status == 204
        except (AppDown, AppBroke):
            pass
    return False


class Load:
    """Adds to counters at a steady rate, and keeps what became of each call."""

    def __init__(self, sidecars: Sidecars, ids: list[str]) -> None:
        self.sidecars = sidecars
        self.ids = ids
        self.done: list[Done] = []
        self.failures: list[Failure] = []
        self.turned_away = 0
        self.acknowledged: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self._stopped = False
        self.ended = trio.Event()

    async def run(self, rate: float) -> None:
        """Call until `stop`, and set `ended` when all is answered."""
        due_at = trio.current_time()
        number = 0
        async with trio.open_nursery() as nursery:
            while not self._stopped:
                nursery.start_soon(self.call, self.ids[number % len(self.ids)], due_at)
                number += 1
                due_at += 1 / rate
                await trio.sleep_until(due_at)
        self.ended.set()

    def stop(self) -> None:
        """No more calls."""
        self._stopped = True

    async def call(
        self, id_: str, due_at: float, only: Callable[[], str | None] | None = None
    ) -> Done | None:
        """One call; None when it failed."""
        with trio.move_on_after(PATIENCE_S):
            return await self._call(id_, due_at, only or self.sidecars.next)
        self._failed(id_, None, f"no answer within {PATIENCE_S:g} s")
        return None

    async def _call(self, id_: str, due_at: float, choose: Callable[[], str | None]) -> Done | None:
        while True:
            name = choose()
            if name is None:
                await trio.sleep(HEALTH_INTERVAL_S)
                continue
            client = self.sidecars.clients[name]
            try:
                answer = await client.request("POST", f"/v1.0/actors/Counter/{id_}/method/add")
            except AppDown:
                self._move_on(name)
                continue
            except AppBroke as error:
                self.sidecars.turned_away(name)
                self._failed(id_, name, str(error))
                return None
            if answer.status == 200:
                done = Done(id_, due_at, trio.current_time(), json.loads(answer.body)["at"])
                self.done.append(done)
                self.acknowledged[id_] += 1
                return done
            if answer.status == 503 and _header(answer, "retry-after"):
                self._move_on(name)
                continue
            text = f"{answer.status} {answer.body[:200].decode(errors='replace')}"
            self._failed(id_, name, text)
            return None

    def _move_on(self, name: str) -> None:
        self.turned_away += 1
        self.sidecars.turned_away(name)

    def _failed(self, id_: str, through: str | None, why: str) -> None:
        self.failures.append(Failure(id_, through, why))
        self.unknown[id_] += 1

    async def miscounted(self) -> list[str]:
        """Counters that hold less than was acknowledged, or more than may have run (E2, E3)."""
        wrong = []
        for id_ in self.ids:
            client = self.sidecars.clients[self.sidecars.next() or ""]
            answer = await client.request("POST", f"/v1.0/actors/Counter/{id_}/method/get")
            stored = json.loads(answer.body)["count"]
            least = self.acknowledged[id_]
            if not least <= stored <= least + self.unknown[id_]:
                wrong.append(f"{id_}: {least} acknowledged, {self.unknown[id_]} unknown, {stored}")
        return wrong


def _header(answer: AppAnswer, name: str) -> str | None:
    return next((value for key, value in answer.headers if key == name), None)
