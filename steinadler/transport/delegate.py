"""What connections ask and tell whoever decides about membership.

The transport knows who is at the other end of a stream, and not whether the cluster wants it
there.  It asks through this protocol, so that it need not know the engine that answers.  The
methods are plain functions: one that waited would hold up the reader that called it, and what is
decided meanwhile would no longer fit what was asked.
"""

from __future__ import annotations

from typing import Protocol

from steinadler.identity import NodeId
from steinadler.transport.link import Link
from steinadler.wire.handshake import Hello, Reject
from steinadler.wire.session import Event


class Delegate(Protocol):
    """What `Connections` asks and tells its owner.  All plain functions: they must not wait."""

    def hello_facts(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        """This node's present refutation number and labels."""

    def admit(self, hello: Hello) -> Reject | None:
        """May this life of this node connect?

        Raises `RemoteProtocolError` when what the Hello says cannot be.
        """

    def link_connected(self, link: Link, hello: Hello) -> None:
        """A connection is up (again)."""

    def link_disconnected(self, link: Link) -> None:
        """The connection broke, or one of the two ends closed it because it was of no use: the
        session waits to be resumed.  Which of these it was cannot be told at the other end, so it
        is not told at this one either: for a peer that is no neighbour it is no evidence."""

    def link_ended(self, link: Link, reason: str) -> None:
        """The session is over: nothing more goes to or comes from this link."""

    def session_lost(self, node: NodeId, reason: str) -> None:
        """After `link_ended`: the same life of the node goes on, with a new session."""

    def peer_refused(self, node: NodeId) -> None:
        """Where the peer used to listen, nobody listens, or somebody else does.  Dialling goes on
        until the session is ended."""

    def rejected(self, reject: Reject, by: str) -> None:
        """The node called `by` would not have us."""

    def events(self, link: Link, events: list[Event]) -> None:
        """Something arrived."""
