"""Membership engines alone, on a heap of events: clusters of ten thousand members.

Every member has its engine, and everything that the engines decide is decided by them.  The shell
is the least there can be: a link where an engine keeps a neighbour or was dialled, a latency for
each message, kept in order on each link, and an engine that is called when it asked to be.

**Memory.**  Ten thousand tables of ten thousand members are a hundred million entries: more than a
machine has.  But nearly all are the same in all tables, and so they are held once: a table here
(`_Layer`) has entries of its own only for those that it was asked for, or that changed, and rings
that are equal are one object (`SharedOverlay`).  Engines begin as members that have long known each
other; whoever joins later has a table like any other.
"""

from __future__ import annotations

import heapq
import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.overlay_figures import LOAD_ROUNDS, REPEATS, Accident, Figures, Load
from benchmarks.running import RunFailed
from steinadler.config import Config, MembershipSettings
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Connected,
    Disconnected,
    Down,
    Effect,
    Input,
    Member,
    NeighbourAdded,
    NeighbourRemoved,
    Reach,
    Received,
    Refused,
    Send,
    Swim,
    Up,
    encode,
)
from steinadler.membership.messages import Message
from steinadler.membership.overlay import Overlay, _places
from steinadler.membership.table import Entry, Link, Table

LATENCY_S = (0.0002, 0.001)
# Until all have met their neighbours, and had a pass of probes.
SETTLE_S = 2.0
REST_S = 2.5
LIMIT_S = 30.0

Rings = list[list[bytes]]


class SharedOverlay(Overlay):
    """An overlay whose rings are one object with those of all that hold the same members."""

    def __init__(self, mesh_size: int, rings: Rings, known: dict[tuple[int, str], Rings]) -> None:
        super().__init__(mesh_size, 0)
        self._rings = rings
        # What rings become by a name that is added or removed.  They are kept alive by it.
        self._known = known

    def add(self, name: str, *, listens: bool = True) -> None:
        """See `Overlay.add`; nothing happens for one that is in it.  All listen here."""
        place = _places(name, len(self._rings))[0]
        at = bisect_left(self._rings[0], place)
        if at == len(self._rings[0]) or self._rings[0][at] != place:
            self._become(f"+{name}", lambda: Overlay.add(self, name))

    def remove(self, name: str) -> None:
        """See `Overlay.remove`."""
        self._become(f"-{name}", lambda: Overlay.remove(self, name))

    def _become(self, change: str, carry_out: Callable[[], None]) -> None:
        key = (id(self._rings), change)
        known = self._known.get(key)
        if known is not None:
            self.version += 1
            self._rings = known
            return
        self._rings = [list(ring) for ring in self._rings]
        carry_out()
        self._known[key] = self._rings


class _Layer(dict[str, Entry]):
    """Entries by name: its own, and below them those that all have in common."""

    def __init__(self, common: dict[str, Entry], me: str) -> None:
        super().__init__()
        self._common = common
        self._gone = {me}  # of those in common
        self._new = 0  # that are not in common

    def get(self, name: str, default: Any = None) -> Any:
        found = super().get(name)
        if found is None and name not in self._gone and name in self._common:
            shared = self._common[name]
            found = self[name] = Entry(shared.member, shared.link, shared.since)
        return default if found is None else found

    def __setitem__(self, name: str, entry: Entry) -> None:
        if name in self._common:
            self._gone.discard(name)
        elif name not in self:
            self._new += 1
        super().__setitem__(name, entry)

    def pop(self, name: str, *default: Any) -> Any:
        entry = self.get(name)
        if name in self._common:
            self._gone.add(name)
        else:
            self._new -= 1
        super().pop(name)
        return entry

    def __len__(self) -> int:
        return len(self._common) - len(self._gone) + self._new

    def _all(self) -> dict[str, Entry]:
        everything = {**self._common, **dict(super().items())}
        for name in self._gone:
            del everything[name]
        return everything

    def values(self) -> Any:
        return self._all().values()

    def items(self) -> Any:
        return self._all().items()


