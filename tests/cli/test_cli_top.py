"""`steinadler top`, with real processes: what it counts, where it writes, how it ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from commands import Lines, Steinadler
from rich.console import Console

from steinadler.cli.top import with_rates
from steinadler.cli.top_view import view
from steinadler.identity import NodeId

TICKER = """
import trio, steinadler

async def ticker(me):
    await me.node.wait_for_member("alice")
    while True:
        for _ in range(10):
            await me.send("sink@alice", "x" * 1000)
        await me.call("$echo@alice", 1)
        await trio.sleep(0.02)

async def sink(me):
    async for message in me:
        pass

async def drain(me):
    async with await me.node.listen("drain").accept() as stream:
        async for data in stream:
            pass

async def fill(me):
    while "drain" not in me.node.services():
        await me.node.wait_for_change()
    async with await me.node.connect("drain@alice") as stream:
        while True:
            await stream.send_all(bytes(10_000))
            await trio.sleep(0.02)
"""


@asynccontextmanager
async def working(steinadler: Steinadler) -> AsyncIterator[None]:
    """Two nodes, one of which sends to the other."""
    (steinadler.folder / "traffic.py").write_text(TICKER)
    async with (
        steinadler.node(
            *("alice", "--app", "traffic:sink", "--app", "shop:deaf", "--app", "traffic:drain")
        ),
        steinadler.node("bob", "--app", "traffic:ticker", "--app", "traffic:fill") as bob,
    ):
        with trio.fail_after(10):
            assert (await bob.next_event())["event"] == "up"
        yield


@pytest.mark.slow
async def test_top_once_tells_what_flows(steinadler: Steinadler) -> None:
    async with working(steinadler):
        seen = (await steinadler.ask("top", "--once", "--json")).json
        assert [node["name"] for node in seen["nodes"]] == ["alice", "bob"]
        alice, bob = seen["nodes"]
        assert (alice["problem"], bob["problem"]) == (None, None)

        (link,) = [each for each in bob["connections"] if not each["observer"]]
        assert (link["node"], link["connected"]) == ("alice", True)
        assert 0 < link["round_trip_s"] < 1
        assert link["messages_sent_per_s"] > 10
        assert link["bytes_sent_per_s"] > 500 * link["messages_sent_per_s"]
        (back,) = [each for each in alice["connections"] if not each["observer"]]
        assert back["messages_received_per_s"] > 10

        sink = next(each for each in alice["processes"] if each["names"] == ["sink"])
        assert (sink["function"], sink["id"].endswith("@alice")) == ("sink", True)
        assert 10 < sink["messages_taken_per_s"] <= back["messages_received_per_s"] * 2
        assert alice["statistics"]["messages_received"] >= sink["messages_taken"] > 0
        assert seen["at"]

        (here,), (there,) = bob["streams"], alice["streams"]
        assert here["service"] == there["service"] == "drain"
        assert here["opened_here"]
        assert not there["opened_here"]
        assert here["bytes_sent_per_s"] > 50_000
        assert there["bytes_received_per_s"] > 50_000
        assert link["streams"] == bob["statistics"]["streams"] == 1
        assert bob["statistics"]["stream_bytes_sent_per_s"] > 50_000
        offered = (await steinadler.ask("services", "--json")).json
        assert offered == [{"name": "drain", "nodes": ["alice"]}]
        lines = (await steinadler.ask("services")).stdout.splitlines()
        assert [line.split() for line in lines] == [["SERVICE", "NODES"], ["drain", "alice"]]

        one = (await steinadler.ask("top", "bob", "--once", "--json")).json
        assert [node["name"] for node in one["nodes"]] == ["bob"]
        absent = await steinadler.ask("top", "dave", "--once", "--timeout", "0.5")
        absent.failed(1, "'dave' is not a member", "alice, bob")

        text = (await steinadler.ask("top", "--once")).stdout
        assert "\x1b" not in text, "plain text where there is no terminal"
        for word in ("NODE", "RTT", "TAKEN/s", "ticker", "sink", "drain", "2 members"):
            assert word in text


@pytest.mark.slow
async def test_top_tells_of_a_node_that_does_not_answer(steinadler: Steinadler) -> None:
    """A stopped node delays nobody's figures, and is no error."""
    async with steinadler.node("alice"), steinadler.node("bob") as bob:
        with trio.fail_after(10):
            assert (await bob.next_event())["event"] == "up"
        process = await steinadler.open("top", "--json", "--no-mdns", stdout=subprocess.PIPE)
        assert process.stdout is not None
        lines = Lines(process.stdout)
        with trio.fail_after(20):
            seen = await lines.next()
            assert [node["problem"] for node in seen["nodes"]] == [None, None]
            bob.process.send_signal(signal.SIGSTOP)
            while seen["nodes"][-1]["problem"] is None:
                seen = await lines.next()
            assert [node["name"] for node in seen["nodes"]] == ["alice", "bob"]
            assert "no answer within 1 s" in seen["nodes"][1]["problem"]
            assert seen["nodes"][1]["statistics"] is None
            assert seen["nodes"][0]["statistics"]["members"] == 2
            while len(seen["nodes"]) > 1:  # until it is declared down
                seen = await lines.next()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
        await process.stdout.aclose()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_top_on_a_terminal_is_live_and_leaves_it_as_it_was(
    steinadler: Steinadler, number: int
) -> None:
    async with steinadler.node("alice"):
        controller, terminal = os.openpty()
        process = await steinadler.open("top", "--no-mdns", stdout=terminal, stderr=subprocess.PIPE)
        os.close(terminal)
        assert process.stderr is not None
        seen = b""
        with trio.fail_after(20):
            while seen.count(b"1 member,") < 2:
                await trio.lowlevel.wait_readable(controller)
                seen += os.read(controller, 65_536)
            assert b"\x1b[?1049h" in seen, "on a screen of its own"
            process.send_signal(number)
            while b"\x1b[?1049l" not in seen:
                await trio.lowlevel.wait_readable(controller)
                seen += os.read(controller, 65_536)
            assert await process.wait() == 0
            assert b"".join([part async for part in process.stderr]) == b""
        await process.stderr.aclose()
        os.close(controller)


