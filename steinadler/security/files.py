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
import tempfile
import time
from collections.abc import Iterable, Iterator
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


def read_secret(path: Path, *, group_may_read: bool = False) -> bytes:
    """Read a file that only its owner may read, and with `group_may_read` its group too.

    Raises `SecurityError`, naming the path and the command that mends it, when the file cannot
    be read or when anybody else may touch it (on POSIX; Windows guards by folder).
    """
    forbidden, right = (0o037, "640") if group_may_read else (0o077, "600")
    try:
        # Looked at and read through one descriptor, so that it cannot be swapped in between.
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & forbidden:
                raise SecurityError(
                    f"{path} holds a private key and its mode is {mode:04o}, so that others "
                    f"may have it; chmod {right} '{path}' mends that"
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


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in the place of the file `path`, mode 0600: whoever reads gets all of the one or
    all of the other, and after a crash finds either.  Raises `OSError`."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_folder(path.parent)


def stamp_of(paths: Iterable[Path]) -> tuple[tuple[int, ...] | None, ...]:
    """What differs when one of the files was written or replaced.  Never raises."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_dev, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def sync_folder(path: Path) -> None:
    """Put a folder's entries safely on disk, where the system has a way to (POSIX)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
