"""What became of knocking at an address: the vocabulary that `knocking` and `answers` share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from steinadler.diagnosis.validity import Validity
from steinadler.identity import Address, NodeId
from steinadler.security import PeerIdentity
from steinadler.wire.handshake import Reject


class Obstacle(Enum):
    """Where an attempt ended, and what was there instead of a node that would have us."""

    # On the way.
    REFUSED = auto()  # the machine is there, and nobody listens
    NO_ANSWER = auto()  # nothing came back
    UNREACHABLE = auto()  # no way there
    # Something accepted the connection.
    SILENT = auto()  # and said nothing
    CLOSED = auto()  # and hung up
    OTHER_PROTOCOL = auto()  # and is no node
    OTHER_NODE = auto()  # and is another node of this cluster
    # It speaks TLS, and we refuse its certificate.
    OTHER_AUTHORITY = auto()
    EXPIRED = auto()
    NOT_YET_VALID = auto()
    NOT_ACCEPTABLE = auto()
    # We would have it, and it refuses us.
    REFUSES_US = auto()
    TLS_FAILED = auto()
    BREAKS_RULES = auto()
    # We have nothing to show.
    NO_CREDENTIALS = auto()


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate that somebody shows, believed by nobody: whom it names and who signed it.

    `cluster_id` is that of the cluster which its authority is confined to, where it was sent along,
    or which its SPIFFE ID is of.
    """

    named: str
    validity: Validity
    cluster_id: str | None


@dataclass(frozen=True, slots=True)
class Reached:
    """A node of this cluster; `node` and `addresses` are what it said when we were introduced."""

    identity: PeerIdentity
    certificate: Validity
    took_s: float
    node: NodeId | None = None
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A node of this cluster that would not have us, for a reason that it told."""

    identity: PeerIdentity
    reject: Reject


@dataclass(frozen=True, slots=True)
class Obstructed:
    """Nobody who would have us; `text` is the error's, `shown` what could be seen besides."""

    obstacle: Obstacle
    text: str
    shown: Shown | None = None


Outcome: TypeAlias = Reached | TurnedAway | Obstructed
