"""The names and group members of one node, as it says them itself or as another knows them.

Only the node whose processes they are changes them, so there is nothing to merge: each change gets
the next version number, and whoever has a higher version knows more.  Additions are kept in the
order of their versions, so "everything behind version v" is a search and a walk; removals are
kept for a while in a log.  Whoever is further behind than the log starts anew, with nothing: then
what was removed before it started needs no telling, however many pieces the rest comes in.

A history of all changes was refused, because it grows; and so was a hash tree, because one number
for each node says the same as long as one node writes.  That it does say the same is checked: all
entries add up to a sum of hashes (`check`), which is kept as they come and go, and two that hold
one version with two sums have not heard the same.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from typing import TypeAlias

from steinadler.identity import NodeId
from steinadler.registry.messages import Entry, GroupEntry, NameEntry, Removal, Update

# Of removals that are remembered: a peer further behind gets everything once more.
LOG_LENGTH = 4096
# How much travels together: what fits a frame, whatever numbers its entries have.
UPDATE_BYTES = 15_000
_ENTRY_BYTES = 34  # beside its text
ENTRIES_TOGETHER = UPDATE_BYTES // _ENTRY_BYTES

# In place of the time of a claim, in what is hashed.
_IN_GROUP = -1
_SUMS = 2**64

# What was added: a name, or a group and the number of a process.
_Key: TypeAlias = str | tuple[str, int]


class Replica:
    """The entries of one life of one node, up to `version`.

    `names` has (number, claimed_us, version) by name, `groups` the version by number by group.
    The log has every removal behind the version `started`.  `latest` is how far there is more to be
    had; until that is here, the rest is no state that the node was ever in.
    """

    __slots__ = (
        *("_added", "_added_at", "_in_groups", "_log"),
        *("check", "groups", "latest", "names", "origin", "started", "version"),
    )

    def __init__(self, origin: NodeId) -> None:
        self.origin = origin
        self.version = 0
        self.latest = 0
        self.started = 0
        self.check = 0
        self.names: dict[str, tuple[int, int, int]] = {}
        self.groups: dict[str, dict[int, int]] = {}
        self._in_groups = 0  # counted as they come and go: asked for at every addition
        # Additions in their order, those that were removed since among them.
        self._added_at = array("Q")
        self._added: list[_Key] = []
        self._log: deque[Removal] = deque()

    def __len__(self) -> int:
        return len(self.names) + self._in_groups

    @property
    def whole(self) -> bool:
        """Whether this is what the node had at `version`, so that others may have it from here."""
        return self.version >= self.latest

    # -- changes of the node itself -----------------------------------------------------------

    def add_name(self, name: str, number: int, claimed_us: int) -> None:
        """Give a process a name."""
        self.apply(NameEntry(self.version + 1, name, number, claimed_us))

    def add_to_group(self, group: str, number: int) -> None:
        """Put a process into a group."""
        self.apply(GroupEntry(self.version + 1, group, number))

    def remove(self, text: str, number: int = 0) -> None:
        """Take a name, or (with the number of a process) a place in a group away."""
        self.apply(Removal(self.version + 1, text, number))

    def restart(self, version: int) -> None:
        """Nothing changes, at a version above what others claim; they all get it anew."""
        self.version = self.latest = self.started = version
        self._log.clear()

    # -- and what others hear of them ---------------------------------------------------------

    def apply(self, entry: Entry) -> bool:
        """Make a change; False for one that is known already."""
        if entry.version <= self.version:
            return False
        self.version = entry.version
        match entry:
            case NameEntry(version, name, number, claimed_us):
                self._drop_name(name)
                self.names[name] = (number, claimed_us, version)
                self.check += _hash(name, number, claimed_us, version)
                self._note(version, name)
            case GroupEntry(version, group, number):
                self._drop_member(group, number)
                self.groups.setdefault(group, {})[number] = version
                self._in_groups += 1
                self.check += _hash(group, number, _IN_GROUP, version)
                self._note(version, (group, number))
            case Removal(version, text, 0):
                self._drop_name(text)
                self._log_removal(entry)
            case Removal(version, text, number):
                self._drop_member(text, number)
                self._log_removal(entry)
        self.check %= _SUMS
        return True

    def _drop_name(self, name: str) -> None:
        held = self.names.pop(name, None)
        if held is not None:
            self.check -= _hash(name, *held)

    def _drop_member(self, group: str, number: int) -> None:
        members = self.groups.get(group)
        version = None if members is None else members.pop(number, None)
        if version is not None:
            self._in_groups -= 1
            self.check -= _hash(group, number, _IN_GROUP, version)
        if members is not None and not members:
            del self.groups[group]

    def complete(self, version: int) -> None:
        """Everything up to `version` was applied, with no entry left for the last ones."""
        self.version = max(self.version, version)

    def pieces(self, version: int, started: int) -> Iterator[Update]:
        """All pieces for whoever has everything up to `version`, one after the other."""
        while version < self.version:
            update = self.since(version, started)
            if not update.base:
                started = update.latest  # it starts there with nothing
            version = update.version
            yield update

    def since(self, version: int, started: int) -> Update:
        """The next piece for whoever has everything up to `version`, and started with nothing at
        `started`.

        It starts anew (`base` 0) when removals would be missing.
        """
        base = version if max(version, started) >= self.started else 0
        start = bisect_right(self._added_at, base)
        entries: list[Entry] = []
        while start < len(self._added) and len(entries) <= ENTRIES_TOGETHER:
            entry = self._entry(self._added_at[start], self._added[start])
            if entry is not None:
                entries.append(entry)
            start += 1
        if base:  # whoever starts anew has nothing to remove
            entries += [removal for removal in self._log if removal.version > base]
            entries.sort(key=lambda entry: entry.version)
        fitting = _fitting(entries)
        last = entries[fitting - 1].version if fitting < len(entries) else self.version
        del entries[fitting:]
        return Update(self.origin, base, last, self.version, self.check, tuple(entries))

    def _entry(self, version: int, key: _Key) -> Entry | None:
        """What was added at that version, if it is there still."""
        if isinstance(key, str):
            number, claimed_us, added = self.names.get(key, (0, 0, 0))
            return NameEntry(version, key, number, claimed_us) if added == version else None
        group, number = key
        still = self.groups.get(group, {}).get(number) == version
        return GroupEntry(version, group, number) if still else None

    def _note(self, version: int, key: _Key) -> None:
        self._added_at.append(version)
        self._added.append(key)
        if len(self._added) > 2 * len(self) + LOG_LENGTH:
            self._compact()

    def _compact(self) -> None:
        kept = [
            (version, key)
            for version, key in zip(self._added_at, self._added, strict=True)
            if self._entry(version, key) is not None
        ]
        self._added_at = array("Q", [version for version, _ in kept])
        self._added = [key for _, key in kept]

    def _log_removal(self, removal: Removal) -> None:
        self._log.append(removal)
        if len(self._log) > LOG_LENGTH:
            self.started = self._log.popleft().version


def _hash(text: str, number: int, claimed_us: int, version: int) -> int:
    told = f"{text}\0{number}\0{claimed_us}\0{version}".encode()
    return int.from_bytes(blake2b(told, digest_size=8).digest())


def _fitting(entries: list[Entry]) -> int:
    """How many of the entries fit one update."""
    room = UPDATE_BYTES
    for count, entry in enumerate(entries):
        room -= len(entry.text.encode()) + _ENTRY_BYTES
        if room < 0:
            return count
    return len(entries)
