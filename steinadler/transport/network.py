"""The rim: what the rest of the code needs of a network, and nothing else.

A stream goes to its peer directly, or through a third node which carries bytes that it cannot read
(`Via`); whoever is at the other end has proved itself either way, and only `remote` tells which it
is.

Two implementations exist: `steinadler.transport.tcp` (TCP and mutual TLS 1.3) and the simulated
network of `steinadler.testing`.  Both hand out streams whose far end has already proved who it
is, so nothing above this line ever sees an unauthenticated byte.
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable

import trio

from steinadler.identity import Address
from steinadler.security.credentials import Credentials
from steinadler.security.peer import PeerIdentity as PeerIdentity
from steinadler.transport.carrier import Carrier, Via


class SecureStream(abc.ABC):
    """A byte stream to an authenticated peer.

    All methods but `close_nowait` raise `trio.BrokenResourceError` when the connection failed
    and `trio.ClosedResourceError` when this side closed it.  One task may send while another
    receives; two may not do the same.
    """

    peer: PeerIdentity
    remote: Address | Via
    # The peer's, in DER; empty where the network authenticates otherwise.
    certificate: bytes = b""

    @property
    def direct(self) -> bool:
        """Whether no third node carries it."""
        return not isinstance(self.remote, Via)

    @abc.abstractmethod
    def write_nowait(self, data: bytes) -> bool:
        """Take all of `data`, and hand as much as possible to the network without waiting.

        Return True when everything went out.  On False the stream keeps the rest, and `flush`
        must be awaited before the next write.
        """

    @abc.abstractmethod
    async def flush(self) -> None:
        """Wait until everything that `write_nowait` took has gone out.

        Cancellation loses nothing: the rest stays with the stream.
        """

    @abc.abstractmethod
    async def receive_some(self) -> bytes:
        """Wait for bytes and return all that are at hand; `b""` is the end of the stream.

        Cancellation loses nothing.
        """

    @abc.abstractmethod
    def close_nowait(self) -> None:
        """Close at once, without a word to the peer.  Never raises, never waits; repeatable."""


class DialError(Exception):
    """A dial came to nothing.

    `refused` is True when the host answered that nobody listens there, or somebody else does:
    strong evidence that the node which used to is gone.
    """

    def __init__(self, text: str, *, refused: bool) -> None:
        super().__init__(text)
        self.refused = refused


class Network(abc.ABC):
    """How a node reaches others.  One per node: it holds the node's credentials."""

    identity: PeerIdentity
    # What they are in certificates, where the network authenticates by them.
    credentials: Credentials | None = None

    def judge_again(self, stream: SecureStream) -> None:
        """Raise `SecurityError` when the peer of this stream would not be let in any more."""
        if self.credentials is not None and stream.certificate:
            self.credentials.judge_again(stream.certificate)

    @abc.abstractmethod
    async def serve(
        self,
        host: str | None,
        port: int,
        handler: Callable[[SecureStream], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled, and run `handler(stream)` in a task for every peer that
        authenticates.

        `port` 0 is any free port; `host` None is every interface.  Started through
        `nursery.start`, it returns the addresses at which peers may reach the port, the
        likeliest first.  Raises `ConfigError` when the port is in use or the host is not this
        machine's.  Peers that do not authenticate in time, or at all, never reach `handler`;
        each is one line in the log.  The stream is the handler's to close.
        """

    async def look_up(self, address: Address) -> tuple[Address, ...]:
        """Everything that `address` stands for: itself, unless its host is a name to be looked up.

        Raises `DialError` when the name stands for nothing.  Waits without limit: the caller
        bounds it.
        """
        return (address,)

    @abc.abstractmethod
    async def dial(self, address: Address) -> SecureStream:
        """Connect and authenticate; raise `DialError` when that does not work.

        Waits without limit: the caller bounds it.  Cancellation leaves nothing open.
        """

    @abc.abstractmethod
    async def dial_over(self, carrier: Carrier) -> SecureStream:
        """As `dial`, over a way to the peer that is there.  Takes ownership of it."""

    @abc.abstractmethod
    async def welcome(
        self, carrier: Carrier, handler: Callable[[SecureStream], Awaitable[None]]
    ) -> None:
        """Have who came this way authenticate, in time, and run `handler(stream)`.

        As for those who come to the port: see `serve`.  Takes ownership of the carrier.
        """
