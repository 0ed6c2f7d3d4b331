"""Admitting: who is let in as what, and what it means to be turned away.

    Hello of a peer  --> admit     a Reject that says why not, or None
    Reject by a peer --> rejected  whether this node's name is another's, in the end

Two living nodes cannot have one name, and the one that came second gives way.  It is told so by a
Reject; but others may hold its name for the shadow of its own former life, which they have not yet
noticed to be gone.  So it keeps trying for `NAME_CONFLICT_PATIENCE_S`, and gives up when more
peers turn it away than want it: one that means harm ends nobody whom others want (X4).
"""

from __future__ import annotations

from collections.abc import Callable

from steinadler.errors import ConfigError, NameConflict, RemoteProtocolError, SteinadlerError
from steinadler.identity import OBSERVER, NodeId
from steinadler.membership import ROLE_LABEL, Admission, Member, Swim, decode, encode
from steinadler.membership.messages import Gossip
from steinadler.wire.handshake import Hello, Reject, RejectReason

# How long a former life's shadow may stand in the way; others notice after about 3 s.
NAME_CONFLICT_PATIENCE_S = 6.0


class Admitting:
    """The door of one node, by its clock.  `fail` ends the node."""

    def __init__(self, me: NodeId, engine: Swim, fail: Callable[[SteinadlerError], None]) -> None:
        self._me = me
        self._engine = engine
        self._fail = fail
        # By whom, since when and when last this node was told that its name is another's.
        self._turned_away: dict[str, tuple[float, float]] = {}

    def admit(self, hello: Hello, now: float) -> Reject | None:
        """Why a peer is not let in.  Raises `RemoteProtocolError` for what describes no member."""
        try:
            member = member_of(hello)
            # As it will travel: a record that others cannot read would cost us their connections.
            decode(encode(Gossip((member,))))
        except ConfigError as error:
            raise RemoteProtocolError(f"a Hello that describes no member: {error}") from error
        if hello.role == OBSERVER:
            return self._admit_observer(hello.node.name)
        if member.role != hello.role:  # which is the certificate's
            return Reject(
                RejectReason.IDENTITY,
                f"the peer's label {ROLE_LABEL} says that it is {member.role!r}, "
                f"its certificate says {hello.role!r}",
            )
        return self._admit_member(hello.node, now)

    def _admit_observer(self, name: str) -> Reject | None:
        record = self._engine.find(name)
        if record is None or not record.state.is_member:
            return None
        # It could answer for the node of that name, or take its connection away.
        return Reject(
            RejectReason.NAME_IN_USE,
            f"a node of this cluster is called {name!r}: an observer needs a name of its own",
        )

    def _admit_member(self, node: NodeId, now: float) -> Reject | None:
        match self._engine.admit(node, now):
            case Admission.ADMITTED:
                return None
            case Admission.NAME_IN_USE:
                text = (
                    f"another living node of this cluster is called {node.name!r}; "
                    "stop it, or choose another name"
                )
                if node.name == self._me.name and node < self._me:
                    # The second of a name gives way, whichever of the two dials.
                    self._fail(NameConflict(text))
                    return Reject(RejectReason.CLOSING, "it came second, and gives way")
                return Reject(RejectReason.NAME_IN_USE, text)
            case Admission.BARRED:
                return Reject(RejectReason.IDENTITY, f"{node.name!r} was revoked")
            case Admission.STALE if self._has_left(node):
                # It was dialling when it left: nothing is wrong.
                return Reject(RejectReason.CLOSING, f"{node.name!r} has left the cluster")
            case Admission.STALE:
                return Reject(
                    RejectReason.STALE,
                    f"a later life of {node.name!r} is known; is the clock of its machine behind?",
                )

    def _has_left(self, node: NodeId) -> bool:
        record = self._engine.find(node.name)
        return record is not None and record.node == node

    def rejected(self, reject: Reject, by: str, wanted_by: int, now: float) -> None:
        """A peer turned this node away, while so many members are connected to it."""
        if reject.reason not in (RejectReason.NAME_IN_USE, RejectReason.STALE):
            return
        if by == self._me.name:  # no shadow: that very node answered
            self._fail(NameConflict(reject.detail))
        self._turned_away = {
            name: times
            for name, times in self._turned_away.items()
            if now - times[1] < 2 * NAME_CONFLICT_PATIENCE_S
        }
        first, _ = self._turned_away.get(by, (now, now))
        self._turned_away[by] = (first, now)
        began = min(first for first, _ in self._turned_away.values())
        if now - began >= NAME_CONFLICT_PATIENCE_S and len(self._turned_away) > wanted_by:
            self._fail(NameConflict(reject.detail))

    def met(self, name: str) -> None:
        """That peer wants this node after all."""
        self._turned_away.pop(name, None)


def member_of(hello: Hello) -> Member:
    """The record that a Hello stands for; raises `ConfigError` when it is too large."""
    return Member(hello.node, hello.addresses, hello.labels, refutation=hello.refutation)
