"""The runtime folder: nodes of one user on one machine, found at once through files.

Each node leaves `<name>.<incarnation>.json` (mode 0600) in a folder that its user's nodes share,
and takes it away when it ends.  A command finds its nodes by listing the folder: no port to agree
on, no daemon such as Erlang's epmd to be up first, no multicast, no wait.

A node that was killed cannot take its file away, so a file counts only while its process lives;
whoever comes across the file of a dead process deletes it.  A process number that is in use
again keeps a stale file, which costs a dial that is refused.
The file says on which host it was written, because a home folder may be shared between machines
or with containers, where a process number means nothing; files of other hosts are left alone.

The incarnation is in the file's name so that no node can replace or remove another's file, not
even one that was started under a name in use and has to go again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from steinadler.discovery.source import Advertisement, Candidate, Found, Source
from steinadler.errors import ConfigError
from steinadler.identity import Address, check_node_name, parse_address

log = logging.getLogger("steinadler.discovery")

_SUFFIX = ".json"
# Ours take under 1 KiB; anything much larger was not written by a node.
_MAX_FILE_BYTES = 64 * 1024
# File systems stamp changes in steps of up to two seconds (FAT): a younger stamp may hide one.
_SETTLED_S = 2.5


@dataclass(frozen=True, slots=True)
class RuntimeEntry:
    """What a node left: who it is, its process, where it listens, and since when (Unix seconds).

    `everywhere`: it listens on every interface of the machine, beside the loopback address that is
    in `addresses`.
    """

    name: str
    incarnation: int
    pid: int
    addresses: tuple[Address, ...]
    started: float
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class _File:
    """A file's content: the entry, and for which cluster and on which host it was written."""

    entry: RuntimeEntry
    cluster: str
    host: str


class RuntimeFolder(Source):
    """The folder at `path`: to leave an address in, to read, and to run as a `Source`.

    With `fingerprint` (of the cluster's id, SHA-256 in hexadecimal), entries of other clusters are
    passed over.  As a source it proposes the nodes in the folder at once, and all that are still
    alive again every `poll_interval_s` seconds, but never a node left through this object.
    """

    def __init__(
        self, path: Path, *, fingerprint: str | None = None, poll_interval_s: float = 1.0
    ) -> None:
        if not poll_interval_s > 0:
            raise ConfigError(f"poll_interval_s must be greater than zero: {poll_interval_s!r}")
        self._path = path
        self._cluster = fingerprint.lower() if fingerprint is not None else None
        self._poll_interval_s = poll_interval_s
        self._host = platform.node()
        self._own: set[tuple[str, int]] = set()

    @contextlib.contextmanager
    def leave_address(
        self, advertisement: Advertisement, *, listening_on_all: bool = False
    ) -> Iterator[None]:
        """Keep the node's file in the folder for the length of a `with` block.

        With `listening_on_all`, the loopback address at the node's port is left, which works
        whatever becomes of the machine's networks.  The file appears whole or not at all.
        The folder is made (mode 0700) if need be.  When it cannot be written to, that is one
        warning in the log: the node runs, and is found in other ways.
        """
        addresses = advertisement.addresses
        if listening_on_all:
            ports = dict.fromkeys(address.port for address in addresses)
            addresses = tuple(Address("127.0.0.1", port) for port in ports)
        entry = RuntimeEntry(
            check_node_name(advertisement.node),
            advertisement.incarnation,
            os.getpid(),
            addresses,
            time.time(),
            listening_on_all,
        )
        file = _File(entry, advertisement.fingerprint.lower(), self._host)
        life = (entry.name, entry.incarnation)
        self._own.add(life)
        path = self._path / _file_name(entry.name, entry.incarnation)
        try:
            _write(path, file)
        except OSError as error:
            log.warning("commands on this machine will not find this node by itself: %s", error)
        try:
            yield
        finally:
            _delete(path)
            self._own.discard(life)

    def read(self) -> tuple[RuntimeEntry, ...]:
        """The nodes that are alive, by name; files of dead ones are deleted on the way.

        Reads the disk, so it blocks for as long as that takes.  Never raises: a folder that is
        missing or unreadable is an empty one, and files that are damaged, or not a node's, are
        passed over.
        """
        entries = []
        for path in _paths(self._path):
            file = _read(path)
            if file is None or file.host != self._host:
                continue
            if not _alive(file.entry.pid):
                _delete(path)
            elif self._cluster is None or file.cluster == self._cluster:
                entries.append(file.entry)
        return tuple(entries)

    async def run(
        self,
        found: Found,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Propose what is in the folder until cancelled; see `Source.run`.

        Files are read only when the folder changed; a quiet second costs one `stat` and one
        signal 0 per node.  The folder may appear later.
        """
        seen: int | None = None
        entries: tuple[RuntimeEntry, ...] = ()
        task_status.started()
        while True:
            stamp = _stamp(self._path)
            if stamp is None or stamp != seen or not all(_alive(e.pid) for e in entries):
                # The stamp was taken first, so that a change during the reading is seen later.
                entries = await trio.to_thread.run_sync(self.read)
                seen = stamp
            for entry in entries:
                if (entry.name, entry.incarnation) not in self._own:
                    for address in entry.addresses:
                        found(Candidate(address, "runtime", entry.name, entry.incarnation))
            await trio.sleep(self._poll_interval_s)


def _stamp(folder: Path) -> int | None:
    """When the folder's list of files last changed, in ns; None when that cannot be relied on."""
    try:
        changed_ns = folder.stat().st_mtime_ns
    except OSError:
        return None
    return changed_ns if abs(time.time() - changed_ns / 1e9) > _SETTLED_S else None


def _file_name(name: str, incarnation: int) -> str:
    """One file a life: two nodes of one name must not remove each other's."""
    return f"{name}.{incarnation:x}{_SUFFIX}"


def _paths(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX)
    except OSError:
        return []


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        # There, signal 0 would end the process; a stale file only costs a dial that is refused.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # Somebody else's process.
    return True


def _read(path: Path) -> _File | None:
    """The file's content, or None when it is not a node's."""
    try:
        # Not following links and not opening pipes: what is here may be anybody's leftovers.
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE_BYTES:
            return None
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    match content:
        case {
            "name": str(name),
            "incarnation": int(incarnation),
            "pid": int(pid),
            "addresses": [*texts],
            "started": float() | int() as started,
            "cluster": str(cluster),
            "host": str(host),
        } if incarnation >= 0 and _file_name(name, incarnation) == path.name and 0 < pid < 2**31:
            try:
                addresses = tuple(parse_address(str(text)) for text in texts)
                entry = RuntimeEntry(
                    check_node_name(name),
                    incarnation,
                    pid,
                    addresses,
                    float(started),
                    content.get("everywhere") is True,
                )
            except (ConfigError, OverflowError):
                return None
            return _File(entry, cluster, host)
        case _:
            return None


def _write(path: Path, file: _File) -> None:
    entry = file.entry
    content = {
        "name": entry.name,
        "incarnation": entry.incarnation,
        "pid": entry.pid,
        "addresses": [str(address) for address in entry.addresses],
        "started": entry.started,
        "everywhere": entry.everywhere,
        "cluster": file.cluster,
        "host": file.host,
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{entry.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _delete(path: Path) -> None:
    """Delete a file whose life is over; never raises."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.debug("could not delete %s: %s", path, error)
