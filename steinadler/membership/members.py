"""Member records, and the one rule that says which of two records about a name wins.

Every node holds at most one record per name, and merges what it hears with what it holds by
`join`.  Because `join` is a maximum over a total order, and of the accusers in records that are
equal otherwise a union cut to the first few, it is commutative, associative and idempotent:
however often, in whatever order and by whatever path records arrive, nodes that have heard the
same records hold the same table.  Comparing arrival times instead was refused:
news of a former life would then be believed when it is late (promise D3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise

from steinadler.errors import ConfigError
from steinadler.identity import NODE, Address, NodeId

# The largest record, encoded: three of them fit one frame of 16 KiB.
MAX_RECORD_BYTES = 4096
# How many accusers a record names: the first, and as many more as shorten a suspicion.
MAX_ACCUSERS = 4
# The label that says what a member's certificate entitles it to be, unless that is NODE.
ROLE_LABEL = "$role"
# CBOR's heads and integers around one record, at most (RFC 8949 section 3).
_HEAD_BYTES = 32


class MemberState(IntEnum):
    """What is believed of one life of a node.  The numbers travel; their order is the rule's."""

    ALIVE = 0
    SUSPECT = 1
    DOWN = 2
    LEFT = 3

    @property
    def is_member(self) -> bool:
        """Whether a node in this state counts as a member: a suspect still does."""
        return self is MemberState.ALIVE or self is MemberState.SUSPECT


@dataclass(frozen=True, slots=True)
class Member:
    """One record: what is known of the node called `node.name`.

    `refutation` is SWIM's incarnation number (section 4.2): only the node itself raises it, to
    overrule a suspicion.  It has another name here because an incarnation is a life of a node.
    `labels` are sorted by key, each key once.  `accusers` are the members that found a suspect
    silent by probes of their own: sorted names, each once, four at the most, and none for one that
    is no suspect.  Raises `ConfigError` when either is not so, or when name, addresses, labels
    and accusers take more than 4096 bytes.
    """

    node: NodeId
    addresses: tuple[Address, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    state: MemberState = MemberState.ALIVE
    refutation: int = 0
    accusers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(one >= other for (one, _), (other, _) in pairwise(self.labels)):
            raise ConfigError("labels are sorted by key, each key once")
        if self.accusers and (
            self.state is not MemberState.SUSPECT
            or len(self.accusers) > MAX_ACCUSERS
            or any(one >= other for one, other in pairwise(self.accusers))
        ):
            raise ConfigError("a suspect has up to four accusers, sorted, each once; others none")
        if self.size_bound() > MAX_RECORD_BYTES:
            raise ConfigError(
                f"the addresses and labels of {self.node.name!r} take more than "
                f"{MAX_RECORD_BYTES} bytes: give it fewer, or shorter ones"
            )

    def label(self, key: str) -> str | None:
        """The value of a label, or None when the node does not have it."""
        return dict(self.labels).get(key)

    @property
    def role(self) -> str:
        """What this record says that the node's certificate says: who has a connection to it
        knows whether that is so."""
        return self.label(ROLE_LABEL) or NODE

    def in_state(self, state: MemberState, *accusers: str) -> Member:
        """The same record in another state, accused by these and no others."""
        return replace(self, state=state, accusers=accusers)

    def size_bound(self) -> int:
        """No fewer bytes than this record takes when encoded in a message."""
        size = _HEAD_BYTES + len(self.node.name)
        for address in self.addresses:
            size += len(address.host.encode()) + 8
        for key, value in self.labels:
            size += len(key.encode()) + len(value.encode()) + 6
        for accuser in self.accusers:
            size += len(accuser) + 2
        return size


def _rank(
    record: Member,
) -> tuple[int, int, int, tuple[Address, ...], tuple[tuple[str, str], ...]]:
    return (
        record.node.incarnation,
        record.refutation,
        record.state,
        record.addresses,
        record.labels,
    )


def join(one: Member, other: Member) -> Member:
    """What to hold, having heard both of these records about one name.

    The first row in which the two differ decides:

    | compared                    | the winner                              |
    |-----------------------------|-----------------------------------------|
    | `node.incarnation`          | the later life, whatever the states     |
    | `refutation`                | the higher: the node's own later word   |
    | state                       | ALIVE < SUSPECT < DOWN < LEFT           |
    | addresses, then labels      | the greater, so that all pick the same  |

    LEFT is final, because whoever left says nothing more.  That it wins over any refutation was
    refused: one that is said to have left, and has not, could not say so.

    The last row never decides between honest nodes (one that changes its addresses raises its
    refutation), and makes the order total.  Records that do not differ so are one suspicion, and
    have the accusers of both, up to the first `MAX_ACCUSERS` by name.
    """
    if _rank(one) != _rank(other):
        return max(one, other, key=_rank)
    accusers = sorted({*one.accusers, *other.accusers})[:MAX_ACCUSERS]
    return replace(one, accusers=tuple(accusers))