class _Addresses(Counter[Address]):
    """No engine asks for addresses: only its shell does."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        pass

    def subtract(self, *args: Any, **kwargs: Any) -> None:
        pass


class Founders:
    """Members that have known each other for long: what their tables have in common."""

    def __init__(self, members: list[Member], settings: MembershipSettings) -> None:
        self._settings = settings
        self._common = {one.node.name: Entry(one, Link.APART, 0.0) for one in members}
        overlay = Overlay(settings.mesh_size, settings.rings)
        for one in members:
            overlay.add(one.node.name)
        self._rings = overlay._rings
        self._known: dict[tuple[int, str], Rings] = {}
        table = Table(overlay)
        for one in members:
            table.digest.toggle(one)
        self._digest = table.digest._buckets

    def table_of(self, me: Member) -> Table:
        """A table of all the others."""
        table = Table(SharedOverlay(self._settings.mesh_size, self._rings, self._known))
        table._entries = _Layer(self._common, me.node.name)
        table._addresses = _Addresses()
        table.digest._buckets = list(self._digest)
        table.digest.toggle(me)  # out again
        return table


class Host:
    """One member: its engine, and its links to others."""

    __slots__ = (
        *("armed", "bytes", "engine", "id", "links", "member", "messages"),
        *("neighbours", "refuses", "runs"),
    )

    def __init__(self, member: Member, engine: Swim) -> None:
        self.id = member.node
        self.member = member
        self.engine = engine
        self.runs = True
        self.refuses = False  # when it does not run: whether its host says so
        # When the latest message on the way to each linked member arrives.
        self.links: dict[NodeId, float] = {}
        self.neighbours: set[NodeId] = set()
        self.armed = float("inf")
        self.messages = self.bytes = 0


class Engines:
    """A cluster of so many engines, from one seed."""

    def __init__(self, members: int, seed: int, settings: MembershipSettings) -> None:
        self.rng = random.Random(seed)
        self.settings = settings
        self.now = 1000.0
        self.hosts: dict[str, Host] = {}
        # Of whoever the accident is about: who was told when.
        self.about = ""
        self.told_up: dict[str, float] = {}
        self.told_down: dict[str, float] = {}
        self.wrong = 0
        self._number = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._idle_s = Config().dial.link_idle_s
        records = [_member(number) for number in range(members)]
        founders = Founders(records, settings)
        for record in records:
            self._add(record, founders.table_of(record))
        for host in self.hosts.values():
            # The first call: its neighbours follow from its table.
            self._carry_out(host, host.engine.tick(self.now))

    # -- time ---------------------------------------------------------------------------------

    def _at(self, when: float, event: Callable[..., None], *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, event, args))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, event, args = heapq.heappop(self._events)
            event(*args)
        self.now = end

    def run_until(self, condition: Callable[[], bool], complaint: str) -> None:
        """Let time pass until something holds.  Raises `RunFailed`."""
        end = self.now + LIMIT_S
        while not condition():
            if self.now > end:
                raise RunFailed(f"{complaint} within {LIMIT_S:g} s")
            self.run(0.02)

    def _latency(self) -> float:
        return self.rng.uniform(*LATENCY_S)

    def _arm(self, host: Host) -> None:
        deadline = max(host.engine.next_deadline(), self.now)
        if deadline < host.armed or host.armed <= self.now:
            host.armed = deadline
            self._at(deadline, self._ring, host, deadline)

    def _ring(self, host: Host, armed: float) -> None:
        if not host.runs or armed != host.armed:
            return
        host.armed = float("inf")
        if host.engine.next_deadline() <= self.now:
            self._carry_out(host, host.engine.tick(self.now))
        else:
            self._arm(host)

    # -- the shell ----------------------------------------------------------------------------

    def _add(self, record: Member, table: Table | None) -> Host:
        rng = random.Random(self.rng.getrandbits(64))
        host = Host(record, Swim(record, self.settings, rng, table=table))
        self.hosts[record.node.name] = host
        return host

    def _tell(self, host: Host, event: Input) -> None:
        if host.runs:
            self._carry_out(host, host.engine.handle(event, self.now))

    def _carry_out(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, message):
                    self._send(host, to, message)
                case Up(member):
                    if self.about in (member.node.name, host.id.name):
                        self.told_up[host.id.name] = self.now
                case Down(member):
                    if member.node.name == self.about:
                        self.told_down[host.id.name] = self.now
                    there = self.hosts.get(member.node.name)
                    self.wrong += there is not None and there.runs
                    host.neighbours.discard(member.node)
                    self._unlink(host, member.node)
                case NeighbourAdded(member):
                    host.neighbours.add(member.node)
                    self._dial(host, member)
                case NeighbourRemoved(node):
                    host.neighbours.discard(node)
                    self._at(self.now + self._idle_s, self._idle, host, node)
                case Reach(member):
                    self._dial(host, member)
        if host.runs:
            self._arm(host)

    def _send(self, host: Host, to: NodeId, message: Message) -> None:
        last = host.links.get(to)
        if last is None:
            return
        host.messages += 1
        host.bytes += len(encode(message))
        arrival = host.links[to] = max(last, self.now + self._latency())
        self._at(arrival, self._deliver, host.id, to, message)

    def _deliver(self, sender: NodeId, to: NodeId, message: Message) -> None:
        host = self.hosts[to.name]
        if host.runs and sender in host.links:
            self._carry_out(host, host.engine.handle(Received(sender, message), self.now))

    # -- links --------------------------------------------------------------------------------

    def _dial(self, host: Host, member: Member) -> None:
        """Two round trips: TCP's handshake, and TLS's with the Hellos."""
        if member.node not in host.links:
            self._at(self.now + 4 * self._latency(), self._dialled, host, member)

    def _dialled(self, host: Host, member: Member) -> None:
        there = self.hosts[member.node.name]
        if not host.runs or member.node in host.links:
            return
        if there.runs:
            for one, other in ((host, there), (there, host)):
                one.links[other.id] = self.now
            for one, other in ((host, there), (there, host)):
                self._tell(one, Connected(other.member))
            if there.id not in host.neighbours:
                self._at(self.now + self._idle_s, self._idle, host, there.id)
        elif there.refuses:
            self._tell(host, Refused(member.node))

    def _idle(self, host: Host, node: NodeId) -> None:
        there = self.hosts[node.name]
        if node not in host.neighbours and host.id not in there.neighbours:
            self._unlink(host, node)

    def _unlink(self, host: Host, node: NodeId) -> None:
        """One end closes; both are told, if they run."""
        there = self.hosts[node.name]
        for one, other in ((host, there), (there, host)):
            if one.links.pop(other.id, None) is not None and one.runs:
                self._at(self.now + self._latency(), self._tell, one, Disconnected(other.id, False))

    # -- accidents ----------------------------------------------------------------------------

    def running(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.runs]

    def join(self) -> float:
        """A new member, which knows of one; how long until all know of it, and it of all."""
        seed = self.rng.choice(self.running())
        record = _member(len(self.hosts))
        self._expect(record.node.name)
        host = self._add(record, None)
        everybody = len(self.running())
        start = self.now
        self._carry_out(host, host.engine.tick(self.now))
        self._dial(host, seed.member)
        self.run_until(
            lambda: len(self.told_up) == len(host.engine.members()) == everybody,
            "not all knew of a join",
        )
        return max(self.told_up.values()) - start

    def kill(self) -> float:
        """A member's process is killed: connections are reset, dials refused."""
        return self._end(refuses=True)

    def silence(self) -> float:
        """A member's machine is gone, and nothing says so."""
        return self._end(refuses=False)

    def _end(self, *, refuses: bool) -> float:
        host = self.rng.choice(self.running())
        self._expect(host.id.name)
        host.runs, host.refuses = False, refuses
        start, others = self.now, len(self.running())
        if refuses:
            for node in list(host.links):
                there = self.hosts[node.name]
                self._unlink(host, node)
                if host.id in there.neighbours:
                    self._at(self.now + 3 * self._latency(), self._dialled, there, host.member)
        self.run_until(lambda: len(self.told_down) == others, "not all knew of a death")
        return max(self.told_down.values()) - start

    def _expect(self, name: str) -> None:
        self.about = name
        self.told_up, self.told_down = {}, {}

    # -- what is so ---------------------------------------------------------------------------

    def agreed(self) -> bool:
        """Whether all hold the same, to the last refutation."""
        digests = {host.engine._table.digest.buckets(host.engine.me) for host in self.running()}
        return len(digests) == 1

    def sent(self) -> dict[str, tuple[int, int]]:
        return {host.id.name: (host.messages, host.bytes) for host in self.running()}

    def accident(self, befall: Callable[[], float]) -> Accident:
        """Let one befall the cluster; the load is that of the rounds that follow it."""
        before, start = self.sent(), self.now
        seconds = befall()
        window = max(LOAD_ROUNDS * self.settings.probe_interval_s, self.now - start)
        self.run(start + window - self.now)
        return Accident(round(seconds, 4), Load.between(before, self.sent(), window))


