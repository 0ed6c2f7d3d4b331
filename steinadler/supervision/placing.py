"""Where a child of a cluster supervisor goes: pure functions of names and counts.

The node with the fewest children of this supervisor, and of several the one that scores highest
for this child, by rendezvous hashing.  Counted are the supervisor's own children and not the load
of machines: that would be old when it arrived, and every supervisor would send its children to the
same idle node at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from steinadler.delivery.rendezvous import score


def place(child: str, nodes: Collection[str], counts: Mapping[str, int]) -> str | None:
    """The node for a child, when so many run on each already; None when there is no node."""
    return max(nodes, key=lambda name: (-counts.get(name, 0), score(name, child)), default=None)


def moves(nodes: Collection[str], where: Mapping[str, str]) -> list[str]:
    """The children that have to move so that no node has two more than another.

    `where` tells the node of each child.  Of a node with too many, those go that came last.
    """
    held: dict[str, list[str]] = {name: [] for name in nodes}
    homeless = [child for child, node in where.items() if node not in held]
    for child, node in where.items():
        if node in held:
            held[node].append(child)
    if not held:
        return []
    share, extra = divmod(len(where), len(held))
    surplus: list[str] = []
    # The fullest keep the odd ones: so fewest move.
    for rank, name in enumerate(sorted(held, key=lambda name: (-len(held[name]), name))):
        surplus += held[name][share + (rank < extra) :]
    return homeless + surplus
