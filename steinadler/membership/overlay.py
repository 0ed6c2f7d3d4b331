"""The overlay: who is connected to whom, computed by each node from its table alone.

Up to `mesh_size` members everybody is everybody's neighbour.  Above it, all members stand on
`rings` rings, on each in an order of its own, and a member's neighbours are those before and after
it on every ring: twelve with six rings, at any size.

    ring r    all members, in the order of blake2b(name, salt=r)

**Those that only dial out** are reached through a neighbour that listens (`node.relaying`), and all
their neighbours may be of their kind.  So each is also a neighbour of the nearest before it and
after it on ring 0 that listen.  Whoever listens has the more of them, the fewer there are like it.

Random rings that are joined so make an expander: every part of the cluster has many connections to
the rest, news reaches n members in some log(n) steps, and many must fail together to cut it in two
(Law and Siu, "Distributed Construction of Random Expander Networks", INFOCOM 2003, who build
theirs by random walks).  Members that hold the same table compute the same rings, so both ends of
a connection know that it is to be kept, and anybody can tell anybody's neighbours.  One that comes
or goes changes the neighbours of twelve others and of nobody else.

Drawing neighbours at random, each member for itself, was refused: the two ends would not agree, a
member could be drawn by any number of others, and a third could not tell where a member is to be
reached.  Successors on one ring alone were refused too: news would need n / 12 steps.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from itertools import islice, takewhile

_PLACE_BYTES = 8


class Overlay:
    """All members by name, this node included, on their rings.

    10,000 members on six rings take about 5 MiB; what is asked takes a dozen binary searches.
    """

    def __init__(self, mesh_size: int, rings: int) -> None:
        self._mesh_size = mesh_size
        # A place is its hash and then its name, so that no two are equal.
        self._rings: list[list[bytes]] = [[] for _ in range(rings)]
        self._dialling_out: set[str] = set()  # and no more: nobody can dial them
        # How often it has changed.
        self.version = 0

    def __len__(self) -> int:
        return len(self._rings[0])

    @property
    def is_mesh(self) -> bool:
        """Whether everybody is everybody's neighbour."""
        return len(self) <= self._mesh_size

    def add(self, name: str, *, listens: bool = True) -> None:
        """`name` is a member from now on, which others can dial if it `listens`."""
        self.version += 1
        if not listens:
            self._dialling_out.add(name)
        for ring, place in zip(self._rings, _places(name, len(self._rings)), strict=True):
            insort(ring, place)

    def remove(self, name: str) -> None:
        """`name`, which was added, is a member no more."""
        self.version += 1
        self._dialling_out.discard(name)
        for ring, place in zip(self._rings, _places(name, len(self._rings)), strict=True):
            del ring[bisect_left(ring, place)]

    def neighbours_of(self, name: str) -> tuple[str, ...]:
        """The neighbours of a member; of any other name, those that it would have as one that only
        dials out.

        In an order that is the same on every node with the same members.
        """
        places = _places(name, len(self._rings))
        if self.is_mesh:
            return tuple(_name(place) for place in self._rings[0] if place != places[0])
        found: dict[str, None] = {}
        for ring, place in zip(self._rings, places, strict=True):
            at = bisect_left(ring, place)
            after = at + 1 if at < len(ring) and ring[at] == place else at
            found[_name(ring[at - 1])] = None
            found[_name(ring[after % len(ring)])] = None
        if self._dialling_out:
            found.update(dict.fromkeys(self._ways_in(name, places[0])))
        return tuple(found)

    def _ways_in(self, name: str, place: bytes) -> Iterator[str]:
        """Of one that only dials out, those that listen beside it; and the reverse."""
        ring = self._rings[0]
        at = bisect_left(ring, place)
        is_member = at < len(ring) and ring[at] == place
        listens = is_member and name not in self._dialling_out
        for step, first in ((-1, at - 1), (1, at + is_member)):
            beside = (
                _name(ring[(first + step * distance) % len(ring)])
                for distance in range(len(ring) - is_member)
            )
            if listens:
                yield from takewhile(self._dialling_out.__contains__, beside)
            else:
                listening = (other for other in beside if other not in self._dialling_out)
                yield from islice(listening, 1)


# Pure, and asked for the same names again and again; a name's places take about half a KiB.
@lru_cache(maxsize=65_536)
def _places(name: str, rings: int) -> tuple[bytes, ...]:
    data = name.encode()
    return tuple(
        blake2b(data, digest_size=_PLACE_BYTES, salt=ring.to_bytes(2)).digest() + data
        for ring in range(rings)
    )


def _name(place: bytes) -> str:
    return place[_PLACE_BYTES:].decode()