def _member(number: int) -> Member:
    name = f"node{number:05}"
    return Member(NodeId(name, 1_750_000_000_000_000 + number), (Address(f"{name}.local", 4370),))


def measure(
    members: int,
    seed: int,
    config: Config,
    told: Callable[[str], None],
    repeats: int = REPEATS,
) -> Figures:
    """All figures of one size.  `told` hears how far it is.  Raises `RunFailed`.

    Each accident befalls the cluster `repeats` times.
    """
    began = time.process_time()
    here = Engines(members, seed, config.membership)
    here.run(SETTLE_S)
    before = here.sent()
    here.run(REST_S)
    rest = Load.between(before, here.sent(), REST_S)
    connections = [len(host.links) for host in here.running()]
    told(f"at rest: {rest}, {Counter(connections)}, {time.process_time() - began:.0f} s of CPU")
    accidents: list[list[Accident]] = [[], [], []]
    for _ in range(repeats):
        for befall, seen in zip((here.join, here.kill, here.silence), accidents, strict=True):
            seen.append(here.accident(befall))
            told(f"{befall.__name__}: {seen[-1]}, {time.process_time() - began:.0f} s of CPU")
    if not here.agreed():
        raise RunFailed("the members' tables differ in the end")
    return Figures(
        members,
        (min(connections), round(sum(connections) / members, 2), max(connections)),
        rest,
        tuple(accidents[0]),
        tuple(accidents[1]),
        tuple(accidents[2]),
        here.wrong,
        round(time.process_time() - began, 1),
    )
