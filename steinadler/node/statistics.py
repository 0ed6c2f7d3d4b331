"""What a node can tell of itself, its connections and its processes.

Nothing is done for it per message but the additions that a session makes anyway; every level
(what waits, what is kept) is counted at the moment somebody asks, in steps that grow with what
there is to count.  A task that samples was refused: whoever wants rates takes two looks, and
everybody else pays nothing.

Counters only grow, for as long as the thing that they are of lives; levels go up and down.  Bytes
are those of frames, before TLS and without handshakes; "messages" on a connection are messages,
objects of channels, calls, replies and signals, but not membership's, nor pieces of byte streams.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

import trio

from steinadler.identity import Address, NodeId
from steinadler.node.guard import Guard
from steinadler.node.peering import Peering
from steinadler.node.relaying import Relaying
from steinadler.node.router import Router
from steinadler.node.watching import Watching
from steinadler.process.process import Process
from steinadler.process.statistics import ProcessStatistics
from steinadler.process.table import Processes
from steinadler.stream.table import StreamTable
from steinadler.transport.carrier import Via
from steinadler.transport.link import Link
from steinadler.transport.peer import Peer
from steinadler.wire.session import SessionCounters


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """What a node has done since it opened, and what it holds now.

    Held now: `members` (itself included), `members_lost` (cut off, or silent, and not back yet),
    `in_minority` (see `Node.in_minority`), `processes` (the built-in ones included),
    `connections` that are up, `messages_queued` for a turn on one of them, `calls_waiting` for an
    answer that tasks here made, `calls_owed` by processes here, `relayed`: connections of others
    that this node carries, and `streams`: the ends here, of which a stream within the node has two
    and a relayed connection two as well.

    Since it opened, over all its sessions: bytes and messages both ways, `resumptions` (how often
    a session went on over a new connection), `bytes_retransmitted` after those (in `bytes_sent`
    too), `messages_dropped` (to nobody, or lost with a node that went down),
    `messages_undecodable`, `refusals` (of what the policy does not let peers do; each message and
    call counts), and `replies_refused` (to callers whose node does not read those that it has).
    Messages between processes of this node are not in sent and received.  `stream_bytes_sent` and
    `stream_bytes_received` are of the streams' ends here, those within the node too: what programs
    sent, and what has arrived for them.

    How well it runs: `health_score`, 0 when nothing speaks against it, 7 at the worst: its probes
    are now so many times more patient, plus one.  Since it opened its loop was `blocked` so often,
    or its process did not run, each time for at least `direct_timeout_s`: `blocked_s` seconds in
    all, `longest_block_s` at once.
    """

    members: int
    members_lost: int
    in_minority: bool
    processes: int
    connections: int
    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    messages_dropped: int
    messages_undecodable: int
    refusals: int
    replies_refused: int
    messages_queued: int
    bytes_retransmitted: int
    resumptions: int
    calls_waiting: int
    calls_owed: int
    relayed: int
    streams: int
    stream_bytes_sent: int
    stream_bytes_received: int
    health_score: int
    blocked: int
    blocked_s: float
    longest_block_s: float


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """The session with one life of one peer, and the connection that carries it.

    `connected` False: it broke, or was not made yet, and is dialled.  `connected_s` is the age in
    seconds of the present connection, `remote` its far end (of a peer that dialled, not the port
    at which it listens; `Via(relay)` when another member carries it); both None without one.
    `resumptions` is how often a connection of this session was replaced by another.  `observer`:
    the peer is no member.

    Counted since the session began: bytes and messages both ways, and `bytes_retransmitted`
    after resumptions, which are in `bytes_sent` too.

    To the peer: `messages_queued` with `bytes_queued` wait for their turn, and
    `bytes_unacknowledged` were sent and are kept until it is known to have them
    (`max_unacknowledged_bytes` at most, and then what is queued waits).  `channels` are open, one
    for each destination, one for each stream on which something was sent there, and two for
    signals and replies; on `channels_without_credit` senders wait until the process or the
    stream's reader there has consumed something.

    From the peer: it has `peer_channels` open, and `bytes_unconsumed` of its credit are used by
    what waits in mailboxes and streams here, 64 bytes for each message or piece included.

    `streams` that have one end here and one there are open.

    `round_trip_s` and `round_trip_latest_s`: seconds from a membership probe to its answer,
    smoothed and as last measured, every `probe_interval_s` or two, above nine members less often;
    None before the first, and with observers, which are not probed.
    """

    node: NodeId
    observer: bool
    connected: bool
    connected_s: float | None
    remote: Address | Via | None
    resumptions: int
    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    bytes_retransmitted: int
    messages_queued: int
    bytes_queued: int
    bytes_unacknowledged: int
    channels: int
    channels_without_credit: int
    peer_channels: int
    bytes_unconsumed: int
    streams: int
    round_trip_s: float | None
    round_trip_latest_s: float | None


class Gauges:
    """Reads the figures of one node off its parts."""

    def __init__(
        self,
        processes: Processes,
        peering: Peering,
        router: Router,
        watching: Watching,
        streams: StreamTable,
        relaying: Relaying,
        guard: Guard,
    ) -> None:
        self._processes = processes
        self._peering = peering
        self._router = router
        self._watching = watching
        self._streams = streams
        self._relaying = relaying
        self._guard = guard
        self._past = SessionCounters()  # of sessions that are over

    def peer_lost(self, link: Link) -> None:
        """A session is over: what it did still counts."""
        _add(self._past, link.session.counters)

    def node(self) -> NodeStatistics:
        """Counters and levels of the whole node."""
        links = self._peering.connections.links()
        total = SessionCounters()
        for counters in (self._past, *(link.session.counters for link in links)):
            _add(total, counters)
        health = self._peering.health
        return NodeStatistics(
            members=len(self._peering.members()),
            members_lost=self._peering.members_lost,
            in_minority=self._peering.in_minority,
            processes=len(self._processes),
            connections=sum(link.connected for link in links),
            bytes_sent=total.bytes_sent,
            bytes_received=total.bytes_received,
            messages_sent=total.items_sent,
            messages_received=total.items_received,
            messages_dropped=self._router.counters.dropped,
            messages_undecodable=self._router.counters.undecodable,
            refusals=self._guard.refusals,
            replies_refused=self._router.calls.refused_replies,
            messages_queued=sum(link.session.queued_items for link in links),
            bytes_retransmitted=total.bytes_retransmitted,
            resumptions=total.resumptions,
            calls_waiting=len(self._router.calls.pending),
            calls_owed=len(self._router.calls.owed),
            relayed=self._relaying.relayed,
            streams=self._streams.open_by_peer().total(),
            stream_bytes_sent=self._streams.bytes_sent(),
            stream_bytes_received=self._streams.bytes_received(),
            health_score=health.score,
            blocked=health.blocked,
            blocked_s=health.blocked_s,
            longest_block_s=health.longest_block_s,
        )

    def connections(self) -> tuple[ConnectionStatistics, ...]:
        """One for each peer, by name."""
        now = trio.current_time()
        streams = self._streams.open_by_peer()
        found = (self._connection(peer, now, streams) for peer in self._peering.connections.peers())
        return tuple(sorted(filter(None, found), key=lambda each: each.node))

    def _connection(
        self, peer: Peer, now: float, streams: Counter[NodeId]
    ) -> ConnectionStatistics | None:
        link = peer.link
        if link is None:
            return None
        counters, levels = link.session.counters, link.session.levels()
        round_trip = self._peering.round_trip(link.node)
        return ConnectionStatistics(
            node=link.node,
            observer=link.to_observer,
            connected=link.connected,
            connected_s=now - peer.connected_at if link.connected else None,
            remote=peer.remote if link.connected else None,
            resumptions=counters.resumptions,
            bytes_sent=counters.bytes_sent,
            bytes_received=counters.bytes_received,
            messages_sent=counters.items_sent,
            messages_received=counters.items_received,
            bytes_retransmitted=counters.bytes_retransmitted,
            messages_queued=levels.items_queued,
            bytes_queued=levels.bytes_queued,
            bytes_unacknowledged=levels.bytes_unacknowledged,
            channels=levels.channels,
            channels_without_credit=levels.channels_without_credit,
            peer_channels=levels.peer_channels,
            bytes_unconsumed=levels.bytes_unconsumed,
            streams=streams[link.node],
            round_trip_s=round_trip.smoothed_s if round_trip is not None else None,
            round_trip_latest_s=round_trip.latest_s if round_trip is not None else None,
        )

    def processes(self, busiest: int | None = None) -> tuple[ProcessStatistics, ...]:
        """All processes, oldest first; or so many, the busiest first."""
        chosen: Iterable[Process] = self._processes.all()
        if busiest is not None:
            chosen = heapq.nlargest(busiest, chosen, key=_busyness)
        return tuple(map(self.process, chosen))

    def process(self, process: Process) -> ProcessStatistics:
        """One process."""
        number, mailbox = process.id.number, process.mailbox
        messages, body_bytes = mailbox.waiting()
        monitors, watchers, links = self._watching.count(number)
        return ProcessStatistics(
            id=process.id,
            function=process.function_name,
            names=self._processes.names.names_of(number),
            messages_waiting=messages,
            bytes_waiting=body_bytes,
            messages_taken=mailbox.taken,
            calls_owed=self._router.calls.owed.count(number),
            local_credit_bytes=mailbox.local.credit,
            local_senders_waiting=mailbox.local.waiting,
            monitors=monitors,
            watchers=watchers,
            links=links,
        )


def _busyness(process: Process) -> tuple[int, int]:
    return process.mailbox.waiting()[0], process.mailbox.taken


def _add(total: SessionCounters, more: SessionCounters) -> None:
    for field in fields(SessionCounters):
        setattr(total, field.name, getattr(total, field.name) + getattr(more, field.name))
