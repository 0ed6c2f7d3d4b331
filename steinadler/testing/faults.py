"""What may happen to a packet on its way, and the draws that decide it.

A rule is a function that looks at a packet and says which fault befalls it, or None.  All rules
in force are asked, and their answers combine: delays add up, and one `Hold` holds whatever the
others say.  The first answer deciding alone was refused: a lossy link inside a partition would
have opened it.

What is random is drawn from a hash of (seed, from, to, what for, n-th), never from one generator
in the order in which tasks happen to run: so a packet's fate hangs on its own link's history
alone, and does not change because another link was busier.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

# TCP sends again after this long without an acknowledgement, and then after twice as long
# (RFC 6298 asks for one second at least; Linux takes a fifth).
RETRANSMISSION_S = 0.2
# A packet that would be lost more often than this in a row gets through.
MOST_LOSSES = 6


class PacketKind(Enum):
    """What travels.  `DATA` is a run of a stream's bytes, whole as it was handed over."""

    DIAL = "dial"
    ACCEPT = "accept"
    DATA = "data"
    END = "end"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet from host `source` to host `target`: the `number`-th on that way."""

    kind: PacketKind
    source: str
    target: str
    number: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Delay:
    """Arrive this much later, and everything behind it on the same connection too."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Stay where it is until no rule holds it any more; nothing is lost, as TCP sends again."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection breaks for both ends, with everything in flight on it."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """For a dial: answered at once that nobody listens.  Means nothing for other packets."""


Fault: TypeAlias = Delay | Hold | Reset | Refuse
# A pure function: it is asked when the packet sets out (delays) and when it would arrive (the
# rest), and again when another rule ends.
Rule: TypeAlias = Callable[[Packet], Fault | None]


class Draws:
    """Uniform numbers from 0 to 1, each from its own key."""

    def __init__(self, seed: int) -> None:
        self._key = str(seed).encode()[:64]

    def uniform(self, low: float, high: float, *key: str | int) -> float:
        """A number between `low` and `high`."""
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8, key=self._key).digest()
        return low + (high - low) * (int.from_bytes(digest) / 2**64)


def between(sources: Collection[str], targets: Collection[str], fault: Fault) -> Rule:
    """That fault for everything from one of `sources` to one of `targets`."""
    sources, targets = frozenset(sources), frozenset(targets)

    def rule(packet: Packet) -> Fault | None:
        return fault if packet.source in sources and packet.target in targets else None

    return rule


def both_ways(one: Rule, other: Rule) -> Rule:
    """What either says; the first one that answers."""
    return lambda packet: one(packet) or other(packet)


def lossy(probability: float, draws: Draws) -> Rule:
    """Each packet is lost with that probability, each time it is sent.

    A stream loses nothing by that but time: it stalls for 0.2 s, 0.6 s, 1.4 s ...
    """

    def rule(packet: Packet) -> Fault | None:
        draw = draws.uniform(0, 1, packet.source, packet.target, "lost", packet.number)
        if draw >= probability:
            return None
        losses = MOST_LOSSES
        if draw > 0 and probability < 1:
            losses = min(int(math.log(draw) / math.log(probability)), MOST_LOSSES)
        return Delay(RETRANSMISSION_S * (2**losses - 1))

    return rule


def resetting(probability: float, draws: Draws) -> Rule:
    """Each packet breaks its connection with that probability."""

    def rule(packet: Packet) -> Fault | None:
        draw = draws.uniform(0, 1, packet.source, packet.target, "reset", packet.number)
        return Reset() if draw < probability else None

    return rule


def slow(low_s: float, high_s: float, draws: Draws) -> Rule:
    """Each packet takes that much longer."""

    def rule(packet: Packet) -> Fault | None:
        key = (packet.source, packet.target, "slow", packet.number)
        return Delay(draws.uniform(low_s, high_s, *key))

    return rule
