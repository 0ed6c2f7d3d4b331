"""The program behind each sidecar of `benchmarks.handover`: counters, and no more HTTP than needed.

    python -m benchmarks.handover_app NAME APP_PORT SIDECAR_PORT

A counter's turn writes the new count through the sidecar and answers `{"count": n, "at": NAME}`.
Like the SDKs it keeps the state of an active entity in memory, and forgets it when the entity is
deactivated or a write is refused.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import h11
import trio

from steinadler.sidecar.app_client import AppClient, tcp

TYPE = "Counter"
_JSON = ("content-type", "application/json")
_MAX_BODY_BYTES = 1 << 20


class Program:
    """Answers the sidecar's requests."""

    def __init__(self, name: str, sidecar: AppClient) -> None:
        self._name = name
        self._sidecar = sidecar
        self._counts: dict[str, int] = {}

    async def answer(self, verb: str, path: str) -> tuple[int, bytes]:
        match verb, path.split("/")[1:]:
            case "GET", ["healthz"]:
                return 200, b""
            case "GET", ["dapr", "config"]:
                return 200, json.dumps({"entities": [TYPE]}).encode()
            case "DELETE", ["actors", _, id_]:
                self._counts.pop(id_, None)
                return 200, b""
            case "PUT", ["actors", _, id_, "method", "add"]:
                return await self._add(id_)
            case "PUT", ["actors", _, id_, "method", "get"]:
                return await self._told(id_)
        return 404, b""

    async def _add(self, id_: str) -> tuple[int, bytes]:
        status = await self._load(id_)
        if status is None:
            count = self._counts[id_] + 1
            change = [{"operation": "upsert", "request": {"key": "count", "value": count}}]
            written = await self._sidecar.request(
                "POST", f"/v1.0/actors/{TYPE}/{id_}/state", [_JSON], json.dumps(change).encode()
            )
            if written.status != 204:
                self._counts.pop(id_, None)
                return 500, written.body
            self._counts[id_] = count
        return await self._told(id_)

    async def _told(self, id_: str) -> tuple[int, bytes]:
        failed = await self._load(id_)
        if failed is not None:
            return 500, failed
        return 200, json.dumps({"count": self._counts[id_], "at": self._name}).encode()

    async def _load(self, id_: str) -> bytes | None:
        """Read the count unless it is known; what the sidecar answered when that failed."""
        if id_ not in self._counts:
            read = await self._sidecar.request("GET", f"/v1.0/actors/{TYPE}/{id_}/state/count")
            if read.status not in (200, 204):
                return read.body
            self._counts[id_] = int(read.body or b"0")
        return None


async def _handle(program: Program, stream: trio.SocketStream) -> None:
    protocol = h11.Connection(h11.SERVER)
    request: h11.Request | None = None
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            try:
                data = await stream.receive_some()
            except trio.BrokenResourceError:
                return
            if not data:
                return
            protocol.receive_data(data)
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            status, body = await program.answer(request.method.decode(), request.target.decode())
            headers = [("content-length", str(len(body))), _JSON]
            out = protocol.send(h11.Response(status_code=status, headers=headers)) or b""
            out += protocol.send(h11.Data(data=body)) or b""
            out += protocol.send(h11.EndOfMessage()) or b""
            try:
                await stream.send_all(out)
            except trio.BrokenResourceError:
                return
            protocol.start_next_cycle()


async def main(name: str, app_port: int, sidecar_port: int) -> None:
    """Serve until killed."""
    where = f"127.0.0.1:{sidecar_port}"
    sidecar = AppClient(tcp("127.0.0.1", sidecar_port), where, max_body_bytes=_MAX_BODY_BYTES)
    handle = partial(_handle, Program(name, sidecar))
    await trio.serve_tcp(handle, app_port, host="127.0.0.1")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
