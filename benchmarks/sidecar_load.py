"""The ends of the sidecar's benchmark: a program that answers, and whoever calls.  Each is one loop
over non-blocking sockets and reads no more of HTTP than it must, so that it takes little of the CPU
that the sidecars are measured on.

    python -m benchmarks.sidecar_load        serves until it is killed, and says {"port": ...}

Messages have a Content-Length, as those of the sidecar do.
"""

from __future__ import annotations

import json
import select
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

from benchmarks.running import RunFailed

BODY = b'"' + b"x" * 1022 + b'"'
_RECEIVE_BYTES = 64 * 1024
# What is still waited for after the last call was due.
_PATIENCE_S = 10.0


def wait_until(condition: Callable[[], object], limit_s: float) -> None:
    """Raises `RunFailed` when it does not come true in time."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise RunFailed("the sidecars did not find each other")
        time.sleep(0.02)


def _whole(data: bytes) -> tuple[bytes, bytes] | None:
    """Head and body of the message that `data` begins with, when all of it is there."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return None
    length = 0
    for line in head.split(b"\r\n")[1:]:
        if line[:15].lower() == b"content-length:":
            length = int(line[15:])
    return (head, body[:length]) if len(body) >= length else None


# -- the program ----------------------------------------------------------------------------------


def _answer(head: bytes, body: bytes) -> bytes:
    if head.startswith(b"GET /dapr/config "):
        body = json.dumps({"entities": ["Cart"]}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def serve(listener: socket.socket) -> None:
    """Answer every request with its body, for ever."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(accepted, selectors.EVENT_READ, bytearray())
                continue
            sock, kept = key.fileobj, key.data
            assert isinstance(sock, socket.socket)
            try:
                data = sock.recv(_RECEIVE_BYTES)
            except OSError:
                data = b""
            if not data:
                selector.unregister(sock)
                sock.close()
                continue
            kept += data
            if (message := _whole(bytes(kept))) is not None:
                kept.clear()
                sock.sendall(_answer(*message))


def _main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    serve(listener)


# -- whoever calls --------------------------------------------------------------------------------


class Load:
    """Calls at fixed times, on connections that are kept; as many as there are calls under way.

    `failed` counts answers other than 200 with the body that was sent.
    """

    def __init__(self, port: int, verb: bytes, paths: Sequence[bytes]) -> None:
        self._port = port
        self._requests = [
            b"%b %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (verb, path, port, len(BODY), BODY)
            for path in paths
        ]
        self._selector = selectors.EpollSelector()
        self._idle: list[socket.socket] = []
        # When the call that each connection carries was due, and what has come of its answer.
        self._under_way: dict[socket.socket, tuple[float, bytearray]] = {}
        self._waits: list[float] = []
        self.failed = 0

    def run(self, rate: float, seconds: float) -> list[float]:
        """Make calls for so long; how long each took, in seconds from when it was due."""
        start = time.perf_counter() + 0.01
        due = deque(start + number / rate for number in range(int(rate * seconds)))
        made = 0
        give_up_at = start + seconds + _PATIENCE_S
        while due or self._under_way:
            now = time.perf_counter()
            while due and due[0] <= now:
                self._send(due.popleft(), self._requests[made % len(self._requests)])
                made += 1
            if now > give_up_at:
                raise RunFailed(f"{len(self._under_way)} calls were never answered")
            until = due[0] if due else give_up_at
            # Its own time limit is in whole milliseconds, which would be counted as waiting.
            select.select([self._selector], [], [], max(0.0, until - time.perf_counter()))
            for key, _ in self._selector.select(0):
                assert isinstance(key.fileobj, socket.socket)
                self._receive(key.fileobj)
        return self._waits

    def _send(self, due: float, request: bytes) -> None:
        if self._idle:
            sock = self._idle.pop()
        else:
            sock = socket.create_connection(("127.0.0.1", self._port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(sock, selectors.EVENT_READ)
        self._under_way[sock] = (due, bytearray())
        sock.sendall(request)

    def _receive(self, sock: socket.socket) -> None:
        due, kept = self._under_way[sock]
        data = sock.recv(_RECEIVE_BYTES)
        if not data:
            raise RunFailed("a connection was closed in the middle of a call")
        kept += data
        message = _whole(bytes(kept))
        if message is not None:
            self._waits.append(time.perf_counter() - due)
            head, body = message
            self.failed += not (head.startswith(b"HTTP/1.1 200") and body == BODY)
            del self._under_way[sock]
            self._idle.append(sock)

    def close(self) -> None:
        """Close every connection."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


if __name__ == "__main__":
    _main()
