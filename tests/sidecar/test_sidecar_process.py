"""`steinadler sidecar` as its users run it: real processes, real TLS between them, one store."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import trio
from app_program import path
from program_processes import both, program
from sidecar_processes import free_port, knows, running

from steinadler.sidecar.app_client import AppAnswer, tcp


@pytest.mark.slow
async def test_state_moves_when_a_sidecar_leaves_and_when_one_dies(tmp_path: Path) -> None:
    """E1, E2: entities of one sidecar go on behind the other, from where they were."""
    async with both(tmp_path, "alice") as (alice, _), both(tmp_path, "bob") as (bob, _):
        await knows(alice, 2)
        await knows(bob, 2)
        ids = [str(number) for number in range(12)]
        for id_ in ids:
            for sidecar, total in ((alice, b"1"), (bob, b"2")):
                answer = await sidecar.call(id_, "add", b"1")
                assert (answer.status, answer.body) == (200, total)
        bob.process.send_signal(signal.SIGTERM)
        with trio.fail_after(15):
            assert (await bob.lines())["event"] == "program_up"
            assert (await bob.lines())["event"] == "draining"
            for id_ in ids:
                answer = await alice.call(id_, "add", b"1")
                assert (answer.status, answer.body) == (200, b"3"), "no call fails in a handover"
            assert (await bob.lines())["event"] == "left"
            assert await bob.process.wait() == 0
        async with both(tmp_path, "carol") as (carol, _):
            await knows(carol, 2)
            for id_ in ids:
                assert (await carol.call(id_, "add", b"1")).body == b"4"
            alice.process.kill()
            with trio.fail_after(10):
                for id_ in ids:
                    answer = await carol.call(id_, "add", b"1")
                    while answer.status == 502:  # it was not known yet that alice is gone
                        answer = await carol.call(id_, "add", b"1")
                    assert answer.body == b"5"


@pytest.mark.slow
async def test_a_running_turn_ends_before_the_sidecar_leaves(tmp_path: Path) -> None:
    async with both(tmp_path, "alice") as (alice, _):
        answers: list[AppAnswer] = []

        async def caller() -> None:
            answers.append(await alice.call("1", "slow", b"1"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            # Its state can be read when it is active, and its turn then begins in the same step.
            state = path("Cart", "1", "state/count")
            with trio.fail_after(10):
                while (await alice.client.request("GET", state)).status == 409:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            alice.process.send_signal(signal.SIGTERM)
        assert (answers[0].status, answers[0].body) == (200, b"at last")
        with trio.fail_after(10):
            assert await alice.process.wait() == 0


async def test_the_program_may_come_and_go(tmp_path: Path) -> None:
    """And whoever waits for it is told that it has come."""
    up = {"event": "program_up", "name": "alice", "types": ["Cart"]}
    app_port, http_port = free_port(), free_port()
    options = ("--app-port", str(app_port), "--http-port", str(http_port))
    async with running(tmp_path, "alice", *options) as alice:
        assert not await alice.healthy()
        async with program(app_port, http_port) as first:
            assert (await alice.call("1", "add", b"1")).body == b"1", "it waited for the program"
            with trio.fail_after(10):
                assert await alice.lines() == up
            answer = await alice.call("1", "die")
            assert (answer.status, json.loads(answer.body)["errorCode"]) == (
                502,
                "ERR_ACTOR_HOST_FAILED",
            )
            with trio.fail_after(10):
                assert await first.wait() == 3
        async with program(app_port, http_port):
            assert (await alice.call("1", "add", b"1")).body == b"2"
        alice.process.send_signal(signal.SIGTERM)
        with trio.fail_after(10):
            assert await alice.process.wait() == 0, "a program that went first does not hold it up"


@pytest.mark.slow
async def test_a_unix_socket_is_this_users_alone(tmp_path: Path) -> None:
    where = tmp_path / "s"
    async with running(tmp_path / "home", "alice", "--http-socket", str(where)) as alice:
        assert alice.ready["http"] == [f"unix:{where}"]
        assert where.stat().st_mode & 0o777 == 0o600
        assert await alice.healthy(), "without a program it is ready at once"
        assert (await alice.client.request("GET", "/v1.0/metadata")).status == 200
        command = [sys.executable, "-m", "steinadler", "sidecar", "--http-socket", str(where)]
        second = await trio.run_process(
            [*command, "--name", "bob", "--host", "127.0.0.1", "--no-mdns"],
            env={**os.environ, "STEINADLER_HOME": str(tmp_path / "home")},
            capture_stderr=True,
            check=False,
        )
        assert second.returncode == 1
        assert second.stderr.count(b"\n") == 1
        assert b"in use" in second.stderr
        alice.process.kill()
        await alice.process.wait()
    async with running(tmp_path / "home", "carol", "--http-socket", str(where)) as carol:
        assert await carol.healthy(), "a dead one's socket is replaced"
        carol.process.send_signal(signal.SIGINT)
        assert await carol.process.wait() == 0
    assert not where.exists()


@pytest.mark.slow
async def test_http_2_without_tls(tmp_path: Path) -> None:
    """By prior knowledge; several requests on one connection at a time."""
    import h2.config
    import h2.connection
    import h2.events

    async with both(tmp_path, "alice") as (alice, _):
        port = int(alice.ready["http"][0].rpartition(":")[2])
        connection = h2.connection.H2Connection(h2.config.H2Configuration())
        connection.initiate_connection()
        stream = await tcp("127.0.0.1", port)()
        for number in range(8):
            head = [
                (":method", "POST"),
                (":path", path("Cart", "a/b", "method/add")),
                (":scheme", "http"),
                (":authority", "localhost"),
            ]
            connection.send_headers(2 * number + 1, head)
            connection.send_data(2 * number + 1, b"1", end_stream=True)
        bodies: dict[int, bytes] = {}
        ended = 0
        with trio.fail_after(20):
            while ended < 8:
                await stream.send_all(connection.data_to_send())
                for event in connection.receive_data(await stream.receive_some()):
                    if isinstance(event, h2.events.DataReceived):
                        body = bodies.get(event.stream_id, b"")
                        bodies[event.stream_id] = body + event.data
                    ended += isinstance(event, h2.events.StreamEnded)
        assert sorted(bodies.values()) == [b"%d" % total for total in range(1, 9)]
        await stream.aclose()


@pytest.mark.slow
async def test_two_sidecars_of_one_name(tmp_path: Path) -> None:
    async with running(tmp_path, "alice", "--http-port", "0") as alice:
        command = [sys.executable, "-m", "steinadler", "sidecar", "--name", "alice"]
        with trio.fail_after(20):
            second = await trio.run_process(
                [*command, "--http-port", "0", "--host", "127.0.0.1", "--no-mdns"],
                env={**os.environ, "STEINADLER_HOME": str(tmp_path)},
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert second.returncode == 1
        assert b"another living node of this cluster is called 'alice'" in second.stderr
        assert second.stdout == b"", "not a word of being ready before that"
        assert await alice.healthy()


@pytest.mark.slow
async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path, "alice", "--http-port", "0") as alice:
        port = alice.ready["http"][0].rpartition(":")[2]
        command = [sys.executable, "-m", "steinadler", "sidecar", "--http-port", port]
        with trio.fail_after(20):
            second = await trio.run_process(
                [*command, "--name", "bob", "--host", "127.0.0.1", "--no-mdns"],
                env={**os.environ, "STEINADLER_HOME": str(tmp_path)},
                capture_stderr=True,
                check=False,
            )
        assert second.returncode == 1
        assert second.stderr.count(b"\n") == 1
        assert f"127.0.0.1:{port}".encode() in second.stderr
