"""The arbiter's memory: which claims to a name it let pass and has not heard of since.

Of two claims at the same time the first passes, and the name is held for it until it turns up in
the registry, is given up, or its node goes; at the latest after RESERVED_S, because a claimer may
die between being let pass and saying that it gives up.
"""

from __future__ import annotations

from steinadler.identity import NodeId, ProcessId

# News of a name takes less than that through a thousand nodes, comparing included.
RESERVED_S = 10.0
_SWEEP_AT = 1024


class Claims:
    """Names that are held for somebody, by an arbiter's clock."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[ProcessId, float]] = {}

    def pass_one(self, name: str, claimer: ProcessId, now: float) -> ProcessId | None:
        """Let a claim pass (None), or say for whom the name is held."""
        other, until = self._held.get(name, (claimer, 0.0))
        if other != claimer and now < until:
            return other
        if len(self._held) > _SWEEP_AT:
            self._held = {name: held for name, held in self._held.items() if now < held[1]}
        self._held[name] = (claimer, now + RESERVED_S)
        return None

    def give_up(self, name: str, claimer: ProcessId) -> None:
        """The claimer does not take the name after all."""
        if name in self._held and self._held[name][0] == claimer:
            del self._held[name]

    def heard_of(self, name: str, node: NodeId) -> None:
        """Something became of that name at a node: what was let pass has arrived, or is over."""
        if name in self._held and self._held[name][0].node == node:
            del self._held[name]

    def node_gone(self, node: NodeId) -> None:
        """Nobody there takes a name any more."""
        self._held = {name: held for name, held in self._held.items() if held[0].node != node}
