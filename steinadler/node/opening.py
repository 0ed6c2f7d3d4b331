"""`open_node`: a node with this machine's sockets, this user's credentials and discovery."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import trio

from steinadler.config import Config
from steinadler.discovery import Advertisement, Mdns, RuntimeFolder, SeedFile, Seeds, Source
from steinadler.discovery.source import Found
from steinadler.entity.store import Store
from steinadler.entity.stores import open_store
from steinadler.errors import ConfigError
from steinadler.identity import (
    OBSERVER,
    Address,
    NodeId,
    check_labels,
    check_node_name,
    parse_address,
)
from steinadler.node.failures import single_error
from steinadler.node.node import Node
from steinadler.security.credentials import Credentials
from steinadler.security.home import DEFAULT_CLUSTER, open_home
from steinadler.security.peer import PeerIdentity, cluster_fingerprint
from steinadler.security.policy import Policy
from steinadler.security.policy_file import read_policy
from steinadler.transport.tcp import TcpNetwork

logger = logging.getLogger("steinadler.node")

# An observer that has met nobody for so long asks by multicast too.
ALONE_S = 0.5


@asynccontextmanager
async def open_node(
    name: str,
    *,
    host: str | None = None,
    port: int = 0,
    listen: bool = True,
    seeds: Iterable[str | Address] = (),
    mdns: bool = True,
    sources: Iterable[Source] = (),
    labels: Mapping[str, str] | None = None,
    cluster: str | None = None,
    home: str | Path | None = None,
    observer: bool = False,
    role: str | None = None,
    credentials: Credentials | None = None,
    store: str | Store | None = None,
    config: Config | None = None,
    policy: Policy | str | Path | None = None,
) -> AsyncIterator[Node]:
    """Open a node of a cluster for the length of the block: `async with open_node("alice")`.

    `name`: 1 to 63 letters, digits, dots, dashes or underscores; one living node has it.
    `host`, `port`: where to listen; by default every interface, and any free port.
    `listen` False: listen nowhere, and only dial.  A node behind NAT or a firewall is a full member
    so: others reach it over the connections that it made, or through a member that it is connected
    to.  It finds nobody who only dials out too, and nobody finds it by discovery; one member at
    least has to listen.
    `seeds`: addresses ("host:port") of nodes to join, beside those that mDNS and the runtime
    folder find, and in a home that joined those where the cluster was.  `mdns` False neither
    announces this node nor looks for others by multicast.
    `sources`: further ways to find nodes.  `labels`: what others may choose this node by.
    `cluster`: one of those in `home`; by default "default", which the first node makes.
    `home`: where credentials are; by default `$STEINADLER_HOME`, else the user's configuration
    folder.  `observer` True: do not listen and do not count as a member; call and leave.
    `role`: as which its certificate is to name it, where the cluster's key is at hand; by default
    "node".  Elsewhere the certificate says it, and must say this one if it is given.
    `credentials`: a certificate from elsewhere (`FileCredentials`), in place of the home's; what
    it names must be `name`, and `cluster` is not given.
    `store`: where the entities hosted here are kept, as a URL ("sqlite:///path",
    "postgresql://..."); by default the file `entities.sqlite3` in the cluster's folder of `home`,
    or with `credentials` in the folder `data/<cluster id>` there.
    It is opened when the first type is hosted.  Or a `Store` that is open, and stays the caller's.
    `policy`: what other nodes may do here, by the role in their certificate, as a `Policy` or the
    path of a file (docs/security.md), which is read once; by default a member may do
    everything, and what an observer may is look, send, call, monitor and connect.

    The node is usable at once; `wait_for_member` waits for others.  Leaving the block, by
    whatever way, hands entities over, ends processes, says goodbye and closes; cancellation does
    not cut that short, but it is bounded (twice `EntitySettings.drain_s`,
    `Config.orderly_shutdown_s`, `Config.shutdown_grace_s`, and about three seconds).

    Raises `ConfigError` (an argument, the policy's file, the port), `SecurityError` (the
    credentials), and, in the middle of the block, `NameConflict` when the cluster has another
    living node of this name, `InMinority` in a minority when `Config.in_minority` is `STOP`, and
    `ConfigError` for a store that can never be used.  What the block raises comes out as it is, not
    in an exception group; only errors of this library are left out when the node failed itself.
    """
    check_node_name(name)
    if isinstance(seeds, str):
        raise ConfigError(f"seeds is a list of addresses, as in seeds=[{seeds!r}]")
    sources = (sources,) if isinstance(sources, Source) else tuple(sources)
    for source in sources:
        if not isinstance(source, Source):
            raise ConfigError(f"sources are `discovery.Source`s, and {source!r} is none")
    check_labels(labels or {})
    config = config or Config()
    rng = random.SystemRandom()  # nobody is to foresee the tokens of channels on offer
    addresses = [seed if isinstance(seed, Address) else parse_address(seed) for seed in seeds]
    if not listen and (host is not None or port != 0):
        raise ConfigError("listen=False and a host or port to listen at contradict each other")
    if (observer and role not in (None, OBSERVER)) or (role == OBSERVER and not observer):
        raise ConfigError(f"observer={observer} and role={role!r} contradict each other")
    # A URL that names no store fails here, and not when the first type is hosted.
    kept = open_store(store) if isinstance(store, str) else store
    prepared = await trio.to_thread.run_sync(
        _prepare, home, cluster, OBSERVER if observer else role, name, credentials, policy
    )
    mark = cluster_fingerprint(prepared.credentials.identity.cluster_id)
    node = Node(
        TcpNetwork(
            prepared.credentials,
            config.dial,
            config.wire,
            living=lambda: [member.node.name for member in node.members()],
        ),
        NodeId(name, time.time_ns() // 1000),
        labels=labels or {},
        config=config,
        rng=rng,
        store=open_store(prepared.default_store) if kept is None else kept,
        owns_store=not isinstance(store, Store),
        policy=prepared.policy,
    )
    runtime = RuntimeFolder(prepared.runtime_folder, fingerprint=mark)

    def make_sources(node: Node) -> list[Source]:
        made: list[Source] = [Seeds(addresses, rng=rng), runtime, *sources]
        if prepared.seeds is not None:
            made.append(SeedFile(prepared.seeds))
        if mdns:
            multicast = Mdns(_advertise(node, mark), mark, listening_on_all=host is None)
            made.append(_WhileAlone(multicast, node) if observer else multicast)
        return made

    raised: BaseException | None = None
    try:
        async with node.run(host, port, make_sources, listen=listen):
            advertisement = _advertise(node, mark)
            with (
                runtime.leave_address(advertisement, listening_on_all=host is None)
                if advertisement is not None
                else nullcontext()
            ):
                try:
                    yield node
                except BaseException as error:
                    raised = error
                    raise
    except BaseExceptionGroup as group:
        lone = single_error(group, raised)
        if lone is group:
            raise
        raise lone from lone.__cause__


class _Prepared(NamedTuple):
    credentials: Credentials
    runtime_folder: Path
    default_store: str
    policy: Policy
    # Of a home that joined: where the cluster was then.
    seeds: Path | None


def _prepare(
    home: str | Path | None,
    cluster: str | None,
    role: str | None,
    name: str,
    given: Credentials | None,
    policy: Policy | str | Path | None,
) -> _Prepared:
    """What needs the disk, and time: credentials, and the policy."""
    if isinstance(policy, (str, Path)):
        policy = read_policy(policy)
    opened = open_home(home)
    if given is not None:
        if cluster is not None:
            raise ConfigError(
                f"the credentials say which cluster it is; cluster={cluster!r} is one of a home"
            )
        _check(given.identity, role, name)
        credentials, folder = given, opened.data_folder(given.identity.cluster_id)
        seeds = None
    else:
        if cluster is None and role != OBSERVER:
            place = opened.default_cluster()
        else:  # nobody could be found in a cluster that an observer makes
            place = opened.cluster(cluster or DEFAULT_CLUSTER)
        credentials = opened.credentials(place, role, name)
        folder = opened.cluster_folder(place).path
        seeds = opened.cluster_folder(place).seeds_path
    file = folder.absolute() / "entities.sqlite3"
    return _Prepared(
        credentials,
        opened.runtime_folder(credentials.identity.cluster_id),
        "sqlite:" + file.as_uri().removeprefix("file:"),
        policy or Policy(),
        seeds if seeds is not None and seeds.exists() else None,
    )


def _check(identity: PeerIdentity, role: str | None, name: str) -> None:
    """Whether a certificate that was given fits what is to be opened."""
    fits = not identity.is_observer if role is None else identity.role == role
    if not fits:
        raise ConfigError(
            f"the certificate is for {identity}, and this would be {role or 'a member'}: have one "
            "issued for that"
        )
    if not identity.vouches_for(name):
        raise ConfigError(
            f"the certificate is for {identity}, and this is called {name!r}: open it under that "
            "name, or have a certificate issued for this one"
        )


def _advertise(node: Node, mark: str) -> Advertisement | None:
    if not node.addresses:
        return None  # it does not listen
    return Advertisement(node.name, node.id.incarnation, node.addresses, mark)


class _WhileAlone(Source):
    """Another source, begun only when the first half second brought no member.

    An observer comes for a moment, and closing mDNS takes it a quarter of a second.
    """

    def __init__(self, source: Source, node: Node) -> None:
        self._source = source
        self._node = node

    async def run(
        self, found: Found, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.move_on_after(ALONE_S) as scope:
            await self._node.wait_for_members(1)
        if scope.cancelled_caught:
            await self._source.run(found, task_status=task_status)
        else:
            task_status.started()
