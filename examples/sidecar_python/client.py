"""Puts a thing into a cart, through any sidecar: `python client.py CART ITEM [COUNT]`.

    DAPR_HTTP_PORT=3501 python client.py 42 bolt 3

The cart may live behind another sidecar, and may be written in another language: cart.js next door
has the same methods.
"""

from __future__ import annotations

import asyncio
import sys

from cart import CartInterface
from dapr.actor import ActorId, ActorProxy
from dapr.clients.exceptions import DaprHttpError


async def main(cart_id: str, item: str, count: str = "1") -> None:
    """Add, and show what there is."""
    cart = ActorProxy.create("Cart", ActorId(cart_id), CartInterface)
    try:
        await cart.add({"item": item, "count": int(count)})
    except DaprHttpError as error:
        sys.exit(f"refused: {error}")
    print(await cart.show())


asyncio.run(main(*sys.argv[1:]))
