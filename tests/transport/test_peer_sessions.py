"""Which sessions, lives and re-dialling tasks of a peer end, and which go on."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import trio

from steinadler.config import WireSettings
from steinadler.errors import RemoteProtocolError
from steinadler.identity import NODE, OBSERVER, Address, NodeId
from steinadler.transport.carrier import Via
from steinadler.transport.handshake import Handshakes
from steinadler.transport.link import Link, LinkState
from steinadler.transport.network import PeerIdentity, SecureStream
from steinadler.transport.peer import Peer
from steinadler.wire.handshake import (
    MAX_CONNECTION_NUMBER,
    Hello,
    Reject,
    RejectReason,
    SessionOffer,
)
from steinadler.wire.session import Event, PeerLimits

BOB = NodeId("bob", 1)
HERE = Address("127.0.0.1", 4000)


class Notes:
    """A delegate that admits everybody and writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, NodeId]] = []
        self.wanted: list[Peer] = []  # that may lack a connection

    def hello_facts(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        return 0, ()

    def admit(self, hello: Hello) -> Reject | None:
        return None

    def link_connected(self, link: Link, hello: Hello) -> None:
        self.told.append(("connected", link.node))

    def link_disconnected(self, link: Link) -> None:
        self.told.append(("disconnected", link.node))

    def link_ended(self, link: Link, reason: str) -> None:
        self.told.append((f"ended: {reason}", link.node))

    def session_lost(self, node: NodeId, reason: str) -> None:
        self.told.append((f"lost: {reason}", node))

    def peer_refused(self, node: NodeId) -> None:
        self.told.append(("refused", node))

    def rejected(self, reject: Reject, by: str) -> None:
        raise AssertionError("nobody was dialled")

    def events(self, link: Link, events: list[Event]) -> None:
        raise AssertionError("nothing was sent")


class BrokenStream(SecureStream):
    """A connection that broke right after the peer's Hello."""

    def __init__(self, role: str) -> None:
        self.peer = PeerIdentity("cluster", role, "bob")
        self.remote = HERE

    def write_nowait(self, data: bytes) -> bool:
        raise trio.BrokenResourceError

    async def flush(self) -> None:
        raise trio.BrokenResourceError

    async def receive_some(self) -> bytes:
        raise trio.BrokenResourceError

    def close_nowait(self) -> None:
        pass


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def peer(notes: Notes) -> Peer:
    return Peer("bob", WireSettings(), random.Random(1), notes, notes.wanted.append)


def hello(
    node: NodeId = BOB,
    *,
    role: str = NODE,
    token: int = 7,
    last_received: int = 0,
    number: int = 1,
) -> Hello:
    wire = WireSettings()
    limits = PeerLimits(wire.window_bytes, wire.max_message_bytes, wire.reassembly_bytes)
    offer = SessionOffer(token, 0, last_received, number)
    return Hello("cluster", role, node, 0, (HERE,), (), (), limits, offer)


def kept(peer: Peer) -> trio.CancelScope:
    peer.link_to(BOB)
    peer.neighbour = True
    peer.dialler = trio.CancelScope()
    return peer.dialler


async def test_a_lost_session_ends_its_link_and_not_the_re_dialling_m3_m4(
    peer: Peer, notes: Notes
) -> None:
    dialler = kept(peer)
    first, _ = peer.settle(hello(token=7), 1)
    second, last_received = peer.settle(hello(token=8), 2)
    assert (first.state, first.end_reason) == (LinkState.ENDED, "lost session")
    assert (second.node, second.token, second.peer_token, last_received) == (BOB, 2, 8, 0)
    assert peer.link is second
    assert peer.dialler is dialler
    assert not dialler.cancel_called
    assert peer.neighbour
    assert notes.told == [("ended: lost session", BOB), ("lost: lost session", BOB)]


async def test_a_session_that_both_remember_goes_on_m3(peer: Peer, notes: Notes) -> None:
    first, _ = peer.settle(hello(), 1)
    assert peer.settle(hello(last_received=5), 2) == (first, 5)
    assert first.token == 1
    assert notes.told == []


async def test_another_life_ends_the_former_one_and_its_re_dialling_d3(
    peer: Peer, notes: Notes
) -> None:
    dialler = kept(peer)
    former, _ = peer.settle(hello(), 1)
    later = NodeId("bob", 2)
    link, _ = peer.settle(hello(later), 2)
    assert (former.end_reason, link.node) == ("restarted", later)
    assert dialler.cancel_called
    assert peer.dialler is None
    assert not peer.neighbour
    assert notes.told == [("ended: restarted", BOB)]


async def test_whoever_received_what_was_never_sent_loses_the_session_x4(
    peer: Peer, notes: Notes
) -> None:
    dialler = kept(peer)
    link, _ = peer.settle(hello(), 1)
    stream = BrokenStream(NODE)
    with pytest.raises(RemoteProtocolError):
        peer.attach(link, stream, hello(), 99, dialler="bob")
    assert link.state is LinkState.ENDED
    assert peer.link is not None  # for the connection that is made next
    assert peer.link.peer_token == 0
    assert peer.lacks_connection
    assert not dialler.cancel_called
    assert [what.split(":")[0] for what, _ in notes.told] == ["disconnected", "ended", "lost"]


async def test_the_next_session_bears_the_token_that_was_offered(peer: Peer) -> None:
    offered = peer.link_to_offer()
    assert peer.link_to_offer() is offered
    assert not peer.unused  # the peer may have taken it up
    assert peer.link_to(BOB).token == offered.token


@pytest.mark.parametrize(("role", "forgotten"), [(OBSERVER, True), (NODE, False)])
async def test_nothing_is_kept_of_an_observer_that_goes_before_the_answer_x4(
    peer: Peer, notes: Notes, role: str, forgotten: bool
) -> None:
    """Observers come under ever new names, so each would be kept for ever; a node comes back."""
    us = PeerIdentity("cluster", NODE, "alice")
    handshakes = Handshakes(us, NodeId("alice", 1), WireSettings(), notes)
    assert handshakes.answer(BrokenStream(role), peer, hello(role=role)) is None
    assert peer.unused is forgotten


# -- Hellos that come late ------------------------------------------------------------------


def connected(peer: Peer, number: int, *, dialler: str, node: NodeId = BOB) -> Link:
    """A connection that was dialled with this number was made, and has broken."""
    said = hello(node, number=number)
    link, last_received = peer.settle(said, 1)
    peer.attach(link, BrokenStream(NODE), said, last_received, dialler=dialler)
    link.drop_connection()
    return link


def refused(peer: Peer, said: Hello) -> bool:
    reject = peer.outranking(said)
    assert reject is None or reject.reason is RejectReason.SUPERSEDED
    return reject is not None


async def test_a_hello_from_before_the_latest_connection_is_too_late_m3(peer: Peer) -> None:
    """What it says of the session is out of date; taken at its word, it would cost the session."""
    connected(peer, 5, dialler="alice")
    assert refused(peer, hello(number=4))
    assert refused(peer, hello(number=5))  # "alice" sorts before "bob"
    assert not refused(peer, hello(number=6))


async def test_a_hello_that_loses_against_a_dial_we_gave_up_is_too_late_m3(peer: Peer) -> None:
    """Our own may be about to be read, and says what was true when it was written."""
    number = peer.next_number("alice")
    assert refused(peer, hello(number=number))
    assert refused(peer, hello(NodeId("bob", 2), number=number))  # to whichever life it comes
    assert not refused(peer, hello(number=number + 1))


async def test_no_number_is_dialled_twice_m3(peer: Peer) -> None:
    connected(peer, 5, dialler="bob")
    assert [peer.next_number("alice") for _ in range(3)] == [6, 7, 8]
    peer.outnumbered(20)
    assert not refused(peer, hello(number=20))  # the one that outnumbers us
    assert peer.next_number("alice") == 21


async def test_another_life_begins_to_count_anew_d3(peer: Peer) -> None:
    connected(peer, 5, dialler="bob")
    assert not refused(peer, hello(NodeId("bob", 2), number=1))


async def test_no_number_of_a_peers_makes_ours_too_large_to_say_x4(peer: Peer) -> None:
    peer.outnumbered(MAX_CONNECTION_NUMBER)
    us = Handshakes(PeerIdentity("c", NODE, "alice"), NodeId("alice", 1), WireSettings(), Notes())
    offer = peer.link_to_offer().offer(peer.next_number("alice"))
    assert us.hello(offer)
    assert offer.connection_number == MAX_CONNECTION_NUMBER


# -- where the present life was seen --------------------------------------------------------------

NAT, INSIDE = Address("192.0.2.1", 4370), Address("10.0.0.5", 4370)


def connect(peer: Peer, remote: Address | Via, said: Address, dialler: str) -> None:
    stream = BrokenStream(NODE)
    stream.remote = remote
    greeting = replace(hello(), addresses=(said,))
    link, _ = peer.settle(greeting, 1)
    peer.attach(link, stream, greeting, 0, dialler=dialler)
    link.close_connection()


@pytest.mark.parametrize(
    ("remote", "said", "dialler", "seen_at"),
    [
        (NAT, INSIDE, "alice", NAT),  # where this node dialled it
        (Address(INSIDE.host, 50_000), INSIDE, "bob", INSIDE),  # it came from where it listens
        (Address(NAT.host, 50_000), INSIDE, "bob", None),  # it came through a NAT
        (Via(NodeId("carol", 1)), INSIDE, "bob", None),
    ],
)
async def test_a_refusal_counts_only_where_this_life_was_seen_s2(
    peer: Peer, remote: Address | Via, said: Address, dialler: str, seen_at: Address | None
) -> None:
    connect(peer, remote, said, dialler)
    assert peer.seen_at == seen_at
    assert peer.addresses_to_dial()[0] == (seen_at or said)
    peer.end("restarted")
    assert peer.seen_at is None, "the next life may be elsewhere"


async def test_a_member_that_moves_is_not_seen_where_it_was(peer: Peer) -> None:
    connect(peer, INSIDE, INSIDE, "alice")
    peer.moved((INSIDE, NAT))
    assert peer.seen_at == INSIDE
    peer.moved((NAT,))
    assert peer.seen_at is None
    connect(peer, NAT, INSIDE, "alice")
    peer.moved((INSIDE,))
    assert peer.seen_at == NAT, "it never said that it is there, and was"
