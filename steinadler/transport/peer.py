"""One peer name: its link, and when one session ends and the next begins.

    link_to(node)        a link to a life of the peer, before any connection to it
    settle(hello)        which link a Hello belongs to: resumed, a new session, or another life
    attach, carry        a connection begins; it breaks, or breaks a rule
    lacks_connection     there is none, and there should be
    end(reason)          this life is given up, and nobody dials it any longer

A name, not a life, is what the record is of: two lives of one name are told apart here, and the
former one ends before the next begins (D3).  When only the session is lost, the life goes on:
the link is replaced, and whoever dials the peer goes on with the new one.  Reusing the old link
was refused: whoever waits on it must learn that what it carried is lost (M4).

A neighbour is kept connected.  Any other peer is connected while that is of use, at whichever end:
both have the session, so both dial when there is something to send in it, the watched end of a
monitor as well as the watching one.  Where a session ended at one end alone, that end dials too:
the other would wait for ever on a session that nobody else remembers (D1).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from steinadler.config import WireSettings
from steinadler.errors import RemoteProtocolError
from steinadler.identity import NODE, Address, NodeId
from steinadler.transport.carrier import Via
from steinadler.transport.delegate import Delegate
from steinadler.transport.link import Link, LinkState
from steinadler.transport.network import SecureStream
from steinadler.wire.handshake import (
    MAX_ADDRESSES,
    MAX_CONNECTION_NUMBER,
    ConnectionRank,
    Hello,
    Reject,
    RejectReason,
)

logger = logging.getLogger("steinadler.transport")


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest connection that was dialled, by either end, as far as this one knows.

    `life` is the life of the peer that it is to; None while that has not answered, if it ever will.
    `highest` is the highest connection number heard of.
    """

    rank: ConnectionRank
    life: NodeId | None
    highest: int


NO_CONNECTION = Latest(ConnectionRank(0, ""), None, 0)