def _look() -> dict[str, Any]:
    traffic = {
        f"{what}_{way}_per_s": 123_456.0
        for what in ("bytes", "messages")
        for way in ("sent", "received")
    }
    link = {
        "node": "worker-02",
        "streams": 1_204,
        "observer": False,
        "connected": True,
        "round_trip_s": 0.00123,
        "messages_queued": 20,
        "channels_without_credit": 1,
        "resumptions": 3,
        **traffic,
    }
    process = {
        "id": "#7@worker-01",
        "names": [],
        "function": "\x1b[2J",
        "messages_waiting": 207,
        "messages_taken_per_s": 9.6,
        "bytes_waiting": 1_035_621,
        "calls_owed": 3,
    }
    stream = {
        "peer": NodeId("worker-02", 1),
        "number": 17,
        "opened_here": True,
        "service": "postgres",
        "bytes_sent_per_s": 2_500.0,
        "bytes_received_per_s": 98_000_000.0,
        "bytes_waiting": 0,
    }
    idle = {"number": 18, "bytes_sent_per_s": 0.0, "bytes_received_per_s": 0.0}
    answered = {
        "problem": None,
        "streams": [
            stream | idle,
            stream | {"number": 5, "opened_here": False, "peer": NodeId("worker-03", 1)},
            stream | {"number": 6, "opened_here": False, "peer": NodeId("worker-01", 1)},
            stream | idle | {"number": 4, "service": None, "bytes_waiting": 700_000},
            stream,
        ],
        "statistics": {"processes": 7, "connections": 2, **traffic},
        "connections": [link, {**link, "node": "worker-03", "connected": False}],
        "processes": [process],
    }
    silent = {"problem": "no answer within 1 s", "statistics": None}
    return {
        "at": "12:00",
        "nodes": [
            {"name": "worker-01", "state": "alive", **answered},
            {"name": "worker-02", "state": "suspect", **silent},
        ],
    }


def test_tables_fit_80_columns_and_say_what_matters() -> None:
    console = Console(width=80, record=True, file=io.StringIO(), markup=False)
    console.print(view(_look(), None))
    text = console.export_text()
    above, _, streams = text.partition(" PEER ")
    words = [line.split() for line in above.splitlines()]
    assert ["worker-02:", "no", "answer", "within", "1", "s"] in words
    (line,) = [line for line in words if line[:2] == ["worker-01", "worker-02"]]
    assert line[2:6] == ["1.23", "ms", "123", "kB"]
    assert line[-4:] == ["1,204", "20", "1", "3"]
    (broken,) = [line for line in words if line[:2] == ["worker-01", "worker-03"]]
    assert broken[2] == "cut"
    assert ["#7@worker-01", "-", "?[2J", "10", "207", "1.0", "MB", "3"] in words
    assert max(map(len, text.splitlines())) <= 80
    assert [" ".join(line.split()) for line in streams.splitlines()] == [
        "STREAM SERVICE OUT/s IN/s WAITING",
        "worker-01 worker-03 #5 postgres 2.5 kB 98 MB 0 B",
        "worker-01 worker-02 #17 postgres 2.5 kB 98 MB 0 B",
        "worker-01 worker-02 #4 (objects) 0 B 0 B 700 kB",
        "",
    ], "each once, unless its opener does not tell; the idle one is left out"
    assert "\x1b" not in text, "nothing that a peer says reaches the terminal's ear"


def test_partitions_and_ill_health_are_told_below_the_nodes() -> None:
    look = _look()
    look["nodes"][0]["statistics"] |= {
        "members_lost": 3,
        "in_minority": True,
        "health_score": 2,
        "blocked": 4,
        "blocked_s": 3.25,
        "longest_block_s": 1.5,
    }
    console = Console(width=200, record=True, file=io.StringIO(), markup=False)
    console.print(view(look, None))
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert "worker-01: 3 members lost; this side is a minority" in lines
    assert (
        "worker-01: not well (health score 2 of 7); its loop was blocked for 3.2 s in all, "
        "1.5 s at once"
    ) in lines


def test_rates_are_differences_over_the_time_between() -> None:
    before, now = {"bytes_sent": 100, "channels": 7}, {"bytes_sent": 600, "channels": 3}
    assert with_rates(now, before, 2.0) == {**now, "bytes_sent_per_s": 250.0}


@pytest.mark.parametrize(
    ("before", "seconds"), [({}, 1.0), ({"bytes_sent": 700}, 1.0), ({"bytes_sent": 600}, 0.0)]
)
def test_there_is_no_rate_without_a_comparable_look_before(
    before: dict[str, int], seconds: float
) -> None:
    """The first look; a counter of a session that began anew; two looks in one moment."""
    assert with_rates({"bytes_sent": 600}, before, seconds)["bytes_sent_per_s"] is None
