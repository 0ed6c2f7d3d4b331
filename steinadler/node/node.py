"""`Node`: the public face of one node of a cluster.

It wires the parts together and owns their tasks; what is decided is decided elsewhere:
`Peering` (who is a member), `Router` (messages and calls), `Watching` (monitors and links),
`Processes` (who lives here), `Gauges` (what is counted).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, overload

import outcome
import trio

from steinadler.config import Config
from steinadler.discovery import Candidate, Source
from steinadler.entity.python import Entity, PythonBehaviour
from steinadler.entity.router import Entities, EntityRef
from steinadler.entity.store import Store
from steinadler.errors import ConfigError, NoSuchProcess, SteinadlerError
from steinadler.identity import (
    Address,
    Destination,
    EntityKey,
    NodeId,
    ProcessId,
    ProcessName,
    SinkRef,
    SourceRef,
    check_process_name,
)
from steinadler.membership import Member
from steinadler.node import builtin
from steinadler.node.events import EventHub, EventStream, NodeDown, NodeUp
from steinadler.node.peering import Peering
from steinadler.node.router import Router
from steinadler.node.statistics import ConnectionStatistics, Gauges, NodeStatistics
from steinadler.node.watching import Monitor, Watching
from steinadler.process import DEFAULT_EXPORTS, Exports, Process, ProcessStatistics
from steinadler.process.exports import ProcessFunction
from steinadler.process.table import Processes, WhenDone
from steinadler.stream import (
    ByteStream,
    ReceiveChannel,
    SendChannel,
    StreamListener,
    StreamStatistics,
)
from steinadler.stream.streams import Streams
from steinadler.transport.link import Link
from steinadler.transport.network import Network, Role
from steinadler.wire.channels import Target, ToName
from steinadler.wire.codec import DEFAULT_MESSAGE_TYPES, Codec, MessageTypes
from steinadler.wire.session import Arrived
from steinadler.wire.signals import Signal

logger = logging.getLogger("steinadler.node")


class Everyone(Enum):
    """The type of `ALL`."""

    ALL = "all"


# How long to wait, at closing, for peers to take what is queued, and then to hear the goodbye.
GOODBYE_PATIENCE_S = 1.0

# Every member, this node included.
ALL = Everyone.ALL


class Node:
    """One node of a cluster.  Made by `open_node`; of no use outside its block.

    Destinations are a `ProcessId`, `"name"` (of this node) or `"name@node"`.
    """

    def __init__(
        self,
        network: Network,
        id_: NodeId,
        *,
        labels: Mapping[str, str],
        config: Config,
        rng: random.Random,
        exports: Exports = DEFAULT_EXPORTS,
        message_types: MessageTypes = DEFAULT_MESSAGE_TYPES,
        store: Store | None = None,
        store_is_ours: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.id = id_
        self.exports = exports
        self.addresses: tuple[Address, ...] = ()
        self._config = config
        self._hub = EventHub()
        for label in labels:
            _check_label(label)
        self._peering = Peering(network, id_, tuple(sorted(labels.items())), config, rng, self)
        self._processes = Processes(id_, config.mailbox_bytes)
        codec = Codec(message_types, config.wire.max_message_bytes)
        self._router = Router(
            id_, codec, self._processes, self._peering, config.wire.max_unanswered_calls
        )
        self.open_item = self._router.open_item  # no step more than needed, for every message
        self._watching = Watching(id_, self._processes, self._router)
        self.streams = Streams(self, codec, config.streams, config.mailbox_bytes, rng)
        self._router.on_stream_items = self.streams.table.arrived
        self._router.on_stream_signal = self.streams.table.signalled
        self._gauges = Gauges(self._processes, self._peering, self._router, self._watching)
        self.entities = Entities(
            self,
            codec,
            config.entities,
            rng,
            store if network.identity.role is Role.NODE else None,
            ours=store_is_ours,
            clock=wall_clock,
        )

    def __repr__(self) -> str:
        return f"<Node {self.id.name}>"

    # -- the cluster --------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.id.name

    @property
    def labels(self) -> Mapping[str, str]:
        """This node's labels now; those that begin with "$" are the library's own."""
        return dict(self._peering.labels)

    def set_label(self, name: str, value: str | None) -> None:
        """Change a label of this node, or with None take it away; the other members hear of it.

        Raises `ConfigError` for a name that begins with "$", and for more or longer labels than
        others would accept; `NodeClosed`.
        """
        _check_label(name)
        self.set_own_label(name, value)

    def members(self, **labels: str) -> tuple[Member, ...]:
        """The members now, this node included, sorted by name; only those with these labels."""
        return tuple(
            member
            for member in self._peering.members()
            if labels.items() <= dict(member.labels).items()
        )

    async def wait_for_member(self, name: str) -> Member:
        """Wait until a node of that name is a member, and return it.  A checkpoint.

        Raises `NodeClosed`.
        """
        await trio.lowlevel.checkpoint()
        self._peering.require_open()
        while (member := self._peering.member(name)) is None:
            await self._peering.wait_for_change()
        return member

    async def wait_for_members(self, count: int) -> tuple[Member, ...]:
        """Wait until there are at least `count` members, this node included.  A checkpoint.

        Raises `NodeClosed`.
        """
        await trio.lowlevel.checkpoint()
        self._peering.require_open()
        while len(members := self._peering.members()) < count:
            await self._peering.wait_for_change()
        return members

    def events(self) -> EventStream:
        """What happens from now on: `NodeUp`, `NodeDown`.  Iterate with `async for`."""
        return self._hub.open()

    # -- processes ----------------------------------------------------------------------------

    def spawn(self, function: ProcessFunction, *args: Any, name: str | None = None) -> ProcessId:
        """Start `function(me, *args)` as a process of this node.

        Its mailbox, and its name if it gets one, exist when this returns.  Raises `NameConflict`
        when the name is taken, `ConfigError` when it is none or when the function is not an
        `async def` that takes these arguments, `NodeClosed`.
        """
        return self._processes.spawn(self, function, args, name=name).id

    async def spawn_on(
        self,
        where: str | Iterable[str] | Everyone | None = None,
        function: ProcessFunction | str = "",
        *args: Any,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Any:
        """Start an exported function as a process of other nodes (or this one).

        `where` is a node's name, several names, or `ALL`; or None and `labels`, for the members
        that have all these labels.  For one name returns the `ProcessId`; otherwise a dict of
        `outcome.Outcome` by node name.

        Raises `ConfigError` when `function` is not exported here (give its name when it is only
        exported there), and for one node what `call` raises; a `RemoteError` tells that it is
        not exported there.  Cancelled, it may or may not have started the process.
        """
        request = ("spawn", self.exports.name_of(function), args, name)
        return await self._ask_spawners(where, labels, request)

    async def run_on(
        self,
        where: str | Iterable[str] | Everyone | None = None,
        function: ProcessFunction | str = "",
        *args: Any,
        labels: Mapping[str, str] | None = None,
    ) -> Any:
        """Run an exported function as a process there, and return what it returns.

        As `spawn_on`, but waits for the end: an exception of the function comes back as
        `RemoteError`.  Cancelling it cancels the process there.
        """
        return await self._ask_spawners(
            where, labels, ("run", self.exports.name_of(function), args)
        )

    async def _ask_spawners(
        self,
        where: str | Iterable[str] | Everyone | None,
        labels: Mapping[str, str] | None,
        request: tuple[Any, ...],
    ) -> Any:
        if isinstance(where, str) and labels is None:
            return await self.call(ProcessName("$spawn", where), request)
        nodes = self._choose(where, labels)
        results: dict[str, outcome.Outcome[Any]] = {}

        async def ask(node: str) -> None:
            try:
                results[node] = outcome.Value(await self.call(ProcessName("$spawn", node), request))
            except SteinadlerError as error:
                results[node] = outcome.Error(error)

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
        return {node: results[node] for node in nodes}

    def _choose(
        self, where: str | Iterable[str] | Everyone | None, labels: Mapping[str, str] | None
    ) -> list[str]:
        if (where is None) == (labels is None):
            raise ConfigError("say where: a node's name, several, ALL, or labels={...}")
        if labels is not None:
            return [member.node.name for member in self.members(**labels)]
        if where is ALL:
            return [member.node.name for member in self.members()]
        assert where is not None
        assert not isinstance(where, (str, Everyone))
        return list(where)

    def register(self, name: str, process: ProcessId) -> None:
        """Give a process of this node a (further) name.

        Raises `NameConflict` when another process has it, `NoSuchProcess` when the process is
        not alive here, `ConfigError` when it cannot be a name.
        """
        if process.node != self.id or self._processes.by_number(process.number) is None:
            raise NoSuchProcess(process)
        self._processes.names.register(name, process.number)

    def unregister(self, name: str) -> None:
        """Take a name away.  Raises `NoSuchProcess` when nobody has it."""
        if self._processes.names.unregister(name) is None:
            raise NoSuchProcess(name)

    async def whereis(self, name: str) -> ProcessId | None:
        """Which process has `"name"` here, or `"name@node"` there; None when none has.

        Raises `NodeDown`, `NodeClosed`.
        """
        where = self._router.resolve(name)
        assert isinstance(where, ProcessName)
        if where.node in (None, self.name):
            await trio.lowlevel.checkpoint()
            self._peering.require_open()
            return self.find_local(where.name)
        found = await self.call(ProcessName("$names", where.node), ("whereis", where.name))
        return found if isinstance(found, ProcessId) else None

    def exit(self, destination: Destination, reason: str = "shutdown") -> None:
        """Ask a process to exit.  One that traps exits gets an `Exit` message instead; "kill"
        cannot be trapped.  Raises `NodeDown`, and `MailboxFull` as `monitor` does; nothing
        happens when there is no such process.
        """
        self._watching.exit(ProcessId(self.id, 0), destination, reason)

    # -- messages -----------------------------------------------------------------------------

    def send(self, destination: Destination, message: object) -> Coroutine[Any, Any, None]:
        """Send a message, when the destination has credit left: not before it is consumed
        what it already has, and not after it has consumed this one.

        Messages to one destination arrive in order, at most once, and surely while both nodes
        remain members (M1-M3).  A message to no process is dropped, as in Erlang; monitor to
        know.  A checkpoint at least at every 64th message.  Cancelled, it has sent nothing.

        Raises `NotEncodable`, `MessageTooLarge`, `NodeDown`, `ConfigError` (not a destination).
        """
        return self._router.send(destination, message)  # a step less for every message

    def send_nowait(self, destination: Destination, message: object) -> None:
        """As `send`; raises `MailboxFull` where that would wait."""
        self._router.send_nowait(destination, message)

    def call(self, destination: Destination, request: object) -> Coroutine[Any, Any, Any]:
        """Send a request and wait for the reply.  Bound it with `trio.fail_after`.

        Raises `RemoteError` (the process failed the call), `NoSuchProcess`, `ProcessExited`,
        `NodeDown`, and what `send` raises.  Never retried.  Cancelled, the request may or may
        not be carried out, and a late reply goes nowhere.
        """
        return self._router.call(destination, request)

    def monitor(self, destination: Destination) -> Monitor:
        """Watch a process from outside of any process: see `Monitor`.

        Begins at once, before this returns; what is sent afterwards is answered, or the monitor
        fires, or both (D2).  Never raises for what is not there: that is a `Down` too.  Raises
        `MailboxFull` when the node has not read what was asked of it before
        (`max_queued_reply_bytes`).
        """
        return self._watching.monitor(destination)

    # -- streams ------------------------------------------------------------------------------

    def open_channel(self) -> tuple[SendChannel, ReceiveChannel]:
        """A channel of objects, as `trio.open_memory_channel`; one of its ends may be given to
        another process, here or on another node, with `ref` in a message.  Raises `NodeClosed`.
        """
        return self.streams.open_channel()

    @overload
    def claim(self, reference: SourceRef) -> Coroutine[Any, Any, ReceiveChannel]: ...
    @overload
    def claim(self, reference: SinkRef) -> Coroutine[Any, Any, SendChannel]: ...

    def claim(self, reference: SourceRef | SinkRef) -> Coroutine[Any, Any, Any]:
        """Take the end of a channel that a message brought a reference to: the receiving end for
        a `SourceRef`, the sending end for a `SinkRef`.

        Raises `ClaimError` when it was claimed already, withdrawn or out of time, `NodeDown` when
        its node is, `ConfigError` for anything else than a reference.  Cancelled, the end may
        have been claimed; then it was closed.
        """
        return self.streams.claim(reference)

    def connect(self, service: str) -> Coroutine[Any, Any, ByteStream]:
        """Open a byte stream to a service: "name@node", "name@*" for any member that offers it,
        or "name" for this node's own.

        Of several members each gets its turn; one that is down or refuses is passed over.
        Returns when the stream waits there to be accepted.  Raises `NoSuchService`,
        `StreamRefused`, `NodeDown`, `ConfigError` for what cannot name a service.  Cancelled, the
        other end sees its stream break off, if there is one.
        """
        return self.streams.connect(service)

    def listen(self, service: str, *, backlog: int = 1024) -> StreamListener:
        """Offer a service to the cluster: whoever connects to it is to be accepted.

        The others see it in this node's labels, and "name@*" finds it.  `backlog` connections may
        wait to be accepted; one beyond them is refused.  Raises `NameConflict` when this node
        offers it already, `ConfigError` for what cannot name a service, or when the names of all
        of its services are longer than a label, `NodeClosed`.
        """
        return self.streams.listen(service, backlog)

    # -- entities -----------------------------------------------------------------------------

    def entity(self, type_: str, id_: str) -> EntityRef:
        """An entity to call, wherever it is: `await node.entity("Cart", "42").call("add", item)`.

        Asks nobody.  Raises `ConfigError` for what is no type or no id.
        """
        return EntityRef(EntityKey(type_, id_), self.entities)

    def host(self, cls: type[Entity]) -> None:
        """Host the entities of a class from now on: this node owns its share of them.

        Raises what `Entities.host` raises, and `ConfigError` for a class that is no entity.
        """
        behaviour = PythonBehaviour(cls, self.entities)
        self.entities.host(behaviour.type, behaviour)

    # -- figures ------------------------------------------------------------------------------

    def statistics(self) -> NodeStatistics:
        """What this node did so far and holds now; cheap enough to ask for at any time."""
        return self._gauges.node()

    def connections(self) -> tuple[ConnectionStatistics, ...]:
        """The sessions with other nodes, observers included, by name.

        Takes a step for each open channel and each queued message.
        """
        return self._gauges.connections()

    def processes(self, busiest: int | None = None) -> tuple[ProcessStatistics, ...]:
        """The processes of this node, built-in ones included, oldest first.

        With `busiest`, so many at most: those with most messages waiting first, and then those
        that took most so far.  Takes a step for each process and each waiting message.
        """
        return self._gauges.processes(busiest)

    def stream_statistics(self) -> tuple[StreamStatistics, ...]:
        """The ends of streams that are open here, a stream within the node twice.

        Takes a step for each.
        """
        return self.streams.table.statistics()

    # -- what processes ask (`steinadler.process.Host`) ----------------------------------------

    def monitor_for(self, process: Process, destination: Destination) -> int:
        return self._watching.monitor_for(process, destination)

    def demonitor(self, reference: int) -> None:
        self._watching.demonitor(reference)

    def link_for(self, process: Process, other: ProcessId) -> None:
        self._watching.link(process, other)

    def unlink_for(self, process: Process, other: ProcessId) -> None:
        self._watching.unlink(process, other)

    def spawn_linked(
        self, process: Process, function: ProcessFunction, *args: Any, name: str | None
    ) -> ProcessId:
        child = self._processes.spawn(self, function, args, name=name)
        self._watching.link(process, child.id)
        return child.id

    def statistics_of(self, process: Process) -> ProcessStatistics:
        return self._gauges.process(process)

    def process_ended(self, process: Process, reason: str, result: outcome.Outcome[Any]) -> None:
        # The name is free before anybody hears of the end (N1).
        self._processes.remove(process, result)
        self._router.process_ended(process, reason)
        self._watching.process_ended(process, reason)

    # -- what streams ask (`steinadler.stream.streams.Cluster`) --------------------------------

    def link_to(self, name: str) -> Link:
        return self._peering.link_to(name)

    def link_to_life(self, node: NodeId) -> Link:
        return self._peering.link_to_life(node)

    def post(self, node: NodeId, target: Target, signal: Signal) -> None:
        self._router.post(node, target, signal)

    def require_open(self) -> None:
        self._peering.require_open()

    # -- what entities ask (`steinadler.entity.router.Cluster`) --------------------------------

    def record(self, name: str) -> Member | None:
        return self._peering.record(name)

    def set_own_label(self, name: str, value: str | None) -> None:
        self._peering.require_open()
        labels = dict(self._peering.labels)
        if value is None:
            labels.pop(name, None)
        else:
            labels[name] = value
        self._peering.relabel(tuple(sorted(labels.items())))

    async def wait_for_change(self) -> None:
        await self._peering.wait_for_change()

    # -- what built-in processes ask -----------------------------------------------------------

    def spawn_builtin(self, function: ProcessFunction, *args: Any, name: str) -> None:
        self._processes.spawn(self, function, args, name=name, by_runtime=True)

    def spawn_reporting(
        self, function: ProcessFunction, args: tuple[Any, ...], when_done: WhenDone
    ) -> Process:
        return self._processes.spawn(self, function, args, when_done=when_done)

    def find_local(self, name: str) -> ProcessId | None:
        process = self._processes.find(ToName(check_process_name(name)))
        return process.id if process is not None else None

    def process_count(self) -> int:
        return len(self._processes)

    # -- what peering tells --------------------------------------------------------------------

    def node_up(self, member: Member) -> None:
        self.entities.members_changed()
        self._hub.publish(NodeUp(member))

    def node_down(self, member: Member, reason: str) -> None:
        self.entities.members_changed()
        self._hub.publish(NodeDown(member, reason))

    def node_updated(self, member: Member) -> None:
        self.entities.members_changed()

    def peer_lost(self, link: Link, reason: str) -> None:
        self._gauges.peer_lost(link)
        self._router.peer_lost(link, reason)
        self._watching.peer_lost(link.node)
        self.streams.table.peer_lost(link.node, reason)

    def arrived(self, link: Link, items: Arrived) -> None:
        self._router.arrived(link, items)

    # -- life ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(
        self, host: str | None, port: int, sources: Callable[[Node], Iterable[Source]]
    ) -> AsyncIterator[Node]:
        """Open the node for the length of the block; `sources` are made once it listens.

        Closing runs the other way: entities are handed over, processes are ended and given
        `shutdown_grace_s`, what is queued goes out, the others are told goodbye, and only then do
        connections close.
        """
        shelter = trio.CancelScope(shield=True)
        async with trio.open_nursery() as outer:
            try:
                # Not `start`, which waits for its task to end when it is cancelled itself.
                send, receive = trio.open_memory_channel[trio.Nursery](1)
                outer.start_soon(_sheltered, shelter, send)
                nursery = await receive.receive()
                # Before the port opens: whoever connects may call them at once.
                await nursery.start(self._run_processes)
                await nursery.start(self._run_entities)
                await nursery.start(self._run_streams)
                builtin.start_all(self, self._config.max_processes)
                self.addresses = await nursery.start(self._peering.run, host, port)
                for source in sources(self):
                    nursery.start_soon(source.run, self._found)
                try:
                    yield self
                finally:
                    with trio.CancelScope(shield=True):
                        await self._close()
            finally:
                shelter.cancel()

    def _found(self, candidate: Candidate) -> None:
        self._peering.connections.propose(candidate.address)

    async def _run_processes(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            self._processes.open(nursery)
            task_status.started()
            await trio.sleep_forever()

    async def _run_entities(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.entities.run(task_status=task_status)

    async def _run_streams(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.streams.run(task_status=task_status)

    async def _close(self) -> None:
        self.streams.close()
        await self.entities.aclose()
        with trio.move_on_after(self._config.shutdown_grace_s) as scope:
            await self._processes.shut_down()
        if scope.cancelled_caught:
            stuck = ", ".join(repr(process) for process in self._processes.all())
            logger.warning("still running after the grace period: %s", stuck)
        await self._peering.leave(GOODBYE_PATIENCE_S)
        self._peering.close()
        self._router.close()
        self._hub.close()


def _check_label(name: str) -> None:
    if name.startswith("$"):
        raise ConfigError(f"the label {name!r} is the library's own: begin it with something else")


async def _sheltered(shelter: trio.CancelScope, send: trio.MemorySendChannel[trio.Nursery]) -> None:
    """Hand out a nursery that no cancellation from outside reaches: goodbyes need connections."""
    with shelter:
        async with trio.open_nursery() as nursery:
            send.send_nowait(nursery)
            await trio.sleep_forever()
