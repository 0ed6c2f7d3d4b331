"""From an address to an attached link: what this node does to reach others.

    dial_member(peer)      each address of a member, until one of them is connected
    dial_proposed(address) one dial to all that discovery saw there

Who is to be dialled, and when again, is decided by `Connections`.  Here an address is looked up,
dialled and greeted, and what went wrong is told once: to the log, by address and kind of failure,
and to the `Delegate`, if it says something about the member.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from enum import Enum

import trio

from steinadler.config import DialSettings
from steinadler.errors import RemoteProtocolError, SecurityError
from steinadler.identity import Address
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


class Dialler:
    """How one node dials.

    `peer_called` finds or makes the record of a name; `carry` takes over a connection that was
    attached, and `forget_unused` a name that came to nothing.
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
        self._network = network
        self._handshakes = handshakes
        self._settings = settings
        self._rng = rng
        self._delegate = delegate
        self._peer_called = peer_called
        self._carry = carry
        self._forget_unused = forget_unused
        self._complaints: dict[Address, str] = {}  # the latest of each address, to log it once
        self._ourselves: set[Address] = set()  # where we found ourselves

    def is_ourselves(self, address: Address) -> bool:
        """Whether dialling `address` would only find this node."""
        return address in self._handshakes.addresses or address in self._ourselves

    async def dial_member(self, peer: Peer) -> DialOutcome:
        """Try everywhere that the peer may be.  Refused is what was refused where it was seen."""
        good = peer.good_address
        result = DialOutcome.FAILED
        for address in peer.addresses_to_dial():
            outcome = await self._dial(address, peer.name)
            if outcome is DialOutcome.CONNECTED:
                return outcome
            if outcome is DialOutcome.REFUSED and (good is None or address == good):
                result = outcome
        return result

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
        stream: SecureStream | None = None
        connected = False
        try:
            with trio.move_on_after(self._settings.dial_timeout_s):
                stream = await self._network.dial(address)
            if stream is None:
                raise DialError("no answer in time", refused=False)
            connected = await self._greet(stream, address, expected)
        except DialError as error:
            unlike = isinstance(error.__cause__, SecurityError)  # somebody has to do something
            self._complain(address, str(error), logging.WARNING if unlike else logging.INFO)
            if error.refused:
                return DialOutcome.REFUSED
        except (RemoteProtocolError, trio.BrokenResourceError) as error:
            self._complain(address, f"the handshake failed: {error}")
        finally:
            if stream is not None and not connected:
                stream.close_nowait()
                self._forget_unused(stream.peer.name)
        if not connected:
            return DialOutcome.FAILED
        self._complaints.pop(address, None)
        return DialOutcome.CONNECTED

    async def _greet(self, stream: SecureStream, address: Address, expected: str | None) -> bool:
        """Shake hands with whoever is there, unless we are connected to it or about to be."""
        name = stream.peer.name
        if stream.peer.is_observer or expected not in (None, name):
            raise DialError(f"{stream.peer} listens there now", refused=True)
        peer = self._peer_called(name)
        if peer.connected:
            peer.was_found_at(address)
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
                self._ourselves.add(address)
            case Reject() as reject:
                self._complain(address, f"turned away ({reject.reason}): {reject.detail}")
                self._delegate.rejected(reject, name)
            case None:
                pass
        return False

    def _complain(self, address: Address, text: str, level: int = logging.INFO) -> None:
        """Log a failure, once per address and kind of failure."""
        if self._complaints.get(address) != text:
            if len(self._complaints) >= MAX_REMEMBERED:
                self._complaints.clear()
            self._complaints[address] = text
            logger.log(level, "cannot connect to %s: %s", address, text)
