"""Frozen settings.  Every name carries its unit; every default says what it buys and costs.

A `Config` is given to `open_node` and never changes afterwards.  Both ends of a connection may
use different values: what one end must know of the other (its window, its limits) travels in
the handshake.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum

from steinadler.errors import ConfigError

KIB = 1024
MIB = 1024 * KIB
# A sender keeps up to this much for each slow destination of its peer, so peers may not ask more.
MAX_WINDOW_BYTES = 1024 * MIB
# Whatever else a program waits for may be delayed by so much.
MAX_IDLE_POLL_S = 0.01


def _require_positive(settings: object, but: str = "") -> None:
    for item in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, item.name)
        if item.name != but and isinstance(value, (int, float)) and not value > 0:
            raise ConfigError(f"{item.name} must be greater than zero, not {value!r}")


@dataclass(frozen=True, slots=True)
class WireSettings:
    """Limits and buffers of one connection."""

    # The largest encoded message.  A receiver must be able to hold one of these per channel.
    max_message_bytes: int = 64 * MIB
    # The window of one channel: what one peer may have in flight to, or waiting in the mailbox
    # of, one process: 1 GiB at most.  Throughput of a channel is at most window / round-trip time.
    window_bytes: int = 1 * MIB
    # Unfinished large messages that this node is willing to hold for one peer, in all.
    reassembly_bytes: int = 128 * MIB
    # Sent but not yet acknowledged by the peer's node: the retransmission buffer.
    max_unacknowledged_bytes: int = 16 * MIB
    # The part of it for messages over 16 KiB.  Whatever is sent behind them waits until the peer
    # has read so much; and together they travel at most this fast in each round trip.
    max_unacknowledged_bulk_bytes: int = 2 * MIB
    # Replies and signals that may wait for one peer, which pays no credit for them: beyond it, a
    # reply is refused (the caller sees a `RemoteError`), and so is what a program asks of that
    # node (`MailboxFull`).  A peer for which twice as much waits has its session ended.
    max_queued_reply_bytes: int = 64 * MIB
    # Calls of one peer that processes here may owe an answer (each costs about 400 bytes); a call
    # beyond it fails at once, with a `RemoteError`.
    max_unanswered_calls: int = 262_144
    # Channels that one peer may have open to us at once, its two for signals and replies included
    # (each costs about 300 bytes here, and 1 KiB there).  More destinations with unconsumed
    # messages it cannot have here.
    max_channels: int = 65_536
    # From accepting or dialling until both sides have said Hello.  A slow client is cut then.
    handshake_timeout_s: float = 5.0
    # How long a received frame may wait for something to carry its acknowledgement.
    acknowledge_delay_s: float = 0.025
    # A channel unused for so long is closed; the next message opens it again.
    channel_idle_s: float = 30.0
    # How long to poll a busy connection before the thread sleeps: more than halves the round trip
    # of small calls, for a core that looks busy meanwhile.  0 to never poll.
    idle_poll_s: float = 0.0002

    def __post_init__(self) -> None:
        _require_positive(self, but="idle_poll_s")
        if not 0 <= self.idle_poll_s <= MAX_IDLE_POLL_S:
            raise ConfigError(
                f"idle_poll_s must be from 0 to {MAX_IDLE_POLL_S}, not {self.idle_poll_s!r}"
            )
        if self.reassembly_bytes < self.max_message_bytes:
            raise ConfigError("reassembly_bytes must be at least max_message_bytes")
        if self.max_queued_reply_bytes < self.max_message_bytes:
            raise ConfigError("max_queued_reply_bytes must be at least max_message_bytes")
        if self.max_channels < 3:
            raise ConfigError("max_channels must be at least 3: two are for signals and replies")
        if self.window_bytes > MAX_WINDOW_BYTES:
            raise ConfigError(f"window_bytes must be at most {MAX_WINDOW_BYTES} (1 GiB)")


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """The failure detector's clockwork: SWIM with Lifeguard.  The defaults are those of `lan()`.

    A silent member is suspected once a probe has failed, and declared down when the suspicion
    runs out.  Silence that others confirm is declared, after it began,

        at the earliest  direct_timeout_s + indirect_timeout_s + suspicion_s
        at the latest    2 * probe_interval_s + the same, plus the network's latency

    whatever the size of the cluster: by default after 2.2 to 2.8 s (promises S1 and S2: a member
    that is starved for less than 2 s is spared, one that is silent is noticed within 3 s).  A
    suspicion that nobody confirms lasts `unconfirmed_factor` times as long.  The first line must
    stay above the longest time for which a healthy member may not run.

    All members of a cluster should have the same.  Raises `ConfigError` for a number that is not
    greater than zero, or an `unconfirmed_factor` under 1.
    """

    # One probe round every so often: half of the others, four at most.  Raising it widens the span
    # between earliest and latest by twice as much; halving it doubles probe traffic (a ping and its
    # answer take about 100 bytes).  It is also how finely a node notices that it was blocked.
    probe_interval_s: float = 0.25
    # How long a direct probe may take before others are asked to try, and then how long they may;
    # half of the second is for one that was asked to say that it, at least, is there.  Each must
    # exceed a round trip by far.  Raising them delays every verdict by as much; lowering them
    # makes more suspicions of members that were only slow.
    direct_timeout_s: float = 0.3
    indirect_timeout_s: float = 0.2
    # How many other members are asked to probe one that did not answer.  Raising it finds more ways
    # around a cut, for as many more messages while somebody is silent.
    indirect_probes: int = 3
    # The time that a suspected member has to say that it lives, once three others (or all there
    # are) have confirmed that it is silent.  Raising it delays every verdict by as much; lowering
    # it buries the busy.
    suspicion_s: float = 1.7
    # And how many times as long when nobody has confirmed it; in between it shrinks with the
    # logarithm of the confirmations.  Raising it spares those whom one ailing member accuses, and
    # delays the verdict on the dead for whoever is alone in noticing.
    unconfirmed_factor: float = 3.0
    # Whether this node doubts its own judgement when it runs late or hears nobody, and waits for
    # confirmations.  False is plain SWIM, to measure what the doubt is good for.
    local_health: bool = True
    # Each node passes a change on in this many times ceil(log10(members + 1)) messages.  Raising it
    # reaches the last member sooner, for as many more bytes on probes after each change.
    retransmit_factor: int = 4
    # Tables are compared with one random neighbour this often, to repair whatever gossip missed:
    # 300 bytes, and where they differ a 32nd of each, about 100 bytes for each member.  Raising it
    # leaves a node that missed something wrong for longer.
    sync_interval_s: float = 10.0
    # Up to so many members everybody is connected to everybody.  Raising it makes news a step
    # shorter in larger clusters, for that many connections of each node.
    mesh_size: int = 32
    # Above it each member is connected to two others on each of so many rings, twelve by default.
    # Raising it lets more neighbours fail at once, and costs two connections each; probes stay four
    # a round, so that each neighbour is probed less often.
    rings: int = 6
    # A member that is down or has left is remembered for so long, so that old news of it is known
    # to be old; one that is down is also re-dialled for so long.  Raising it costs about 500 bytes
    # for each life that ended meanwhile.
    forget_s: float = 600.0

    def __post_init__(self) -> None:
        _require_positive(self, but="local_health")
        if self.unconfirmed_factor < 1:
            raise ConfigError("unconfirmed_factor must be at least 1")

    @property
    def earliest_verdict_s(self) -> float:
        """For how long a member must be silent, at least, to be declared down."""
        return self.direct_timeout_s + self.indirect_timeout_s + self.suspicion_s

    @classmethod
    def one_machine(cls) -> MembershipSettings:
        """For nodes on one machine: 2.2 to 2.5 s.

        Probes need no time to travel, so that more of the time is left to suspects, whose loops
        are late together when the machine is busy.  Costs 1.7 times the probes of `lan()`.
        """
        return cls(
            probe_interval_s=0.15,
            direct_timeout_s=0.2,
            indirect_timeout_s=0.1,
            suspicion_s=1.9,
        )

    @classmethod
    def lan(cls) -> MembershipSettings:
        """The defaults, for round trips of up to some 50 ms (a region, too): 2.2 to 2.7 s."""
        return cls()

    @classmethod
    def wan(cls) -> MembershipSettings:
        """For round trips of up to some 300 ms, and paths that stall: 7 to 9 s.

        Costs a quarter of the probes of `lan()`.
        """
        return cls(
            probe_interval_s=1.0,
            direct_timeout_s=1.0,
            indirect_timeout_s=1.0,
            suspicion_s=5.0,
            sync_interval_s=30.0,
        )


@dataclass(frozen=True, slots=True)
class DialSettings:
    """How eagerly connections are made and remade."""

    # One attempt to reach one address, TLS handshake included.
    dial_timeout_s: float = 3.0
    # After the n-th failure in a row: min(first * 2**n, longest), times a random 0.5 to 1.
    first_backoff_s: float = 0.05
    longest_backoff_s: float = 5.0
    # TLS handshakes under way: so many of those that came, and four times as many connections that
    # have not begun (each takes some 10 KiB, 60 KiB in its handshake; where there is no room the
    # address that has most makes it); and so many dialled because something is to be sent.
    max_handshakes: int = 64
    # How many of those that came begin in a second, and `max_handshakes` after a quiet time.  Each
    # takes 2 to 4 ms of processor time, so that strangers can take at most handshakes_per_s * 4 ms
    # of each second.  Raising it lets large clusters meet sooner, for as much more of that.
    handshakes_per_s: float = 50.0
    # A connection to a member that is no neighbour is closed when it was of no use for so long;
    # the session stays, and the next message dials again: one round trip and a handshake later.
    # Raising it keeps more connections open: a socket, TLS and three tasks each, at both ends.
    # A session without a connection has no task, and takes about 16 KiB.
    link_idle_s: float = 30.0
    # A member whose addresses have not answered for so long is reached through another member, as
    # one that has none, or whose addresses refuse, is at once.  Lowering it brings relays into use
    # where a direct path is slow.
    relay_after_s: float = 0.5
    # One that is reached so and has an address is dialled directly this often, at both ends, times
    # a random 0.75 to 1.25.  Raising it leaves traffic on relays for longer once a path is back.
    direct_again_s: float = 10.0
    # Connections of others that this node carries at once: at most 4 MiB each, when neither end
    # reads (a window of each of two streams both ways).  One beyond it is refused.  0: none.
    max_relayed: int = 256

    def __post_init__(self) -> None:
        _require_positive(self, but="max_relayed")
        if self.max_relayed < 0:
            raise ConfigError(f"max_relayed must not be negative: {self.max_relayed!r}")


@dataclass(frozen=True, slots=True)
class EntitySettings:
    """How a node hosts entities, and how long its callers are patient."""

    # What may wait for one entity beside the turn that runs; a call beyond it is refused.
    max_waiting_calls: int = 1_000
    max_waiting_bytes: int = 4 * MIB
    # Entities that are active here at once (each costs about 1 KiB and its state); a call that
    # would activate one more is refused.
    max_active: int = 1_000_000
    # A turn, an activation or a deactivation that takes longer is cancelled.
    turn_timeout_s: float = 60.0
    # How long a turn may go on when its entity is to move; then it is cancelled.
    drain_s: float = 10.0
    # How long a call waits for a member that hosts the type, or for an owner to settle.
    wait_for_host_s: float = 10.0
    # A node that opened less than so long ago waits for a holder of whom it has not heard yet,
    # before it takes the entity over: it may have met only a part of the cluster.
    settle_s: float = 3.0
    # The store is asked for reminders so often; a reminder set elsewhere is late by at most that.
    reminder_poll_s: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How streams are opened.  Their flow control and limits are those of `WireSettings`."""

    # How long the end of a channel that was given away may wait to be claimed.
    claim_timeout_s: float = 30.0
    # Streams that one peer may have opened to this node and that did not end (each costs about
    # 3 KiB, and the window of what its program has not taken); a connection beyond it is refused.
    max_streams: int = 32_768

    def __post_init__(self) -> None:
        _require_positive(self)


