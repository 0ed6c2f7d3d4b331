"""What `steinadler forward` and `steinadler expose` cost a program that uses them unawares.

    client --TCP--> forward === mutual TLS === expose --TCP--> service
    client ------------------ TCP, or TLS -------------------> service

The commands run as anybody would run them, each in a process of its own.  The services are here:

    python -m benchmarks.stream_proxy echo FOLDER       a bare loop on blocking sockets
    python -m benchmarks.stream_proxy http FOLDER       GET /N has N bytes; over TCP and over TLS

The HTTP server is the same for both ways, on Trio's streams, `trio.SSLStream` where it serves TLS
itself: so the ratio tells what the way costs, and not what another server would.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks.measuring import Figures, announce, cpu_seconds, spread, wait_for_end
from benchmarks.running import Program, RunFailed, environment, started
from benchmarks.stream_sides import CHUNK_BYTES, contexts

WARM_UP_ECHOES = 200


# -- the services ---------------------------------------------------------------------------------


def serve_echo() -> None:
    """A thread for each connection, until standard input closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=give_back, args=(sock,), daemon=True).start()

    def give_back(sock: socket.socket) -> None:
        while data := sock.recv(CHUNK_BYTES):
            sock.sendall(data)

    threading.Thread(target=accept, daemon=True).start()
    announce(port=listener.getsockname()[1])
    wait_for_end()


async def answer(stream: trio.abc.Stream) -> None:
    """One request for so many bytes."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some(CHUNK_BYTES)
    left = int(head.split(b" ", 2)[1][1:])
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % left)
    chunk = os.urandom(CHUNK_BYTES)
    while left >= CHUNK_BYTES:
        await stream.send_all(chunk)
        left -= CHUNK_BYTES
    await stream.send_all(chunk[:left])
    await stream.aclose()


async def serve_http(folder: Path) -> None:
    context = contexts(folder)[0]
    context.verify_mode = ssl.CERT_NONE  # curl shows no certificate
    (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (tls,) = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [plain])
        nursery.start_soon(trio.serve_listeners, answer, [tls])
        announce(
            port=plain.socket.getsockname()[1],
            tls_port=tls.transport_listener.socket.getsockname()[1],  # type: ignore[attr-defined]
        )
        await trio.to_thread.run_sync(wait_for_end)
        nursery.cancel_scope.cancel()


# -- the way through ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """A service, directly and through both commands."""

    service: Program
    relays: tuple[Program, ...]
    port: int

    def relay_cpu(self) -> float:
        return sum(cpu_seconds(relay.pid) for relay in self.relays)


@contextlib.contextmanager
def through(kind: str) -> Iterator[Way]:
    """A service of that kind, exposed and forwarded."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="steinadler-bench-"))
        variables = environment(Path(folder))
        service = stack.enter_context(
            started([sys.executable, "-m", "benchmarks.stream_proxy", kind, folder], variables)
        )

        def command(*words: str) -> Program:
            options = ["--no-mdns", "--json", "--host", "127.0.0.1"]
            program = stack.enter_context(
                started([sys.executable, "-m", "steinadler", *words, *options], variables)
            )
            stack.callback(program.terminate)
            return program

        expose = command("expose", "bench", str(service.ready["port"]))
        forward = command("forward", "0", "bench")
        place = forward.ready["services"][0]["place"]
        yield Way(service, (expose, forward), int(place.rpartition(":")[2]))


def echoes(sock: socket.socket, seconds: float) -> list[float]:
    """Single bytes there and back, one after the other: how long each took."""
    samples = []
    now = time.perf_counter()
    end = now + seconds
    while now < end:
        sock.sendall(b"x")
        if sock.recv(1) != b"x":
            raise RunFailed("the echo closed its connection")
        began, now = now, time.perf_counter()
        samples.append(now - began)
    return samples


def echo(pairs: int, seconds: float) -> dict[str, list[Figures]]:
    """Slices of echoes in turn, each way on one connection."""
    figures: dict[str, list[Figures]] = {"direct": [], "through": []}
    with through("echo") as way, contextlib.ExitStack() as stack:
        ways = []
        for name, port in (("direct", way.service.ready["port"]), ("through", way.port)):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways.append((name, sock))
            echoes(sock, seconds / 4)
        for _ in range(pairs):
            for name, sock in ways:
                figures[name].append(spread(echoes(sock, seconds)))
            ways.reverse()
    return figures


def download(url: str, size: int) -> float:
    """Bytes a second, by curl."""
    done = subprocess.run(
        [
            "curl",
            "-sSk",
            "--no-alpn",
            "-o",
            os.devnull,
            "-w",
            "%{size_download} %{time_total}",
            url,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise RunFailed(f"curl: {done.stderr.strip()}")
    got, took = done.stdout.split()
    if int(got) != size:
        raise RunFailed(f"curl got {got} of {size} bytes")
    return size / float(took)


def curl(pairs: int, size: int) -> dict[str, list[Figures]]:
    """Downloads in turn: directly over TLS, through both commands, and directly over TCP."""
    if shutil.which("curl") is None:
        raise RunFailed("curl is not installed")
    figures: dict[str, list[Figures]] = {"tls": [], "through": [], "tcp": []}
    with through("http") as way:
        urls = [
            ("tls", f"https://127.0.0.1:{way.service.ready['tls_port']}/{size}"),
            ("through", f"http://127.0.0.1:{way.port}/{size}"),
            ("tcp", f"http://127.0.0.1:{way.service.ready['port']}/{size}"),
        ]
        for _ in range(pairs):
            for name, url in urls:
                before = way.relay_cpu()
                rate = download(url, size)
                cpu = (way.relay_cpu() - before) / size * 1e9
                figures[name].append({"mb_per_s": rate / 1e6, "relay_cpu_s_per_gb": cpu})
            urls.reverse()
    return figures


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["echo", _]:
            serve_echo()
        case ["http", folder]:
            trio.run(serve_http, Path(folder))
        case _:
            sys.exit("usage: echo|http FOLDER")
