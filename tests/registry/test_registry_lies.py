"""A member that says of others what is not so: whom it reaches, and for how long (X4).

About a neighbour only its own word counts; about others a lie spreads until it meets somebody who
knows better, and then the one that is lied about says it all anew.
"""

from __future__ import annotations

import pytest
from registries import LATENCY_S, Registries

from steinadler.errors import RemoteProtocolError
from steinadler.identity import NodeId, ProcessId
from steinadler.registry.messages import (
    MAX_VERSION,
    NameEntry,
    Update,
    Versions,
    decode,
    encode,
)
from steinadler.registry.replica import Replica


def lie(about: NodeId, version: int, *, base: int = 0) -> Update:
    """It has a name that it never registered, and adds up."""
    invented = Replica(about)
    invented.apply(NameEntry(version, "invented", 66, 1))
    return Update(
        about, base, version, version, invented.check, (NameEntry(version, "invented", 66, 1),)
    )


def settled(count: int, rings: int) -> Registries:
    all_ = Registries(count, seed=7, rings=rings)
    for node in all_.engines:
        all_.register(node, f"own-{node.name}", 1)
    all_.run_until(all_.agree, within_s=8)
    return all_


def test_nobody_is_fooled_where_all_are_neighbours() -> None:
    all_ = settled(5, rings=0)
    liar, victim, *_ = all_.engines
    for version in (1, 2, 10**9):
        for node in all_.engines:
            if node != liar:
                all_.send(liar, node, lie(victim, version))
                all_.send(liar, node, lie(victim, version, base=1))
        all_.run(1.0)
        assert all_.holders("invented") == {None}
    assert all_.holders(f"own-{victim.name}") == {ProcessId(victim, 1)}


@pytest.mark.parametrize("version", [1, 2, 10**9])
def test_a_lie_about_a_distant_node_ends_when_nobody_tells_it_any_more(version: int) -> None:
    """With no content, other content, or a version that the victim would reach in years."""
    all_ = settled(30, rings=2)
    liar, *_ = all_.engines
    victim = next(
        node
        for node in all_.engines
        if node != liar and liar not in all_.neighbours[node] and node not in all_.neighbours[liar]
    )
    for node in all_.neighbours[liar]:
        all_.send(liar, node, lie(victim, version))
    all_.run(LATENCY_S)
    fooled = [node for node in all_.engines if all_.engines[node].find("invented")]
    assert (len(fooled) > 0) == (version > 1)
    assert not set(all_.neighbours[victim]) & set(fooled)
    all_.run(20.0)
    assert all_.agree()
    assert all_.holders("invented") == {None}
    assert all_.holders(f"own-{victim.name}") == {ProcessId(victim, 1)}
    all_.register(victim, "afterwards", 1)
    all_.run(10.0)
    assert all_.holders("afterwards") == {ProcessId(victim, 1)}


def test_two_contents_of_one_version_are_found_and_settled() -> None:
    """What was lost or made up on the way, whoever did it, is repaired without any change."""
    all_ = settled(30, rings=2)
    victim, *others = all_.engines
    for node in others:
        if node not in all_.neighbours[victim]:
            replica = all_.engines[node]._replicas[victim]
            replica.check = 12345
            all_.engines[node]._exchange.digests.changed(victim)
    all_.run(20.0)
    checks = {engine._replicas[victim].check for engine in all_.engines.values()}
    assert checks == {all_.engines[victim]._own.check}
    assert all_.refuted() == {victim}


def test_a_first_piece_that_nothing_follows_is_got_over() -> None:
    """Promising much more and sending none of it keeps nobody from the truth."""
    all_ = settled(30, rings=2)
    liar, *_ = all_.engines
    victim = next(
        node
        for node in all_.engines
        if node != liar and liar not in all_.neighbours[node] and node not in all_.neighbours[liar]
    )
    promise = Update(victim, 1, 5, 10**6, 0, (NameEntry(5, "invented", 66, 1),))
    for node in all_.neighbours[liar]:
        all_.send(liar, node, promise)
    all_.run(LATENCY_S)
    assert len(all_.holders("invented")) == 2
    all_.run(30.0)
    assert all_.agree()
    assert all_.holders("invented") == {None}


def test_no_version_leaves_the_victim_without_an_answer() -> None:
    """The largest versions are refused when they are read; below them there is room to go on."""
    all_ = settled(3, rings=0)
    liar, victim, _ = all_.engines
    with pytest.raises(RemoteProtocolError):
        decode(encode(Versions(((victim, MAX_VERSION + 1, 0),))))
    for wrong in (
        Update(victim, 0, 6, 5, 0, ()),
        Update(victim, 6, 5, 5, 0, ()),
        Update(victim, 0, 5, 5, 0, (NameEntry(6, "x", 1, 1),)),
    ):
        with pytest.raises(RemoteProtocolError):
            decode(encode(wrong))
    for claimed in (MAX_VERSION // 2, MAX_VERSION):
        all_.send(liar, victim, Versions(((victim, claimed, 1),)))
        all_.run(1.0)
        assert all_.engines[victim]._own.version == MAX_VERSION // 2 + 1
    all_.run(5.0)
    assert all_.agree()
