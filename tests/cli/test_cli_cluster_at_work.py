"""Nodes and observers, as processes: what the commands print, and what nodes see of them."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress

import pytest
import trio
from commands import Steinadler


@pytest.mark.slow
async def test_nodes_tell_who_joins_and_who_leaves(steinadler: Steinadler) -> None:
    """SIGTERM and SIGINT leave cleanly: exit code 0, and the others hear "left" at once (S1)."""
    async with (
        steinadler.node("alice") as alice,
        steinadler.node("bob", "--label", "role=gpu") as bob,
    ):
        with trio.fail_after(10):
            up = await alice.next_event()
            assert up == {
                "event": "up",
                "name": "bob",
                "address": bob.address,
                "labels": {"role": "gpu"},
            }
            assert await bob.stop(signal.SIGTERM) == 0
            assert await alice.next_event() == {"event": "down", "name": "bob", "reason": "left"}
            assert await alice.stop(signal.SIGINT) == 0
            assert await alice.next_event() == {"event": "left", "name": "alice"}


@pytest.mark.slow
async def test_a_node_that_only_dials_out_is_called_through_another(
    steinadler: Steinadler,
) -> None:
    async with steinadler.node("alice") as alice:
        words = ("node", "carol", "--no-listen", "--no-mdns", "--json")
        carol = await steinadler.open(*words, stdout=subprocess.PIPE)
        try:
            with trio.fail_after(10):
                up = await alice.next_event()
                assert (up["name"], up["address"]) == ("carol", None)
            assert (await steinadler.ask("call", "$echo@carol", "7")).stdout == "7\n"
        finally:
            carol.kill()
            with trio.CancelScope(shield=True):
                await carol.wait()
                assert carol.stdout is not None
                await carol.stdout.aclose()


@pytest.mark.slow
async def test_observers_look_at_a_cluster_and_drive_it(steinadler: Steinadler) -> None:
    async with (
        steinadler.node("alice", "--app", "shop:counter", "--app", "shop:deaf") as alice,
        steinadler.node("bob", "--label", "role=gpu", "--app", "shop:counter") as bob,
    ):
        with trio.fail_after(10):
            assert (await alice.next_event())["name"] == "bob"
            assert (await bob.next_event())["name"] == "alice"

        listed = (await steinadler.ask("members", "--json")).json
        assert listed == [
            {"name": "alice", "address": alice.address, "labels": {}, "state": "alive"},
            {"name": "bob", "address": bob.address, "labels": {"role": "gpu"}, "state": "alive"},
        ]
        assert "role=gpu" in (await steinadler.ask("members")).stdout

        found = (await steinadler.ask("whereis", "counter@bob", "--json")).json
        assert (found["name"], found["node"]) == ("counter", "bob")
        (deaf,) = (await steinadler.ask("whereis", "deaf", "--json")).json
        assert (deaf["name"], deaf["node"]) == ("deaf", "alice")
        everywhere = (await steinadler.ask("whereis", "counter", "--json")).json
        assert [place["node"] for place in everywhere] == ["alice", "bob"]
        assert everywhere[1] == found
        assert (await steinadler.ask("whereis", "counter")).stdout.count("\n") == 2
        (await steinadler.ask("whereis", "nobody", "--json")).failed(1, "'nobody' on any member")
        (await steinadler.ask("whereis", "nobody@bob")).failed(1, "'nobody' on 'bob'")
        (await steinadler.ask("call", "nobody@*", "1")).failed(1, "'nobody' in the whole cluster")

        sent = (await steinadler.ask("send", "counter@bob", '{"add": 40}', "--json")).json
        assert sent == found
        assert (await steinadler.ask("call", "counter@bob", '["add", 2]', "--json")).json == 42
        info = (await steinadler.ask("call", "$info@alice", "null", "--json")).json
        assert info["members"] == ["alice", "bob"], "observers are counted by nobody"

        (await steinadler.ask("call", "counter", "1")).failed(1, "alice, bob", "counter@alice")
        (await steinadler.ask("send", "nobody@bob", "1")).failed(1, "'nobody'", "'bob'")
        absent = await steinadler.ask("send", "counter@dave", "1", "--timeout", "0.5")
        absent.failed(1, "'dave' is not a member", "alice, bob")

        with trio.move_on_after(0.2) as quiet:
            await bob.next_event()
        assert quiet.cancelled_caught, "nodes do not hear of observers"


@pytest.mark.slow
async def test_replies_are_printed_as_json(steinadler: Steinadler) -> None:
    async with steinadler.node("alice", "--app", "shop:counter"):
        assert (await steinadler.ask("call", "counter", '"odd things"', "--json")).json == {
            "set": [1, 2, 3],
            "tuple": [1, 2],
            "bytes": "aGk=",
            "me": (await steinadler.ask("whereis", "counter@alice", "--json")).json["process"],
            "nan": "nan",
            "price": "1.50",
            "5": None,
        }
        echoed = ("call", "$echo@alice", '[1.5, "ü", null, {"a": []}]', "--json")
        assert (await steinadler.ask(*echoed)).json == [1.5, "ü", None, {"a": []}]
        (await steinadler.ask("call", "counter", '"point"')).failed(
            1, "Point", "registered", "--import MODULE"
        )
        known = await steinadler.ask("call", "counter", '"point"', "--import", "shop", "--json")
        assert known.json == {"x": 1, "y": 2}


@pytest.mark.slow
async def test_calls_that_come_to_nothing_say_why_in_one_line(steinadler: Steinadler) -> None:
    """C1: a remote error, an exit, silence."""
    async with steinadler.node("alice", "--app", "shop:counter") as alice:
        (await steinadler.ask("call", "counter", '"fail"')).failed(1, "ValueError: no way")
        silent = await steinadler.ask("call", "counter", '"nothing"', "--timeout", "1")
        silent.failed(1, "no answer from counter within 1 s")
        await steinadler.ask("send", "counter", '"crash"')
        with trio.fail_after(5):
            event = await alice.next_event()
        assert event == {
            "event": "exited",
            "process": "counter",
            "reason": "RuntimeError: out of ink",
        }
        (await steinadler.ask("call", "counter@alice", "1")).failed(1, "'counter'", "'alice'")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
async def test_a_signal_ends_a_waiting_call_with_its_number(
    steinadler: Steinadler, number: int
) -> None:
    async with steinadler.node("alice", "--app", "shop:counter"):
        process = await steinadler.open(
            *("call", "counter", '"nothing"', "--timeout", "30", "--no-mdns"),
            *("--log-level", "info"),
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        with trio.fail_after(10):
            seen = b""
            while b"alice is up" not in seen:
                seen += await process.stderr.receive_some()
            process.send_signal(number)
            assert await process.wait() == 128 + number
            async for more in process.stderr:
                seen += more
        assert b"Traceback" not in seen
        await process.stderr.aclose()


async def test_one_living_node_has_a_name(steinadler: Steinadler) -> None:
    async with steinadler.node("alice") as alice:
        second = await steinadler.run("node", "alice", "--host", "127.0.0.1", "--no-mdns", "--json")
        # Not a word of being ready before that.
        second.failed(1, "another living node of this cluster is called 'alice'")
        assert (await steinadler.ask("members", "--json")).json[0]["address"] == alice.address


async def test_strangers_at_the_port_do_no_harm(steinadler: Steinadler) -> None:
    """X2, X4: plain HTTP, garbage and a hang-up get nothing; the node goes on."""
    async with steinadler.node("alice") as alice:
        host, _, port = alice.address.rpartition(":")
        for sent in (b"GET / HTTP/1.1\r\nHost: alice\r\n\r\n", bytes(range(256)) * 8, b""):
            with trio.fail_after(10):
                answer = b""
                async with await trio.open_tcp_stream(host, int(port)) as stranger:
                    with suppress(trio.BrokenResourceError):  # it may be shown the door at once
                        await stranger.send_all(sent)
                        await stranger.send_eof()
                        answer = await stranger.receive_some()
            assert b"HTTP" not in answer
        assert (await steinadler.ask("call", "$echo@alice", "1", "--json")).json == 1


@pytest.mark.slow
async def test_another_cluster_is_not_let_in(steinadler: Steinadler) -> None:
    """S3, X2: a seed of another cluster is nobody to talk to."""
    await steinadler.run("cluster", "init", "other")
    async with steinadler.node("alice") as alice:
        options = ("--cluster", "other", "--seed", alice.address, "--timeout", "1")
        result = await steinadler.ask("members", *options)
        result.failed(1, "no node of cluster 'other' found within 1 s", alice.address)
        told = await steinadler.ask("members", *options, "--log-level", "info")
        assert "not signed by this cluster's CA" in told.stderr
