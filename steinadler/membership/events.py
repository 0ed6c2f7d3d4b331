"""What the membership engine is told (inputs) and what it asks for (effects).

Both are closed unions of frozen values.  Connections, dialling and time belong to the shell,
which reports what happened and carries the effects out in the order given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from steinadler.identity import NodeId
from steinadler.membership.members import Member
from steinadler.membership.messages import Message


@dataclass(frozen=True, slots=True)
class Connected:
    """A handshake with that life of a node finished; `member` is what its Hello says, ALIVE."""

    member: Member


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection to that life ended; `goodbye` when the node said that it leaves."""

    node: NodeId
    goodbye: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A re-dial to where that life listened was answered: nobody, or somebody else, is there."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Received:
    """A message came over the connection with `sender`."""

    sender: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class ObserverConnected:
    """A peer that only watches connected: it is told everything and believed in nothing."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class ObserverDisconnected:
    """A watching peer is gone."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Relabel:
    """This node's labels are these from now on, sorted by key."""

    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """Nodes of these names may not be members from now on, and no others are barred."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Leave:
    """This node leaves for good.  The engine says so to all, and stops."""


Input: TypeAlias = (
    Connected
    | Disconnected
    | Refused
    | Received
    | ObserverConnected
    | ObserverDisconnected
    | Relabel
    | Bar
    | Leave
)


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` to a connected peer; when the connection is gone, drop it."""

    to: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class NeighbourAdded:
    """Keep connected to this member from now on.  Comes after its `Up`."""

    member: Member


@dataclass(frozen=True, slots=True)
class NeighbourRemoved:
    """This member need not be connected any longer.  A `Down` says so too, and comes alone."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Reach:
    """Dial this member once, which is no neighbour: somebody asks whether it is there."""

    member: Member


@dataclass(frozen=True, slots=True)
class PathLost:
    """Others hear that life of a member, and its connection here brings nothing: give that up."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Up:
    """This life of a node is a member from now on.  Alternates with `Down`, per life."""

    member: Member


# Reasons that this node's own engine had: nothing came from it, or nobody listens there.
SILENT, REFUSED = "no sign of life", "connection refused"


@dataclass(frozen=True, slots=True)
class Down:
    """This life of a node is no longer a member; `reason` says why, for people."""

    member: Member
    reason: str


@dataclass(frozen=True, slots=True)
class Suspected:
    """A member may be down: it has `suspicion_s` or more to say otherwise."""

    member: Member


@dataclass(frozen=True, slots=True)
class Cleared:
    """A suspected member said that it lives."""

    member: Member


@dataclass(frozen=True, slots=True)
class Updated:
    """A member's addresses or labels changed."""

    member: Member


@dataclass(frozen=True, slots=True)
class Usurped:
    """The cluster holds this node's name for another life, or holds that this life has left.

    `by` is the life that has the name.  It cannot be argued with: the engine has stopped.
    """

    by: NodeId


@dataclass(frozen=True, slots=True)
class Blocked:
    """This node did not run for so long, or its process did not: long enough to be noticed."""

    seconds: float


Effect: TypeAlias = (
    Send
    | Up
    | Down
    | Suspected
    | Cleared
    | Updated
    | NeighbourAdded
    | NeighbourRemoved
    | Reach
    | PathLost
    | Usurped
    | Blocked
)


class Admission(Enum):
    """What a handshake is to answer a node that wants to connect."""

    ADMITTED = "admitted"
    # The name is ours, or another life of it is alive as far as we know.
    NAME_IN_USE = "name_in_use"
    # A later life of that name is known, or this very life has left.
    STALE = "stale"
    # Nobody of that name may be a member.
    BARRED = "barred"
