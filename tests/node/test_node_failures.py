"""A node that fails says why, once: not in groups, and not beside what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from programs import until

import steinadler
from steinadler import (
    ConfigError,
    EntityUnavailable,
    NameConflict,
    NodeClosed,
    NoSuchProcess,
    Process,
)
from steinadler.discovery import Source
from steinadler.discovery.source import Found
from steinadler.node.failures import single_error


class Jar(steinadler.Entity):
    coins: int = 0

    @steinadler.command
    def add(self, coins: int) -> int:
        self.coins += coins
        return self.coins


def opened(home: Path, **options: Any) -> Any:
    return steinadler.open_node("alice", home=home, host="127.0.0.1", mdns=False, **options)


async def test_a_store_that_can_never_be_used_ends_its_node(tmp_path: Path) -> None:
    file = tmp_path / "jars"
    file.write_text("no database")
    with trio.fail_after(10):
        with pytest.raises(ConfigError, match="is not a SQLite database"):
            async with opened(tmp_path, store=f"sqlite://{file}") as alice:
                alice.host(Jar)
                await alice.entity("Jar", "1").call("add", 1)


async def test_a_node_that_hosts_and_whose_name_is_taken_says_only_that(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with opened(tmp_path):
            with pytest.raises(NameConflict):
                async with opened(tmp_path) as second:
                    second.host(Jar)
                    await trio.sleep_forever()


class Faulty(Source):
    def __init__(self, *, finds: Any) -> None:
        self._finds = finds

    async def run(
        self, found: Found, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        for each in self._finds:
            found(each)
        raise KeyError("no such directory")


@pytest.mark.parametrize("finds", [(), ("127.0.0.1:1",)])
async def test_a_source_that_raises_finds_nobody_and_its_node_goes_on(
    finds: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Faulty(finds=finds)
    async with opened(tmp_path, sources=[source]) as alice:
        with trio.fail_after(10):
            await until(lambda: source.problem != "")
        assert alice.members()
    assert "it failed: " in source.problem
    (line,) = (r for r in caplog.records if "finds nobody any more" in r.getMessage())
    assert line.exc_info is not None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sources": ["127.0.0.1:1"]}, "'127.0.0.1:1' is none"),
        ({"seeds": "127.0.0.1:1"}, "a list of addresses"),
        ({"seeds": ["a b:1"]}, "is not an address"),
        ({"labels": {"cores": 4}}, "labels are texts"),
    ],
)
async def test_what_cannot_be_meant_is_named(
    options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=match):
        async with opened(tmp_path, **options):
            pass


async def test_a_home_may_be_a_text(tmp_path: Path) -> None:
    async with steinadler.open_node("alice", home=str(tmp_path), mdns=False, port=0):
        assert (tmp_path / "clusters").is_dir()


async def test_only_a_process_of_this_node_is_registered_here(nodes: Any) -> None:
    alice, bob = await nodes.open("alice"), await nodes.open("bob")
    theirs = bob.spawn(idle)
    for process, error in ((theirs, NoSuchProcess), ("boss", ConfigError), (None, ConfigError)):
        with pytest.raises(error, match="this node, alice" if process is theirs else "ProcessId"):
            alice.register("name", process)
        with pytest.raises(error):
            await alice.register_global("name", process)
        with pytest.raises(error):
            alice.group("group").join(process)


async def idle(me: Process) -> None:
    await trio.sleep_forever()


OURS, THEIRS = EntityUnavailable("nothing ran"), ValueError("a bug")
NODES = ConfigError("no database")


def group(*errors: Exception) -> Exception:
    return ExceptionGroup("", errors)


@pytest.mark.parametrize(
    ("raised", "of_node", "told"),
    [
        (None, group(NODES), NODES),
        (OURS, group(NODES), NODES),
        (group(OURS, group(NodeClosed())), group(group(NODES)), NODES),
        (OURS, None, OURS),
        (THEIRS, None, THEIRS),
        (THEIRS, group(NODES), None),
        (group(OURS, THEIRS), NODES, None),
        (OURS, group(NODES, KeyError()), None),
    ],
)
def test_what_came_of_a_nodes_failure_is_left_out_and_no_more(
    raised: Exception | None, of_node: Exception | None, told: Exception | None
) -> None:
    whole = ExceptionGroup("", [each for each in (raised, of_node) if each is not None])
    assert single_error(whole, raised) is (whole if told is None else told)