class Peer:
    """What is known of one peer name.  Made, kept and forgotten by `Connections`.

    `link` is the present session, `dial` the scope of the handshake that this node began, `dialler`
    that of the task that dials, while there is one; a life that is a `neighbour` is kept connected.
    `on_wanted` is told when the peer may lack a connection; `latest` is what a former record of
    the name knew.
    """

    def __init__(
        self,
        name: str,
        settings: WireSettings,
        rng: random.Random,
        delegate: Delegate,
        on_wanted: Callable[[Peer], None],
        latest: Latest = NO_CONNECTION,
    ) -> None:
        self.name = name
        self.latest = latest
        self.link: Link | None = None
        self.dial: trio.CancelScope | None = None
        self.dialler: trio.CancelScope | None = None
        self.neighbour = False
        self.addresses: tuple[Address, ...] = ()
        # Where the present life was seen to be: only a refusal from there says something about it.
        self.seen_at: Address | None = None
        # Of the latest connection: its far end, and when it began.
        self.remote: Address | Via | None = None
        self.connected_at = 0.0
        self._settings = settings
        self._rng = rng
        self._delegate = delegate
        self._on_wanted = on_wanted
        # The latest numbered frames each way, and when they were seen to be new.
        self._progress = (0, 0)
        self._active_at = 0.0
        # What our Hellos offered while there was no link: the peer may have taken it up although
        # its answer was lost, so the next Hello offers the same.
        self._offered: Link | None = None
        # Where else the present link's peer was found, so that it is not dialled there for ever.
        self._found_at: set[Address] = set()

    # -- what is known ------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self.link is not None and self.link.connected

    @property
    def is_relayed(self) -> bool:
        """Whether the present connection goes through a third node."""
        return self.connected and not self.is_direct

    @property
    def is_direct(self) -> bool:
        """Whether the present connection goes through nobody."""
        return self.connected and not isinstance(self.remote, Via)

    @property
    def unused(self) -> bool:
        """Whether nothing would be lost by forgetting this record."""
        return not (self.link or self.dial or self._offered)

    @property
    def lacks_connection(self) -> bool:
        """Whether somebody should dial: see the module's text."""
        link = self.link
        return (
            link is not None
            and not link.to_observer
            and not link.connected
            and (self.neighbour or link.needed)
        )

    def is_idle(self, idle_s: float, now: float) -> bool:
        """Whether the connection, if any, is of no use, and was of none for `idle_s`, as far as
        this was asked before."""
        link = self.link
        if self.neighbour or link is None or not link.connected or link.to_observer:
            return False
        progress = link.session.progress
        if progress != self._progress:
            self._progress, self._active_at = progress, now
        if now - self._active_at < idle_s:
            return False
        return not (link.needed or link.session.holds_senders)

    def is_connected_at(self, address: Address) -> bool:
        """Whether dialling `address` would only find the peer that is connected already."""
        return self.connected and (
            address in self.addresses or address == self.seen_at or address in self._found_at
        )

    def was_found_at(self, address: Address) -> None:
        """The connected peer answers there too."""
        if len(self._found_at) < MAX_ADDRESSES:
            self._found_at.add(address)

    def addresses_to_dial(self) -> list[Address]:
        """Everywhere the peer may be, first where it was seen."""
        seen_at = self.seen_at
        addresses = sorted(self.addresses, key=lambda address: address != seen_at)
        if seen_at is not None and seen_at not in addresses:
            addresses.insert(0, seen_at)
        return addresses

    def moved(self, addresses: tuple[Address, ...]) -> None:
        """The present life says that it is at these addresses now."""
        if self.seen_at in self.addresses and self.seen_at not in addresses:
            self.seen_at = None
        self.addresses = addresses

    def outranking(self, hello: Hello) -> Reject | None:
        """The refusal of this Hello, when another connection to the same life was dialled since,
        or is to be kept."""
        rank, rival = _rank_of(hello, hello.node.name), self.latest.rank
        if self.latest.life not in (None, hello.node) or rank.beats(rival):
            return None
        return Reject(RejectReason.SUPERSEDED, "another connection is kept", rival.number)

    def next_number(self, dialler: str) -> int:
        """The number of a dial that this node, `dialler`, begins: used from now on."""
        # Unless the peer said so, nobody gets there; and then nobody else is harmed.
        number = min(self.latest.highest + 1, MAX_CONNECTION_NUMBER)
        self.latest = Latest(ConnectionRank(number, dialler), None, number)
        return number

    def outnumbered(self, number: int) -> None:
        """Our next dial must count as newer than the connection that the peer holds on to."""
        self.latest = replace(self.latest, highest=max(self.latest.highest, number))

    # -- sessions -----------------------------------------------------------------------------

    def link_to(self, node: NodeId) -> Link:
        """The link to this life of the peer, made now if no connection did so yet."""
        link = self.link
        if link is None or link.node != node:
            if link is not None:
                self.end("restarted")
            link = self.link = self._new_link(node, NODE, self.take_token())
        return link

    def end(self, reason: str) -> None:
        """Give the present life up: its connection, its session, its re-dialling."""
        self.neighbour = False
        self.seen_at = None
        self.stop_dialling()
        self._end_link(reason)

    def stop_dialling(self) -> None:
        """End the task that dials, if there is one."""
        dialler, self.dialler = self.dialler, None
        # A handshake of it is left to end by itself: whoever is there may have taken it, and
        # have given up a dial of its own that we answered.
        if dialler is not None and self.dial is None:
            dialler.cancel()

    def let_go(self) -> None:
        """The present life is no neighbour any more: it is as idle as if it had connected now."""
        self.neighbour = False
        self._active_at = trio.current_time()

    async def part(self) -> None:
        """Let the present connection, if any, end, and wait until nothing comes on it any more.

        Before another one is dialled in its place: what a Hello says has arrived must stay so until
        it is answered, or the peer would send again what came meanwhile.
        """
        link = self.link
        if link is not None:
            stream = link.stream
            link.close_connection()
            while link.connected and link.stream is stream:
                await link.changed.wait()

    def link_to_offer(self) -> Link:
        """What our next Hello offers."""
        if self.link is not None:
            return self.link
        if self._offered is None:
            # Before anything is agreed a link of no life in particular stands for the session.
            self._offered = self._new_link(NodeId(self.name, 0), NODE, self._new_token())
        return self._offered

    def take_token(self) -> int:
        """The token for a new session: what our Hellos offered, if they did.  Offered no more."""
        offered, self._offered = self._offered, None
        return self._new_token() if offered is None else offered.token

    def settle(self, hello: Hello, token: int) -> tuple[Link, int]:
        """The link that a Hello belongs to, and up to which frame the peer has what it sent.

        A session that the peer does not remember ends here, and a new one begins under `token`.
        """
        link, self._offered = self.link, None
        if link is None:
            link = self._new_link(hello.node, hello.role, token)
        elif link.node != hello.node:
            self.end("restarted")
            link = self._new_link(hello.node, hello.role, token)
        elif link.peer_token == 0:  # made for a member, and now connected for the first time
            link.token, link.role = token, hello.role
        elif link.role == hello.role and link.can_resume(hello.session):
            return link, hello.session.last_received
        else:
            self._end_session(link, "lost session")
            link = self._new_link(hello.node, hello.role, token)
        link.peer_token = hello.session.token
        self.link = link
        return link, 0

    # -- connections --------------------------------------------------------------------------

    def attach(
        self,
        link: Link,
        stream: SecureStream,
        hello: Hello,
        last_received: int,
        *,
        dialler: str,
    ) -> None:
        """Carry the link on over `stream`.  `carry` must follow.

        Raises `RemoteProtocolError`, and the session is lost, when the peer claims to have
        received what was never sent.
        """
        rank = _rank_of(hello, dialler)
        self.latest = Latest(rank, link.node, max(self.latest.highest, rank.number))
        try:
            link.attach(stream, hello.limits, last_received)
        except RemoteProtocolError as error:
            self._lose_session(link, f"protocol error: {error}")
            raise
        self.remote = stream.remote
        self.connected_at = self._active_at = trio.current_time()
        self.addresses = hello.addresses
        match stream.remote:
            case Via():
                pass  # it says nothing of where the peer is
            case Address() as address if dialler != hello.node.name:
                self.seen_at = address
            case Address(host):  # it dialled, from a host at which it may say that it listens
                known = (self.seen_at, *hello.addresses)
                self.seen_at = next((one for one in known if one and one.host == host), None)
        self._delegate.link_connected(link, hello)

    async def carry(self, link: Link, stream: SecureStream, rest: bytes) -> None:
        """Run the attached connection to its end, and draw the consequences.

        `rest` is what came in behind the peer's Hello.
        """
        try:
            await link.run(stream, rest)
        except RemoteProtocolError as error:
            logger.warning("closed the connection to %s: protocol error: %s", link.node, error)
            if self.link is link:
                self._lose_session(link, f"protocol error: {error}")
        else:
            if self.link is link and link.state is LinkState.WAITING:
                if not link.to_observer:
                    self._delegate.link_disconnected(link)
                    self._on_wanted(self)
                else:  # an observer that comes back comes back as another one
                    self.end("connection closed")

    def broke_early(self, link: Link) -> None:
        """The connection broke between `settle` and `attach`."""
        if self.link is link and link.to_observer and not link.connected:
            self.end("connection closed")  # as in `carry`: nobody resumes it
        else:
            self._on_wanted(self)

    # -- how a session ends -------------------------------------------------------------------

    def _lose_session(self, link: Link, reason: str) -> None:
        self._delegate.link_disconnected(link)
        if self.link is link:
            self._end_session(link, reason)
            if not link.to_observer:
                self.link_to(link.node).ask_for_connection()

    def _end_session(self, link: Link, reason: str) -> None:
        """End the session, but not the life: whoever keeps it connected stays."""
        self._end_link(reason)
        if not link.to_observer:
            self._delegate.session_lost(link.node, reason)

    def _end_link(self, reason: str) -> None:
        link, self.link = self.link, None
        if link is not None:
            self._found_at.clear()
            if link.to_observer:
                self.latest = NO_CONNECTION
            link.end(reason)
            self._delegate.link_ended(link, reason)

    def _new_token(self) -> int:
        return self._rng.getrandbits(63) + 1  # never 0, which means "none"

    def _new_link(self, node: NodeId, role: str, token: int) -> Link:
        return Link(
            node, role, token, self._settings, self._delegate.events, self._connection_wanted
        )

    def _connection_wanted(self, link: Link) -> None:
        if link is self.link:
            self._on_wanted(self)


def _rank_of(hello: Hello, dialler: str) -> ConnectionRank:
    return ConnectionRank(hello.session.connection_number, dialler)
