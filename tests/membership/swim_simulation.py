"""Many engines on one event heap: the shell, the network and the accidents, all from one seed.

The shell here does what a node's does: it dials members it is not connected to, re-dials at once
what broke and now and then who is down, and closes its connection to a node that goes down.  On
every event it checks what must hold always: Up and Down alternate per life, a new life comes
only after the Down of the former, and no life is believed after a later one was (promise D3).
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from steinadler.config import MembershipSettings
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Admission,
    Cleared,
    Connected,
    Disconnected,
    Down,
    Effect,
    Input,
    Leave,
    Member,
    MemberState,
    NeighbourAdded,
    NeighbourRemoved,
    ObserverConnected,
    Reach,
    Received,
    Refused,
    Send,
    Suspected,
    Swim,
    Up,
    Updated,
    Usurped,
    decode,
    encode,
)
from steinadler.membership.messages import SyncReply

DIAL_RETRY_S = 0.5


class Condition(Enum):
    RUNNING = "running"
    PAUSED = "paused"
    DEAD = "dead"  # its host answers: nobody listens
    VANISHED = "vanished"  # its host is gone too


@dataclass
class Host:
    id: NodeId
    address: Address
    engine: Swim
    observer: bool = False
    condition: Condition = Condition.RUNNING
    waiting: list[Input] = field(default_factory=list)
    members: dict[str, NodeId] = field(default_factory=dict)
    neighbours: set[NodeId] = field(default_factory=set)
    latest: dict[str, int] = field(default_factory=dict)
    log: list[tuple[float, Effect]] = field(default_factory=list)
    timer: int = 0

    def times(self, kind: type, name: str) -> list[float]:
        return [
            at
            for at, effect in self.log
            if isinstance(effect, kind) and effect.member.node.name == name  # type: ignore[attr-defined]
        ]


class Simulation:
    def __init__(
        self,
        names: Iterable[str],
        seed: int = 0,
        *,
        settings: MembershipSettings | None = None,
        loss: float = 0.0,
        through_codec: bool = False,
        dialling: bool = True,
    ) -> None:
        self.rng = random.Random(seed)
        self.settings = settings or MembershipSettings()
        self.loss = loss
        self.through_codec = through_codec
        self.dialling = dialling
        self.now = 1000.0
        self.hosts: dict[str, Host] = {}
        self.former: list[Host] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._links: dict[frozenset[NodeId], int] = {}
        self._arrival: dict[tuple[NodeId, NodeId], float] = {}
        self._cut: set[frozenset[str]] = set()
        for name in names:
            self.start(name)

    # Time.

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._count), action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit: float) -> None:
        end = self.now + limit
        while not condition():
            assert self.now < end, f"not so within {limit} s"
            self.run(0.05)

    def _latency(self) -> float:
        return self.rng.uniform(0.0003, 0.003)

    # Lives.

    def start(self, name: str, *, observer: bool = False) -> Host:
        former = self.hosts.get(name)
        if former is not None:
            self.former.append(former)
        incarnation = int(self.now * 1e6) + len(self.former) + 1
        address = Address(name, 4370)
        me = Member(NodeId(name, incarnation), (address,))
        rng = random.Random(self.rng.getrandbits(64))
        host = Host(
            me.node, address, Swim(me, self.settings, rng, observer=observer), observer=observer
        )
        self.hosts[name] = host
        self._arm(host)
        if self.dialling:
            self.at(self.now, lambda: self._dial_around(host))
        return host

    def tell(self, host: Host, event: Input) -> None:
        match host.condition:
            case Condition.RUNNING:
                self._carry_out(host, host.engine.handle(event, self.now))
            case Condition.PAUSED:
                host.waiting.append(event)
            case _:
                pass

    def _arm(self, host: Host) -> None:
        host.timer += 1
        timer = host.timer
        deadline = max(host.engine.next_deadline(), self.now)
        if deadline < 1e12:
            self.at(deadline + self.rng.uniform(0, 0.002), lambda: self._ring(host, timer))

    def _ring(self, host: Host, timer: int) -> None:
        if timer == host.timer and host.condition is Condition.RUNNING:
            self._carry_out(host, host.engine.tick(self.now))

    # The shell.

    def _carry_out(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            if not isinstance(effect, Send):
                host.log.append((self.now, effect))
            match effect:
                case Send(to, message):
                    if self.through_codec:
                        assert decode(encode(message)) == message
                    self._transmit(host, to, Received(host.id, message))
                case Up(member):
                    name = member.node.name
                    assert name not in host.members, "Up twice"
                    assert member.node.incarnation >= host.latest.get(name, 0), "D3"
                    host.members[name] = member.node
                    host.latest[name] = member.node.incarnation
                case Down(member, reason):
                    assert reason
                    assert host.members.pop(member.node.name, None) == member.node, "Down twice"
                    host.neighbours.discard(member.node)
                    self._close(host.id, member.node)
                case Suspected(member) | Cleared(member) | Updated(member):
                    assert host.members[member.node.name] == member.node
                case NeighbourAdded(member):
                    assert host.members[member.node.name] == member.node, "added before its Up"
                    assert member.node not in host.neighbours, "added twice"
                    host.neighbours.add(member.node)
                    self._dial_soon(host, member.node.name)
                case NeighbourRemoved(node):
                    host.neighbours.remove(node)
                case Reach(member):
                    assert member.node not in host.neighbours, "it is dialled anyway"
                    self._dial_soon(host, member.node.name)
                case Usurped():
                    self.crash(host.id.name, refuses=True)
        if host.condition is Condition.RUNNING:
            self._arm(host)

    def _dial_around(self, host: Host) -> None:
        if host.condition is not Condition.RUNNING:
            return
        for peer in list(self.hosts.values()):
            if peer is not host and (host.id < peer.id or host.observer):
                self._dial(host, peer.id.name)
        for member in host.engine.reconnectable():
            self._dial(host, member.node.name)
        self.at(self.now + DIAL_RETRY_S, lambda: self._dial_around(host))

    def _dial_soon(self, host: Host, name: str) -> None:
        if self.dialling:
            self.at(self.now + self._latency(), lambda: self._dial(host, name))

    def _dial(self, host: Host, name: str) -> None:
        peer = self.hosts.get(name)
        if (
            peer is None
            or peer.observer
            or host.condition is not Condition.RUNNING
            or frozenset((host.id.name, name)) in self._cut
            or frozenset((host.id, peer.id)) in self._links
        ):
            return
        expected = host.engine.find(name)
        match peer.condition:
            case Condition.DEAD:
                if expected is not None:
                    self.tell(host, Refused(expected.node))
            case Condition.RUNNING:
                if expected is not None and expected.node < peer.id:
                    self.tell(host, Refused(expected.node))
                if host.engine.admit(peer.id, self.now) is Admission.ADMITTED and (
                    host.observer or peer.engine.admit(host.id, self.now) is Admission.ADMITTED
                ):
                    self.connect(host, peer)
            case Condition.PAUSED | Condition.VANISHED:
                pass

    def connect(self, host: Host, peer: Host) -> None:
        self._links[frozenset((host.id, peer.id))] = next(self._count)
        for one, other in ((host, peer), (peer, host)):
            if other.observer:
                self.tell(one, ObserverConnected(other.id))
            else:
                # A Hello knows nothing of refutations.
                self.tell(one, Connected(Member(other.id, (other.address,))))

    def _transmit(self, host: Host, to: NodeId, event: Input) -> None:
        link = frozenset((host.id, to))
        made = self._links.get(link)
        if made is None or frozenset((host.id.name, to.name)) in self._cut:
            return
        if self.rng.random() < self.loss:
            return
        arrival = max(self.now + self._latency(), self._arrival.get((host.id, to), 0.0))
        self._arrival[host.id, to] = arrival

        def deliver() -> None:
            peer = self.hosts.get(to.name)
            cut = frozenset((host.id.name, to.name)) in self._cut
            if peer is not None and peer.id == to and self._links.get(link) == made and not cut:
                self.tell(peer, event)

        self.at(arrival, deliver)

    def _close(self, one: NodeId, other: NodeId, *, goodbye: bool = False) -> None:
        """`one` closes its connection to `other`, or loses it; the other side hears of it."""
        if self._links.pop(frozenset((one, other)), None) is None:
            return
        for here, there, said in ((one, other, False), (other, one, goodbye)):
            host = self.hosts.get(here.name)
            if host is not None and host.id == here and host.condition is not Condition.DEAD:
                event = Disconnected(there, said)
                self.at(self.now + self._latency(), self._teller(host, event))
                if not said:
                    self._dial_soon_after_loss(host, there.name)

    def _teller(self, host: Host, event: Input) -> Callable[[], None]:
        return lambda: self.tell(host, event)

    def _dial_soon_after_loss(self, host: Host, name: str) -> None:
        if self.dialling:
            self.at(self.now + 0.02, lambda: self._dial(host, name))

    # Accidents.

    def pause(self, name: str) -> None:
        self.hosts[name].condition = Condition.PAUSED

    def resume(self, name: str, *, timer_first: bool) -> None:
        host = self.hosts[name]
        host.condition = Condition.RUNNING
        waiting, host.waiting = host.waiting, []
        if timer_first:
            self._carry_out(host, host.engine.tick(self.now))
        for event in waiting:
            self.tell(host, event)
        self._arm(host)

    def crash(self, name: str, *, refuses: bool) -> None:
        """SIGKILL when `refuses` (the host closes its sockets), else the power is gone."""
        host = self.hosts[name]
        host.condition = Condition.DEAD if refuses else Condition.VANISHED
        if refuses:
            for link in [link for link in self._links if host.id in link]:
                (other,) = link - {host.id}
                self._close(host.id, other)

    def leave(self, name: str) -> None:
        host = self.hosts[name]
        self.tell(host, Leave())
        for link in [link for link in self._links if host.id in link]:
            (other,) = link - {host.id}
            self._close(host.id, other, goodbye=True)
        host.condition = Condition.DEAD

    def cut(self, one: str, other: str, *, breaks: bool) -> None:
        """Nothing gets through between two nodes; with `breaks`, their connection ends at once."""
        self._cut.add(frozenset((one, other)))
        if breaks:
            self._close(self.hosts[one].id, self.hosts[other].id)

    def heal(self) -> None:
        self._cut.clear()

    # What is so.

    def running(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.condition is Condition.RUNNING]

    def agreed(self) -> bool:
        """Every running node holds exactly the running nodes for members, all unsuspected."""
        truth = sorted(host.id for host in self.running() if not host.observer)
        return all(
            [m.node for m in host.engine.members() if m.state is MemberState.ALIVE] == truth
            and len(host.engine.members()) == len(truth)
            for host in self.running()
        )

    def events(self, kind: type) -> list[Effect]:
        return [e for h in self.hosts.values() for _, e in h.log if isinstance(e, kind)]


def mesh(count: int, seed: int = 0, *, settings: MembershipSettings | None = None) -> Simulation:
    """So many hosts that know each other and are all connected, and dial nobody."""
    names = [f"n{number:03}" for number in range(count)]
    simulation = Simulation(names, seed, settings=settings, dialling=False)
    hosts = list(simulation.hosts.values())
    table = tuple(Member(host.id, (host.address,)) for host in hosts)
    for position, host in enumerate(hosts):
        # Everybody is introduced by a neighbour, and then meets all the others.
        neighbour = hosts[position - 1]
        simulation.tell(host, Connected(table[position - 1]))
        simulation.tell(host, Received(neighbour.id, SyncReply(table)))
    for position, host in enumerate(hosts):
        for peer in hosts[position + 1 :]:
            simulation.connect(host, peer)
    return simulation
