"""Registries that talk: everybody agrees in the end, and a name has one winner (N2, N3)."""

from __future__ import annotations

import pytest
from registries import Registries

from steinadler.errors import NameConflict
from steinadler.identity import NodeId, ProcessId
from steinadler.registry import NameLost, Registry
from steinadler.registry.claims import CLAIMS_AT_ONCE, MAX_HELD
from steinadler.registry.messages import NameEntry, Update


def test_a_name_and_a_group_are_known_everywhere() -> None:
    all_ = Registries(5, seed=1)
    a, b, *_ = all_.engines
    all_.register(a, "boss", 7)
    all_.engines[a].join("workers", 7)
    all_.engines[b].join("workers", 3)
    all_.run(1.0)
    for engine in all_.engines.values():
        assert engine.find("boss") == ProcessId(a, 7)
        assert engine.members_of("workers") == [ProcessId(a, 7), ProcessId(b, 3)]
    all_.engines[a].process_ended(7)
    all_.run(1.0)
    for engine in all_.engines.values():
        assert engine.find("boss") is None
        assert engine.members_of("workers") == [ProcessId(b, 3)]


def test_the_names_of_a_dead_node_vanish_with_it() -> None:
    """And a new life of it has those that it registers, not those of the former one (D3)."""
    all_ = Registries(3, seed=2)
    a, b, _ = all_.engines
    all_.register(b, "old", 1)
    all_.engines[b].join("group", 1)
    all_.run(1.0)
    all_.crash(b)
    all_.run(0.0)
    assert all_.engines[a].find("old") is None
    assert all_.engines[a].members_of("group") == []
    again = all_.start("n1", incarnation=2)
    all_.register(again, "new", 1)
    all_.run(1.0)
    assert all_.engines[a].find("old") is None
    assert all_.engines[a].find("new") == ProcessId(again, 1)


def test_two_halves_that_merge_pick_the_same_winner_and_tell_the_loser() -> None:
    """N2: the oldest claim wins, and its process alone keeps the name."""
    all_ = Registries(6, seed=3)
    nodes = list(all_.engines)
    all_.split(nodes[:3], nodes[3:])
    all_.run(0.0)
    all_.register(nodes[0], "boss", 1, 200)
    all_.register(nodes[4], "boss", 2, 100)
    all_.run(5.0)
    assert all_.engines[nodes[1]].find("boss") == ProcessId(nodes[0], 1)
    assert all_.engines[nodes[5]].find("boss") == ProcessId(nodes[4], 2)
    all_.heal()
    all_.run(5.0)
    winner = ProcessId(nodes[4], 2)
    assert all_.holders("boss") == {winner}
    assert all_.lost == [(nodes[0], NameLost("boss", 1, winner))]
    assert {settled.winner for settled in all_.settled} == {winner}
    all_.crash(nodes[4])
    all_.run(1.0)
    assert all_.holders("boss") == {None}


def claimed_from() -> tuple[Registries, Registry, ProcessId, ProcessId]:
    """Three nodes: an arbiter, and two whose processes claim a name of it."""
    all_ = Registries(3, seed=4)
    a, b, c = all_.engines
    return all_, all_.engines[c], ProcessId(a, 1), ProcessId(b, 2)


def test_the_arbiter_lets_one_of_two_claims_pass() -> None:
    all_, arbiter, one, other = claimed_from()
    assert arbiter.reserve("boss", one, 1, 0, now=0.0) is None
    assert arbiter.reserve("boss", one, 2, 0, now=1.0) is None
    assert arbiter.reserve("boss", other, 1, 0, now=1.0) == one
    assert arbiter.reserve("boss", other, 2, 0, now=12.0) is None
    all_.register(other.node, "boss", 2)
    all_.run(1.0)
    assert arbiter.reserve("boss", one, 3, 0, now=100.0) == other
    assert arbiter.reserve("boss", other, 3, 1, now=100.0) is None


