"""Local ends of what is carried: TCP ports and Unix sockets of this machine.

    PORT              TCP on 127.0.0.1: nothing of another machine gets there by accident
    HOST:PORT         TCP, as said; 0.0.0.0 and [::] are every interface
    unix:PATH         a Unix socket; one that is made here is for this user alone (mode 0600)

What becomes of the file of a Unix socket is said in `steinadler.transport.unix_sockets`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from steinadler.errors import ConfigError
from steinadler.identity import Address, parse_address
from steinadler.transport import unix_sockets
from steinadler.transport.tls import explain

LOOPBACK = "127.0.0.1"
# How long a local service may take to accept a connection.
DIAL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A Unix socket's path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Place = Address | UnixPath


def parse_place(text: str, *, any_port: bool = False) -> Place:
    """Read a place; raise `ConfigError` for anything else.

    With `any_port`, the port may be 0, for any that is free.
    """
    if text.startswith("unix:"):
        return UnixPath(unix_sockets.check_path(text.removeprefix("unix:")))
    host, colon, port = text.rpartition(":")
    address = text if colon else f"{LOOPBACK}:{text}"
    if any_port and port == "0":
        return Address(parse_address(f"{host or LOOPBACK}:1").host, 0)
    try:
        return parse_address(address)
    except ConfigError:
        raise ConfigError(
            f"{text!r} is no place: write HOST:PORT, PORT or unix:PATH, as in 127.0.0.1:8080"
        ) from None


# -- dialling ---------------------------------------------------------------------------------


async def dial(place: Place) -> trio.SocketStream:
    """Connect to a service of this machine.

    Raises `OSError`, with what is wrong in words, when it refuses, or does not answer within
    `DIAL_TIMEOUT_S`.
    """
    with trio.move_on_after(DIAL_TIMEOUT_S):
        try:
            if isinstance(place, UnixPath):
                return await trio.open_unix_socket(place.path)
            return await trio.open_tcp_stream(place.host, place.port)
        except OSError as error:
            raise OSError(f"{place} cannot be reached: {_why(error)}") from error
    raise OSError(f"{place} does not answer within {DIAL_TIMEOUT_S:g} s")


def _why(error: OSError) -> str:
    """The system's word, out of the group in which Trio reports one error for each address."""
    inner = error.__cause__
    if isinstance(inner, ExceptionGroup):
        whys = [_why(each) for each in inner.exceptions if isinstance(each, OSError)]
        return ", ".join(dict.fromkeys(whys))
    # Trio puts the address into the text, which the caller says anyway.
    if error.errno is not None and error.errno > 0:  # a resolver's are below
        return os.strerror(error.errno)
    return explain(error)


def break_off(stream: trio.SocketStream) -> None:
    """Close it so that the other end sees a reset and not an end, with what it was sent last.

    A Unix socket knows no reset: its other end sees one only when it was sent something unread.
    """
    with suppress(OSError):  # it is broken already
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


# -- listening --------------------------------------------------------------------------------


@asynccontextmanager
async def listening(place: Place) -> AsyncIterator[list[trio.SocketListener]]:
    """Listen at a place for the length of the block: a listener for each address of its host.

    Raises `ConfigError` when that cannot be.  The file of a Unix socket is gone afterwards.
    """
    if isinstance(place, UnixPath):
        async with unix_sockets.listening(place.path) as listener:
            yield [listener]
        return
    try:
        listeners = await trio.open_tcp_listeners(place.port, host=place.host)
    except OSError as error:
        raise ConfigError(_cannot_listen(place, error)) from error
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


def place_of(listener: trio.SocketListener, place: Place) -> Place:
    """Where it listens, with the port that it got."""
    if isinstance(place, UnixPath):
        return place
    host, port, *_ = listener.socket.getsockname()
    return Address(host, port)


def _cannot_listen(place: Address, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"{place} is in use; stop what uses it, or choose another"
        case errno.EACCES | errno.EPERM:
            return f"this user may not listen at {place}"
        case errno.EADDRNOTAVAIL:
            return f"{place} is not an address of this machine"
        case _:
            return f"cannot listen at {place}: {explain(error)}"
