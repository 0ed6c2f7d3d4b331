"""How the commands open a node that is a member, and when it may say that it is ready.

Whoever has the name already says so when it is met, and then this node ends.  So it waits a moment
to meet another before it is ready, if somebody is to be expected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from steinadler.cli.options import At, Where
from steinadler.config import Config
from steinadler.discovery import RuntimeFolder
from steinadler.errors import SteinadlerError
from steinadler.node import Node, open_node
from steinadler.node.admitting import NAME_CONFLICT_PATIENCE_S
from steinadler.security import Policy, cluster_fingerprint, open_home
from steinadler.security.home import DEFAULT_CLUSTER

# How long seeds are given to bring a member, who may know of another node of this name.
_SEEDS_S = 1.0


@dataclass(frozen=True, slots=True)
class OpenMember:
    """A node that is open, but may have a namesake."""

    node: Node
    patience_s: float

    async def meet_others(self) -> None:
        """Wait until it has met another, or nobody is to be expected any more."""
        with trio.move_on_after(self.patience_s):
            await self.node.wait_for_members(2)


@asynccontextmanager
async def open_member(
    name: str,
    at: At,
    where: Where,
    *,
    labels: Iterable[tuple[str, str]],
    role: str | None,
    policy: Policy | None,
    store: str | None = None,
    config: Config | None = None,
) -> AsyncIterator[OpenMember]:
    """Open a node for the length of the block, by a command's options.  Raises as `open_node`."""
    # Looked up before: afterwards the node itself is in the runtime folder.
    patience_s = await _patience_with_others(name, where)
    async with open_node(
        name,
        host=at.host,
        port=at.port,
        listen=at.listen,
        seeds=where.seeds,
        sources=where.sources,
        mdns=where.mdns,
        labels=dict(labels),
        cluster=where.cluster,
        credentials=await where.credentials(),
        role=role,
        store=store,
        config=config,
        policy=policy,
    ) as node:
        yield OpenMember(node, patience_s)


async def _patience_with_others(name: str, where: Where) -> float:
    """How long to wait for another member, in seconds."""
    if await trio.to_thread.run_sync(_has_namesake, name, where):
        return NAME_CONFLICT_PATIENCE_S
    return _SEEDS_S if where.told else 0.0


def _has_namesake(name: str, where: Where) -> bool:
    """Whether a living process of this machine left that name in the runtime folder."""
    home = open_home()
    try:
        if where.files is not None:
            cluster_id = where.files.read().identity.cluster_id
        else:
            cluster_id = home.cluster(where.cluster or DEFAULT_CLUSTER).id
        folder = home.runtime_folder(cluster_id)
    except SteinadlerError:
        return False  # `open_node` makes it, or says what is wrong
    entries = RuntimeFolder(folder, fingerprint=cluster_fingerprint(cluster_id)).read()
    return any(entry.name == name for entry in entries)
