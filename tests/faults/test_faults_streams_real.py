"""One stream over TCP connections that are torn all the time, on sockets, under TLS (M1-M3)."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest
import trio
from cut_wires import Cut, Ways, open_cut_node
from simulated import events_of, until
from stream_traffic import streams_left

from steinadler import Config, Node, WireSettings

MIB = 1024 * 1024
PIECE = 256 * 1024
CONFIG = Config(wire=WireSettings(channel_idle_s=0.5))  # so that what is left shows soon


async def cut_all_the_time(ways: Ways, interval_s: float) -> None:
    for how in itertools.cycle(Cut):
        await trio.sleep(interval_s)
        ways.cut("alice", "bob", how)


@pytest.mark.parametrize(
    ("mib", "interval_s"),
    [(24, 0.05), pytest.param(1024, 0.2, marks=pytest.mark.slow)],
    ids=["24 MiB", "1 GiB"],
)
async def test_a_stream_over_torn_connections_is_whole(
    mib: int, interval_s: float, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """By RST and by FIN in mid-record; and nobody is down."""
    ways = Ways(nursery)
    async with (
        open_cut_node("alice", ways, tmp_path, config=CONFIG) as alice,
        open_cut_node("bob", ways, tmp_path, seeds=alice.addresses, config=CONFIG) as bob,
    ):
        with trio.fail_after(20 + mib):
            await alice.wait_for_member("bob")
            await bob.wait_for_member("alice")
            async with events_of(alice, bob) as told:
                async with trio.open_nursery() as cutting:
                    cutting.start_soon(cut_all_the_time, ways, interval_s)
                    sent, got = await carry(alice, bob, mib)
                    cutting.cancel_scope.cancel()
            assert got == sent
            assert told == {"alice": [], "bob": []}
            assert ways.cuts > 0
            assert alice.statistics().resumptions > 0
            await until(lambda: not streams_left(alice, bob), within_s=30)


async def carry(alice: Node, bob: Node, mib: int) -> tuple[str, str]:
    """Both SHA-256 sums."""
    sent, got = hashlib.sha256(), hashlib.sha256()

    async def send() -> None:
        async with await alice.connect("sink@bob") as stream:
            for number in range(mib * MIB // PIECE):
                # Each piece is another, and costs little to make.
                data = hashlib.sha256(number.to_bytes(8, "big")).digest() * (PIECE // 32)
                sent.update(data)
                await stream.send_all(data)

    with bob.listen("sink") as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async with await listener.accept() as stream:
                async for chunk in stream:
                    got.update(chunk)
    return sent.hexdigest(), got.hexdigest()
