"""Registries of a large cluster, each of which talks to a dozen neighbours alone (N2, N3)."""

from __future__ import annotations

from collections import Counter

import pytest
from registries import LATENCY_S, Registries

from steinadler.identity import NodeId, ProcessId
from steinadler.registry.messages import Message, Update, Want


def history(count: int, rings: int) -> dict[str, float]:
    """What takes how many seconds, in an overlay of so many nodes."""
    took: dict[str, float] = {}
    all_ = Registries(count, seed=count, rings=rings)
    nodes = list(all_.engines)
    assert max(map(len, all_.neighbours.values())) <= 2 * rings
    for number, node in enumerate(nodes):
        all_.register(node, f"own-{node.name}", 1)
        all_.engines[node].join(f"group-{number % 10}", 2)
    took["everybody has a name"] = all_.run_until(all_.agree, within_s=8)

    all_.register(nodes[0], "boss", 3)
    boss = {ProcessId(nodes[0], 3)}
    took["one name"] = all_.run_until(lambda: all_.holders("boss") == boss, within_s=5)

    all_.lag_s = 1.0
    all_.crash(nodes[0])
    again = all_.start(nodes[0].name, incarnation=2)
    all_.register(again, "boss", 1)
    boss = {ProcessId(again, 1)}
    took["the next life"] = all_.run_until(lambda: all_.holders("boss") == boss, within_s=8)

    one, other = nodes[1 : count // 2], [*nodes[count // 2 :], again]
    all_.split(one, other)
    all_.run(1.5)
    for number in range(20):
        assert all_.register(one[number], f"twice-{number}", 7)
        assert all_.register(other[number], f"twice-{number}", 7)
        all_.engines[one[number]].join("met", 7)
        all_.engines[other[number]].join("met", 7)
    halves = [{all_.engines[node].find("twice-0") for node in half} for half in (one, other)]
    all_.run(5.0)
    halves = [{all_.engines[node].find("twice-0") for node in half} for half in (one, other)]
    assert halves == [{ProcessId(one[0], 7)}, {ProcessId(other[0], 7)}]
    all_.heal()
    took["two halves"] = all_.run_until(all_.agree, within_s=10)
    losers = Counter((loss.name, loss.number) for _, loss in all_.lost)
    assert losers == {(f"twice-{number}", 7): 1 for number in range(20)}
    assert len(all_.engines[again].members_of("met")) == 40
    assert not all_.refuted()
    return took


def test_names_and_groups_agree_where_nodes_talk_to_neighbours_alone() -> None:
    """N2, N3: after changes, the next life of a node, and two halves that meet."""
    history(60, rings=2)


@pytest.mark.slow
def test_a_hundred_and_fifty_nodes_agree_within_seconds() -> None:
    """With the rings that membership has: at the most twelve neighbours each."""
    took = history(150, rings=6)
    assert took["one name"] <= 4
    assert took["two halves"] <= 8


def test_what_many_have_is_asked_of_one() -> None:
    """Two thousand names reach each node once, though four neighbours have news of them."""
    all_ = Registries(30, seed=4, rings=2)
    origin = next(iter(all_.engines))
    for number in range(2000):
        all_.register(origin, f"service-{number:05}", number + 1)
    pieces: Counter[NodeId] = Counter()
    asked: Counter[NodeId] = Counter()

    def heard(sender: NodeId, to: NodeId, message: Message) -> None:
        if isinstance(message, Update) and message.entries:
            pieces[to] += len(message.entries)
        if isinstance(message, Want):
            asked[sender] += 1

    all_.heard = heard
    all_.run_until(
        lambda: all(len(engine) == 2000 for engine in all_.engines.values()), within_s=10
    )
    all_.run(5.0)
    assert set(pieces) == set(all_.engines) - {origin}
    assert max(pieces.values()) <= 1.4 * 2000  # the beginning comes unasked, from several
    assert sum(asked.values()) <= 1.25 * sum(pieces.values()) / 200


def test_the_load_of_a_node_does_not_grow_with_the_cluster() -> None:
    """When nothing changes, one comparison of 256 bytes in two seconds."""
    for count in (20, 80):
        all_ = Registries(count, seed=9, rings=2)
        for node in all_.engines:
            all_.register(node, f"own-{node.name}", 1)
        all_.run_until(all_.agree, within_s=8)
        all_.run(5.0)
        messages, bytes_ = all_.messages, all_.bytes
        all_.run(20.0)
        assert (all_.messages - messages) / count / 20 <= 0.7
        assert (all_.bytes - bytes_) / count / 20 <= 200


@pytest.mark.slow
def test_an_answer_that_is_lost_is_asked_for_again() -> None:
    """Whoever was asked and is gone holds nobody up."""
    all_ = Registries(12, seed=3, rings=1)
    origin, *others = all_.engines
    for number in range(3000):
        all_.register(origin, f"service-{number:05}", number + 1)
    all_.run(3 * LATENCY_S)
    far = [node for node in others if 0 < len(all_.engines[node]) < 3000]
    assert far  # some are in the middle of it
    all_.loss = 0.5
    all_.run(5.0)
    all_.loss = 0.0
    all_.run_until(all_.agree, within_s=25)
    assert not all_.refuted()


def test_a_long_list_over_a_long_path_takes_few_round_trips() -> None:
    """N2, N3: 10,000 names are some 30 pieces; one question is for several of them."""
    all_ = Registries(1, seed=5)
    (origin,) = all_.engines
    for number in range(10_000):
        all_.register(origin, f"service-{number:05}", number + 1)
    all_.latency_s = 0.05
    newcomer = all_.start("newcomer")
    took = all_.run_until(lambda: len(all_.engines[newcomer]) == 10_000, within_s=5)
    assert took <= 0.6