class Minority(Enum):
    """What a node does while its side of a partition is the smaller one; docs/partitions.md."""

    # Nothing: each side goes on by itself, and the registry settles names when they meet.
    CARRY_ON = "carry-on"
    # `register_global` raises `InMinority`; what is registered stays.  Costs new names there.
    REFUSE_NAMES = "refuse-names"
    # The node closes, and leaving `open_node` raises `InMinority`.  Costs all that runs there, and
    # all nodes when no side has a majority.
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set, in one frozen value."""

    wire: WireSettings = field(default_factory=WireSettings)
    membership: MembershipSettings = field(default_factory=MembershipSettings)
    dial: DialSettings = field(default_factory=DialSettings)
    entities: EntitySettings = field(default_factory=EntitySettings)
    streams: StreamSettings = field(default_factory=StreamSettings)
    # What processes on this node may have waiting in the mailbox of one process of this node.
    mailbox_bytes: int = 1 * MIB
    # A node that has so many processes spawns no more for its peers (a process takes about 4 KiB
    # and what it holds); its own programs may go on.
    max_processes: int = 262_144
    # How long processes that trap exits, supervisors above all, may take to end by themselves once
    # the node closes.  Raising it lets deep trees end in order, and one that does not heed its
    # `Exit` delay the closing by as much.
    orderly_shutdown_s: float = 10.0
    # How long all that then still run may take to finish, once they are cancelled.
    shutdown_grace_s: float = 2.0
    # What to do while more than half of the members are lost.
    in_minority: Minority = Minority.CARRY_ON

    def __post_init__(self) -> None:
        _require_positive(self)
        if not isinstance(self.in_minority, Minority):
            choice = ", ".join(map(str, Minority))
            raise ConfigError(f"in_minority is one of {choice}, not {self.in_minority!r}")
