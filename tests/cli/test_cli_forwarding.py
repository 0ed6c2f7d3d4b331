"""`steinadler expose` and `forward`: mistakes, and one round through real processes."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from carriers import running
from commands import Result, Steinadler

from steinadler.cli import root


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command in this process, for what fails at once."""
    monkeypatch.setenv("STEINADLER_HOME", str(tmp_path / "home"))

    def run(*words: str) -> Result:
        monkeypatch.setattr("sys.argv", ["steinadler", *words])
        with pytest.raises(SystemExit) as ended:
            root.main()
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, told.out, told.err)

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("expose",), "Missing argument"),
        (("expose", "web"), "'web' is one of a pair: NAME PLACE"),
        (("expose", "web", "80", "db"), "'db' is one of a pair"),
        (("expose", "web", "nowhere"), "'nowhere' is no place: write HOST:PORT"),
        (("expose", "web", "0"), "'0' is no place"),
        (("expose", "a,b", "80"), "'a,b' cannot name a service"),
        (("expose", "web@bob", "80"), "'web@bob' cannot name a service"),
        (("expose", "web", "unix:"), "is not the path of a Unix socket"),
        (("forward", "8080"), "'8080' is one of a pair: PLACE NAME[@NODE]"),
        (("forward", "web", "8080"), "'web' is no place"),
        (("forward", "8080", "web@"), "'' cannot name a node"),
        (("forward", "8080", "web@a@b"), "'a@b' cannot name a node"),
        (("forward", f"unix:/{'x' * 200}", "web"), "bytes long, and this one has 201"),
        (("forward", "8080", "web", "--drain-timeout", "-1"), "--drain-timeout"),
        (("forward", "8080", "web", "--max-connections", "0"), "--max-connections"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line_and_2(
    run: Any, words: tuple[str, ...], said: str
) -> None:
    run(*words).failed(2, said, "--help")


def test_where_a_forward_cannot_listen_it_says_so_and_joins_nothing(
    run: Any, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run("forward", port, "web").failed(1, f"127.0.0.1:{port} is in use")
    run("forward", "192.0.2.99:0", "web").failed(1, "not an address of this machine")
    run("forward", f"unix:{__file__}", "web").failed(1, "exists and is no socket")
    assert not (tmp_path / "home").exists()


def test_a_name_is_offered_once(run: Any) -> None:
    twice = ("expose", "web", "80", "web", "81", "--no-mdns", "--host", "127.0.0.1")
    run(*twice).failed(1, "offers the service 'web' already")


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    with suppress(trio.BrokenResourceError):
        async for piece in stream:
            await stream.send_all(piece)
        await stream.send_eof()


async def test_a_service_of_one_process_is_used_through_another(steinadler: Steinadler) -> None:
    """Bytes there and back; a signal drains, a second ends; a kill is a reset (M4, S1)."""
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        place = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        async with (
            running(steinadler, "expose", "echo", place, "--name", "bob") as exposed,
            running(steinadler, "forward", "0", "echo", "0", "echo@bob") as forwarded,
        ):
            assert exposed.ready["services"] == [{"service": "echo", "place": place}]
            assert forwarded.ready["name"].startswith("forward-")
            with trio.fail_after(20):
                stream = await trio.open_tcp_stream("127.0.0.1", forwarded.port)
                await stream.send_all(b"x" * 1000)
                assert await stream.receive_some() == b"x" * 1000
                any_node, bob_only = (await forwarded.next("traffic"))["services"]
                assert (any_node["service"], bob_only["service"]) == ("echo@*", "echo@bob")
                assert (any_node["open"], any_node["bytes_to_service"]) == (1, 1000)
                assert bob_only["connections"] == 0

                exposed.process.send_signal(signal.SIGTERM)
                assert (await exposed.next("draining"))["open"] == 1
                await stream.send_all(b"still")
                assert await stream.receive_some() == b"still"
                exposed.process.send_signal(signal.SIGTERM)
                with pytest.raises(trio.BrokenResourceError, match="reset by peer"):
                    await stream.receive_some()
                await stream.aclose()
                (carried,) = (await exposed.next("left"))["services"]
                assert (carried["connections"], carried["open"]) == (1, 0)
                assert await exposed.process.wait() == 128 + signal.SIGTERM

                async with running(steinadler, "expose", "echo", place) as again:
                    while True:  # until forward has heard of it
                        try:
                            stream = await trio.open_tcp_stream("127.0.0.1", forwarded.port)
                        except OSError:  # reset before it had begun
                            continue
                        try:
                            await stream.send_all(b"y")
                            assert await stream.receive_some() == b"y"
                            break
                        except trio.BrokenResourceError:
                            await stream.aclose()
                    again.process.kill()
                    with pytest.raises(trio.BrokenResourceError, match="reset by peer"):
                        await stream.receive_some()
                    await stream.aclose()

                forwarded.process.send_signal(signal.SIGINT)
                any_node, bob_only = (await forwarded.next("left"))["services"]
                assert any_node["broken"] == 2
                assert await forwarded.process.wait() == 0
        nursery.cancel_scope.cancel()
