"""A handler as an ASGI application, for Hypercorn's connections: HTTP/2 comes by this way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from steinadler.sidecar.exchange import (
    Answer,
    BodyCutShort,
    BodyTooLarge,
    Handler,
    Request,
    declared_length,
    joined,
)
from steinadler.sidecar.http1 import LINGER_S

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def application(handler: Handler) -> Application:
    """Make one of a handler."""

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        headers = joined(scope["headers"])
        refused = False

        async def read_body(limit: int) -> bytes:
            nonlocal refused
            try:
                return await _read_body(receive, declared_length(headers), limit)
            except BodyTooLarge:
                refused = True
                raise

        told = await handler(Request(scope["method"], scope["raw_path"], headers, read_body))
        if refused:
            await _send_and_drain(told, receive, send)
        else:
            await _send(told, send)

    return answer


async def _read_body(receive: Receive, declared: int, limit: int) -> bytes:
    if declared > limit:
        raise BodyTooLarge
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyCutShort("the connection closed before the body ended")
        parts += message.get("body", b"")
        if len(parts) > limit:
            raise BodyTooLarge
        if not message.get("more_body"):
            return bytes(parts)


async def _send(answer: Answer, send: Send) -> None:
    headers = list(answer.headers)
    body = b"" if answer.status == 204 else answer.body
    if answer.status != 204:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_and_drain(answer: Answer, receive: Receive, send: Send) -> None:
    """Answer while the body still comes: for a while before, since a client that has not sent all
    may not read yet, and during it, since the server waits for somebody to take what came."""

    async def drain() -> None:
        while (await receive()).get("more_body"):
            pass

    with trio.move_on_after(LINGER_S):
        await drain()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await _send(answer, send)
        nursery.cancel_scope.cancel()
