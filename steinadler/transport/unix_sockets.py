"""Unix sockets to listen on: for this user alone (mode 0600), and gone when nobody listens.

The file of a Unix socket outlives a program that is killed.  One on which nobody answers is taken
over, and one on which somebody does is not: asking it is the only test that is right for a file
that another container, or a program without a lock file, left.

The mode comes from the umask, because one given after `bind` would come too late.  The umask is the
whole process's: so `bind` is the system's own, at once, and not Trio's, which runs in a thread and
lets other tasks make files meanwhile.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from steinadler.errors import ConfigError
from steinadler.transport.tls import explain

# What the system's `sockaddr_un` has room for, with a NUL at the end.
LONGEST_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_NOT_OTHERS = 0o177


def check_path(path: str) -> str:
    """Return it if it can be that of a Unix socket here; raise `ConfigError` if not."""
    if not path or "\0" in path:
        raise ConfigError(f"{path!r} is not the path of a Unix socket")
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError("this system has no Unix sockets")
    if (size := len(os.fsencode(path))) > LONGEST_PATH_BYTES:
        raise ConfigError(
            f"the path of a Unix socket may be {LONGEST_PATH_BYTES} bytes long, and this one has "
            f"{size}: {path}"
        )
    return path


@asynccontextmanager
async def listening(path: str) -> AsyncIterator[trio.SocketListener]:
    """Listen for the length of the block.

    Raises `ConfigError` when that cannot be: the path is none, another program answers there, what
    is there is no socket, or this user may not.
    """
    await _make_way(check_path(path))
    try:
        listener = _bind(path)
    except PermissionError as error:
        raise ConfigError(f"this user may not listen at unix:{path}") from error
    except OSError as error:
        raise ConfigError(f"cannot listen at unix:{path}: {explain(error)}") from error
    file = _file_at(path)
    try:
        yield listener
    finally:
        listener.socket.close()
        # Not one that somebody else put there since.
        if file is not None and _file_at(path) == file:
            os.unlink(path)


async def _make_way(path: str) -> None:
    """Remove the socket of a program that died; raise `ConfigError` for anything else there."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # nothing is there, or binding to it tells what is wrong
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is no socket")
    try:
        stream = await trio.open_unix_socket(path)
    except ConnectionRefusedError:
        with suppress(OSError):
            os.unlink(path)
    except OSError as error:
        raise ConfigError(f"{path} exists already: {explain(error)}") from error
    else:
        stream.socket.close()
        raise ConfigError(f"{path} is in use: another program answers there")


def _bind(path: str) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        umask = os.umask(_NOT_OTHERS)
        try:
            sock.bind(path)
        finally:
            os.umask(umask)
        sock.listen(socket.SOMAXCONN)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise


def _file_at(path: str) -> tuple[int, int, int] | None:
    """Which file it is; with its time, because the number of a file that is gone is used again."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
