"""`Runtime`: the inside of a node.  It owns the parts, answers what they ask, and lives with them.

    a process -- Host ------+           +-- Listener -- peering
    streams ---- Cluster ---+- Runtime -+-- discovery
    entities --- Cluster ---+           +-- built-in processes

What a part asks of its node it declares as a Protocol of its own: the part lies below this package
and imports nothing of it.  All of them are answered here, in a line or two each; what is decided is
decided in the parts.  `Node` is the same thing seen from outside, in a class of its own: a program
that looks for what a node can do is not to find thirty methods that are not for it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import trio

from steinadler.config import Config
from steinadler.discovery import Candidate, Source
from steinadler.entity.router import Entities
from steinadler.entity.store import Store
from steinadler.identity import (
    NODE,
    OBSERVER,
    Address,
    Destination,
    NodeId,
    ProcessId,
    check_process_name,
)
from steinadler.membership import ROLE_LABEL, Member, MembersLost, SidesMerged
from steinadler.node import builtin
from steinadler.node.events import EventHub, NodeDown, NodeUp
from steinadler.node.guard import Guard
from steinadler.node.naming import Naming
from steinadler.node.peering import Peering
from steinadler.node.relaying import Relaying
from steinadler.node.router import Router
from steinadler.node.statistics import Gauges
from steinadler.node.trusting import Trusting
from steinadler.node.watching import Watching
from steinadler.process import Exports, Process, ProcessStatistics
from steinadler.process.exports import ProcessFunction
from steinadler.process.process import describe
from steinadler.process.table import Processes, WhenDone
from steinadler.security.policy import Action, Policy
from steinadler.stream.streams import Streams
from steinadler.transport.link import Link
from steinadler.transport.network import Network
from steinadler.wire.channels import ToName
from steinadler.wire.codec import Codec, MessageTypes
from steinadler.wire.session import Arrived

if TYPE_CHECKING:
    from steinadler.node.node import Node

logger = logging.getLogger("steinadler.node")

# How long to wait, at closing, for peers to take what is queued, and then to hear the goodbye.
GOODBYE_PATIENCE_S = 1.0


class Runtime:
    """The parts of one node, and what they ask of it.

    `node` is what its processes see of it.
    """

    def __init__(
        self,
        node: Node,
        network: Network,
        id_: NodeId,
        *,
        labels: Mapping[str, str],
        config: Config,
        rng: random.Random,
        exports: Exports,
        message_types: MessageTypes,
        store: Store | None,
        owns_store: bool,
        wall_clock: Callable[[], float],
        policy: Policy,
    ) -> None:
        self.node = node
        self.id = id_
        self.exports = exports
        self.addresses: tuple[Address, ...] = ()
        self.closing = False  # peers may spawn nothing here any more
        self._config = config
        self.rng = rng
        self.hub = EventHub()
        self.peering = Peering(
            network, id_, _labels(labels, network.identity.role), config, rng, self
        )
        self.guard = Guard(id_, network.identity.role, policy, self.peering)
        self.processes = Processes(id_, config.mailbox_bytes)
        codec = Codec(message_types, config.wire.max_message_bytes, time.thread_time)
        self.router = Router(
            id_,
            codec,
            self.processes,
            self.peering,
            self.guard,
            config.wire.max_unanswered_calls,
        )
        # Bound here and not wrapped: a call more would be felt in every message.
        self.send = self.router.send
        self.send_nowait = self.router.send_nowait
        self.call = self.router.call
        self.open_item = self.router.open_item
        self.post = self.router.post
        self.members = self.peering.members
        self.watching = Watching(id_, self.processes, self.router, self.peering, self.guard)
        self.naming = Naming(
            id_,
            network.identity.is_observer,
            self.processes,
            self.peering,
            self.guard,
            self.hub,
            self.router.call,
            rng,
            wall_clock,
        )
        self.router.find_global = self.naming.find
        self.streams = Streams(self, codec, config.streams, config.mailbox_bytes, rng)
        self.router.on_stream_items = self.streams.table.arrived
        self.router.on_stream_signal = self.streams.table.signalled
        self.relaying = Relaying(id_, self.peering, self.streams, config.dial.max_relayed, rng)
        self.peering.connections.use_relays(self.relaying)
        self.trusting = Trusting(
            network.credentials, self.peering, self.naming, self.router.call, rng
        )
        self.gauges = Gauges(
            self.processes,
            self.peering,
            self.router,
            self.watching,
            self.streams.table,
            self.relaying,
            self.guard,
        )
        self.entities = Entities(
            self,
            codec,
            config.entities,
            rng,
            None if network.identity.is_observer else store,
            owns_store=owns_store,
            clock=wall_clock,
        )

    # -- what processes ask (`steinadler.process.Host`) ----------------------------------------

    def monitor_for(self, process: Process, destination: Destination) -> int:
        return self.watching.monitor_for(process, destination)

    def demonitor(self, reference: int) -> None:
        self.watching.demonitor(reference)

    def link_for(self, process: Process, other: ProcessId) -> None:
        self.watching.link(process, other)

    def unlink_for(self, process: Process, other: ProcessId) -> None:
        self.watching.unlink(process, other)

    def spawn_linked(
        self, process: Process, function: ProcessFunction, *args: Any, name: str | None
    ) -> ProcessId:
        child = self.processes.spawn(self, function, args, name=name, parent=process.id.number)
        self.watching.link(process, child.id)
        return child.id

    def require_spawn(self, caller: NodeId, name: str, args: Sequence[Any]) -> None:
        self.guard.require(caller, Action.SPAWN, self.exports.run_by(name, args))

    def statistics_of(self, process: Process) -> ProcessStatistics:
        return self.gauges.process(process)

    def process_ended(self, process: Process, reason: str, result: outcome.Outcome[Any]) -> None:
        # The name is free before anybody hears of the end (N1).
        self.processes.remove(process, result)
        self.naming.process_ended(process.id)
        self.router.process_ended(process, reason)
        self.watching.process_ended(process, reason)

    # -- what streams and entities ask (`stream.streams.Cluster`, `entity.peers.Cluster`) ------

    def require_open(self) -> None:
        self.peering.require_open()

    def link_to(self, name: str) -> Link:
        return self.peering.link_to(name)

    def link_to_life(self, node: NodeId) -> Link:
        return self.peering.link_to_life(node)

    def record(self, name: str) -> Member | None:
        return self.peering.record(name)

    def set_own_label(self, name: str, value: str | None) -> None:
        self.peering.require_open()
        labels = dict(self.peering.labels)
        if value is None:
            labels.pop(name, None)
        else:
            labels[name] = value
        self.peering.relabel(tuple(sorted(labels.items())))

    async def wait_for_change(self) -> None:
        await self.peering.wait_for_change()

    # -- what built-in processes ask -----------------------------------------------------------

    def spawn_builtin(self, function: ProcessFunction, *args: Any, name: str) -> None:
        self.processes.spawn(self, function, args, name=name, by_runtime=True)

    def spawn_reporting(
        self, function: ProcessFunction, args: tuple[Any, ...], when_done: WhenDone
    ) -> Process:
        return self.processes.spawn(self, function, args, when_done=when_done)

    def find_local(self, name: str) -> ProcessId | None:
        process = self.processes.find(ToName(check_process_name(name)))
        return process.id if process is not None else None

    # -- what peering tells (`node.peering.Listener`) ------------------------------------------

    def node_up(self, member: Member) -> None:
        self.naming.member_up(member.node)
        self.entities.members_changed()
        self.hub.publish(NodeUp(member))

    def node_down(self, member: Member, reason: str) -> None:
        self.naming.member_down(member.node)
        self.entities.members_changed()
        self.hub.publish(NodeDown(member, reason))

    def role_seen(self, node: NodeId) -> None:
        if self.naming.role_seen(node):
            self.entities.members_changed()

    def node_updated(self, member: Member) -> None:
        self.naming.role_seen(member.node)
        self.entities.members_changed()

    def sides_changed(self, event: MembersLost | SidesMerged) -> None:
        self.hub.publish(event)

    def neighbour_connected(self, node: NodeId) -> None:
        self.naming.neighbour_connected(node)

    def connection_changed(self, node: NodeId) -> None:
        self.relaying.connection_changed(node)
        link = self.peering.connections.link(node)
        if link is not None and link.connected:
            self.trusting.connected(link)

    def peer_lost(self, link: Link, reason: str) -> None:
        self.gauges.peer_lost(link)
        self.router.peer_lost(link, reason)
        self.watching.peer_lost(link.node)
        self.streams.table.peer_lost(link.node, reason)

    def arrived(self, link: Link, items: Arrived) -> None:
        self.router.arrived(link, items)

    def registry_told(self, link: Link, data: bytes) -> None:
        self.naming.received(link, data)

    def trust_told(self, link: Link, data: bytes) -> None:
        self.trusting.told(link, data)

    # -- life ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(
        self,
        host: str | None,
        port: int,
        sources: Callable[[], Iterable[Source]],
        *,
        listen: bool,
    ) -> AsyncIterator[None]:
        """See `Node.run`."""
        shelter = trio.CancelScope(shield=True)
        async with trio.open_nursery() as outer:
            try:
                # Not `start`, which waits for its task to end when it is cancelled itself.
                send, receive = trio.open_memory_channel[trio.Nursery](1)
                outer.start_soon(_sheltered, shelter, send)
                nursery = await receive.receive()
                # Before the port opens: whoever connects may call them at once.
                await nursery.start(self._run_processes)
                await nursery.start(self.entities.run)
                await nursery.start(self.streams.run)
                await nursery.start(self.naming.run)
                await nursery.start(self.relaying.run)
                await nursery.start(self.trusting.run)
                await nursery.start(self.guard.run)
                builtin.start_all(self, self._config.max_processes)
                peering = partial(self.peering.run, listen=listen)
                self.addresses = await nursery.start(peering, host, port)
                for source in sources():
                    nursery.start_soon(self._run_source, source)
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self._close()
            finally:
                shelter.cancel()

    async def _run_source(self, source: Source) -> None:
        """As with a process: what somebody's source raises is in the log, and the node goes on."""
        try:
            await source.run(self._found)
        except Exception as error:
            source.problem = f"it failed: {describe(error)}"
            logger.exception("%r failed, and finds nobody any more", source)

    def _found(self, candidate: Candidate) -> None:
        self.peering.propose(candidate.address)

    async def _run_processes(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            self.processes.open(nursery)
            task_status.started()
            await trio.sleep_forever()

    async def _close(self) -> None:
        self.closing = True
        self.streams.close()
        await self.entities.aclose()
        with trio.move_on_after(self._config.orderly_shutdown_s) as scope:
            await self.processes.end_in_order()
        if scope.cancelled_caught:
            deaf = ", ".join(map(repr, self.processes.trapping()))
            logger.warning("told to end, and cancelled because they have not: %s", deaf)
        with trio.move_on_after(self._config.shutdown_grace_s) as scope:
            await self.processes.shut_down()
        if scope.cancelled_caught:
            stuck = ", ".join(repr(process) for process in self.processes.all())
            logger.warning("still running after the grace period: %s", stuck)
        await self.peering.leave(GOODBYE_PATIENCE_S)
        self.peering.close()
        self.router.close()
        self.guard.tell_rest()
        self.streams.end()
        self.hub.close()


def _labels(given: Mapping[str, str], role: str) -> tuple[tuple[str, str], ...]:
    """A member's labels, its role among them where that needs saying (`Member.role`)."""
    own = {} if role in (NODE, OBSERVER) else {ROLE_LABEL: role}
    return tuple(sorted({**given, **own}.items()))


async def _sheltered(shelter: trio.CancelScope, send: trio.MemorySendChannel[trio.Nursery]) -> None:
    """Hand out a nursery that no cancellation from outside reaches: goodbyes need connections."""
    with shelter:
        async with trio.open_nursery() as nursery:
            send.send_nowait(nursery)
            await trio.sleep_forever()