def test_a_claim_that_came_to_nothing_holds_up_nobody() -> None:
    """Given up, or its node gone, or the name registered and gone again: the next one passes."""
    all_, arbiter, one, other = claimed_from()
    assert arbiter.reserve("boss", one, 1, 0, now=0.0) is None
    arbiter.release("boss", other, 1)  # nobody else's to give up
    assert arbiter.reserve("boss", other, 1, 0, now=0.0) == one
    arbiter.release("boss", one, 1)
    assert arbiter.reserve("boss", other, 2, 0, now=0.0) is None
    all_.register(other.node, "other", 1)
    all_.run(1.0)
    all_.register(other.node, "boss", 2)
    all_.engines[other.node].process_ended(2)
    all_.run(1.0)
    assert arbiter.reserve("boss", one, 2, 0, now=1.0) is None
    all_.crash(one.node)
    all_.run(1.0)
    assert arbiter.reserve("boss", other, 3, all_.engines[other.node]._own.version, now=2.0) is None


def test_a_claim_is_not_given_up_by_another_one_of_its_process() -> None:
    """The first came to nothing, and to say so took longer than the second to be let pass."""
    _, arbiter, one, other = claimed_from()
    assert arbiter.reserve("boss", one, 1, 0, now=0.0) is None
    assert arbiter.reserve("boss", one, 2, 0, now=0.0) is None
    arbiter.release("boss", one, 1)
    assert arbiter.reserve("boss", other, 1, 0, now=0.0) == one
    arbiter.release("boss", one, 2)
    assert arbiter.reserve("boss", other, 2, 0, now=0.0) is None


def test_a_claim_that_is_refused_is_given_up() -> None:
    all_, arbiter, one, other = claimed_from()
    assert arbiter.reserve("boss", one, 1, 0, now=0.0) is None
    all_.register(other.node, "boss", 2)  # it was let pass by another arbiter
    all_.run(1.0)
    assert arbiter.reserve("boss", one, 1, 0, now=1.0) == other
    all_.engines[other.node].process_ended(2)
    all_.run(1.0)
    assert arbiter.reserve("boss", other, 1, 2, now=2.0) is None


def test_old_news_of_a_name_say_nothing_of_a_later_claim() -> None:
    """A process gives a name up and claims it again, before the news of the former get there."""
    all_, arbiter, one, other = claimed_from()
    all_.register(one.node, "boss", 1)
    all_.run(1.0)
    all_.engines[one.node].unregister("boss")
    version = all_.engines[one.node]._own.version
    assert arbiter.reserve("boss", one, 2, version, now=1.0) is None
    all_.run(1.0)
    assert arbiter.find("boss") is None
    assert arbiter.reserve("boss", other, 1, 0, now=2.0) == one
    all_.register(one.node, "boss", 1)
    all_.engines[one.node].unregister("boss")
    all_.run(1.0)
    assert arbiter.reserve("boss", other, 2, 0, now=3.0) is None


def test_what_one_node_claims_at_once_is_bounded() -> None:
    all_ = Registries(2, seed=4)
    a, b = all_.engines
    claims = all_.engines[a]._claims
    for number in range(10 * CLAIMS_AT_ONCE):
        assert claims.pass_one("boss", ProcessId(a, 1), number, 0, now=0.0) is None
    assert len(claims._held["boss"].versions) == CLAIMS_AT_ONCE
    for number in range(MAX_HELD + 10):
        assert claims.pass_one(f"boss {number}", ProcessId(a, 1), 1, 0, now=0.0) is None
    assert len(claims) == MAX_HELD
    assert claims.pass_one("boss 9", ProcessId(b, 1), 1, 0, now=0.0) is None  # forgotten
    assert claims.pass_one("boss 99", ProcessId(b, 1), 1, 0, now=0.0) == ProcessId(a, 1)
    claims.node_gone(a)
    assert len(claims) == 1
    claims.expire(100.0)
    assert not claims
    assert not claims._names_of


def test_a_name_goes_from_one_process_to_another_of_its_node() -> None:
    """N1: it is freed with the process that has it, not with one that had it, or asked for it."""
    all_ = Registries(2, seed=8)
    a, b = all_.engines
    engine = all_.engines[a]
    engine.register("boss", 1, 100)
    engine.register("boss", 1, 200)
    assert engine._own.names["boss"][:2] == (1, 100)  # the claim keeps its age
    with pytest.raises(NameConflict):
        engine.register("boss", 2, 50)
    engine.process_ended(2)
    assert engine.find("boss") == ProcessId(a, 1)
    assert engine.unregister("boss") == 1
    engine.register("boss", 2, 300)
    engine.process_ended(1)
    all_.run(1.0)
    assert all_.engines[b].find("boss") == ProcessId(a, 2)
    with pytest.raises(NameConflict):
        all_.engines[b].register("boss", 9, 1)  # however old: it was there first


