"""How streams of one node come to be: channels given away and claimed, services connected to.

    connect, claim       here: a number, and the near ends of what is to be; then a call to
                         `$streams` of the other node
    connected, ..._claimed   there: the far ends, and an answer

The opener makes its ends before it asks, so that they are there for what the other side sends at
once.  An opener that is cancelled, or cannot know how its request went, sends an abort behind the
request: the other side breaks off what it made of it.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from contextlib import suppress
from typing import Any, Protocol

import trio

from steinadler.config import StreamSettings
from steinadler.delivery.offers import Offers
from steinadler.errors import (
    ClaimError,
    ConfigError,
    LocalProtocolError,
    NameConflict,
    NodeClosed,
    NodeDown,
    NoSuchProcess,
    NoSuchService,
    NotAuthorized,
    ProcessExited,
    RemoteError,
    StreamError,
    StreamRefused,
)
from steinadler.identity import NodeId, ProcessName, SinkRef, SourceRef, check_service
from steinadler.membership import Member
from steinadler.security.policy import Action, Gate
from steinadler.stream.byte_stream import ByteStream, StreamListener
from steinadler.stream.inlet import Inlet
from steinadler.stream.object_channel import ReceiveChannel, SendChannel, SharedEnd
from steinadler.stream.outlet import SendingEnd
from steinadler.stream.service import SERVICE
from steinadler.stream.table import Links, StreamTable, closed_by_receiver
from steinadler.transport.link import Link
from steinadler.wire.channels import Target, ToName, ToStream
from steinadler.wire.codec import Codec
from steinadler.wire.frames import FrameType
from steinadler.wire.signals import Signal, StreamAbort

# The label that names the services that a node offers, with commas between.
LABEL = "$services"

_REFUSALS: dict[str, type[StreamError]] = {
    kind.__name__: kind for kind in (NoSuchService, StreamRefused, ClaimError)
}


def services_of(member: Member) -> list[str]:
    """The services that a member offers, as its label says."""
    label = member.label(LABEL)
    return label.split(",") if label else []


def _lose(end: Inlet | SendingEnd, error: Exception) -> None:
    if isinstance(end, Inlet):
        end.finish(error)
    else:
        end.lose(error)


class Cluster(Links, Protocol):
    """What streams ask of their node."""

    id: NodeId

    @property
    def guard(self) -> Gate: ...
    def members(self) -> tuple[Member, ...]: ...
    def link_to(self, name: str) -> Link: ...
    async def call(self, destination: ProcessName, request: object) -> Any: ...
    def post(self, node: NodeId, target: Target, signal: Signal) -> None: ...
    def set_own_label(self, name: str, value: str | None) -> None: ...
    def require_open(self) -> None: ...


class Streams:
    """Opens streams.  What is open is in the `table`."""

    def __init__(
        self,
        cluster: Cluster,
        codec: Codec,
        settings: StreamSettings,
        window_bytes: int,
        rng: random.Random,
    ) -> None:
        self._cluster = cluster
        self.guard = cluster.guard
        self._me = cluster.id
        self._codec = codec
        self._settings = settings
        self.table = StreamTable(cluster.id, cluster, cluster.post, window_bytes)
        self._next_number = 1
        self._offers: Offers[Inlet | SendingEnd] = Offers(rng, settings.claim_timeout_s)
        self._offered = trio.Event()
        self._listeners: dict[str, StreamListener] = {}
        self._turns: Counter[str] = Counter()  # of services with "@*": whose turn it is

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch over what is on offer, until cancelled."""
        task_status.started()
        while True:
            self._offered = trio.Event()
            with trio.move_on_at(self._offers.next_deadline()):
                await self._offered.wait()
            for end in self._offers.expire(trio.current_time()):
                error = ClaimError(
                    "nobody claimed the other end of this channel within "
                    f"{self._settings.claim_timeout_s:g} s (claim_timeout_s)"
                )
                _lose(end, error)

    def close(self) -> None:
        """The node closes: offer no services any more."""
        for listener in list(self._listeners.values()):
            listener.close()

    def end(self) -> None:
        """The node has closed: nobody here is to wait for what no other node will end."""
        self.table.peer_lost(self._me, "closed")
        for end in self._offers.expire(math.inf):
            _lose(end, NodeDown(self._me.name, "closed"))

    # -- channels of objects ------------------------------------------------------------------

    def open_channel(self) -> tuple[SendChannel, ReceiveChannel]:
        """See `Node.open_channel`."""
        self._cluster.require_open()
        target = ToStream(self._take_number(), by_sender=True)
        inlet = self.table.new_inlet(self._me, target, FrameType.MESSAGES)
        sending = self.table.new_sending(self._me, target)
        sending.bind(self.table.outlet(self._me, target))

        together = True

        def offer(staying: Inlet | SendingEnd) -> int:
            nonlocal together
            if not (together and sending.open and not inlet.closed):
                raise LocalProtocolError("the channel's other end was closed, or given away")
            if inlet.received_bytes:
                raise LocalProtocolError(
                    "something was sent already: give an end away before you send"
                )
            together = False
            self.table.remove_inlet(inlet)
            self.table.remove_sending(sending)
            sending.unbind()
            self._offered.set()
            return self._offers.add(staying, trio.current_time())

        return (
            SendChannel(SharedEnd(sending, self._codec, lambda: offer(inlet))),
            ReceiveChannel(SharedEnd(inlet, self._codec, lambda: offer(sending))),
        )

    async def claim(self, reference: SourceRef | SinkRef) -> SendChannel | ReceiveChannel:
        """See `Node.claim`."""
        if not isinstance(reference, (SourceRef, SinkRef)):
            raise ConfigError(f"{reference!r:.300} is no reference to the end of a channel")
        node, number = reference.node, self._take_number()
        if isinstance(reference, SourceRef):
            arriving = ToStream(number, by_sender=False)
            inlet = self.table.new_inlet(node, arriving, FrameType.MESSAGES)
            await self._ask(node, number, ("source", reference.token, number))
            return ReceiveChannel(SharedEnd(inlet, self._codec, None))
        sending = self.table.new_sending(node, ToStream(number, by_sender=True))
        await self._ask(node, number, ("sink", reference.token, number))
        self._bind(sending)
        return SendChannel(SharedEnd(sending, self._codec, None))

    def source_claimed(self, claimer: NodeId, token: int, number: int) -> None:
        """A peer is to receive what is sent here.  Raises `ClaimError`, `NodeDown`."""
        sending = self._on_offer(token)
        if not isinstance(sending, SendingEnd):
            raise ClaimError("the token is of a sink")
        self.table.require_unused(claimer, number)
        target = ToStream(number, by_sender=False)
        outlet = self.table.outlet(claimer, target)
        sending.peer, sending.target = claimer, target
        if sending.open:
            self.table.add_sending(sending)
        self._offers.claimed(token)
        sending.bind(outlet)

    def sink_claimed(self, claimer: NodeId, token: int, number: int) -> None:
        """A peer is to send what is received here.  Raises `ClaimError`."""
        inlet = self._on_offer(token)
        if not isinstance(inlet, Inlet):
            raise ClaimError("the token is of a source")
        if inlet.closed:
            raise ClaimError("the receiving end was closed")
        self.table.require_unused(claimer, number)
        inlet.peer, inlet.target = claimer, ToStream(number, by_sender=True)
        self.table.add_inlet(inlet)
        self._offers.claimed(token)

    def _on_offer(self, token: int) -> Inlet | SendingEnd:
        found = self._offers.find(token)
        if found is None:
            raise ClaimError(
                "it was claimed already: a reference is for one"
                if self._offers.was_claimed(token)
                else f"{self._me} has nothing on offer under it: out of time, or made up"
            )
        return found

    # -- streams of bytes ---------------------------------------------------------------------

    def listen(self, service: str, backlog: int) -> StreamListener:
        """See `Node.listen`."""
        check_service(service)
        self.guard.require_of_us(Action.OFFER, service)
        if backlog < 1:
            raise ConfigError(f"backlog must be at least 1, not {backlog!r}")
        if service in self._listeners:
            raise NameConflict(f"{self._me} offers the service {service!r} already")
        try:
            self._announce({*self._listeners, service})
        except ConfigError as error:
            raise ConfigError(
                f"the names of this node's services would be too long together: {error}"
            ) from None
        listener = self._listeners[service] = StreamListener(service, backlog, self._unlisten)
        return listener

    def _unlisten(self, listener: StreamListener) -> None:
        del self._listeners[listener.service]
        with suppress(NodeClosed):  # then the others know that it offers nothing any more
            self._announce(set(self._listeners))

    def _announce(self, services: set[str]) -> None:
        self._cluster.set_own_label(LABEL, ",".join(sorted(services)) or None)

    def offering(self, service: str) -> list[NodeId]:
        """The members that offer a service."""
        return [each.node for each in self._cluster.members() if self._offers_it(each, service)]

    def _offers_it(self, member: Member, service: str) -> bool:
        """Whether its label says so, and it may."""
        return service in services_of(member) and self.guard.may(member.node, Action.OFFER, service)

    def services(self) -> dict[str, tuple[Member, ...]]:
        """See `Node.services`."""
        members = self._cluster.members()
        names = sorted({name for member in members for name in services_of(member)})
        found = {name: tuple(m for m in members if self._offers_it(m, name)) for name in names}
        return {name: offering for name, offering in found.items() if offering}

    async def connect(self, service: str) -> ByteStream:
        """See `Node.connect`."""
        if not isinstance(service, str):
            raise ConfigError(f"{service!r:.300} is no service: write 'name@node' or 'name@*'")
        name, _, where = service.partition("@")
        check_service(name)
        self._cluster.require_open()
        if where == "*":
            return await self._connect_to_any(name)
        here = where in ("", self._me.name)
        return await self._connect(self._me if here else self._cluster.link_to(where).node, name)

    async def _connect_to_any(self, service: str) -> ByteStream:
        refusal: Exception = NoSuchService(f"no member offers the service {service!r}")
        nodes = self.offering(service)
        if not nodes:
            await trio.lowlevel.checkpoint()
        turn = 0
        if len(nodes) > 1:
            turn = self._turns[service] % len(nodes)
            self._turns[service] += 1
        for node in nodes[turn:] + nodes[:turn]:
            try:
                return await self._connect(node, service)
            except (StreamError, NodeDown, NotAuthorized) as error:
                refusal = error  # nothing was sent yet: another one is as good
        raise refusal

    async def _connect(self, node: NodeId, service: str) -> ByteStream:
        return await self.open(node, SERVICE, ("connect", service), service)

    async def open(
        self, node: NodeId, process: str, request: tuple[Any, ...], service: str
    ) -> ByteStream:
        """Open a stream to a process of another node which calls `accept` for it.

        It is asked `request`, with the number of the stream at its end.  Cancelled, or refused,
        there is no stream.  Raises `NodeDown`, and what the process answers: `StreamRefused` and
        `NoSuchService` as themselves, `NotAuthorized`, other errors as `RemoteError`.
        """
        number = self._take_number()
        arriving, leaving = ToStream(number, by_sender=False), ToStream(number, by_sender=True)
        inlet = self.table.new_inlet(node, arriving, FrameType.BYTES, service)
        sending = self.table.new_sending(node, leaving, service)
        await self._ask(node, number, (*request, number), process)
        self._bind(sending)
        return ByteStream(sending, inlet, service)

    def connected(self, caller: NodeId, service: str, number: int) -> None:
        """A peer connects.  Raises `NoSuchService`, and as `accept` does."""
        listener = self._listeners.get(service)
        if listener is None:
            offered = ", ".join(sorted(self._listeners)) or "none"
            raise NoSuchService(
                f"{self._me} offers no service {service!r:.300}; its services are: {offered:.1000}"
            )
        if listener.full:
            raise StreamRefused(
                f"as many connections wait for {service!r} on {self._me} as its backlog allows"
            )
        listener.put(self.accept(caller, number, service))

    def accept(self, caller: NodeId, number: int, service: str) -> ByteStream:
        """The end here of a stream that a peer opens under that number.

        Raises `StreamRefused`, `NodeDown`; `RemoteProtocolError` for a number in use.
        """
        self.table.require_unused(caller, number)
        most = self._settings.max_streams
        if caller != self._me and self.table.opened_by(caller) >= most:
            raise StreamRefused(
                f"{caller} has opened {most} streams to {self._me} (its max_streams)"
            )
        leaving = ToStream(number, by_sender=False)
        outlet = self.table.outlet(caller, leaving)
        arriving = ToStream(number, by_sender=True)
        inlet = self.table.new_inlet(caller, arriving, FrameType.BYTES, service)
        sending = self.table.new_sending(caller, leaving, service)
        sending.bind(outlet)
        return ByteStream(sending, inlet, service)

    # -- opening ------------------------------------------------------------------------------

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    async def _ask(
        self, node: NodeId, number: int, request: tuple[Any, ...], process: str = SERVICE
    ) -> None:
        """Have the other node make its ends; when that fails there are none here either."""
        try:
            if node != self._me:
                self._cluster.link_to_life(node)
            await self._cluster.call(ProcessName(process, node.name), request)
        except BaseException as error:
            self.table.forget(node, number)
            if isinstance(error, (NoSuchProcess, ProcessExited)):  # its processes have ended
                raise NodeDown(node.name, "it is closing, and opens no streams") from None
            if isinstance(error, RemoteError) and error.type_name in _REFUSALS:
                raise _REFUSALS[error.type_name](error.text) from None
            if isinstance(error, NotAuthorized):
                raise
            # Behind the request, and behind its being taken back.
            self._cluster.post(node, ToName(process), StreamAbort(number))
            raise

    def _bind(self, sending: SendingEnd) -> None:
        """The other side said that its end is there; it may have been closed since."""
        try:
            sending.bind(self.table.outlet(sending.peer, sending.target))
        except NodeDown as error:
            sending.lose(error)
        except ClaimError:
            sending.break_off(closed_by_receiver(None))
