"""A file of seeds: addresses that somebody, or some program, writes down while the node runs.

    # one address a line; what follows a "#" is a comment
    192.0.2.7:4370
    node-2.example.org:4370   # names are looked up at every dial
    [2001:db8::7]:4370

The file is read every second and compared with what was read last.  Times and sizes of files are
not relied on: they come in steps of up to two seconds, and a file of the same size may say
something else.  So it makes no difference whether the file is written in place or replaced, or
reached through a link that moves, as Kubernetes does with a ConfigMap.

A line that is no address costs that line: it is named in the log with its number, and the others
are used.  A file that cannot be read, that is no plain file, or is larger than 64 KiB, changes
nothing: what was read last is proposed on.  An empty file, in contrast, says that there are none.
"""

from __future__ import annotations

import logging
import os
import random
import stat
from dataclasses import dataclass
from pathlib import Path

import trio

from steinadler.discovery.rounds import Rounds
from steinadler.discovery.source import Candidate, Found, Source
from steinadler.errors import ConfigError
from steinadler.identity import Address, parse_address

log = logging.getLogger("steinadler.discovery")

MAX_FILE_BYTES = 64 * 1024
# So many bad lines are named; the rest is counted.
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class SeedList:
    """What a file of seeds says: its addresses, and what is wrong with which line."""

    addresses: tuple[Address, ...]
    mistakes: tuple[tuple[int, str], ...]


def read_seed_list(text: str) -> SeedList:
    """Read the content of a file of seeds.  Never raises; an address counts once."""
    addresses: dict[Address, None] = {}
    mistakes: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        written = line.partition("#")[0].strip()
        if not written:
            continue
        try:
            addresses[parse_address(written)] = None
        except ConfigError as error:
            mistakes.append((number, str(error)))
    return SeedList(tuple(addresses), tuple(mistakes))


class SeedFile(Source):
    """Proposes the addresses in the file at `path`, and follows what becomes of it.

    The file is read every `poll_interval_s` seconds.  Its addresses are proposed as soon as they
    change and then about every `interval_s` seconds, 32 a round at most, drawn where there are
    more.  The file may appear later, or go: that is one warning in the log, and what it said last
    is proposed on.  `rng` draws the times; without, one is made.

    Raises `ConfigError` when an interval is not greater than zero.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        rng: random.Random | None = None,
        poll_interval_s: float = 1.0,
        interval_s: float = 3.0,
    ) -> None:
        if not poll_interval_s > 0:
            raise ConfigError(f"poll_interval_s must be greater than zero: {poll_interval_s!r}")
        self._path = Path(path)
        self._poll_interval_s = poll_interval_s
        self._rounds = Rounds(rng or random.Random(), interval_s)

    def __str__(self) -> str:
        return f"in the file {self._path}"

    async def run(
        self,
        found: Found,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled; see `Source.run`."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._rounds.run, found)

    async def _follow(self) -> None:
        seen: bytes | None = None
        unreadable = ""
        while True:
            try:
                # Abandoned on cancellation: a file on a server that is gone may take for ever.
                content = await trio.to_thread.run_sync(_read, self._path, abandon_on_cancel=True)
            except OSError as error:
                trouble = error.strerror or str(error)
                if trouble != unreadable:
                    log.warning("the file of seeds %s cannot be used: %s", self._path, trouble)
                self.problem = unreadable = trouble
            else:
                if content != seen or unreadable:
                    self._use(content)
                seen, unreadable = content, ""
            await trio.sleep(self._poll_interval_s)

    def _use(self, content: bytes) -> None:
        listed = read_seed_list(content.decode("utf-8-sig", errors="replace"))
        for number, mistake in listed.mistakes[:_MOST_NAMED]:
            log.warning("%s, line %d: %.200s", self._path, number, mistake)
        if (more := len(listed.mistakes) - _MOST_NAMED) > 0:
            log.warning("%s: %d more lines are no addresses", self._path, more)
        log.info("%s: %d addresses", self._path, len(listed.addresses))
        self.problem = next((f"line {n}: {mistake:.200}" for n, mistake in listed.mistakes), "")
        self._rounds.put([Candidate(address, "seed file") for address in listed.addresses])


def _read(path: Path) -> bytes:
    """The file's content; raise `OSError` when it is no plain file, or too large."""
    # Opening a pipe would wait for its writer.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a plain file")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(f"it is larger than {MAX_FILE_BYTES} bytes")
    return content
