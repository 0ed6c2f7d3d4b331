"""The same faults as in `test_faults_cuts_simulated`, once on sockets, under TLS (M1-M3, S2)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from cut_wires import Cut, Ways, open_cut_node
from simulated import events_of, until
from traffic import BUSY, Traffic


async def cut_often(ways: Ways, draw: random.Random) -> None:
    while True:
        await trio.sleep(draw.uniform(0.05, 0.5))
        ways.cut("alice", "bob", draw.choice(list(Cut)))


@pytest.mark.parametrize("seconds", [2, pytest.param(20, marks=pytest.mark.slow)])
async def test_torn_connections_lose_double_and_reorder_nothing(
    seconds: float, tmp_path: Path, nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    """M1, M2, M3: 5,000 messages a second each way, torn by RST and by FIN in mid-record every
    50 to 500 ms; nobody is down, and no credit is lost."""
    ways = Ways(nursery)
    async with (
        open_cut_node("alice", ways, tmp_path, config=BUSY) as alice,
        open_cut_node("bob", ways, tmp_path, seeds=alice.addresses, config=BUSY) as bob,
    ):
        with trio.fail_after(seconds * 2 + 60):
            await alice.wait_for_member("bob")
            await bob.wait_for_member("alice")
            traffic = Traffic(alice, bob, seed=1)
            async with events_of(alice, bob) as told:
                async with trio.open_nursery() as cutting:
                    cutting.start_soon(cut_often, ways, random.Random(1))
                    await traffic.run(seconds)
                    await until(traffic.arrived, within_s=30)
                    cutting.cancel_scope.cancel()
        account = traffic.account()
        counters = [node.statistics() for node in (alice, bob)]
        report = (
            f"{seconds} s: {account}; {ways.cuts} cuts, "
            f"{[each.resumptions for each in counters]} resumptions, "
            f"{[each.bytes_retransmitted for each in counters]} bytes sent again of "
            f"{[each.bytes_sent for each in counters]}"
        )
        with capsys.disabled():
            print(f"\n{report}")  # noqa: T201
        assert account.faultless, report
        assert account.sent >= 5_000 * seconds, report  # a slow machine sends less
        assert all(each.resumptions >= seconds for each in counters), report
        assert sum(each.bytes_retransmitted for each in counters) > 0
        assert told == {"alice": [], "bob": []}
        with trio.fail_after(30):
            await traffic.assert_nothing_is_left()


async def test_connections_reset_in_their_handshakes_are_no_death(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """M3, S2: what breaks before TLS has begun is a broken connection, and no refusal."""
    ways = Ways(nursery)
    async with (
        open_cut_node("alice", ways, tmp_path) as alice,
        open_cut_node("bob", ways, tmp_path, seeds=alice.addresses) as bob,
    ):
        with trio.fail_after(20):
            await alice.wait_for_member("bob")
            await bob.wait_for_member("alice")
            async with events_of(alice, bob) as told:
                ways.reset_at_birth = 4
                ways.reset("alice", "bob")
                for node, peer in ((alice, bob), (bob, alice)):
                    assert await node.call(f"$echo@{peer.name}", 1) == 1
                assert ways.reset_at_birth == 0
        assert told == {"alice": [], "bob": []}


@pytest.mark.slow
@pytest.mark.parametrize("breaks", [False, True], ids=["stalls", "breaks"])
async def test_two_seconds_without_a_path_lose_nothing_on_sockets(
    breaks: bool, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """M3, S2: a third reaches both."""
    ways = Ways(nursery)
    async with (
        open_cut_node("alice", ways, tmp_path) as alice,
        open_cut_node("bob", ways, tmp_path, seeds=alice.addresses) as bob,
        open_cut_node("carol", ways, tmp_path, seeds=alice.addresses) as carol,
    ):
        nodes = (alice, bob, carol)
        with trio.fail_after(60):
            for node in nodes:
                await node.wait_for_members(3)
                for other in nodes:
                    await node.call(f"$echo@{other.name}", 1)
            traffic = Traffic(alice, bob, seed=1, per_second=200)
            async with events_of(*nodes) as told:
                async with trio.open_nursery() as sending:
                    sending.start_soon(traffic.run, 4)
                    await trio.sleep(1)
                    with ways.held("alice", "bob"):
                        if breaks:
                            ways.reset("alice", "bob")
                        await trio.sleep(0.1)
                        before = sum(map(len, traffic.got.values()))
                        await trio.sleep(0.3)
                        assert 0 < sum(map(len, traffic.got.values())) == before
                        await trio.sleep(1.6)  # the third carries what it can
                await until(traffic.arrived, within_s=20)
                await trio.sleep(3)  # a suspicion that began would have run out
        assert traffic.account().faultless, traffic.account()
        assert told == {"alice": [], "bob": [], "carol": []}
