"""One life of a simulated node, in a task of its own, and how it finds the others."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypedDict, Unpack

import trio

from steinadler.config import Config
from steinadler.discovery import Candidate, Source
from steinadler.discovery.source import Found
from steinadler.identity import NODE, OBSERVER, Address, NodeId, check_node_name, check_role
from steinadler.node import Node
from steinadler.node.failures import single_error
from steinadler.security.policy import Policy
from steinadler.testing.fabric import FIRST_PORT, Fabric
from steinadler.testing.network import SimulatedNetwork
from steinadler.testing.sockets import Host
from steinadler.testing.stores import MemoryStore

# Who is out there is told again this often, as seeds and mDNS do.
ANNOUNCE_INTERVAL_S = (2.25, 3.75)
# What the wall clocks of simulated machines show when the simulation begins.
EPOCH_S = 1_750_000_000.0


def wall_clock() -> float:
    """The seconds since 1970, in virtual time."""
    return EPOCH_S + trio.current_time()


class NodeOptions(TypedDict, total=False):
    """What a test may ask of a node that it starts: see `SimulatedCluster.start`."""

    host: str | None
    labels: Mapping[str, str] | None
    config: Config | None
    cluster: str
    observer: bool
    listen: bool
    role: str | None
    policy: Policy | None
    seeds: Collection[str] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How to start a node, and to start it again."""

    name: str
    host: str
    labels: Mapping[str, str]
    config: Config
    cluster: str
    role: str
    listen: bool
    policy: Policy | None
    seeds: tuple[str, ...] | None

    @classmethod
    def of(cls, name: str, default_config: Config, **options: Unpack[NodeOptions]) -> Plan:
        """A plan with these options.

        Raises `ConfigError` for what cannot be a name or a role, and `TypeError` for an unknown
        option.
        """
        known = NodeOptions.__annotations__
        for option in options:
            if option not in known:
                raise TypeError(f"there is no option {option!r}; there are: {', '.join(known)}")
        observer, seeds = options.get("observer", False), options.get("seeds")
        return cls(
            check_node_name(name),
            host=options.get("host") or name,
            labels=options.get("labels") or {},
            config=options.get("config") or default_config,
            cluster=options.get("cluster", "default"),
            role=OBSERVER if observer else check_role(options.get("role") or NODE),
            listen=options.get("listen", True),
            policy=options.get("policy"),
            seeds=None if seeds is None else tuple(seeds),
        )


class Life:
    """One life of a node.  `scope` kills it, `stop` lets it close, `ended` says that it is over.

    What the node raises ends the simulation; when the life has a `block`, that is cancelled
    instead, and whoever owns it finds the error in `failure`.
    """

    def __init__(
        self, plan: Plan, host: Host, store: MemoryStore, block: trio.CancelScope | None
    ) -> None:
        self.plan = plan
        self.host = host
        self.store = store
        self.block = block
        self.failure: BaseException | None = None
        self.scope = trio.CancelScope()
        self.stop = trio.Event()
        self.ended = trio.Event()
        self.task: trio.lowlevel.Task | None = None
        self.node: Node | None = None

    async def run(
        self,
        fabric: Fabric,
        source: Source,
        incarnation: int,
        rng: random.Random,
        *,
        task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Live until stopped or killed."""
        plan = self.plan
        self.task = trio.lowlevel.current_task()
        node = Node(
            SimulatedNetwork(fabric, self.host),
            NodeId(plan.name, incarnation),
            labels=plan.labels,
            config=plan.config,
            rng=rng,
            store=self.store,
            owns_store=True,
            wall_clock=wall_clock,
            policy=plan.policy,
        )
        try:
            with self.scope:
                async with node.run(None, FIRST_PORT, lambda _: [source], listen=plan.listen):
                    self.node = node
                    task_status.started(node)
                    await self.stop.wait()
        except BaseException as error:
            lone = single_error(error) if isinstance(error, BaseExceptionGroup) else error
            if self.block is None or not isinstance(lone, Exception):
                lone.add_note(f"in the simulated node {plan.name!r} on host {plan.host!r}")
                raise
            self.failure = lone
            self.block.cancel()
        finally:
            self.host.up = False
            self.ended.set()


class Hosts(Source):
    """Proposes `others`, which may become more, but not its own host; whatever cluster they are of
    (S3)."""

    def __init__(self, fabric: Fabric, host: str, others: Collection[str]) -> None:
        self._fabric = fabric
        self._host = host
        self._others = others
        self._found: Found | None = None
        self._rounds = 0

    def announce(self, host: str) -> None:
        """A host came up."""
        if self._found is not None and host != self._host:
            self._found(Candidate(Address(host, FIRST_PORT), "simulation"))

    async def run(
        self, found: Found, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `Source.run`."""
        self._found = found
        task_status.started()
        while True:
            for host in self._others:
                self.announce(host)
            self._rounds += 1
            key = (self._host, "announce", self._rounds)
            await trio.sleep(self._fabric.draws.uniform(*ANNOUNCE_INTERVAL_S, *key))
