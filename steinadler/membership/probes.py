"""Whom to probe next, and which probes are unanswered.

Targets come round-robin from a list in random order (SWIM section 4.3), which bounds the time
until a given member is probed; drawing at random each time would not.  A newcomer enters at a
random place.  SWIM shuffles after each pass, which lets a member be first in one pass and last
in the next; where a pass takes two rounds that would cost half a second of detection time, so
the order is shuffled again only in larger clusters.

A probe is DIRECT, then INDIRECT: others were asked.  Any word from its target ends it.  Who was
asked and has no answer either says so in time (a nack, Lifeguard section IV-A): if not even those
are heard, it is this node that is deaf.  A probe is REFUSED when others were asked and a dial was
refused meanwhile: then the first answers decide.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from steinadler.identity import NodeId
from steinadler.membership.timing import MOST_PROBES_PER_ROUND

# Ping requests of others that are being served.  Beyond that the oldest is given up.
MAX_RELAYS = 1024


class ProbeRing:
    """The names to probe, in the order of probing."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._names: list[str] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str) -> None:
        """Probe `name` too, from some time in this pass or the next on."""
        place = self._rng.randint(0, len(self._names))
        self._names.insert(place, name)
        if place < self._next:
            self._next += 1

    def discard(self, name: str) -> None:
        """Probe `name` no more."""
        if name not in self._names:
            return
        place = self._names.index(name)
        del self._names[place]
        if place < self._next:
            self._next -= 1

    def take(self, count: int) -> list[str]:
        """The next `count` names, or all there are."""
        taken: list[str] = []
        for _ in range(min(count, len(self._names))):
            if self._next >= len(self._names):
                self._next = 0
                if len(self._names) > 2 * MOST_PROBES_PER_ROUND:
                    self._rng.shuffle(self._names)
            taken.append(self._names[self._next])
            self._next += 1
        return taken


class Stage(Enum):
    """How far a probe has come."""

    DIRECT = "direct"
    INDIRECT = "indirect"
    REFUSED = "refused"


@dataclass(slots=True)
class Probe:
    """One unanswered probe."""

    sequence: int
    target: NodeId
    stage: Stage
    deadline: float
    asked: frozenset[NodeId] = frozenset()
    nacked: set[NodeId] = field(default_factory=set)


class Probes:
    """The unanswered probes of this node, at most one per target."""

    def __init__(self) -> None:
        self._by_target: dict[NodeId, Probe] = {}

    def start(self, probe: Probe) -> None:
        """Wait for an answer."""
        self._by_target[probe.target] = probe

    def find(self, target: NodeId) -> Probe | None:
        """The unanswered probe of `target`, if there is one."""
        return self._by_target.get(target)

    def end(self, target: NodeId) -> None:
        """Whatever was asked of `target` has been answered, or no longer matters."""
        self._by_target.pop(target, None)

    def answered_by_relay(self, sequence: int, relay: NodeId) -> NodeId | None:
        """The target whose answer `relay` passes on, if it was asked to."""
        probe = self._asked_of(relay, sequence)
        return None if probe is None else probe.target

    def nacked_by_relay(self, sequence: int, relay: NodeId) -> None:
        """`relay` has no answer so far, but is there."""
        probe = self._asked_of(relay, sequence)
        if probe is not None:
            probe.nacked.add(relay)

    def _asked_of(self, relay: NodeId, sequence: int) -> Probe | None:
        for probe in self._by_target.values():
            if probe.sequence == sequence and relay in probe.asked:
                return probe
        return None

    def due(self, now: float) -> list[Probe]:
        """The probes whose stage has run out of time, in the order they did; no refused ones."""
        probes = [
            probe
            for probe in self._by_target.values()
            if probe.deadline <= now and probe.stage is not Stage.REFUSED
        ]
        return sorted(probes, key=lambda probe: probe.deadline)

    def refused(self) -> list[Probe]:
        """The probes of those whose host refused a dial."""
        return [probe for probe in self._by_target.values() if probe.stage is Stage.REFUSED]

    def deadlines(self) -> Iterable[float]:
        """When each probe's stage runs out of time."""
        return [probe.deadline for probe in self._by_target.values()]

    def postpone(self, seconds: float) -> None:
        """Give every probe more time."""
        for probe in self._by_target.values():
            probe.deadline += seconds


@dataclass(slots=True)
class Relay:
    """A probe made for somebody else: the target's answer goes to `origin` as `sequence`.

    At `nack_at` the origin is told that there is none so far; `math.inf` once it was.
    """

    origin: NodeId
    sequence: int
    target: NodeId
    nack_at: float
    expires: float


class Relays:
    """The probes made for others, by the sequence they were made under."""

    def __init__(self) -> None:
        self._by_sequence: dict[int, Relay] = {}

    def start(self, sequence: int, relay: Relay) -> None:
        """Remember for whom the ping `sequence` was sent."""
        if len(self._by_sequence) >= MAX_RELAYS:
            del self._by_sequence[next(iter(self._by_sequence))]
        self._by_sequence[sequence] = relay

    def answered(self, sequence: int, sender: NodeId) -> Relay | None:
        """Take out what `sender` answers, if it was pinged under that sequence for somebody."""
        relay = self._by_sequence.get(sequence)
        if relay is None or relay.target != sender:
            return None
        return self._by_sequence.pop(sequence)

    def lost(self, target: NodeId) -> list[Relay]:
        """All who wait for `target` and were told nothing yet; now they are."""
        found = [
            relay
            for relay in self._by_sequence.values()
            if relay.target == target and relay.nack_at < math.inf
        ]
        for relay in found:
            relay.nack_at = math.inf
        return found

    def reached(self, target: NodeId) -> list[Relay]:
        """Take out all for which `target` was to be pinged: it is there."""
        found = {s: relay for s, relay in self._by_sequence.items() if relay.target == target}
        for sequence in found:
            del self._by_sequence[sequence]
        return list(found.values())

    def deadlines(self) -> Iterable[float]:
        """When those who asked are to be told that there is no answer so far."""
        return [relay.nack_at for relay in self._by_sequence.values()]

    def unanswered(self, now: float) -> list[Relay]:
        """The relays whose origin is to be told now, each once."""
        due = [relay for relay in self._by_sequence.values() if relay.nack_at <= now]
        for relay in due:
            relay.nack_at = math.inf
        return due

    def postpone(self, seconds: float) -> None:
        """Give every target more time."""
        for relay in self._by_sequence.values():
            relay.nack_at += seconds
            relay.expires += seconds

    def expire(self, now: float) -> None:
        """Forget the relays that whoever asked no longer waits for."""
        for sequence in [s for s, relay in self._by_sequence.items() if relay.expires <= now]:
            del self._by_sequence[sequence]
