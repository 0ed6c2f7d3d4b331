"""Unix sockets to listen on: whose they are, who was there before, and what is left behind."""
# ruff: noqa: ASYNC240 -- files of a test, in memory or nearly

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from steinadler import ConfigError
from steinadler.cli import places
from steinadler.sidecar import SidecarSettings, open_sidecar
from steinadler.transport.unix_sockets import LONGEST_PATH_BYTES, check_path, listening

Listening = Callable[[str], AbstractAsyncContextManager[object]]


@pytest.fixture
def path() -> Iterator[str]:
    """Short, because the path of a Unix socket is: not pytest's folder."""
    with tempfile.TemporaryDirectory(prefix="steinadler-") as folder:
        yield f"{folder}/socket"


@pytest.fixture
def file(path: str) -> Path:
    return Path(path)


@pytest.fixture(params=["place", "sidecar"])
async def listening_somehow(request: pytest.FixtureRequest, nodes: Any) -> Listening:
    """As each part of the library that listens on Unix sockets does."""
    if request.param == "place":
        return lambda path: places.listening(places.UnixPath(path))
    node = await nodes.open("alice")
    return lambda path: open_sidecar(node, SidecarSettings(http_socket=path))


class Umasks(trio.abc.Instrument):
    """The umasks that a task could make a file under: the one after each step of a task."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        umask = os.umask(0o022)
        os.umask(umask)
        self.seen.add(umask)


async def test_files_that_are_made_meanwhile_lose_no_bits(
    listening_somehow: Listening, path: str
) -> None:
    before, umasks = os.umask(0o022), Umasks()
    trio.lowlevel.add_instrument(umasks)
    try:
        async with listening_somehow(path):
            await trio.lowlevel.checkpoint()
    finally:
        trio.lowlevel.remove_instrument(umasks)
        os.umask(before)
    assert umasks.seen == {0o022}


async def test_it_is_its_users_alone_and_gone_afterwards(
    listening_somehow: Listening, path: str, file: Path
) -> None:
    async with listening_somehow(path):
        mode = file.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        await (await trio.open_unix_socket(path)).aclose()
    assert not file.exists()


async def test_a_path_that_is_too_long_is_told_so(listening_somehow: Listening) -> None:
    with pytest.raises(ConfigError, match=f"may be {LONGEST_PATH_BYTES} bytes long"):
        async with listening_somehow("/tmp/" + "x" * LONGEST_PATH_BYTES):
            pass


async def test_a_dead_programs_socket_is_taken_over_and_a_living_ones_is_not(
    listening_somehow: Listening, path: str
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with listening_somehow(path):
        with pytest.raises(ConfigError, match="in use: another program answers there"):
            async with listening(path):
                pass
        await (await trio.open_unix_socket(path)).aclose()


async def test_what_is_no_socket_is_left_alone(path: str, file: Path) -> None:
    file.write_text("dear diary")
    with pytest.raises(ConfigError, match="exists and is no socket"):
        async with listening(path):
            pass
    assert file.read_text() == "dear diary"


async def test_what_somebody_else_put_there_since_is_left_alone(path: str, file: Path) -> None:
    async with listening(path):
        file.unlink()
        file.write_text("mine now")
    assert file.read_text() == "mine now"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "not the path"),
        ("a\0b", "not the path"),
        ("x" * (LONGEST_PATH_BYTES + 1), f"this one has {LONGEST_PATH_BYTES + 1}"),
        ("ü" * (LONGEST_PATH_BYTES // 2 + 1), "bytes long"),
    ],
)
def test_what_is_no_path(path: str, said: str) -> None:
    assert check_path("x" * LONGEST_PATH_BYTES)
    with pytest.raises(ConfigError, match=said):
        check_path(path)


async def test_where_nobody_can_listen() -> None:
    with pytest.raises(ConfigError, match="cannot listen at unix:/nowhere/s: No such file"):
        async with listening("/nowhere/s"):
            pass
