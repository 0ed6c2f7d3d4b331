"""Claims to names of the cluster: those of this node, and as the arbiter those of others.

    claimer   ask --- name, process, number, version ---> let pass: the name is held    arbiter
              register --- news ---------------------->  heard of, and held no more
              or give up --- name, process, number --->  held no more

Of two claims at the same time the first passes, and the name is held for its process until it turns
up in the registry, is given up, or its node goes; at the latest after RESERVED_S, because a claimer
may die between being let pass and saying that it gives up.

A process may claim a name several times at once, and a name that it had a moment ago.  So a claim
has a number, which it alone gives up, and the version that its node's entries had when it asked, so
that older news say nothing of it.  Newer ones do, though they may be another's: a claimer whose
node changed anything about the name since it asked asks again.
"""

from __future__ import annotations

from dataclasses import dataclass

from steinadler.identity import NodeId, ProcessId

# News of a name takes less than that through a thousand nodes, comparing included.
RESERVED_S = 10.0
# Names that are held for one node, and claims of one process to one name; the first of more are
# forgotten (X4).
MAX_HELD = 10_000
CLAIMS_AT_ONCE = 64


@dataclass(eq=False, slots=True)
class Claim:
    """One of this node's own, until it is known what becomes of it."""

    name: str
    process: ProcessId
    number: int
    # That of the node's own entries when it asked, and whether one for the name has changed since.
    version: int = 0
    is_stale: bool = True


@dataclass(slots=True)
class _Held:
    """A name is held for a process, until that time by the arbiter's clock."""

    process: ProcessId
    versions: dict[int, int]  # of its claims, by number
    until: float


class Claims:
    """Names that are held for somebody, by an arbiter's clock."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._names_of: dict[NodeId, dict[str, None]] = {}  # the one let pass last comes last

    def __len__(self) -> int:
        return len(self._held)

    def pass_one(
        self, name: str, claimer: ProcessId, number: int, version: int, now: float
    ) -> ProcessId | None:
        """Let a claim pass (None), or say for whom the name is held."""
        held = self._held.get(name)
        if held is not None and held.process != claimer and now < held.until:
            return held.process
        versions = {} if held is None or now >= held.until else held.versions
        self._drop(name)
        versions[number] = version
        if len(versions) > CLAIMS_AT_ONCE:
            del versions[min(versions)]
        names = self._names_of.setdefault(claimer.node, {})
        names[name] = None
        if len(names) > MAX_HELD:
            self._drop(next(iter(names)))
        self._held[name] = _Held(claimer, versions, now + RESERVED_S)
        return None

    def give_up(self, name: str, claimer: ProcessId, number: int) -> None:
        """That claim comes to nothing."""
        held = self._held.get(name)
        if held is not None and held.process == claimer:
            held.versions.pop(number, None)
            if not held.versions:
                self._drop(name)

    def heard_of(self, name: str, node: NodeId, version: int) -> None:
        """That became of the name at a node: claims of before have arrived, or ask again."""
        held = self._held.get(name)
        if held is not None and held.process.node == node:
            held.versions = {n: asked for n, asked in held.versions.items() if asked >= version}
            if not held.versions:
                self._drop(name)

    def expire(self, now: float) -> None:
        """What was held for too long is held no more, also for whoever never was a member."""
        for name in [name for name, held in self._held.items() if now >= held.until]:
            self._drop(name)

    def node_gone(self, node: NodeId) -> None:
        """Nobody there takes a name any more."""
        for name in self._names_of.pop(node, {}):
            del self._held[name]

    def _drop(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            names = self._names_of[held.process.node]
            del names[name]
            if not names:
                del self._names_of[held.process.node]