# Who is whose neighbour: everybody; two on one ring; up to four on two.
TOPOLOGIES = [0, 1, 2]


def play(seed: int, rings: int) -> None:
    """A history of registrations, ends, crashes, halves and losses; then everybody agrees."""
    all_ = Registries(7, seed, rings=rings, lag_s=seed % 3)
    rng = all_.rng
    incarnation = 1
    alive: dict[NodeId, set[int]] = {node: set() for node in all_.engines}
    for _ in range(80):
        node = rng.choice(list(all_.engines))
        engine = all_.engines[node]
        process = rng.randrange(1, 6)
        text = f"x{rng.randrange(4)}"
        match rng.randrange(10):
            case 0 | 1 | 2:
                if all_.register(node, text, process):
                    alive[node].add(process)
            case 3:
                engine.join(text, process)
                alive[node].add(process)
            case 4:
                engine.leave(text, process)
            case 5:
                engine.process_ended(process)
                alive[node].discard(process)
            case 6 if len(all_.engines) > 2 and not all_.halves:
                all_.crash(node)
                incarnation += 1
                alive[all_.start(node.name, incarnation)] = set()
            case 7 if not all_.halves:
                nodes = list(all_.engines)
                cut = rng.randrange(1, len(nodes))
                all_.split(nodes[:cut], nodes[cut:])
            case 8 if all_.halves:
                all_.heal()
            case _:
                all_.loss = rng.choice((0.0, 0.0, 0.3))
                all_.run(rng.choice((0.01, 0.1, 3.0)))
    all_.loss = 0.0
    all_.heal()
    all_.run(40.0)
    assert all_.agree(), seed
    assert not all_.refuted(), seed
    for node, engine in all_.engines.items():
        for name in engine.names():
            holder = engine.find(name)
            assert holder is not None
            assert holder.number in alive[holder.node], seed
            held = [n for n in all_.engines if name in all_.engines[n]._own.names]
            assert held == [holder.node], seed
        # Nobody said of anybody what he had not said himself.
        assert {r.check for r in (e._replicas[node] for e in all_.engines.values())} == {
            engine._own.check
        }, seed
        assert {e._replicas[node].version for e in all_.engines.values()} == {engine._own.version}


@pytest.mark.parametrize("rings", TOPOLOGIES)
def test_histories_end_in_agreement(rings: int) -> None:
    """N2, N3: whatever happened, and also where news go from neighbour to neighbour."""
    for seed in range(20):
        play(seed, rings)


@pytest.mark.slow
@pytest.mark.parametrize("rings", TOPOLOGIES)
def test_many_histories_end_in_agreement(rings: int) -> None:
    for seed in range(1000, 1100):
        play(seed, rings)


def test_nothing_is_told_when_all_hold_the_same() -> None:
    """Comparing costs one message of a few bytes a node."""
    all_ = Registries(10, seed=5)
    for node in all_.engines:
        all_.register(node, f"name-of-{node.name}", 1)
    all_.run(5.0)
    before, bytes_before = all_.messages, all_.bytes
    all_.run(30.0)
    compared = 10 * 30 / (2.0 * 0.75)
    assert all_.messages - before <= compared
    assert all_.bytes - bytes_before <= compared * 270


def test_what_is_said_of_strangers_means_nothing() -> None:
    """X4: only members have entries, and nobody else's word counts about one's own."""
    all_ = Registries(2, seed=6)
    a, b = all_.engines
    engine = all_.engines[a]
    foreign = (NameEntry(1, "foreign", 1, 1),)
    for origin in (NodeId("unknown", 1), a):
        assert engine.received(b, Update(origin, 0, 1, 1, 0, foreign), 0.0) == []
    assert list(engine.names()) == []
