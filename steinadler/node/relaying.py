"""Relayed connections: two members that cannot reach each other, and a third that reaches both.

    alice                      carol, the relay                     bob
      | -- ("reach", bob, n) --> $relay                              |
      |                            | -- ("reached", alice, m) -----> $relay
      |                            | <------------------- None ----- |
      | <--------------- None ---- |                                 |
      | ==== stream n ============ pump ============= stream m ===== |
      | -- TLS 1.3, both certificates, Hello: end to end ----------> |

The bytes between alice and bob travel on two byte streams, one on each of carol's links, and are
those of a TLS connection like any other: carol learns who talks to whom, and how much.  Who is at
the far end is told by certificates, never by the relay (X3).  What runs over the connection is a
session as ever, so when the relay goes, another way takes the session up where it stood (M1-M3).

**A relay is used over direct connections alone**, which both it and those beside it see to.  So no
way is longer than two, no connection carries itself, and when either half breaks the whole breaks
at once, instead of waiting for a session to resume that may itself need a relay.

**Which one** is drawn: of the far end's neighbours, since they are connected to it, those that
this node is connected to, and in a large cluster others, which are dialled for it.  One after the
other is asked; the next one when the former says no, which takes a round trip, or nothing for a
while.  The first that gets there is taken.  A table of who reaches whom was refused: a member knows
that by itself, and says no at once.

Carrying the frames of the far pair in frames of our own, decrypted between, was refused: the relay
could read and change them.  Lending it as a plain TCP forwarder was refused too: it would need a
port, and whoever only dials out has none to offer.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from steinadler.errors import (
    ConfigError,
    DeliveryError,
    RemoteError,
    SteinadlerError,
    StreamError,
    StreamRefused,
)
from steinadler.identity import NodeId
from steinadler.membership import MemberState
from steinadler.node.peering import Peering
from steinadler.process import Call, Process, serve_calls
from steinadler.security.policy import Action
from steinadler.stream.byte_stream import ByteStream
from steinadler.stream.streams import Streams
from steinadler.transport.carrier import Via
from steinadler.transport.network import DialError

SERVICE = "$relay"
# How long one relay may take to reach the far end, after how long another one is asked too, and how
# many are asked in one go.
RELAY_TIMEOUT_S = 1.0
NEXT_RELAY_S = 0.25
MOST_ASKED = 16


class Relaying:
    """The part that one node has in relayed connections: as either end, or in the middle."""

    def __init__(
        self,
        me: NodeId,
        peering: Peering,
        streams: Streams,
        max_relayed: int,
        rng: random.Random,
    ) -> None:
        self._me = me
        self._peering = peering
        self._streams = streams
        self._max_relayed = max_relayed
        self._rng = rng
        self._relayed = 0
        # The streams of relayed connections that use the connection to a node.
        self._riding: defaultdict[NodeId, set[ByteStream]] = defaultdict(set)
        self._nursery: trio.Nursery | None = None

    @property
    def relayed(self) -> int:
        """How many connections of others this node carries now."""
        return self._relayed

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry what others ask for, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def connection_changed(self, node: NodeId) -> None:
        """The connection to a node is gone, or another took its place: without a direct one, what
        used it breaks off."""
        if node in self._riding and not self._peering.connections.is_direct(node):
            error = StreamRefused(f"{self._me} has no direct connection to {node} any more")
            for stream in self._riding.pop(node):
                stream.close(error)

    # -- as the end that dials ----------------------------------------------------------------

    async def reach(self, node: NodeId) -> RelayedCarrier:
        """See `transport.dialling.Relays`."""
        refusals: list[str] = []
        found: RelayedCarrier | None = None

        async def ask(relay: NodeId, answered: trio.Event) -> None:
            nonlocal found
            refusal = "no answer in time"
            try:
                with trio.move_on_after(RELAY_TIMEOUT_S):
                    stream = await self._streams.open(relay, SERVICE, ("reach", node), SERVICE)
                    if found is not None:
                        stream.close()
                        return
                    found = self._carrier(stream)
                    nursery.cancel_scope.cancel()
                    return
            except SteinadlerError as error:
                refusal = str(error)
            refusals.append(f"{relay}: {refusal}")
            answered.set()

        try:
            async with trio.open_nursery() as nursery:
                for relay in self._candidates(node):
                    answered = trio.Event()
                    nursery.start_soon(ask, relay, answered)
                    with trio.move_on_after(NEXT_RELAY_S):
                        await answered.wait()
        except BaseException:
            if found is not None:
                found.close()
            raise
        if found is None:
            reasons = "; ".join(refusals) or "no other member is here"
            raise DialError(f"nobody reaches {node} for us ({reasons})", refused=False)
        return found

    def _candidates(self, node: NodeId) -> list[NodeId]:
        """Whom to ask, those first who are likely to say yes."""
        near: list[NodeId] = []
        far: list[NodeId] = []
        for other in self._peering.neighbours_of(node.name):
            record = self._peering.record(other.name)
            if other == self._me or record is None or record.state is not MemberState.ALIVE:
                continue
            if self._peering.connections.is_direct(other):
                near.append(other)
            elif record.addresses:
                far.append(other)
        self._rng.shuffle(near)
        self._rng.shuffle(far)
        # In a mesh whoever is not connected is out of reach too.
        return (near if self._peering.is_mesh else near + far)[:MOST_ASKED]

    # -- as the relay, and as the end that is dialled ------------------------------------------

    async def serve(self, me: Process) -> None:
        """Run as the process `$relay` for as long as the node lives."""
        await serve_calls(me, self._answer)

    def _answer(self, call: Call) -> None:
        self._require_direct(call.caller)
        match call.request:
            case ("reach", NodeId() as node, int(number)) if 0 < number < 2**64:
                self._streams.guard.require(call.caller, Action.RELAY, node.name)
                self._require_direct(node)
                if self._relayed >= self._max_relayed:
                    raise StreamRefused(
                        f"{self._me} carries {self._max_relayed} connections of others already "
                        "(its max_relayed)"
                    )
                near = self._streams.accept(call.caller, number, SERVICE)
                assert self._nursery is not None
                self._relayed += 1
                self._nursery.start_soon(self._relay, call, near, node)
            case ("reached", NodeId(), int(number)) if 0 < number < 2**64:
                stream = self._streams.accept(call.caller, number, SERVICE)
                call.reply()
                self._peering.connections.welcome(self._carrier(stream))
            case _:
                raise ConfigError(
                    "$relay understands ('reach', node, number) and ('reached', node, number)"
                )

    def _require_direct(self, node: NodeId) -> None:
        if not self._peering.connections.is_direct(node):
            raise StreamRefused(f"{self._me} is not connected to {node} directly")

    async def _relay(self, call: Call, near: ByteStream, node: NodeId) -> None:
        try:
            with trio.CancelScope() as scope, self._ridden(near):
                call.on_abandoned(scope.cancel)
                request = ("reached", call.caller)
                far = await self._streams.open(node, SERVICE, request, SERVICE)
                with self._ridden(far):
                    call.reply()
                    await _pump_both_ways(near, far)
        except (StreamError, DeliveryError, RemoteError) as error:
            call.fail(StreamRefused(f"{node} cannot be reached from {self._me}: {error}"))
        finally:
            self._relayed -= 1

    # -- streams ------------------------------------------------------------------------------

    def _carrier(self, stream: ByteStream) -> RelayedCarrier:
        self._ride(stream)
        return RelayedCarrier(stream, lambda: self._forget(stream))

    @contextmanager
    def _ridden(self, stream: ByteStream) -> Iterator[None]:
        """Close it at the end of the block, or as soon as its connection is no direct one."""
        try:
            self._ride(stream)
            yield
        finally:
            self._forget(stream)
            stream.close()

    def _ride(self, stream: ByteStream) -> None:
        """From now on `connection_changed` ends it; until now nobody did."""
        try:
            self._require_direct(stream.peer)
        except StreamRefused as error:
            stream.close(error)
            raise
        self._riding[stream.peer].add(stream)

    def _forget(self, stream: ByteStream) -> None:
        riding = self._riding.get(stream.peer)
        if riding is not None:
            riding.discard(stream)
            if not riding:
                del self._riding[stream.peer]


class RelayedCarrier:
    """One end of the way through a relay, as `transport.carrier.Carrier`."""

    emptied = False

    def __init__(self, stream: ByteStream, on_closed: Callable[[], None]) -> None:
        self._stream = stream
        self._on_closed = on_closed

    @property
    def remote(self) -> Via:
        return Via(self._stream.peer)

    def send_nowait(self, data: memoryview) -> int:
        with _as_broken():
            return self._stream.send_some_nowait(data)

    def receive_nowait(self) -> bytes | None:
        with _as_broken():
            return self._stream.receive_some_nowait()

    async def wait_writable(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the next send says so
            await self._stream.wait_send_all_might_not_block()

    async def wait_readable(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # as does the next read
            await self._stream.wait_receive_some_might_not_block()

    def close(self) -> None:
        self._on_closed()
        self._stream.close()


@contextmanager
def _as_broken() -> Iterator[None]:
    """What befalls a stream is, to those who drive a socket, what befalls a connection."""
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise ConnectionAbortedError(f"the relayed connection broke: {error}") from error


async def _pump_both_ways(one: ByteStream, other: ByteStream) -> None:
    """Until either has ended, and all that came before is on its way."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pump, one, other, nursery.cancel_scope)
        await _pump(other, one, nursery.cancel_scope)


async def _pump(source: ByteStream, sink: ByteStream, both: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some():
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the streams' two ends learn it from each other
    both.cancel()
