"""Places of this machine: what names one, who listens there, and how it is dialled."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator

import pytest
import trio

from steinadler import Address, ConfigError
from steinadler.cli import places
from steinadler.cli.places import UnixPath, break_off, dial, listening, parse_place, place_of
from steinadler.transport.unix_sockets import LONGEST_PATH_BYTES


@pytest.fixture
def path() -> Iterator[UnixPath]:
    """Short, because the path of a Unix socket is: not pytest's folder."""
    with tempfile.TemporaryDirectory(prefix="steinadler-") as folder:
        yield UnixPath(f"{folder}/socket")


def test_what_names_a_place() -> None:
    assert parse_place("8080") == Address("127.0.0.1", 8080)
    assert parse_place("0.0.0.0:80") == Address("0.0.0.0", 80)
    assert parse_place("[::1]:80") == Address("::1", 80)
    assert parse_place("db.example:5432") == Address("db.example", 5432)
    assert parse_place("unix:a b/c:d") == UnixPath("a b/c:d")
    assert parse_place("0", any_port=True) == Address("127.0.0.1", 0)
    assert parse_place("[::1]:0", any_port=True) == Address("::1", 0)
    for place in ("127.0.0.1:80", "[::1]:80", "unix:/run/x"):
        assert str(parse_place(place)) == place


@pytest.mark.parametrize(
    "text", ["", "0", "web", ":80", "host:", "host:http", "1:2:3", "127.0.0.1:65536", "-1", "unix:"]
)
def test_what_names_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_place(text)
    if text != "0":
        with pytest.raises(ConfigError):
            parse_place(text, any_port=True)


def test_a_path_too_long_for_the_system_is_told_before_it_is_used() -> None:
    fits = "x" * LONGEST_PATH_BYTES
    parse_place(f"unix:{fits}")
    with pytest.raises(ConfigError, match=f"may be {len(fits)} bytes long, and this one has"):
        parse_place(f"unix:{fits}x")


async def test_a_port_that_was_any_is_told_and_can_be_dialled() -> None:
    async with listening(Address("127.0.0.1", 0)) as (listener,):
        place = place_of(listener, Address("127.0.0.1", 0))
        assert isinstance(place, Address)
        assert place.port
        with trio.fail_after(5):
            async with await dial(place), await listener.accept():
                pass
            with pytest.raises(ConfigError, match=f"{place} is in use"):
                async with listening(place):
                    pass
    with pytest.raises(OSError, match=f"{place} cannot be reached: Connection refused"):
        await dial(place)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Address("192.0.2.99", 0), "not an address of this machine"),
        (Address("nowhere.invalid", 0), "cannot listen at nowhere.invalid"),
        (UnixPath("/nowhere/socket"), "No such file or directory"),
    ],
)
async def test_where_nobody_can_listen(place: places.Place, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        async with listening(place):
            pass


async def test_a_unix_socket_is_dialled_and_gone_afterwards(path: UnixPath) -> None:
    async with listening(path) as (listener,):
        assert place_of(listener, path) == path
        with trio.fail_after(5):
            async with await dial(path), await listener.accept():
                pass
    with pytest.raises(OSError, match="cannot be reached: No such file"):
        await dial(path)


async def test_who_does_not_accept_in_time_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "DIAL_TIMEOUT_S", 0.05)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        place = Address(*full.getsockname())
        with pytest.raises(OSError, match=f"{place} does not answer within 0.05 s"):
            await dial(place)


async def test_breaking_off_is_a_reset() -> None:
    async with listening(Address("127.0.0.1", 0)) as (listener,):
        stream = await dial(place_of(listener, Address("127.0.0.1", 0)))
        with trio.fail_after(5):
            break_off(await listener.accept())
            with pytest.raises(trio.BrokenResourceError, match="reset by peer"):
                await stream.receive_some()
        await stream.aclose()
