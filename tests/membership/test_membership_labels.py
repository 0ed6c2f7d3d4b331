"""A node may change its labels while it runs, and the others hear of it at once."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from steinadler.config import MembershipSettings
from steinadler.errors import ConfigError, NodeClosed
from steinadler.identity import NodeId
from steinadler.membership import (
    Connected,
    Leave,
    Member,
    ObserverConnected,
    Received,
    Relabel,
    Send,
    Swim,
    Updated,
)
from steinadler.membership.messages import Gossip
from steinadler.testing import SimulatedCluster

ME, BOB = Member(NodeId("me", 10), labels=(("a", "1"),)), Member(NodeId("bob", 10))
NEW = (("a", "2"), ("b", ""))


def engine(*, observer: bool = False) -> Swim:
    swim = Swim(ME, MembershipSettings(), random.Random(1), observer=observer)
    swim.tick(0.0)
    swim.handle(Connected(BOB), 0.0)
    return swim


def test_new_labels_go_to_everybody_with_a_higher_refutation() -> None:
    """The records' rule lets only the node's own later word win, and this is one."""
    swim = engine()
    watcher = NodeId("watcher", 1)
    swim.handle(ObserverConnected(watcher), 0.0)
    now = replace(ME, labels=NEW, refutation=1)
    assert swim.handle(Relabel(NEW), 0.0) == [
        Send(BOB.node, Gossip((now,))),
        Send(watcher, Gossip((now,))),
    ]
    assert swim.me == now
    assert swim.handle(Relabel(NEW), 0.0) == []


def test_who_hears_of_new_labels_says_so_and_keeps_no_older_ones() -> None:
    swim = engine()
    new = replace(BOB, labels=NEW, refutation=1)
    assert Updated(new) in swim.handle(Received(BOB.node, Gossip((new,))), 1.0)
    assert Updated(BOB) not in swim.handle(Received(BOB.node, Gossip((BOB,))), 2.0)
    assert swim.find("bob") == new


def test_labels_that_do_not_fit_change_nothing() -> None:
    swim = engine()
    with pytest.raises(ConfigError, match="4096"):
        swim.handle(Relabel((("a", "x" * 5000),)), 1.0)
    assert swim.me == ME


def test_an_observer_and_one_that_has_left_say_nothing() -> None:
    observer = engine(observer=True)
    assert observer.handle(Relabel(NEW), 0.0) == []
    assert observer.me.labels == NEW
    gone = engine()
    gone.handle(Leave(), 0.0)
    assert gone.handle(Relabel(NEW), 0.0) == []


async def test_labels_of_real_nodes(autojump_clock: MockClock) -> None:
    """Members, those that join later, and those that were cut off meanwhile have the new ones."""
    async with SimulatedCluster(3) as cluster:
        alice, bob = await cluster.start("alice", "bob", labels={"zone": "a"})
        with trio.fail_after(20):
            await cluster.agreed()
            alice.set_label("zone", "b")
            alice.set_label("role", "gpu")
            while not bob.members(zone="b", role="gpu"):
                await bob.wait_for_change()
            alice.set_label("zone", None)
            while bob.members(zone="b"):
                await bob.wait_for_change()
            assert alice.labels == {"role": "gpu"}
            assert [member.node.name for member in alice.members(role="gpu")] == ["alice"]
            (carol,) = await cluster.start("carol")
            await carol.wait_for_member("alice")
            assert carol.members(role="gpu")
            cluster.cut("alice", "bob")
            alice.set_label("role", "cpu")
            while not bob.members(role="cpu"):
                await bob.wait_for_change()


async def test_what_cannot_be_a_label(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(3) as cluster:
        (alice,) = await cluster.start("alice")
        for name, value in (("$entities", "Cart"), ("k" * 256, ""), ("k", "v" * 2049)):
            with pytest.raises(ConfigError):
                alice.set_label(name, value)
        for number in range(64):
            alice.set_label(str(number), "")
        with pytest.raises(ConfigError, match="64"):
            alice.set_label("one more", "")
        assert len(alice.labels) == 64
        await cluster.stop("alice")
        with pytest.raises(NodeClosed):
            alice.set_label("a", "b")
