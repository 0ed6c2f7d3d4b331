"""Whose turn it is to shake hands, while anybody can connect.  Sans-IO.

    arrived -> SILENT -- spoke --> WAITING -- a turn --> SHAKING --> left: in, refused, or gone
                  |                   |                     |
                  +--- makes way: for a newcomer ---+       +--- for whoever waits, after PATIENCE_S

What a stranger can take is room, processor time and the attention of whoever reads the log, and
each is given out by address, so that nobody takes more of it by connecting more often.  An address
is one of IPv4, or a /64 of IPv6, which is what one customer has.

- **Room.**  There is room for `max_handshakes` that shake hands and ROOM_FACTOR times as many that
  do not yet.  A newcomer is always let in; where there is no room it is made by the address that
  holds most of it, of its oldest connection.  So a flood from one address pushes out itself.
- **Turns.**  A TLS handshake costs some milliseconds of processor time, so `handshakes_per_s` begin
  in a second (and `max_handshakes` at once after a quiet time); that bounds what all strangers
  together can take.  Whoever has said nothing yet needs none.  Addresses take turns, and addresses
  from which a member or observer of the cluster came before share every second turn among them: a
  thousand machines that flood leave members half of it.  Of one address the latest goes first,
  because whoever came long before has given up by now.
- **Places** of those that shake hands are taken from the slowest when somebody waits: after
  PATIENCE_S, which is several round trips.

Waiting in the kernel's backlog was refused: there all addresses are one queue, which a flood fills.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from enum import Enum, auto

# For each that shakes hands, so many may be connected and not have begun.
ROOM_FACTOR = 4
# What whoever shakes hands may take before it has to make way; it has `handshake_timeout_s` else.
PATIENCE_S = 1.0
# How many addresses of members are remembered.
MAX_KNOWN = 1024
# A turn whose time has come is not to be missed for the last bit of a float.
_ROUNDING = 1e-6


class Stage(Enum):
    """What a connection is doing."""

    SILENT = auto()
    WAITING = auto()
    SHAKING = auto()


@dataclass(eq=False, slots=True)
class Visitor:
    """A connection that has not proved who it is.  `since` is when its stage began."""

    source: str
    since: float
    stage: Stage = Stage.SILENT


class HandshakeGate:
    """All connections that have not proved who they are.

    What it is told returns who has to make way; those are gone, and need not be told to `left`.
    """

    def __init__(self, max_handshakes: int, handshakes_per_s: float) -> None:
        self._places = max_handshakes
        self._room = max_handshakes * (1 + ROOM_FACTOR)
        self._rate = handshakes_per_s
        self._burst = float(max_handshakes)
        self._tokens, self._tokens_at = self._burst, -math.inf
        # By address, each in the order in which they arrived.
        self._visitors: dict[str, dict[Visitor, None]] = {}
        self._count = 0
        self._shaking: dict[Visitor, None] = {}
        # Those whose turn it will be, by address: the next address first, and its next one last.
        self._waiting: tuple[dict[str, dict[Visitor, None]], ...] = ({}, {})
        self._members_next = True
        self._known: dict[str, None] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether the next one to arrive has somebody make way."""
        return self._count >= self._room

    def arrived(self, source: str, now: float) -> tuple[Visitor, Visitor | None]:
        """Somebody connected.  Returns it, and who has to make way: itself, perhaps."""
        visitor = Visitor(source, now)
        self._visitors.setdefault(source, {})[visitor] = None
        self._count += 1
        if self._count <= self._room:
            return visitor, None
        victim = self._largest_holders_oldest()
        self._remove(victim)
        return visitor, victim

    def spoke(self, visitor: Visitor, now: float) -> None:
        """It has begun to say something that may be a handshake."""
        visitor.stage, visitor.since = Stage.WAITING, now
        lane = self._waiting[visitor.source in self._known]
        lane.setdefault(visitor.source, {})[visitor] = None

    def turns(self, now: float) -> tuple[list[Visitor], list[Visitor]]:
        """Whose turn it is now, and who has to make way for them."""
        self._tokens = min(self._burst, self._tokens + self._rate * (now - self._tokens_at))
        self._tokens_at = now
        if self._tokens > 1 - _ROUNDING:
            self._tokens = max(self._tokens, 1.0)
        granted: list[Visitor] = []
        victims: list[Visitor] = []
        while self._tokens >= 1 and any(self._waiting):
            if len(self._shaking) >= self._places:
                slowest = next(iter(self._shaking))
                if now < slowest.since + PATIENCE_S:
                    break
                self._remove(slowest)
                victims.append(slowest)
            self._tokens -= 1
            visitor = self._next()
            visitor.stage, visitor.since = Stage.SHAKING, now
            self._shaking[visitor] = None
            granted.append(visitor)
        return granted, victims

    def next_turn_at(self) -> float:
        """When to ask `turns` again, if nothing happens before; `math.inf` while nobody waits."""
        if not any(self._waiting):
            return math.inf
        at = self._tokens_at + max(0.0, 1 - self._tokens) / self._rate
        if len(self._shaking) >= self._places:
            at = max(at, next(iter(self._shaking)).since + PATIENCE_S)
        return at

    def left(self, visitor: Visitor, *, proved: bool) -> None:
        """It is gone, or has `proved` who it is; then its address is remembered for that."""
        self._remove(visitor)
        if proved:
            self._known.pop(visitor.source, None)  # to stand last
            self._known[visitor.source] = None
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]

    def _next(self) -> Visitor:
        """Whose turn it is, of those that wait: an address's latest, and the address goes last."""
        strangers, members = self._waiting
        if members and (self._members_next or not strangers):
            lane, self._members_next = members, False
        else:
            lane, self._members_next = strangers, True
        source = next(iter(lane))
        of_source = lane.pop(source)
        visitor, _ = of_source.popitem()
        if of_source:
            lane[source] = of_source
        return visitor

    def _largest_holders_oldest(self) -> Visitor:
        largest = max(
            self._visitors,
            key=lambda source: (len(self._visitors[source]), source not in self._known),
        )
        held = self._visitors[largest]
        idle = (visitor for visitor in held if visitor.stage is not Stage.SHAKING)
        return next(idle, next(iter(held)))

    def _remove(self, visitor: Visitor) -> None:
        held = self._visitors[visitor.source]
        del held[visitor]
        if not held:
            del self._visitors[visitor.source]
        self._count -= 1
        self._shaking.pop(visitor, None)
        if visitor.stage is Stage.WAITING:
            for lane in self._waiting:  # it may have become known meanwhile
                of_source = lane.get(visitor.source, {})
                if visitor in of_source:
                    del of_source[visitor]
                    if not of_source:
                        del lane[visitor.source]


class RefusalLog:
    """Which refusals are told: BURST at once, then one in a second, with how many were not."""

    BURST = 20

    def __init__(self) -> None:
        self._tokens, self._at = float(self.BURST), -math.inf
        self._untold = 0

    def tell(self, now: float) -> int | None:
        """How many were not told since the last that was; None when this one is not to be."""
        self._tokens = min(self.BURST, self._tokens + (now - self._at))
        self._at = now
        if self._tokens < 1:
            self._untold += 1
            return None
        self._tokens -= 1
        untold, self._untold = self._untold, 0
        return untold


def source_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that an IPv6 address is in."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
