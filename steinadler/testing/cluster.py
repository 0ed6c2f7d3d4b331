"""`SimulatedCluster`: nodes on simulated hosts, and everything that can befall them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from types import TracebackType
from typing import Unpack

import trio
import trio.testing

from steinadler.config import Config
from steinadler.errors import ConfigError
from steinadler.identity import OBSERVER
from steinadler.node import Node
from steinadler.node.failures import single_error
from steinadler.security.peer import PeerIdentity
from steinadler.testing.fabric import Fabric
from steinadler.testing.failing import NetworkFaults
from steinadler.testing.freezing import Freezer
from steinadler.testing.lives import Hosts, Life, NodeOptions, Plan
from steinadler.testing.order import seeded_scheduler
from steinadler.testing.stores import MemoryContents, MemoryStore
from steinadler.testing.trace import Trace


class SimulatedCluster(NetworkFaults):
    """A cluster in one Trio task tree, on a simulated network, in virtual time.

        async with SimulatedCluster(seed=7, latency_s=(0.0005, 0.005)) as cluster:
            alice, bob = await cluster.start("alice", "bob")

    `seed` decides every latency, every fault that is drawn, the nodes' own randomness and the
    order in which Trio runs tasks.  `latency_s` is the least and the most time that a packet
    takes one way; `config` is what nodes get that are started without their own.

    Entities that the nodes host are kept in `contents`, in memory, and outlive every node; each
    node has its own way there (`store`), and each call takes between `store_latency_s[0]` and
    `store_latency_s[1]` seconds each way.

    The nodes find each other as if by multicast: each is told of every host, when it comes up
    and every few seconds.  Hosts are known by name; a host is called as its node unless `start`
    says otherwise.

    Leaving the block stops all nodes, each with its goodbye; when it is left by an exception,
    they are crashed.  What a node raises of itself (`NameConflict`), and what the block raises,
    comes out as it is.

    **One seed, one run.**  The same seed gives the same trace, in any process and whatever
    `PYTHONHASHSEED` is, as long as the test itself does the same in the same order.  What breaks
    that: the real clock; randomness without a seed; threads, sockets and files; asking for what
    differs between processes (`$info` tells its process id; the order of a set of strings); and
    cancelling several calls in one stroke, since Trio cancels the tasks of a scope in no
    particular order.  Other versions of Python, Trio or this library may play a seed differently.

    Raises `ConfigError` on entry unless time is virtual and jumps: use pytest-trio's
    `autojump_clock`, or `trio.run(..., clock=trio.testing.MockClock(autojump_threshold=0))`.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        latency_s: tuple[float, float] = (0.0002, 0.001),
        store_latency_s: tuple[float, float] = (0.0, 0.0),
        config: Config | None = None,
    ) -> None:
        super().__init__(Fabric(seed, latency_s=latency_s))
        self.seed = seed
        self.contents = MemoryContents()
        self._store_latency_s = store_latency_s
        self._severed = ExitStack()  # the stores of the dead
        self._config = config or Config()
        self._lives: dict[str, Life] = {}
        self._incarnations: dict[str, int] = {}
        self._freezer = Freezer()
        self._nursery: trio.Nursery | None = None
        self._multicast: dict[str, Hosts] = {}  # the hosts that tell each other of themselves
        self._due = trio.Event()
        self._run: AbstractAsyncContextManager[None] | None = None

    def __repr__(self) -> str:
        return f"<SimulatedCluster seed={self.seed} of {', '.join(self._lives) or 'nobody'}>"

    @property
    def trace(self) -> Trace:
        """What happened so far."""
        return self.fabric.trace

    # -- nodes --------------------------------------------------------------------------------

    async def start(self, *names: str, **options: Unpack[NodeOptions]) -> tuple[Node, ...]:
        """Start nodes, and return them once they are open; `agreed` waits for them to meet.

        Options:
        `host` (str): where, for a single node that is not to be on a host of its own name (a second
        one of a name, say).  `cluster` (str, "default"): whose certificate they have; nodes of two
        clusters share the network and nothing else.
        `labels` (a mapping of str to str), `observer` (bool, False), `listen` (bool, True), `role`
        (str), `policy` (`Policy`, and no file): as for `open_node`.  `config` (`Config`): so too;
        by default that of the simulation.
        `seeds` (a collection of str): the only hosts that they are told of, as by
        `open_node(seeds=...)`; and nobody is told of them.  (None: they find each other as if by
        multicast.)

        Raises `ConfigError` when a host is up already, or a name cannot be one; `TypeError` for an
        option that there is not.
        """
        if options.get("host") is not None and len(names) != 1:
            raise ConfigError("one host runs one node: start the others without `host`")
        nodes = []
        for name in names:
            plan = Plan.of(name, self._config, **options)
            nodes.append(_node_of(await self._start(plan)))
        return tuple(nodes)

    @asynccontextmanager
    async def open(self, name: str, **options: Unpack[NodeOptions]) -> AsyncIterator[Node]:
        """Run one node for the length of a block, as `open_node` does.

        As `start`, with its options, and what the node raises of itself is raised in the block.
        """
        plan = Plan.of(name, self._config, **options)
        with trio.CancelScope() as block:
            life = await self._start(plan, block)
            try:
                yield _node_of(life)
            finally:
                with trio.CancelScope(shield=True):
                    self._resume(life)
                    life.stop.set()
                    await life.ended.wait()
        if life.failure is not None:
            raise life.failure

    async def restart(self, host: str) -> Node:
        """Start the node that was on `host` again: a new life of the same name and settings.

        Raises `ConfigError` when the host is up, or never was.
        """
        life = self._life(host)
        if life.host.up:
            raise ConfigError(f"the host {host!r} is up: crash or stop it first")
        return _node_of(await self._start(life.plan))

    async def stop(self, host: str) -> None:
        """Let the node close and say goodbye, and wait until it has."""
        life = self._life(host)
        self._record("stop", host)
        self._resume(life)
        life.stop.set()
        await life.ended.wait()

    def crash(self, host: str) -> None:
        """Kill the node: its connections are reset, its port refuses, nobody hears a goodbye.

        Its host goes on answering, as a machine does whose process was killed.  The tasks of the
        node are cancelled; what they do while they end reaches nobody, and no store.
        """
        life = self._life(host)
        self._record("crash", host)
        self._severed.enter_context(life.store.outage())
        self.fabric.kill(life.host, trio.current_time())
        self._thaw(life)
        life.scope.cancel()

    def pause(self, host: str) -> None:
        """Stop the node where it is, as SIGSTOP does.

        Its tasks, and those of its processes, run no further; its timers run out and nobody
        looks.  Its kernel goes on: what was handed over arrives, connections stay open, and what
        others send waits in buffers that fill.  A dial to it gets no answer.

        Not stopped are the test's own tasks, and what they do with the node is carried out here
        and now; only what it sends waits for `resume`.
        """
        life = self._life(host)
        self._record("pause", host)
        self.fabric.pause(life.host)
        assert life.task is not None
        self._freezer.freeze(life.task)

    def resume(self, host: str) -> None:
        """Let a paused node go on; it finds out how late it is."""
        self._record("resume", host)
        self._resume(self._life(host))

    @contextmanager
    def paused(self, host: str) -> Iterator[None]:
        """`pause` for the length of the block."""
        self.pause(host)
        try:
            yield
        finally:
            self.resume(host)

    def node(self, host: str) -> Node:
        """The latest node of a host, running or not."""
        return _node_of(self._life(host))

    def store(self, host: str) -> MemoryStore:
        """The way of the latest node of a host to what entities are kept in: it can be cut."""
        return self._life(host).store

    def running(self) -> tuple[Node, ...]:
        """The nodes that are up, paused ones included, in the order they started."""
        return tuple(
            life.node for life in self._lives.values() if life.host.up and life.node is not None
        )

    async def agreed(self) -> None:
        """Wait until every node that is up, and not paused, counts exactly those of its cluster
        that are up as members, in the lives they are in.

        Bound it with `trio.fail_after`.
        """
        await trio.lowlevel.checkpoint()
        unsure = True
        while unsure:  # what one came to know while others were waited for may hold no longer
            unsure = False
            for life in list(self._lives.values()):
                while not self._agrees(life):
                    unsure = True
                    await anext(_node_of(life).events(), None)

    def _agrees(self, life: Life) -> bool:
        if not life.host.up or life.host.paused or life.node is None:
            return True
        expected = {
            other.node.id
            for other in self._lives.values()
            if other.node is not None
            and other.host.up
            and other.plan.cluster == life.plan.cluster
            and other.plan.role != OBSERVER
        }
        return {member.node for member in life.node.members()} == expected

    # -- inside -------------------------------------------------------------------------------

    async def __aenter__(self) -> SimulatedCluster:
        clock = trio.lowlevel.current_clock()
        if not (
            isinstance(clock, trio.testing.MockClock)
            and clock.rate == 0
            and clock.autojump_threshold == 0
        ):
            raise ConfigError(
                "a simulation needs virtual time that jumps: use pytest-trio's `autojump_clock`, "
                "or trio.run(..., clock=trio.testing.MockClock(autojump_threshold=0))"
            )
        self._run = self._open()
        await self._run.__aenter__()
        return self

    async def __aexit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._run is not None
        try:
            return await self._run.__aexit__(type_, error, traceback)
        except BaseExceptionGroup as group:
            lone = single_error(group, error)
            if lone is group:
                raise
            raise lone from lone.__cause__

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        with seeded_scheduler(self.seed):
            async with trio.open_nursery() as network:
                self.fabric.on_due = self._something_is_due
                network.start_soon(self._deliver)
                async with trio.open_nursery() as self._nursery:
                    try:
                        yield
                    except BaseException:
                        for life in self._alive():
                            self.crash(life.plan.host)
                        raise
                    for life in self._alive():
                        self._resume(life)
                        life.stop.set()
                network.cancel_scope.cancel()

    def _alive(self) -> list[Life]:
        return [life for life in self._lives.values() if life.host.up]

    def _something_is_due(self) -> None:
        self._due.set()

    async def _deliver(self) -> None:
        while True:
            self._due = trio.Event()
            with trio.move_on_at(self.fabric.next_due()):
                await self._due.wait()
            self.fabric.advance(trio.current_time())

    def _life(self, host: str) -> Life:
        self._check_host(host)
        return self._lives[host]

    def _resume(self, life: Life) -> None:
        if life.host.paused:
            self.fabric.resume(life.host, trio.current_time())
        self._thaw(life)

    def _thaw(self, life: Life) -> None:
        if life.task is not None:
            self._freezer.thaw(life.task)

    async def _start(self, plan: Plan, block: trio.CancelScope | None = None) -> Life:
        if self._nursery is None:
            raise ConfigError("a simulated cluster runs only inside of its block")
        cluster_id = hashlib.blake2b(plan.cluster.encode(), digest_size=16).hexdigest()
        host = self.fabric.add_host(plan.host, PeerIdentity(cluster_id, plan.role, plan.name))
        # The later life stands last, as it started last.
        self._lives.pop(plan.host, None)
        incarnation = self._incarnations[plan.name] = self._incarnations.get(plan.name, 0) + 1
        store = MemoryStore(
            self.contents, seed=self.seed + incarnation, latency_s=self._store_latency_s
        )
        life = self._lives[plan.host] = Life(plan, host, store, block)
        self._record("start", plan.host)
        rng = random.Random(f"{self.seed}/{plan.host}/{incarnation}")
        source = Hosts(self.fabric, plan.host, self._multicast)
        if plan.seeds is None:
            self._multicast[plan.host] = source
        else:
            self._multicast.pop(plan.host, None)
            source = Hosts(self.fabric, plan.host, plan.seeds)
        await self._nursery.start(life.run, self.fabric, source, incarnation, rng)
        if plan.seeds is None:
            for others in self._multicast.values():
                others.announce(plan.host)
        return life


def _node_of(life: Life) -> Node:
    assert life.node is not None
    return life.node
