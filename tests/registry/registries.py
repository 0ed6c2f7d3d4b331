"""Registries that talk, on a heap of events: no I/O, and a clock that costs nothing.

Messages are lost, take their time and overtake each other; members come to be known and are given
up at different times; and who is whose neighbour follows from what each of them knows.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from functools import cache, partial
from hashlib import blake2b

from steinadler.errors import NameConflict
from steinadler.identity import NodeId, ProcessId
from steinadler.registry import Effect, NameContested, NameLost, NameSettled, Registry, Tell
from steinadler.registry.messages import Message, decode, encode

COMPARE_INTERVAL_S = 2.0
LATENCY_S = 0.05


class Registries:
    """Engines, and what is on the way between them.

    `rings` 0: everybody is a neighbour of everybody; else each has two neighbours on each ring.
    `lag_s`: how much later than others a node may learn that somebody came or went.
    """

    def __init__(self, count: int, seed: int, *, rings: int = 0, lag_s: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.rings = rings
        self.lag_s = lag_s
        self.loss = 0.0
        self.latency_s = LATENCY_S  # at most
        self.now = 0.0
        self.engines: dict[NodeId, Registry] = {}
        self.up: dict[NodeId, set[NodeId]] = {}  # whom each node holds for a member
        self.neighbours: dict[NodeId, list[NodeId]] = {}
        self.halves: list[set[NodeId]] = []
        self.lost: list[tuple[NodeId, NameLost]] = []
        self.settled: list[NameSettled] = []
        self.messages = self.bytes = 0
        self.heard: Callable[[NodeId, NodeId, Message], None] = lambda sender, to, message: None
        self._last_arrival: dict[tuple[NodeId, NodeId], float] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        for number in range(count):
            self._open(NodeId(f"n{number}", 1))
        self._members_changed()
        self.run(0.0)

    # -- what happens to nodes ----------------------------------------------------------------

    def start(self, name: str, incarnation: int = 1) -> NodeId:
        node = NodeId(name, incarnation)
        self._open(node)
        self._members_changed()
        return node

    def _open(self, node: NodeId) -> None:
        rng = random.Random(self.rng.getrandbits(32))
        self.engines[node] = Registry(node, rng, lambda: self.neighbours[node])
        self.up[node] = {node}
        self.neighbours[node] = []
        self.at(self.rng.uniform(0, COMPARE_INTERVAL_S), lambda: self._compare(node))

    def crash(self, node: NodeId) -> None:
        del self.engines[node], self.up[node], self.neighbours[node]
        self._members_changed()

    def split(self, *halves: Iterable[NodeId]) -> None:
        self.halves = [set(half) for half in halves]
        self._members_changed()

    def heal(self) -> None:
        self.split()

    def reachable(self, a: NodeId, b: NodeId) -> bool:
        return a in self.engines and b in self.engines and not self._cut(a, b)

    def _cut(self, a: NodeId, b: NodeId) -> bool:
        return any((a in half) != (b in half) for half in self.halves)

    def _members_changed(self) -> None:
        for node in self.engines:
            self.at(self.rng.uniform(0, self.lag_s), partial(self._look, node))

    def _look(self, node: NodeId) -> None:
        """Membership tells a node who is there."""
        if node not in self.engines:
            return
        engine, up = self.engines[node], self.up[node]
        there = {other for other in self.engines if not self._cut(node, other)}
        if there != up:
            for gone in sorted(up - there):
                self.carry_out(node, engine.member_down(gone))
            for new in sorted(there - up):
                engine.member_up(new)
            self.up[node] = there
        before = self.neighbours[node]
        self.neighbours[node] = sorted(self._neighbours(node))
        for new in self.neighbours[node]:
            if new not in before:
                self.carry_out(node, engine.neighbour_connected(new))

    def _neighbours(self, node: NodeId) -> Iterable[NodeId]:
        up = self.up[node]
        if not self.rings or len(up) <= 2 * self.rings:
            return up - {node}
        return neighbours_on_rings(node, up, self.rings)

    # -- time ---------------------------------------------------------------------------------

    def at(self, after_s: float, event: Callable[[], None]) -> None:
        """Have something happen so much later."""
        self._number += 1
        heapq.heappush(self._events, (self.now + after_s, self._number, event))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        self.tell_news()
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = end

    def run_until(self, condition: Callable[[], bool], within_s: float) -> float:
        """Let time pass until something holds; returns how long it took."""
        began = self.now
        while not condition():
            assert self.now - began < within_s, f"not within {within_s} s"
            self.run(0.05)
        return self.now - began

    def _compare(self, node: NodeId) -> None:
        if node in self.engines:
            self.carry_out(node, self.engines[node].compare(self.now))
            interval = COMPARE_INTERVAL_S * self.rng.uniform(0.75, 1.25)
            self.at(interval, lambda: self._compare(node))

    # -- messages -----------------------------------------------------------------------------

    def tell_news(self) -> None:
        for node, engine in self.engines.items():
            self.carry_out(node, engine.news())

    def carry_out(self, node: NodeId, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(to, message):
                    self.send(node, to, message)
                case NameContested(rival):
                    self._contest_later(node, rival)
                case NameLost():
                    self.lost.append((node, effect))
                case NameSettled():
                    self.settled.append(effect)

    def send(self, sender: NodeId, to: NodeId, message: Message) -> None:
        data = encode(message)
        self.messages += 1
        self.bytes += len(data)
        if self.rng.random() >= self.loss:
            arrives_at = self.now + self.rng.uniform(0, self.latency_s)
            # A connection keeps the order.
            arrives_at = max(arrives_at, self._last_arrival.get((sender, to), 0.0))
            self._last_arrival[sender, to] = arrives_at
            self.at(arrives_at - self.now, lambda: self._deliver(sender, to, data))

    def _contest_later(self, node: NodeId, rival: NodeId) -> None:
        self.at(self.rng.uniform(0, 2 * self.latency_s), partial(self._contest, node, rival))

    def _contest(self, node: NodeId, rival: NodeId) -> None:
        """The other one is asked whether it holds its names still."""
        if node not in self.engines:
            return
        for claim in (claims := self.engines[node].older_claims(rival)):
            if self.reachable(node, rival) and self.engines[rival].holds(*claim):
                self.carry_out(node, self.engines[node].lose(rival, claim))
                self.carry_out(node, self.engines[node].news())
        if claims:
            self._contest_later(node, rival)

    def _deliver(self, sender: NodeId, to: NodeId, data: bytes) -> None:
        # A message to or from somebody who is no member is as good as lost.
        if not self.reachable(sender, to) or sender not in self.up[to]:
            return
        message = decode(data)
        assert message is not None
        self.heard(sender, to, message)
        engine = self.engines[to]
        self.carry_out(to, engine.received(sender, message, self.now))
        self.carry_out(to, engine.news())

    # -- what processes do --------------------------------------------------------------------

    def register(self, node: NodeId, name: str, number: int, now_us: int | None = None) -> bool:
        """Without asking an arbiter; whether the node itself agreed."""
        claimed_us = int(self.now * 1e6) if now_us is None else now_us
        try:
            self.engines[node].register(name, number, claimed_us)
        except NameConflict:
            return False
        return True

    # -- what they hold -----------------------------------------------------------------------

    def having(self, name: str) -> list[tuple[NodeId, int]]:
        """Whose nodes say that they have a name."""
        return [
            (node, engine._own.names[name][0])
            for node, engine in self.engines.items()
            if name in engine._own.names
        ]

    def views(self) -> set[tuple[object, ...]]:
        return {
            (
                tuple(sorted((name, engine.find(name)) for name in engine.names())),
                tuple(
                    (group, tuple(engine.members_of(group))) for group in sorted(engine.groups())
                ),
            )
            for engine in self.engines.values()
        }

    def agree(self) -> bool:
        # The views cost much, and are not looked at before the digests say that it may be so.
        digests = {engine._exchange.digests.summary() for engine in self.engines.values()}
        return len(digests) == 1 and len(self.views()) == 1

    def holders(self, name: str) -> set[ProcessId | None]:
        return {engine.find(name) for engine in self.engines.values()}

    def refuted(self) -> set[NodeId]:
        """The nodes that started anew, above what others said of them."""
        return {node for node, engine in self.engines.items() if engine._own.started}


def neighbours_on_rings(node: NodeId, members: set[NodeId], rings: int) -> set[NodeId]:
    """Successor and predecessor on each ring, as membership has them."""
    found: set[NodeId] = set()
    for ring in range(rings):
        mine = _place(node.name, ring)
        before = after = last = first = None
        for other in members:
            place = (_place(other.name, ring), other)
            if other == node:
                continue
            first = place if first is None or place < first else first
            last = place if last is None or place > last else last
            if place[0] < mine:
                before = place if before is None or place > before else before
            else:
                after = place if after is None or place < after else after
        for one in (before or last, after or first):
            if one is not None:
                found.add(one[1])
    return found


@cache
def _place(name: str, ring: int) -> bytes:
    return blake2b(name.encode(), digest_size=8, salt=bytes([ring])).digest()
