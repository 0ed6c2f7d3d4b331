"""Strays: links to nodes that are down, and that do not say that they live.

    links to who is down --> over --> those that were so for `STRAY_S`

Two nodes that gave each other up connect again before either counts the other for a member: that
takes word of its own death to each, and its refutation.  Mostly that is a round trip.  But one may
fall silent in that moment, and nobody watches who is no member: what hangs on such a link, a
monitor of the other's to begin with, would hang there for ever (D1).
"""

from __future__ import annotations

from collections.abc import Mapping

from steinadler.transport.link import Link

# How long who is down has to say that it lives.
STRAY_S = 5.0
# Who looks less often than that has not run, and may not have read what came meanwhile.
LONGEST_LOOK_S = 4.0


class Strays:
    """The strays of one node, by its clock."""

    def __init__(self) -> None:
        self._since: dict[Link, float] = {}
        self._looked_at = 0.0

    def over(self, links: Mapping[Link, float], now: float) -> list[Link]:
        """Which of these links to end now: all those to nodes that are down, each with the time
        at which its latest connection began.  To be asked every two seconds."""
        late = now - self._looked_at > LONGEST_LOOK_S
        self._looked_at = now
        self._since = {
            link: now if late else max(self._since.get(link, now), connected_at)
            for link, connected_at in links.items()
        }
        return [link for link, since in self._since.items() if now - since >= STRAY_S]
