"""From an address to an attached link: what this node does to reach others.

    dial_member(peer)      each address of a member, or else through a third one
    dial_directly(peer)    each address of a member, until one of them is connected
    dial_proposed(address) one dial to all that discovery saw there

Who is to be dialled, and when again, is decided by `Connections`.  Here an address is looked up,
dialled and greeted, and what went wrong is told once: to the log, by address and kind of failure,
and to the `Delegate`, if it says something about the member: a refusal does, from where its present
life was seen to be.  Of an address that it only says it has, it may mean nothing: behind NAT, or
where private networks overlap, some other machine has that.

**Through a third one.**  When a member's addresses are silent for `relay_after_s`, or fail, or it
has none, another member is asked to carry the bytes (`Relays`); the handshake is the same, end to
end.  The direct attempt goes on meanwhile, and whichever greets first is kept.  Waiting for every
address to time out first was refused: a packet filter that drops would delay each message by
`dial_timeout_s` for each of them.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Protocol

import trio

from steinadler.config import DialSettings
from steinadler.errors import RemoteProtocolError, SecurityError
from steinadler.identity import Address, NodeId
from steinadler.transport.carrier import Carrier
from steinadler.transport.delegate import Delegate
from steinadler.transport.handshake import Greeted, Handshakes
from steinadler.transport.link import Link
from steinadler.transport.network import DialError, Network, SecureStream
from steinadler.transport.peer import Peer
from steinadler.wire.handshake import Reject, RejectReason

logger = logging.getLogger("steinadler.transport")

# How many addresses are remembered for their failures, or as our own, so that neither discovery
# nor a peer's records can make this grow.
MAX_REMEMBERED = 1024
# How many of the addresses behind one name are dialled in one go; which ones, is drawn.
MAX_BEHIND_A_NAME = 16


class DialOutcome(Enum):
    """How one attempt to reach a peer ended."""

    CONNECTED = "connected"
    REFUSED = "refused"
    FAILED = "failed"


class Relays(Protocol):
    """Who can have others carry what goes to a member."""

    async def reach(self, node: NodeId) -> Carrier:
        """A way to that life of a member through another one; raises `DialError`.

        Waits without limit: the caller bounds it.  Cancellation leaves nothing open.
        """


class Dialler:
    """How one node dials.

    `peer_called` finds or makes the record of a name; `carry` takes over a connection that was
    attached, and `forget_unused` a name that came to nothing.  Without `relays` members are
    dialled directly and in no other way.
    """

    def __init__(
        self,
        network: Network,
        handshakes: Handshakes,
        settings: DialSettings,
        rng: random.Random,
        delegate: Delegate,
        *,
        peer_called: Callable[[str], Peer],
        carry: Callable[[Peer, Link, SecureStream, bytes], None],
        forget_unused: Callable[[str], None],
    ) -> None:
        self.relays: Relays | None = None
        self._network = network
        self._handshakes = handshakes
        self._settings = settings
        self._rng = rng
        self._delegate = delegate
        self._peer_called = peer_called
        self._carry = carry
        self._forget_unused = forget_unused
        self._complaints: dict[Address | str, str] = {}  # the latest of each, to log it once
        self._ourselves: set[Address] = set()  # where we found ourselves

    def is_ourselves(self, address: Address) -> bool:
        """Whether dialling `address` would only find this node."""
        return address in self._handshakes.addresses or address in self._ourselves

    async def dial_member(self, peer: Peer) -> bool:
        """Try everywhere that the peer may be, and through others; whether it is connected."""
        connected = False
        tried = trio.Event()

        async def dial_through_another() -> None:
            nonlocal connected
            with trio.move_on_after(self._settings.relay_after_s):
                await tried.wait()
            if await self._dial_relayed(peer):
                connected = True
                nursery.cancel_scope.cancel()

        # Whoever is cancelled is not in its greeting: two are never in it at a time (`_greet`).
        async with trio.open_nursery() as nursery:
            if self.relays is not None:
                nursery.start_soon(dial_through_another)
            if await self.dial_directly(peer):
                connected = True
                nursery.cancel_scope.cancel()
            tried.set()
        return connected

    async def dial_directly(self, peer: Peer) -> bool:
        """Try everywhere that the peer may be; whether it is connected."""
        for address in peer.addresses_to_dial():
            link = peer.link
            match await self._dial(address, peer.name):
                case DialOutcome.CONNECTED:
                    return True
                case DialOutcome.REFUSED if link is peer.link and address == peer.seen_at:
                    if link is not None:
                        self._delegate.peer_refused(link.node)
        return False

    async def dial_proposed(self, address: Address) -> tuple[Address, ...]:
        """Dial whoever is at a literal address; return what a name stands for."""
        found = await self._look_up(address)
        if found == (address,):
            await self._dial(address, None)
            return ()
        return found

    async def _look_up(self, address: Address) -> tuple[Address, ...]:
        """What a proposed address stands for; nothing when that cannot be told."""
        try:
            found: tuple[Address, ...] | None = None
            with trio.move_on_after(self._settings.dial_timeout_s):
                found = await self._network.look_up(address)
            if found is None:
                raise DialError("the name was not found in time", refused=False)
        except DialError as error:
            self._complain(address, str(error))
            return ()
        if found != (address,):
            self._complaints.pop(address, None)
        if len(found) > MAX_BEHIND_A_NAME:
            return tuple(self._rng.sample(found, MAX_BEHIND_A_NAME))
        return found

    async def _dial(self, address: Address, expected: str | None) -> DialOutcome:
        """Connect to `address` and shake hands, as whoever turns out to be there, or only if it
        is `expected`.  On success somebody else carries the connection."""
        return await self._attempt(lambda: self._network.dial(address), address, expected)

    async def _dial_relayed(self, peer: Peer) -> bool:
        """Connect to the peer through another member, and shake hands."""
        relays, link = self.relays, peer.link
        if relays is None or link is None:
            return False

        async def dial() -> SecureStream:
            return await self._network.dial_over(await relays.reach(link.node))

        outcome = await self._attempt(dial, f"{peer.name} through another member", peer.name)
        return outcome is DialOutcome.CONNECTED

    async def _attempt(
        self,
        dial: Callable[[], Awaitable[SecureStream]],
        where: Address | str,
        expected: str | None,
    ) -> DialOutcome:
        stream: SecureStream | None = None
        connected = False
        try:
            with trio.move_on_after(self._settings.dial_timeout_s):
                stream = await dial()
            if stream is None:
                raise DialError("no answer in time", refused=False)
            connected = await self._greet(stream, where, expected)
        except DialError as error:
            unlike = isinstance(error.__cause__, SecurityError)  # somebody has to do something
            self._complain(where, str(error), logging.WARNING if unlike else logging.INFO)
            if error.refused:
                return DialOutcome.REFUSED
        except (RemoteProtocolError, trio.BrokenResourceError) as error:
            self._complain(where, f"the handshake failed: {error}")
        finally:
            if stream is not None and not connected:
                stream.close_nowait()
                self._forget_unused(stream.peer.name)
        if not connected:
            return DialOutcome.FAILED
        self._complaints.pop(where, None)
        return DialOutcome.CONNECTED

    async def _greet(
        self, stream: SecureStream, where: Address | str, expected: str | None
    ) -> bool:
        """Shake hands with whoever is there, unless we are connected to it as well or better, or
        about to be."""
        name = stream.peer.name
        if stream.peer.is_observer or expected not in (None, name):
            raise DialError(f"{stream.peer} listens there now", refused=stream.direct)
        peer = self._peer_called(name)
        if peer.is_relayed and stream.direct:
            await peer.part()
        if peer.connected:
            if isinstance(where, Address):
                peer.was_found_at(where)
            return False
        if peer.dial is not None:
            return False  # somebody else in here is faster
        match await self._handshakes.greet(stream, peer):
            case Greeted(link, rest):
                self._carry(peer, link, stream, rest)
                return True
            case Reject(RejectReason.SELF):
                if len(self._ourselves) >= MAX_REMEMBERED:
                    self._ourselves.clear()
                if isinstance(where, Address):
                    self._ourselves.add(where)
            case Reject() as reject:
                self._complain(where, f"turned away ({reject.reason}): {reject.detail}")
                self._delegate.rejected(reject, name)
            case None:
                pass
        return False

    def _complain(self, where: Address | str, text: str, level: int = logging.INFO) -> None:
        """Log a failure, once per place and kind of failure."""
        if self._complaints.get(where) != text:
            if len(self._complaints) >= MAX_REMEMBERED:
                self._complaints.clear()
            self._complaints[where] = text
            logger.log(level, "cannot connect to %s: %s", where, text)
