"""Registries that talk: everybody agrees in the end, and a name has one winner (N2, N3)."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from steinadler.identity import NodeId, ProcessId
from steinadler.registry import Effect, NameLost, NameSettled, Registry, Tell
from steinadler.registry.messages import Message, decode, encode


class Sides:
    """Engines on a bare list of messages, which are lost, held up and cut at will."""

    def __init__(self, count: int, seed: int, mesh_size: int = 32) -> None:
        self.rng = random.Random(seed)
        self.mesh_size = mesh_size
        self.engines: dict[NodeId, Registry] = {}
        self.wire: list[tuple[NodeId, NodeId, bytes]] = []
        self.lost: list[tuple[NodeId, NameLost]] = []
        self.settled: list[NameSettled] = []
        self.halves: list[set[NodeId]] = []
        self.loss = 0.0
        self.messages = 0
        for number in range(count):
            self.start(f"n{number}")

    def start(self, name: str, incarnation: int = 1) -> NodeId:
        node = NodeId(name, incarnation)
        engine = Registry(node, random.Random(self.rng.getrandbits(32)), self.mesh_size)
        self.engines[node] = engine
        for other in list(self.engines):
            if other != node:
                self.carry_out(node, engine.member_up(other))
                self.carry_out(other, self.engines[other].member_up(node))
        return node

    def crash(self, node: NodeId) -> None:
        del self.engines[node]
        for other, engine in self.engines.items():
            self.carry_out(other, engine.member_down(node))

    def split(self, *halves: Iterable[NodeId]) -> None:
        self.halves = [set(half) for half in halves]
        for a in self.engines:
            for b in self.engines:
                if self.cut(a, b):
                    self.carry_out(a, self.engines[a].member_down(b))

    def heal(self) -> None:
        self.halves = []
        for a in self.engines:
            for b in self.engines:
                self.carry_out(a, self.engines[a].member_up(b))

    def cut(self, a: NodeId, b: NodeId) -> bool:
        return any((a in half) != (b in half) for half in self.halves)

    def carry_out(self, node: NodeId, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(to, message):
                    self.messages += 1
                    self.wire.append((node, to, encode(message)))
                case NameLost():
                    self.lost.append((node, effect))
                case NameSettled():
                    self.settled.append(effect)

    def spread(self, rounds: int = 1) -> None:
        """Deliver, in any order, until nothing is on the way; then let everybody compare."""
        for _ in range(rounds):
            for node, engine in self.engines.items():
                self.carry_out(node, engine.news())
            while self.wire:
                sender, to, data = self.wire.pop(self.rng.randrange(len(self.wire)))
                engine = self.engines.get(to)
                gone = engine is None or sender not in self.engines or self.cut(sender, to)
                if engine is None or gone or self.rng.random() < self.loss:
                    continue
                message = decode(data)
                assert message is not None
                self.carry_out(to, engine.received(sender, message))
                self.carry_out(to, engine.news())
            for node, engine in self.engines.items():
                self.carry_out(node, engine.compare())

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


def test_a_name_and_a_group_are_known_everywhere() -> None:
    sides = Sides(5, seed=1)
    a, b, *_ = sides.engines
    sides.engines[a].register("boss", 7, 100)
    sides.engines[a].join("workers", 7)
    sides.engines[b].join("workers", 3)
    sides.spread()
    for engine in sides.engines.values():
        assert engine.find("boss") == ProcessId(a, 7)
        assert engine.members_of("workers") == [ProcessId(a, 7), ProcessId(b, 3)]
    sides.engines[a].process_ended(7)
    sides.spread()
    for engine in sides.engines.values():
        assert engine.find("boss") is None
        assert engine.members_of("workers") == [ProcessId(b, 3)]


def test_the_names_of_a_dead_node_vanish_with_it() -> None:
    """And a new life of it has those that it registers, not those of the former one (D3)."""
    sides = Sides(3, seed=2)
    a, b, _ = sides.engines
    sides.engines[b].register("old", 1, 100)
    sides.engines[b].join("group", 1)
    sides.spread()
    sides.crash(b)
    assert sides.engines[a].find("old") is None
    assert sides.engines[a].members_of("group") == []
    again = sides.start("n1", incarnation=2)
    sides.engines[again].register("new", 1, 200)
    sides.spread(2)
    assert sides.engines[a].find("old") is None
    assert sides.engines[a].find("new") == ProcessId(again, 1)


def test_two_halves_that_merge_pick_the_same_winner_and_tell_the_loser() -> None:
    """N2: the oldest claim wins, and its process alone keeps the name."""
    sides = Sides(6, seed=3)
    nodes = list(sides.engines)
    sides.split(nodes[:3], nodes[3:])
    sides.engines[nodes[0]].register("boss", 1, 200)
    sides.engines[nodes[4]].register("boss", 2, 100)
    sides.spread(3)
    assert sides.engines[nodes[1]].find("boss") == ProcessId(nodes[0], 1)
    assert sides.engines[nodes[5]].find("boss") == ProcessId(nodes[4], 2)
    sides.heal()
    sides.spread(3)
    winner = ProcessId(nodes[4], 2)
    assert {engine.find("boss") for engine in sides.engines.values()} == {winner}
    assert sides.lost == [(nodes[0], NameLost("boss", 1, winner))]
    assert {settled.winner for settled in sides.settled} == {winner}
    sides.crash(nodes[4])
    sides.spread()
    assert {engine.find("boss") for engine in sides.engines.values()} == {None}


def test_the_arbiter_lets_one_of_two_claims_pass() -> None:
    sides = Sides(3, seed=4)
    a, b, c = sides.engines
    arbiter = sides.engines[c]
    assert arbiter.reserve("boss", ProcessId(a, 1), now=0.0) is None
    assert arbiter.reserve("boss", ProcessId(a, 1), now=1.0) is None
    assert arbiter.reserve("boss", ProcessId(b, 2), now=1.0) == ProcessId(a, 1)
    assert arbiter.reserve("boss", ProcessId(b, 2), now=12.0) is None
    sides.engines[b].register("boss", 2, 100)
    sides.spread()
    assert arbiter.reserve("boss", ProcessId(a, 1), now=100.0) == ProcessId(b, 2)
    assert arbiter.reserve("boss", ProcessId(b, 2), now=100.0) is None


def play(seed: int, mesh_size: int = 32) -> None:
    """A history of registrations, ends, crashes, halves and losses; then everybody agrees."""
    sides = Sides(5, seed, mesh_size)
    rng = sides.rng
    clock = incarnation = 0
    alive: dict[NodeId, set[int]] = {node: set() for node in sides.engines}
    for _ in range(80):
        clock += rng.randrange(3)
        node = rng.choice(list(sides.engines))
        engine = sides.engines[node]
        process = rng.randrange(1, 6)
        text = f"x{rng.randrange(4)}"
        match rng.randrange(10):
            case 0 | 1 | 2:
                if engine.find(text) is None:
                    alive[node].add(process)
                    sides.carry_out(node, engine.register(text, process, clock))
            case 3:
                engine.join(text, process)
                alive[node].add(process)
            case 4:
                engine.leave(text, process)
            case 5:
                engine.process_ended(process)
                alive[node].discard(process)
            case 6 if len(sides.engines) > 2 and not sides.halves:
                sides.crash(node)
                incarnation += 1
                alive[sides.start(node.name, 1 + incarnation)] = set()
            case 7 if not sides.halves:
                nodes = list(sides.engines)
                cut = rng.randrange(1, len(nodes))
                sides.split(nodes[:cut], nodes[cut:])
            case 8 if sides.halves:
                sides.heal()
            case _:
                sides.loss = rng.choice((0.0, 0.0, 0.3))
                sides.spread()
    sides.loss = 0.0
    sides.heal()
    sides.spread(12)
    views = sides.views()
    assert len(views) == 1, seed
    for engine in sides.engines.values():
        for name in engine.names():
            holder = engine.find(name)
            assert holder is not None
            assert holder.number in alive[holder.node], seed
            held = [n for n in sides.engines if name in sides.engines[n]._own.names]
            assert held == [holder.node], seed


@pytest.mark.parametrize("mesh_size", [32, 1])
def test_histories_end_in_agreement(mesh_size: int) -> None:
    """N2, N3: whatever happened, and also where news go from neighbour to neighbour."""
    for seed in range(60):
        play(seed, mesh_size)


@pytest.mark.slow
@pytest.mark.parametrize("mesh_size", [32, 1])
def test_many_histories_end_in_agreement(mesh_size: int) -> None:
    for seed in range(1000, 1500):
        play(seed, mesh_size)


def test_nothing_is_told_when_all_hold_the_same() -> None:
    """Comparing costs one message of a few bytes a node."""
    sides = Sides(10, seed=5)
    for node, engine in sides.engines.items():
        engine.register(f"name-of-{node.name}", 1, 1)
    sides.spread(3)
    before = sides.messages
    sides.spread(1)
    sides.spread(1)
    assert sides.messages - before <= 2 * 10


def test_what_is_said_of_strangers_means_nothing() -> None:
    """X4: only members have entries, and nobody else's word counts about one's own."""
    sides = Sides(2, seed=6)
    a, b = sides.engines
    engine = sides.engines[a]
    stranger = Sides(1, seed=7)
    (other,) = stranger.engines
    stranger.engines[other].register("foreign", 1, 1)
    foreign: Message = stranger.engines[other]._own.since(0, 0)
    unknown = type(foreign)(NodeId("unknown", 1), 0, 1, 1, foreign.entries)  # type: ignore[call-arg, union-attr]
    mine = type(foreign)(a, 0, 9, 9, foreign.entries)  # type: ignore[call-arg, union-attr]
    assert engine.received(b, unknown) == []
    assert engine.received(b, mine) == []
    assert list(engine.names()) == []
