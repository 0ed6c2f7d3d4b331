"""A shopping cart behind the sidecar, in Python, by Dapr's SDK as it is.

    pip install -r requirements.txt 'steinadler[sidecar]'    # in a clone: '../..[sidecar]'
    steinadler sidecar --app-port 3000          # in a second terminal
    python cart.py

and in a third:

    curl localhost:3500/v1.0/actors/Cart/42/method/add --json '{"item": "nut", "count": 2}'
    curl localhost:3500/v1.0/actors/Cart/42/method/show
    python client.py 42 bolt

A second pair on this machine takes half of the carts, and all of them when the first one is killed:

    steinadler sidecar --app-port 3001 --http-port 3501
    APP_PORT=3001 DAPR_HTTP_PORT=3501 python cart.py

What the cart holds is in the sidecar's store and not in here, so any of them may be killed.  A cart
that nobody touches for ABANDONED_S seconds (60) is emptied, by whichever program has it by then.

Ids with a slash (%2F) are not for FastAPI: it answers them with 404 before the SDK sees them.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import uvicorn
from dapr.actor import Actor, ActorInterface, Remindable, actormethod
from dapr.clients.exceptions import DaprInternalError
from dapr.ext.fastapi import DaprActor
from fastapi import FastAPI

ABANDONED = timedelta(seconds=float(os.environ.get("ABANDONED_S", "60")))


class CartInterface(ActorInterface):
    """What can be called, and by which names."""

    @actormethod(name="add")
    async def add(self, order: object) -> object: ...

    @actormethod(name="show")
    async def show(self) -> object: ...


class Cart(Actor, CartInterface, Remindable):
    """What somebody means to buy.  One call at a time, so nothing in here needs a lock."""

    async def add(self, order: object) -> object:
        """Add `{"item": text, "count": number}`, and tell how many things there are in all."""
        match order:
            case {"item": str(item), **more}:
                count = more.get("count", 1)
            case _:
                raise refused('say which item: {"item": "nut"}')
        if not isinstance(count, int) or count < 1:
            raise refused("a cart holds whole things")
        items = await self._get("items", {})
        items[item] = items.get(item, 0) + count
        await self._state_manager.set_state("items", items)
        # Set anew, it is due anew: the last one to touch the cart counts.
        await self.register_reminder("abandoned", b"", ABANDONED)
        return {"total": sum(items.values())}

    async def show(self) -> object:
        """What is in it, and how often it was emptied."""
        return {"items": await self._get("items", {}), "emptied": await self._get("emptied", 0)}

    async def receive_reminder(
        self,
        name: str,
        state: bytes,
        due_time: timedelta,
        period: timedelta | None = None,
        ttl: timedelta | None = None,
    ) -> None:
        """Nobody has touched it: empty it."""
        await self._state_manager.set_state("items", {})
        await self._state_manager.set_state("emptied", await self._get("emptied", 0) + 1)

    async def _get(self, key: str, default: Any) -> Any:
        found, value = await self._state_manager.try_get_state(key)
        return value if found else default


def refused(why: str) -> DaprInternalError:
    """The SDK answers 500 with this code and text, and the sidecar passes that on."""
    return DaprInternalError(why, error_code="BAD_ORDER")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await DaprActor(app).register_actor(Cart)
    yield


app = FastAPI(lifespan=lifespan)

if __name__ == "__main__":
    port = int(os.environ.get("APP_PORT", "3000"))
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False)
