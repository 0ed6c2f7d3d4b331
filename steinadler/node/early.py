"""What comes early: from a node that is connected, and down for this one.

    link connected, its node down --> expect
    items on such a link          --> keep ... take, in their order, once the node is up
    the link ended                --> forget

Two nodes that gave each other up are connected before either knows that the other lives: that takes
word of its own death to each, and its refutation.  What one sends as soon as it does may be here
before that, and waits: nothing comes from a node between its `NodeDown` and its `NodeUp` (D3), as
in Erlang.  Messages and streams are no more than the peer has credit for.  Signals and replies cost
none, so they are counted: a peer that never says that it lives makes nothing grow (X4).
"""

from __future__ import annotations

from steinadler.errors import RemoteProtocolError
from steinadler.transport.link import Link
from steinadler.wire.frames import FrameType
from steinadler.wire.session import Arrived

# Of one link, without credit: a round trip's worth of monitors and links; each costs some 100 more.
MAX_EARLY_BYTES = 8 * 1024 * 1024
_ITEM_BYTES = 100


class Early:
    """The items that wait at one node."""

    def __init__(self) -> None:
        self._kept: dict[Link, list[Arrived]] = {}
        self._bytes: dict[Link, int] = {}  # that cost no credit

    def __contains__(self, link: Link) -> bool:
        return link in self._kept

    def expect(self, link: Link) -> None:
        """What comes on that link is to wait, from now on."""
        self._kept.setdefault(link, [])

    def keep(self, link: Link, items: Arrived) -> None:
        """Raises `RemoteProtocolError` when there is more than MAX_EARLY_BYTES."""
        if items.type in (FrameType.SIGNALS, FrameType.REPLIES):
            held = self._bytes.get(link, 0)
            held += sum(len(body) + _ITEM_BYTES for body in items.bodies)
            if held > MAX_EARLY_BYTES:
                raise RemoteProtocolError("it is down, and says much before it says that it lives")
            self._bytes[link] = held
        self._kept[link].append(items)

    def take(self, link: Link) -> list[Arrived]:
        """What has come; the link's items wait no more.  Also when it has ended, to forget them."""
        self._bytes.pop(link, None)
        return self._kept.pop(link, [])
