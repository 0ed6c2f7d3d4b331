"""From nothing to a cluster of three machines, each with a home of its own, by a token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from switched_machines import Machine, Switch

from steinadler.security import Home

pytestmark = pytest.mark.slow

# What a person waits for in all, on a machine that does nothing else.
GOAL_S = 10.0
# Five commands begin one after the other; where each alone takes long to begin, so do they.
STARTS = 8


class Shell:
    """Somebody's commands on one machine, in a home of its own."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.home = folder / machine.name
        self._environment = os.environ | {"STEINADLER_HOME": str(self.home)}

    def _command(self, *words: str) -> list[str]:
        return self.machine.inside(sys.executable, "-m", "steinadler", *words)

    async def run(self, *words: str) -> str:
        """Run `steinadler` to its end; return what it prints."""
        done = await trio.run_process(
            self._command(*words), env=self._environment, capture_stdout=True, capture_stderr=True
        )
        return done.stdout.decode().strip()

    @asynccontextmanager
    async def node(self, *words: str) -> AsyncIterator[RunningNode]:
        """A `steinadler node`, killed at the end."""
        process = await trio.lowlevel.open_process(
            self._command("node", *words, "--json"), env=self._environment, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            yield RunningNode(process.stdout)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdout.aclose()


class RunningNode:
    """What a node tells."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._data = b""
        self._up: set[str] = set()

    async def until(self, event: str) -> dict[str, Any]:
        """Wait for such an event."""
        while (told := await self._next())["event"] != event:
            pass
        return told

    async def until_up(self, *names: str) -> None:
        """Wait until it has met these."""
        while not set(names) <= self._up:
            await self._next()

    async def _next(self) -> dict[str, Any]:
        while b"\n" not in self._data:
            more = await self._stream.receive_some()
            assert more, "it ended"
            self._data += more
        line, _, self._data = self._data.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        if told["event"] == "up":
            self._up.add(told["name"])
        return told


def keys_under(folder: Path) -> list[Path]:
    """Every cluster's key in these homes."""
    return list(folder.rglob("ca.key"))


async def start_s() -> float:
    """How long a command takes to begin here and now."""
    begun = trio.current_time()
    await trio.run_process([sys.executable, "-m", "steinadler", "--version"], capture_stdout=True)
    return trio.current_time() - begun


async def test_from_nothing_to_three_machines(switch: Switch, tmp_path: Path) -> None:
    """Two commands on the first, one on each of the others; then each starts again by itself."""
    first, second, third = [
        Shell(await switch.machine(name), tmp_path) for name in ("alice", "bob", "carol")
    ]
    patience_s = max(GOAL_S, STARTS * await start_s())
    begun = trio.current_time()
    with trio.fail_after(patience_s):
        async with first.node("alice", "--port", "4000") as alice:
            await alice.until("ready")
            token = await first.run("cluster", "token", "--uses", "2")
            async with (
                second.node("bob", "--join", token) as bob,
                third.node("carol", "--join", token) as carol,
            ):
                await alice.until_up("bob", "carol")
                await bob.until_up("alice", "carol")
                await carol.until_up("alice", "bob")
                took_s = trio.current_time() - begun
                print(f"three machines met after {took_s:.1f} s")  # noqa: T201
    # The cluster's key stayed where it was.
    assert keys_under(tmp_path) == [first.home / "clusters/default/ca.key"]

    # Without multicast and without a seed: where the cluster was is remembered.
    with trio.fail_after(60):
        async with (
            first.node("alice", "--port", "4000", "--no-mdns") as alice,
            second.node("bob", "--no-mdns") as bob,
        ):
            await bob.until_up("alice")
            await alice.until_up("bob")


async def test_an_issuer_is_found_by_multicast(switch: Switch, tmp_path: Path) -> None:
    """By a token that has no address in it, because it was made before anything ran."""
    first, second = [Shell(await switch.machine(name), tmp_path) for name in ("alice", "bob")]
    home = Home(first.home)
    cluster = home.default_cluster()
    token = home.tokens(cluster).make(cluster, now=datetime.now(UTC))
    with trio.fail_after(60):
        async with first.node("alice") as alice:
            await alice.until("ready")
            told = await second.run("cluster", "join", token.encode(), "--name", "bob", "--json")
            assert json.loads(told)["issuer"] == "alice"
            async with second.node("bob", "--no-mdns") as bob:
                await bob.until_up("alice")
