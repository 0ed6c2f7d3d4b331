"""The workloads: one description for every side, so that all do the same.

A workload lasts for a time, not for a count: the slowest side would take minutes for what the
fastest needs to get going.  Every figure has a unit and a better direction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

PAYLOAD_BYTES = 100
LARGE_BYTES = 8 * 1024 * 1024


class Better(Enum):
    """Which way a figure should go."""

    LOWER = "lower"
    HIGHER = "higher"


class Kind(Enum):
    """What both programs do; the value is the word for it on a side's command line."""

    CALL = "call"
    ONE_WAY = "one-way"
    CALLS = "calls"
    LARGE = "large"
    FLOOD = "flood"
    DIAL = "dial"
    PROCESS_MEMORY = "process-memory"
    CONNECTION_MEMORY = "connection-memory"
    SLOW_RECEIVER = "slow-receiver"
    ENTITY_CALLS = "entity-calls"
    ENTITY_WRITES = "entity-writes"
    ENTITY_MEMORY = "entity-memory"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a workload yields: its key in the JSON, and how to read it."""

    key: str
    unit: str
    better: Better


@dataclass(frozen=True, slots=True)
class Target:
    """The least that is wanted of ours / theirs (or of ours alone) against Erlang over TLS."""

    key: str
    limit: float
    of_ratio: bool = True


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing to measure.  The first figure is its headline, which the plot shows."""

    name: str
    about: str
    kind: Kind
    figures: tuple[Figure, ...]
    # How long the timed part lasts; 0 where the work is counted, not timed.
    seconds: float
    # How many tasks send or call at once; for memory, how many of the thing are made.
    width: int = 1
    targets: tuple[Target, ...] = ()

    def lasting(self, factor: float) -> Workload:
        """The same, for `factor` times as long."""
        return replace(self, seconds=self.seconds * factor)


P50 = Figure("p50_us", "µs", Better.LOWER)
P99 = Figure("p99_us", "µs", Better.LOWER)
CPU = Figure("cpu_us", "µs CPU", Better.LOWER)
CALL_RATE = Figure("calls_per_s", "/s", Better.HIGHER)
MESSAGE_RATE = Figure("messages_per_s", "/s", Better.HIGHER)


def _one_way(senders: int) -> Workload:
    who = "1 sender" if senders == 1 else f"{senders} senders"
    return Workload(
        f"one-way-{senders}",
        f"one-way messages from {who}, timed by the receiver from the first to the last",
        Kind.ONE_WAY,
        (MESSAGE_RATE, CPU),
        seconds=2.0,
        width=senders,
        targets=(Target("messages_per_s", 2.0),),
    )


def _calls(in_flight: int) -> Workload:
    return Workload(
        f"calls-{in_flight}",
        f"calls with {in_flight} in flight",
        Kind.CALLS,
        (CALL_RATE, CPU),
        seconds=2.0,
        width=in_flight,
        targets=(Target("calls_per_s", 1.0),),
    )


ALL: tuple[Workload, ...] = (
    Workload(
        "call",
        "calls one after the other: the round trip",
        Kind.CALL,
        (P50, P99, CPU),
        seconds=2.0,
        targets=(Target("p50_us", 1.0),),
    ),
    _one_way(1),
    _one_way(16),
    _calls(16),
    _calls(128),
    _calls(1024),
    Workload(
        "large",
        "8 MiB messages from one sender, timed by the receiver",
        Kind.LARGE,
        (
            Figure("mb_per_s", "MB/s", Better.HIGHER),
            Figure("cpu_us", "µs CPU", Better.LOWER),
        ),
        seconds=3.0,
        targets=(Target("mb_per_s", 3.0),),
    ),
    Workload(
        "call-under-flood",
        "small calls while another task floods the same peer with 8 MiB messages; a call that "
        "is unanswered at the end of the time counts with the time it waited",
        Kind.FLOOD,
        (P99, P50, Figure("answered", "calls", Better.HIGHER)),
        seconds=8.0,
        targets=(Target("p99_us", 10_000, of_ratio=False),),
    ),
    Workload(
        "dial",
        "from nothing connected to the first answered call, both programs already up: the first "
        "time in the client's life, and (median) the next five times",
        Kind.DIAL,
        (
            Figure("first_ms", "ms", Better.LOWER),
            Figure("again_ms", "ms", Better.LOWER),
        ),
        seconds=0.0,
        width=5,
        targets=(Target("first_ms", 0.1),),
    ),
    Workload(
        "process-memory",
        "resident memory of a process that waits at an empty mailbox",
        Kind.PROCESS_MEMORY,
        (Figure("bytes", "B", Better.LOWER),),
        seconds=0.0,
        width=10_000,
        targets=(Target("bytes", 4096, of_ratio=False),),
    ),
    Workload(
        "connection-memory",
        "resident memory of one end of an idle connection",
        Kind.CONNECTION_MEMORY,
        (Figure("bytes", "B", Better.LOWER),),
        seconds=0.0,
        width=100,
        targets=(Target("bytes", 100 * 1024, of_ratio=False),),
    ),
    Workload(
        "slow-receiver",
        "one sender, as fast as it is let, to a receiver that takes 10 messages every 10 ms: "
        "what each counted, and by how much each one's resident memory grew",
        Kind.SLOW_RECEIVER,
        (
            Figure("received_per_s", "/s", Better.HIGHER),
            Figure("sent_per_s", "/s", Better.LOWER),
            Figure("receiver_growth_kib", "KiB", Better.LOWER),
            Figure("sender_growth_kib", "KiB", Better.LOWER),
        ),
        seconds=4.0,
    ),
    Workload(
        "entity-calls",
        "calls of entities of the caller's own node, each task its own entity, whose turns do "
        "nothing",
        Kind.ENTITY_CALLS,
        (CALL_RATE,),
        seconds=3.0,
        width=16,
        targets=(Target("calls_per_s", 30_000, of_ratio=False),),
    ),
    Workload(
        "entity-writes",
        "the same, where each turn writes 100 bytes to the SQLite store, durably",
        Kind.ENTITY_WRITES,
        (CALL_RATE,),
        seconds=3.0,
        width=256,
        targets=(Target("calls_per_s", 3_000, of_ratio=False),),
    ),
    Workload(
        "entity-memory",
        "resident memory of an active entity without state, the store's share included (it is in "
        "memory), and how fast they are activated",
        Kind.ENTITY_MEMORY,
        (
            Figure("bytes", "B", Better.LOWER),
            Figure("activations_per_s", "/s", Better.HIGHER),
        ),
        seconds=0.0,
        width=100_000,
        targets=(Target("bytes", 4096, of_ratio=False),),
    ),
)

BY_NAME = {workload.name: workload for workload in ALL}
