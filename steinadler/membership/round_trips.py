"""How long the way to each member and back takes, as its answers to pings tell.

A ping and its answer are sent at once, travel before messages, and are sent once: an answer
belongs to one ping, so there is nothing of TCP's doubt about what a repeated segment's
acknowledgement answers (RFC 6298 section 3).  Timing acknowledgements instead was refused: they
may wait for `acknowledge_delay_s`, and would have to be timed write by write.

The smoothed time is that of RFC 6298 section 2: the first measurement as it is, and then an
eighth of the way towards each further one.  What is measured contains the time that both nodes
took to turn to the message, so it is the program's round trip and not the network's alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from steinadler.identity import NodeId

# RFC 6298 section 2.3: alpha.
SMOOTHING = 1 / 8


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The time to one member and back, in seconds: as last measured, and smoothed."""

    latest_s: float
    smoothed_s: float


class RoundTrips:
    """The latest unanswered ping of each member, and what its answers told."""

    def __init__(self) -> None:
        self._asked: dict[NodeId, tuple[int, float]] = {}
        self._known: dict[NodeId, RoundTrip] = {}

    def find(self, node: NodeId) -> RoundTrip | None:
        """What is known of that life of a node."""
        return self._known.get(node)

    def asked(self, node: NodeId, sequence: int, now: float) -> None:
        """A ping goes out; an answer to an earlier one counts no more."""
        self._asked[node] = (sequence, now)

    def answered(self, node: NodeId, sequence: int, now: float) -> None:
        """`node` answered a ping, perhaps the one that is waited for."""
        asked = self._asked.get(node)
        if asked is None or asked[0] != sequence:
            return
        del self._asked[node]
        took = max(0.0, now - asked[1])
        known = self._known.get(node)
        smoothed = took if known is None else known.smoothed_s
        self._known[node] = RoundTrip(took, smoothed + SMOOTHING * (took - smoothed))

    def forget(self, node: NodeId) -> None:
        """That life of the node is no member any more."""
        self._asked.pop(node, None)
        self._known.pop(node, None)
