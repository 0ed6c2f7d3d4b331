"""What a supervisor can be asked for, as calls, from any node.

`caller` is a `Node` or a `Process`, `supervisor` any destination.  All raise what `Node.call`
raises; the supervisor's own objections (no such child, it runs already, it did not start) are
`RemoteError`.  Cancelled, what was asked for may or may not be done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Coroutine
from typing import Any, Protocol

from steinadler.identity import Destination, ProcessId
from steinadler.process import DEFAULT_EXPORTS
from steinadler.supervision.specs import ChildInfo, ChildSpec


class Caller(Protocol):
    """A `Node` or a `Process`."""

    def call(self, destination: Destination, request: object) -> Coroutine[Any, Any, Any]: ...


async def which_children(caller: Caller, supervisor: Destination) -> list[ChildInfo]:
    """The children, in the order in which they start, and where each stands."""
    children: list[ChildInfo] = await caller.call(supervisor, "which_children")
    return children


async def start_child(
    caller: Caller, supervisor: Destination, child: ChildSpec
) -> ProcessId | None:
    """Add a child, behind the others, and start it; return its process once it has started.

    None when it has ended since.  The function must be exported: a call carries data, and no
    code.  A child that does not start is forgotten.  Raises `ConfigError` for a function that is
    not exported here.
    """
    named = dataclasses.replace(child, function=DEFAULT_EXPORTS.name_of(child.function))
    process: ProcessId | None = await caller.call(supervisor, ("start_child", named))
    return process


async def terminate_child(caller: Caller, supervisor: Destination, id_: str) -> None:
    """End a child, and return when it has ended; one that is down already is left so.

    It stays down, whatever the strategy says, until `restart_child`; a temporary one is
    forgotten.
    """
    await caller.call(supervisor, ("terminate_child", id_))


async def restart_child(caller: Caller, supervisor: Destination, id_: str) -> ProcessId | None:
    """Start a child that was terminated, or a transient one that has ended in order; return its
    process once it has started.
    """
    process: ProcessId | None = await caller.call(supervisor, ("restart_child", id_))
    return process


async def delete_child(caller: Caller, supervisor: Destination, id_: str) -> None:
    """Let the supervisor forget a child that is down and not to be restarted."""
    await caller.call(supervisor, ("delete_child", id_))


async def rebalance(caller: Caller, supervisor: Destination) -> list[str]:
    """Let a cluster supervisor end as many children as it takes to spread them evenly, and start
    them where there is room; return their ids, before that is done.

    Temporary children stay where they are.
    """
    moving: list[str] = await caller.call(supervisor, "rebalance")
    return moving
