"""Actors in Python, by the Dapr SDK as it is: `python counter_app.py PORT`.

Where the sidecar is, the SDK reads from DAPR_HTTP_PORT.  What is deactivated is noted in the file
NOTES.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import uvicorn
from dapr.actor import Actor, ActorId, ActorInterface, ActorProxy, Remindable, actormethod
from dapr.actor.runtime.config import ActorRuntimeConfig
from dapr.actor.runtime.runtime import ActorRuntime
from dapr.ext.fastapi import DaprActor
from fastapi import FastAPI

SOON, OFTEN = timedelta(milliseconds=100), timedelta(milliseconds=300)


class PyCounterInterface(ActorInterface):
    @actormethod(name="Add")
    async def add(self, amount: object) -> object: ...

    @actormethod(name="Get")
    async def get(self, key: object) -> object: ...

    @actormethod(name="Fail")
    async def fail(self) -> object: ...

    @actormethod(name="Timer")
    async def timer(self, on: object) -> object: ...

    @actormethod(name="Remind")
    async def remind(self, on: object) -> object: ...

    @actormethod(name="AddAt")
    async def add_at(self, id_: object) -> object: ...

    @actormethod(name="Forget")
    async def forget(self, key: object) -> object: ...


class PyCounter(Actor, PyCounterInterface, Remindable):
    async def add(self, amount: object) -> object:
        return await self._count("count", int(str(amount)))

    async def get(self, key: object) -> object:
        _, value = await self._state_manager.try_get_state(str(key))
        return value

    async def fail(self) -> object:
        raise ValueError("out of ink")

    async def timer(self, on: object) -> object:
        if on:
            await self.register_timer("tick", self.ticked, {"by": 2}, SOON, OFTEN)
        else:
            await self.unregister_timer("tick")
        return on

    async def ticked(self, data: Any) -> None:
        await self._count("ticks", data["by"])
        await self._state_manager.save_state()

    async def remind(self, on: object) -> object:
        if on:
            await self.register_reminder("wake", b"by three", SOON, OFTEN)
        else:
            await self.unregister_reminder("wake")
        return on

    async def receive_reminder(
        self, name: str, state: bytes, due_time: timedelta, period: timedelta, ttl: Any = None
    ) -> None:
        assert (name, state) == ("wake", b"by three")
        await self._count("reminded", 3)
        await self._state_manager.save_state()

    async def add_at(self, id_: object) -> object:
        other: Any = ActorProxy.create("PyCounter", ActorId(str(id_)), PyCounterInterface)
        return await other.Add(1)

    async def forget(self, key: object) -> object:
        return await self._state_manager.try_remove_state(str(key))

    async def _count(self, key: str, amount: int) -> int:
        _, value = await self._state_manager.try_get_state(key)
        total: int = (value or 0) + amount
        await self._state_manager.set_state(key, total)
        return total

    async def _on_deactivate(self) -> None:
        with open(os.environ["NOTES"], "a") as notes:  # noqa: ASYNC230
            notes.write(f"{self.id.id}\n")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await DaprActor(app).register_actor(PyCounter)
    yield


if __name__ == "__main__":
    ActorRuntime.set_actor_config(
        ActorRuntimeConfig(actor_idle_timeout=timedelta(seconds=float(os.environ["IDLE"])))
    )
    uvicorn.run(FastAPI(lifespan=lifespan), host="127.0.0.1", port=int(sys.argv[1]))
