"""`Node`: what a program sees of one node of a cluster.

Each method hands on to the part that decides: `Peering` (who is a member), `Router` (messages and
calls), `Watching` (monitors and links), `Processes` (who lives here), `Streams`, `Entities`,
`Gauges` (what is counted).  `Runtime` owns these and joins them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, overload

import trio

from steinadler.config import Config
from steinadler.discovery import Source
from steinadler.entity.python import Entity, PythonBehaviour
from steinadler.entity.router import EntityRef
from steinadler.entity.store import Store
from steinadler.errors import ConfigError, NoSuchProcess
from steinadler.identity import (
    ANY_NODE,
    Address,
    Destination,
    EntityKey,
    NodeId,
    ProcessId,
    ProcessName,
    SinkRef,
    SourceRef,
)
from steinadler.membership import Member
from steinadler.node.events import EventStream
from steinadler.node.groups import Group
from steinadler.node.runtime import Runtime
from steinadler.node.spawning import Where, ask_spawners
from steinadler.node.statistics import ConnectionStatistics, NodeStatistics
from steinadler.node.watching import Monitor
from steinadler.process import DEFAULT_EXPORTS, Exports, ProcessStatistics
from steinadler.process.exports import ProcessFunction
from steinadler.security.policy import Policy
from steinadler.stream import (
    ByteStream,
    ReceiveChannel,
    SendChannel,
    StreamListener,
    StreamStatistics,
)
from steinadler.transport.network import Network
from steinadler.wire.codec import DEFAULT_MESSAGE_TYPES, MessageTypes


class Node:
    """One node of a cluster.  Made by `open_node`; of no use outside its block.

    Destinations are a `ProcessId`, `"name"` (of this node), `"name@node"`, or `"name@*"` (of the
    whole cluster, see `register_global`).
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
        owns_store: bool = False,
        wall_clock: Callable[[], float] = time.time,
        policy: Policy | None = None,
    ) -> None:
        for label in labels:
            _check_label(label)
        self.id = id_
        self.exports = exports
        self._runtime = runtime = Runtime(
            self,
            network,
            id_,
            labels=labels,
            config=config,
            rng=rng,
            exports=exports,
            message_types=message_types,
            store=store,
            owns_store=owns_store,
            wall_clock=wall_clock,
            policy=policy or Policy(),
        )
        self.streams = runtime.streams
        self.entities = runtime.entities
        self._peering = runtime.peering
        self._processes = runtime.processes
        self._router = runtime.router
        self._watching = runtime.watching
        self._gauges = runtime.gauges
        self._hub = runtime.hub

    def __repr__(self) -> str:
        return f"<Node {self.id.name}>"

    # -- the cluster --------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.id.name

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where this node listens; none before it is open, and none of an observer."""
        return self._runtime.addresses

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
        self._runtime.set_own_label(name, value)

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

    async def wait_for_change(self) -> None:
        """Wait until a member comes, goes, or changes its labels.  Raises `NodeClosed`."""
        await self._peering.wait_for_change()

    @property
    def in_minority(self) -> bool:
        """Whether this node's side of a partition is the smaller one, since `MembersLost` said so
        and until enough of the lost are back, have left, or are forgotten (`forget_s`).
        """
        return self._peering.in_minority

    def events(self) -> EventStream:
        """What happens from now on: `NodeUp`, `NodeDown`, `MembersLost`, `SidesMerged`,
        `NameConflict`, and `EventsLost`.  Iterate with `async for`.

        The classes are in `steinadler.node`: `steinadler.NodeDown` and `steinadler.NameConflict`
        are the exceptions of these names, which no event is.
        """
        return self._hub.open()

    # -- processes ----------------------------------------------------------------------------

    def spawn(self, function: ProcessFunction, *args: Any, name: str | None = None) -> ProcessId:
        """Start `function(me, *args)` as a process of this node.

        Its mailbox, and its name if it gets one, exist when this returns.  Raises `NameConflict`
        when the name is taken, `ConfigError` when it is none or when the function is not an
        `async def` that takes these arguments, `NodeClosed`.
        """
        return self._processes.spawn(self._runtime, function, args, name=name).id

    async def spawn_on(
        self,
        where: Where = None,
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
        return await ask_spawners(self, where, labels, request)

    async def run_on(
        self,
        where: Where = None,
        function: ProcessFunction | str = "",
        *args: Any,
        labels: Mapping[str, str] | None = None,
    ) -> Any:
        """Run an exported function as a process there, and return what it returns.

        As `spawn_on`, but waits for the end: an exception of the function comes back as
        `RemoteError`.  Cancelling it cancels the process there.
        """
        return await ask_spawners(
            self, where, labels, ("run", self.exports.name_of(function), args)
        )

    def register(self, name: str, process: ProcessId) -> None:
        """Give a process of this node a (further) name.

        Raises `NameConflict` when another process has it, `NoSuchProcess` when the process is
        not alive here, `ConfigError` when it cannot be a name.
        """
        self._processes.require(process)
        self._processes.names.register(name, process.number)

    def unregister(self, name: str) -> None:
        """Take a name away.  Raises `NoSuchProcess` when nobody has it."""
        if self._processes.names.unregister(name) is None:
            raise NoSuchProcess(name)

    async def register_global(self, name: str, process: ProcessId) -> None:
        """Give a process of this node a name in the whole cluster: `"name@*"` is this process,
        from anywhere, until it ends or `unregister_global`.

        One process has it (N2): a member to which the name's hash points lets the first of several
        claims pass.  A process that has the name already keeps it, and its claim its age.  Parts of
        a cluster that do not see each other may each have a holder, and so may one whose members
        come and go just then, because two members let a claim pass each.  When they hear of each
        other, the oldest claim keeps the name everywhere, and the other process is told to exit
        with "NameConflict: ..." (one that traps exits gets an `Exit`).  `events` tell both.

        Raises `NameConflict` when another process has the name, `NoSuchProcess` when this one is
        not alive here, `ConfigError` when it cannot be a name, or on an observer, `NotAuthorized`
        when this node may not have it by its role, `InMinority` when this node or that member is in
        a minority and its `Config.in_minority` minds.
        Cancelled, it is not registered.
        """
        await self._runtime.naming.register(name, process)

    def unregister_global(self, name: str) -> None:
        """Take a cluster-wide name of this node's away.  Raises `NoSuchProcess` when none of its
        processes has it."""
        self._runtime.naming.unregister(name)

    def group(self, name: str) -> Group:
        """The group of that name: processes of the whole cluster that joined it."""
        return Group(name, self._runtime.naming, self._router, self._runtime.rng)

    async def whereis(self, name: str) -> ProcessId | None:
        """Which process has `"name"` here, `"name@node"` there, or `"name@*"` in the cluster; None
        when none has.

        Raises `NodeDown`, `NodeClosed`.
        """
        where = self._router.resolve(name)
        if isinstance(where, ProcessId):
            await trio.lowlevel.checkpoint()
            return where
        assert isinstance(where, ProcessName)
        if where.node == ANY_NODE:
            return await self._runtime.naming.whereis(where.name)
        if where.node in (None, self.name):
            await trio.lowlevel.checkpoint()
            self._peering.require_open()
            return self._runtime.find_local(where.name)
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
        """Queue a message for a destination, waiting while its credit is used up.

        Returns when it is queued, which says nothing of whether it has arrived or was read.

        Messages to one destination arrive in order, at most once, and surely while both nodes
        remain members (M1-M3).  A message to no process is dropped, as in Erlang, and so is one
        that the node's policy refuses; monitor to know.  A checkpoint at least at every 64th
        message.  Cancelled, it has sent nothing.

        Raises `NotEncodable`, `MessageTooLarge`, `NodeDown`, `NodeClosed`, `NoSuchProcess` (nobody
        has that `"name@*"`), `ConfigError` (not a destination).
        """
        return self._router.send(destination, message)  # a step less for every message

    def send_nowait(self, destination: Destination, message: object) -> None:
        """As `send`; raises `MailboxFull` where that would wait."""
        self._router.send_nowait(destination, message)

    def call(self, destination: Destination, request: object) -> Coroutine[Any, Any, Any]:
        """Send a request and wait for the reply.  Bound it with `trio.fail_after`.

        Raises `RemoteError` (the process failed the call), `NoSuchProcess`, `ProcessExited`,
        `NodeDown`, `NotAuthorized` (that node's policy), and what `send` raises.  Never retried.
        Cancelled, the request may or may not be carried out, and a late reply goes nowhere.
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
        `StreamRefused`, `NodeDown`, `NotAuthorized`, `ConfigError` for what cannot name a service.
        Cancelled, the other end sees its stream break off, if there is one.
        """
        return self.streams.connect(service)

    def listen(self, service: str, *, backlog: int = 1024) -> StreamListener:
        """Offer a service to the cluster: whoever connects to it is to be accepted.

        The others see it in this node's labels, and "name@*" finds it.  `backlog` connections may
        wait to be accepted; one beyond them is refused.  Raises `NameConflict` when this node
        offers it already, `ConfigError` for what cannot name a service, or when the names of all
        of its services are longer than a label, `NotAuthorized` when it may not, by its role,
        `NodeClosed`.
        """
        return self.streams.listen(service, backlog)

    def services(self) -> dict[str, tuple[Member, ...]]:
        """The services that members offer now, by name, with those members, by name too."""
        return self.streams.services()

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

        Takes a step for each open channel, each stream and each queued message.
        """
        return self._gauges.connections()

    def processes(self, busiest: int | None = None) -> tuple[ProcessStatistics, ...]:
        """The processes of this node, built-in ones included, oldest first.

        With `busiest`, so many at most: those with most messages waiting first, and then those
        that took most so far.  Takes a step for each process and each waiting message.
        """
        return self._gauges.processes(busiest)

    def stream_statistics(self, busiest: int | None = None) -> tuple[StreamStatistics, ...]:
        """The ends of streams that are open here, a stream within the node twice.

        With `busiest`, so many at most: those that carried most so far first.  Takes a step for
        each stream.
        """
        return self.streams.table.statistics(busiest)

    # -- life ----------------------------------------------------------------------------------

    def run(
        self,
        host: str | None,
        port: int,
        sources: Callable[[Node], Iterable[Source]],
        *,
        listen: bool = True,
    ) -> AbstractAsyncContextManager[None]:
        """Open the node for the length of the block; `sources` are made once it listens.

        `listen` False: it dials others and is dialled by nobody.

        Closing runs the other way: entities are handed over, processes that trap exits are told to
        end and given `orderly_shutdown_s`, all others are cancelled and given `shutdown_grace_s`,
        what is queued goes out, the others are told goodbye, and only then do connections close.
        """
        return self._runtime.run(host, port, lambda: sources(self), listen=listen)


def _check_label(name: str) -> None:
    if name.startswith("$"):
        raise ConfigError(f"the label {name!r} is the library's own: begin it with something else")
