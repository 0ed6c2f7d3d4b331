"""`open_node`: a node with this machine's sockets, this user's credentials and discovery."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

import trio

from steinadler.config import Config
from steinadler.discovery import Advertisement, Mdns, RuntimeFolder, Seeds, Source
from steinadler.identity import Address, NodeId, check_node_name, parse_address
from steinadler.node.node import Node
from steinadler.security.credentials import Credentials
from steinadler.security.home import Cluster, open_home
from steinadler.transport.network import Role
from steinadler.transport.tcp import TcpNetwork

logger = logging.getLogger("steinadler.node")


@asynccontextmanager
async def open_node(
    name: str,
    *,
    host: str | None = None,
    port: int = 0,
    seeds: Iterable[str | Address] = (),
    mdns: bool = True,
    sources: Iterable[Source] = (),
    labels: Mapping[str, str] | None = None,
    cluster: str | None = None,
    home: Path | None = None,
    observer: bool = False,
    config: Config | None = None,
) -> AsyncIterator[Node]:
    """Open a node of a cluster for the length of the block: `async with open_node("alice")`.

    `name`: 1 to 63 letters, digits, dots, dashes or underscores; one living node has it.
    `host`, `port`: where to listen; by default every interface, and any free port.
    `seeds`: addresses ("host:port") of nodes to join, beside those that mDNS and the runtime
    folder find.  `mdns` False neither announces this node nor looks for others by multicast.
    `sources`: further ways to find nodes.  `labels`: what others may choose this node by.
    `cluster`: one of those in `home`; by default "default", which is made on first use.
    `home`: where credentials are; by default `$STEINADLER_HOME`, else the user's configuration
    folder.  `observer` True: do not listen and do not count as a member; call and leave.

    The node is usable at once; `wait_for_member` waits for others.  Leaving the block, by
    whatever way, ends its processes, says goodbye and closes; cancellation does not cut that
    short, but it is bounded (`Config.shutdown_grace_s` and about two seconds).

    Raises `ConfigError` (an argument, the port), `SecurityError` (the credentials), and, in the
    middle of the block, `NameConflict` when the cluster has another living node of this name.
    What the block raises comes out as it is, not in an exception group.
    """
    check_node_name(name)
    config = config or Config()
    rng = random.Random()
    addresses = [seed if isinstance(seed, Address) else parse_address(seed) for seed in seeds]
    role = Role.OBSERVER if observer else Role.NODE
    place, credentials, folder = await trio.to_thread.run_sync(_prepare, home, cluster, role, name)
    node = Node(
        TcpNetwork(credentials, config.dial, config.wire),
        NodeId(name, time.time_ns() // 1000),
        labels=labels or {},
        config=config,
        rng=rng,
    )
    runtime = RuntimeFolder(folder, fingerprint=place.fingerprint)

    def make_sources(node: Node) -> list[Source]:
        made: list[Source] = [Seeds(addresses, rng=rng), runtime, *sources]
        if mdns:
            made.append(Mdns(_advertise(node, place, observer), place.fingerprint))
        return made

    with unwrapped():
        async with node.run(host, port, make_sources):
            advertisement = _advertise(node, place, observer)
            with (
                runtime.leave_address(advertisement, listening_on_all=host is None)
                if advertisement is not None
                else nullcontext()
            ):
                yield node


def _prepare(
    home: Path | None, cluster: str | None, role: Role, name: str
) -> tuple[Cluster, Credentials, Path]:
    """What needs the disk, and time: credentials."""
    opened = open_home(home)
    place = opened.default_cluster() if cluster is None else opened.cluster(cluster)
    return place, opened.credentials(place, role, name), opened.runtime_folder(place)


def _advertise(node: Node, place: Cluster, observer: bool) -> Advertisement | None:
    if observer:
        return None
    return Advertisement(node.name, node.id.incarnation, node.addresses, place.fingerprint)


@contextmanager
def unwrapped() -> Iterator[None]:
    """Let a lone exception out of the group that the node's own nursery put it in."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
