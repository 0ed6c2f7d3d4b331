"""A sidecar that leaves closes no connection under a request: who comes is told nothing ran."""

from __future__ import annotations

import pytest
import trio
from sidecar_pairs import Sidecars, until

from steinadler.sidecar import service
from steinadler.sidecar.api import Phase
from steinadler.sidecar.app_client import AppError

WHERE = "/v1.0/actors/Cart/42/method/echo"
REQUEST = f"POST {WHERE} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".encode()


async def ask(stream: trio.SocketStream) -> list[bytes]:
    """Make a request and return the lines of the answer's head, in lower case."""
    await stream.send_all(REQUEST)
    got = b""
    while b"\r\n\r\n" not in got or not got.partition(b"\r\n\r\n")[2]:
        more = await stream.receive_some()
        assert more, "closed under a request"
        got += more
    return got.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")


async def test_connections_dissolve_before_they_are_closed_e3(sidecars: Sidecars) -> None:
    """While it drains, calls are answered and say that the connection closes; then 503, which
    says that nothing ran, on connections old and new; and then nobody listens."""
    pair = await sidecars.open()
    kept, other = [await trio.open_tcp_stream("127.0.0.1", pair.port) for _ in range(2)]
    with trio.fail_after(20):
        async with kept, other:
            for stream in (kept, other, kept):
                head = await ask(stream)
                assert head[0].startswith(b"http/1.1 200")
                assert b"connection: close" not in head
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.sidecar.drain)
                await until(lambda: pair.sidecar.api.phase is Phase.STOPPED)
                new = await trio.open_tcp_stream("127.0.0.1", pair.port)
                async with new:
                    for stream in (kept, new):
                        head = await ask(stream)
                        assert head[0].startswith(b"http/1.1 503")
                        assert {b"retry-after: 1", b"connection: close"} <= set(head)
                        assert await stream.receive_some() == b""
            assert await other.receive_some() == b""
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", pair.port)
    assert pair.program.count("PUT", "/echo") == 3


async def test_calls_through_a_draining_sidecar_are_answered_and_close(sidecars: Sidecars) -> None:
    first, second = await sidecars.open("alice"), await sidecars.open("bob")
    stream = await trio.open_tcp_stream("127.0.0.1", first.port)
    with trio.fail_after(20):
        async with stream:
            first.sidecar.api.phase = Phase.DRAINING
            await first.node.entities.stop_hosting()
            head = await ask(stream)
            assert head[0].startswith(b"http/1.1 200")
            assert b"connection: close" in head
            assert await stream.receive_some() == b""
    assert (first.program.count("PUT", "/echo"), second.program.count("PUT", "/echo")) == (0, 1)


async def test_it_parts_when_nobody_comes_any_more_and_in_any_case(
    sidecars: Sidecars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers that take no notice of 503 put the end off, but not for ever."""
    monkeypatch.setattr(service, "PARTING_S", 0.1)
    monkeypatch.setattr(service, "LONGEST_PARTING_S", 0.5)
    pair = await sidecars.open()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(pair.sidecar.drain)
            await until(lambda: pair.sidecar.api.phase is Phase.STOPPED)
            with pytest.raises(AppError):
                while True:
                    assert (await pair.ask("POST", WHERE)).status == 503
        assert trio.current_time() - began >= 0.5
    assert pair.sidecar.api.turned_away > 1
