"""Files that hold secrets, and the lock under which they are made.

The lock is the operating system's own (`flock`, or `msvcrt.locking` on Windows) on an open file,
because the kernel lets go of it when its holder dies.  A lock file whose mere existence is the
lock was refused: a process killed while holding it would shut everyone else out for ever.  For
the same reason the lock's file is never removed.

Waiting for the lock is polling with a limit: a blocking `flock` behind a stopped process would
hang every later start without a word.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steinadler.errors import ConfigError, SecurityError

LOCK_PATIENCE_S = 10.0
_LOCK_POLL_S = 0.01

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def exclusive_lock(path: Path, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold the lock at `path`, against every process and every other use in this one.

    Blocks the thread, normally for milliseconds.  Raises `ConfigError` when another process has
    held the lock for `patience_s` seconds, and `OSError` when the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + patience_s
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"another process has held {path} for {patience_s:g} s; is one stopped? "
                    "Let it go on, or end it"
                )
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def read_secret(path: Path) -> bytes:
    """Read a file that only its owner may read.

    Raises `SecurityError`, naming the path and the command that mends it, when the file cannot
    be read or when its group or others may touch it (on POSIX; Windows guards by folder).
    """
    try:
        # Looked at and read through one descriptor, so that it cannot be swapped in between.
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                raise SecurityError(
                    f"{path} holds a private key and its mode is {mode:04o}, so that others "
                    f"may have it; chmod 600 '{path}' mends that"
                )
            return file.read()
    except PermissionError as error:
        raise SecurityError(
            f"{path} cannot be read: {error.strerror}; chmod 600 '{path}' as its owner mends that"
        ) from error
    except OSError as error:
        raise SecurityError(f"{path} cannot be read: {error.strerror}") from error


def write_new(path: Path, data: bytes) -> None:
    """Make the file `path`, mode 0600, with `data` safely on disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Put a folder's entries safely on disk, where the system has a way to (POSIX)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
