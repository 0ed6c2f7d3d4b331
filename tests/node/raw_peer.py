"""A peer that holds real credentials and says whatever a test wants it to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import trio

from steinadler import Node
from steinadler.config import DialSettings, WireSettings
from steinadler.identity import NODE, NodeId
from steinadler.security import open_home
from steinadler.transport.network import SecureStream
from steinadler.transport.tcp import TcpNetwork
from steinadler.wire.frames import Frame, FrameType, split_frame
from steinadler.wire.handshake import Hello, SessionOffer, decode_hello, encode_hello
from steinadler.wire.session import PeerLimits, Session

INCARNATION = 1_700_000_000_000_000


class RawPeer:
    """A connection of a peer called `name`, with a real certificate and a session of its own."""

    def __init__(self, stream: SecureStream, hello: Hello) -> None:
        self.stream = stream
        self.hello = hello
        self.session = Session(WireSettings())
        self._data = b""

    async def say(self, data: bytes) -> None:
        self.stream.write_nowait(data)
        await self.stream.flush()

    async def say_if_open(self, data: bytes) -> None:
        """As `say`, to a node that may have closed the connection in the middle of it."""
        with suppress(trio.BrokenResourceError):
            await self.say(data)

    async def next_frame(self) -> Frame | None:
        """The next frame; None when the other side has closed."""
        while (split := split_frame(self._data)) is None:
            try:
                more = await self.stream.receive_some()
            except trio.BrokenResourceError:
                more = b""
            if not more:
                return None
            self._data += more
        frame, self._data = split
        return frame

    async def shake_hands(self, **changes: object) -> Frame | None:
        """Say Hello, with `changes`, and return the answer."""
        await self.say(encode_hello(replace(self.hello, **changes)))  # type: ignore[arg-type]
        frame = await self.next_frame()
        if frame is not None and frame.type == FrameType.HELLO:
            theirs = decode_hello(frame.payload)
            self.session.connected(theirs.limits, 0)
        return frame

    async def send_session(self) -> None:
        """Send what the session has to send."""
        while data := self.session.data_to_send():
            await self.say(data)

    async def wait_closed(self) -> None:
        """Wait until the other side has closed the connection."""
        while await self.next_frame() is not None:
            pass


@asynccontextmanager
async def raw_peer(
    node: Node, home: Path, name: str = "mallory", role: str = NODE
) -> AsyncIterator[RawPeer]:
    """Connect to `node` as a member of its cluster; the handshake above TLS is the caller's."""
    opened = open_home(home)
    cluster = opened.default_cluster()
    credentials = opened.credentials(cluster, role, name)
    network = TcpNetwork(credentials, DialSettings(), WireSettings())
    stream = await network.dial(node.addresses[0])
    wire = WireSettings()
    hello = Hello(
        cluster_id=cluster.id,
        role=role,
        node=NodeId(name, INCARNATION),
        refutation=0,
        addresses=(),
        labels=(),
        features=(),
        limits=PeerLimits(wire.window_bytes, wire.max_message_bytes, wire.reassembly_bytes),
        session=SessionOffer(7, 0, 0, 1),
    )
    try:
        yield RawPeer(stream, hello)
    finally:
        stream.close_nowait()
