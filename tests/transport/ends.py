"""Nodes that are nothing but connections, on a simulated network: who is a member, who a neighbour
and who is down is for the test to say, and not for an engine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from steinadler.config import Config
from steinadler.identity import NODE, Address, NodeId, ProcessName
from steinadler.node.outlets import PeerOutlet, offer_in_turn
from steinadler.security.peer import PeerIdentity
from steinadler.testing.fabric import Fabric
from steinadler.testing.network import SimulatedNetwork
from steinadler.testing.order import seeded_scheduler
from steinadler.transport.connections import Connections
from steinadler.transport.link import Link
from steinadler.transport.network import SecureStream
from steinadler.wire.channels import ToName, ToProcess
from steinadler.wire.frames import FrameType
from steinadler.wire.handshake import Hello, Reject
from steinadler.wire.session import Arrived, Event

PORT = 4370


class CountingNetwork(SimulatedNetwork):
    """Counts the dials."""

    dials = 0

    async def dial(self, address: Address) -> SecureStream:
        self.dials += 1
        return await super().dial(address)


class End:
    """One node's connections, and what they told."""

    def __init__(self, fabric: Fabric, name: str, config: Config, seed: int, role: str) -> None:
        self.node = NodeId(name, 1)
        self.addresses = (Address(name, PORT),)
        self.host = fabric.add_host(name, PeerIdentity("0" * 32, role, name))
        self.network = CountingNetwork(fabric, self.host)
        self.connections = Connections(
            self.network, self.node, config, random.Random(f"{seed}/{name}"), self
        )
        self.told: Counter[str] = Counter()
        self.arrived: dict[str, list[bytes]] = {}  # by sender
        self.signals: list[bytes] = []
        self.consumes = True
        self.scope = trio.CancelScope()

    # What tests do.

    def link_to(self, other: End) -> Link:
        return self.connections.link_to_member(other.node, other.addresses)

    def keep(self, other: End) -> None:
        self.connections.keep_connected(other.node, other.addresses)

    def connected_to(self, other: End) -> bool:
        link = self.connections.link(other.node)
        return link is not None and link.connected

    async def send(self, other: End, body: bytes) -> None:
        """As `Node.send` does."""
        destination = ProcessName("inbox", other.node.name)
        outlet = PeerOutlet(destination, self.link_to(other), ToName("inbox"))
        if not outlet.offer_message(body):
            await offer_in_turn(outlet, lambda: outlet.offer_message(body))

    def signal(self, other: End, body: bytes) -> None:
        """As monitors do: no credit, nobody waits."""
        link = self.connections.link(other.node)
        assert link is not None
        link.session.enqueue_signal(body, ToProcess(1))
        link.flush()

    def got(self, sender: End) -> list[bytes]:
        return self.arrived.get(sender.node.name, [])

    # What connections ask and tell.

    def hello_facts(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        return 0, ()

    def admit(self, hello: Hello) -> Reject | None:
        return None

    def link_connected(self, link: Link, hello: Hello) -> None:
        self.told["connected"] += 1

    def link_disconnected(self, link: Link) -> None:
        self.told["disconnected"] += 1

    def link_ended(self, link: Link, reason: str) -> None:
        self.told[f"ended: {reason}"] += 1

    def session_lost(self, node: NodeId, reason: str) -> None:
        self.told["session lost"] += 1

    def peer_refused(self, node: NodeId) -> None:
        self.told["refused"] += 1

    def rejected(self, reject: Reject, by: str) -> None:
        self.told[f"rejected: {reject.reason}"] += 1

    def events(self, link: Link, events: list[Event]) -> None:
        for event in events:
            match event:
                case Arrived(_, FrameType.SIGNALS, bodies):
                    self.signals.extend(bodies)
                case Arrived(channel, _, bodies):
                    self.arrived.setdefault(link.node.name, []).extend(bodies)
                    size = sum(map(len, bodies))
                    if self.consumes and link.session.consumed(channel, size, len(bodies)):
                        link.flush()


class Ends:
    """The network between them."""

    def __init__(self, seed: int, latency_s: tuple[float, float]) -> None:
        self.fabric = Fabric(seed, latency_s=latency_s)
        self._seed = seed
        self._due = trio.Event()
        self.fabric.on_due = lambda: self._due.set()
        self._nursery: trio.Nursery | None = None

    async def start(self, name: str, config: Config, role: str = NODE) -> End:
        assert self._nursery is not None
        end = End(self.fabric, name, config, self._seed, role)
        listen = role == NODE

        async def run(*, task_status: trio.TaskStatus[object]) -> None:
            with end.scope:
                await end.connections.run(None, PORT, listen=listen, task_status=task_status)

        await self._nursery.start(run)
        return end

    def kill(self, end: End) -> None:
        """As SIGKILL: what still comes for it is refused."""
        self.fabric.kill(end.host, trio.current_time())
        end.scope.cancel()

    async def deliver(self) -> None:
        while True:
            self._due = trio.Event()
            with trio.move_on_at(self.fabric.next_due()):
                await self._due.wait()
            self.fabric.advance(trio.current_time())

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Ends]:
        with seeded_scheduler(self._seed):
            async with trio.open_nursery() as network:
                network.start_soon(self.deliver)
                async with trio.open_nursery() as self._nursery:
                    yield self
                    self._nursery.cancel_scope.cancel()
                network.cancel_scope.cancel()


def ends(seed: int = 0, *, latency_s: tuple[float, float] = (0.0005, 0.002)) -> Ends:
    """`async with ends().run() as network:`, in virtual time."""
    return Ends(seed, latency_s)


async def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    """Wait until `condition` holds; it is looked at every millisecond of virtual time."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - nobody says when it does
            await trio.sleep(0.001)
