"""grpc.aio's side: an insecure channel, unary calls, and one client stream per sender."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from benchmarks.measuring import Counter, Job, Ready, announce, main, wait_for_end

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
CALL, STREAM, CONTROL = (f"/bench.Bench/{name}" for name in ("Call", "Stream", "Control"))


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Without protocol buffers: the messages are bytes, which costs gRPC nothing more."""

    def __init__(self) -> None:
        self._counter = Counter()

    def service(self, details: Any) -> Any:
        match details.method:
            case "/bench.Bench/Call":
                return grpc.unary_unary_rpc_method_handler(self._call)
            case "/bench.Bench/Stream":
                return grpc.stream_unary_rpc_method_handler(self._stream)
            case _:
                return grpc.unary_unary_rpc_method_handler(self._control)

    async def _call(self, request: bytes, _: Any) -> bytes:
        return request

    async def _stream(self, requests: Any, _: Any) -> bytes:
        async for request in requests:
            self._counter.add(request)
        return b""

    async def _control(self, request: bytes, _: Any) -> bytes:
        wanted = json.loads(request)
        if wanted is None:
            self._counter.reset()
            return b"null"
        while (took := self._counter.took(wanted)) < 0:  # noqa: ASYNC110 (an event costs each message)
            await asyncio.sleep(0.01)
        return json.dumps(took).encode()


async def serve(_: Path) -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    announce(port=port)
    await asyncio.to_thread(wait_for_end)
    await server.stop(0)


class Client:
    """`Side` on one channel; each task that sends has a stream of its own."""

    def __init__(self, channel: grpc.aio.Channel, server_pid: int) -> None:
        self.server_pid = server_pid
        self._call = channel.unary_unary(CALL)
        self._control = channel.unary_unary(CONTROL)
        self._open = channel.stream_unary(STREAM)
        self._streams: dict[asyncio.Task[Any] | None, Any] = {}

    async def call(self, payload: bytes) -> object:
        return await self._call(payload)

    async def send(self, payload: bytes) -> None:
        task = asyncio.current_task()
        stream = self._streams.get(task)
        if stream is None:
            stream = self._streams[task] = self._open()
        await stream.write(payload)

    async def reset(self) -> None:
        await self._control(b"null")

    async def received(self, count: int) -> float:
        for stream in self._streams.values():
            await stream.done_writing()
        return float(json.loads(await self._control(json.dumps(count).encode())))

    async def together(self, *jobs: Job) -> None:
        await asyncio.gather(*(job() for job in jobs))


@asynccontextmanager
async def connect(ready: Ready) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ready['port']}", options=OPTIONS) as channel:
        yield Client(channel, ready["pid"])


if __name__ == "__main__":
    main(lambda function, *args: asyncio.run(function(*args)), serve, connect)
