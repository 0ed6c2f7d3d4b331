"""Where an exported function is to run, and asking the nodes there: one, several, all, by label.

One node's answer is returned, or raised, as it is.  Several nodes are asked at once and each has
its own outcome: raising the first error would hide what the others started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

import outcome
import trio

from steinadler.errors import ConfigError, SteinadlerError
from steinadler.identity import ProcessName

if TYPE_CHECKING:
    from steinadler.node.node import Node


class Everyone(Enum):
    """The type of `ALL`."""

    ALL = "all"


# Every member, this node included.
ALL = Everyone.ALL

Where: TypeAlias = "str | Iterable[str] | Everyone | None"


async def ask_spawners(
    node: Node, where: Where, labels: Mapping[str, str] | None, request: tuple[Any, ...]
) -> Any:
    """Call `$spawn` there: see `Node.spawn_on`."""
    if isinstance(where, str) and labels is None:
        return await node.call(ProcessName("$spawn", where), request)
    names = _choose(node, where, labels)
    results: dict[str, outcome.Outcome[Any]] = {}

    async def ask(name: str) -> None:
        try:
            results[name] = outcome.Value(await node.call(ProcessName("$spawn", name), request))
        except SteinadlerError as error:
            results[name] = outcome.Error(error)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(ask, name)
    return {name: results[name] for name in names}


def _choose(node: Node, where: Where, labels: Mapping[str, str] | None) -> list[str]:
    if (where is None) == (labels is None):
        raise ConfigError("say where: a node's name, several, ALL, or labels={...}")
    if labels is not None:
        return [member.node.name for member in node.members(**labels)]
    if where is ALL:
        return [member.node.name for member in node.members()]
    assert where is not None
    assert not isinstance(where, (str, Everyone))
    return list(where)
