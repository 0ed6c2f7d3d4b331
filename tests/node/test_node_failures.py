"""A node that fails says why, once: not in groups, and not beside what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

import steinadler
from steinadler import ConfigError, EntityUnavailable, NameConflict, NodeClosed
from steinadler.node.opening import alone


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
    assert alone(whole, raised) is (whole if told is None else told)
