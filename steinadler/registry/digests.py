"""What a node holds of all the others, in 256 bytes: the summary that two nodes compare.

Members fall into 32 buckets by their names, and a bucket's hash is the sum of its members'.  So a
change costs one hash more, however many members there are, and where two nodes differ, only the
buckets that differ are gone through.  One hash over a sorted table was refused: at a thousand
members it costs a thousand steps each time, and says nothing of where the difference is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from hashlib import blake2b

from steinadler.identity import NodeId
from steinadler.registry.messages import BUCKETS
from steinadler.registry.replica import Replica

_SUMS = 2**64
_LAYOUT = struct.Struct(f">{BUCKETS}Q")


class Digests:
    """The hashes of a node's replicas, brought up to date when they are asked for."""

    def __init__(self, replicas: Mapping[NodeId, Replica]) -> None:
        self._replicas = replicas
        self._sums = [0] * BUCKETS
        self._shares: dict[NodeId, int] = {}  # of each member in its bucket's sum
        self._buckets: dict[NodeId, int] = {}
        self._changed: set[NodeId] = set()

    def changed(self, origin: NodeId) -> None:
        """That member's replica is another than before, or gone."""
        self._changed.add(origin)

    def summary(self) -> bytes:
        """The hashes of all buckets."""
        for origin in self._changed:
            bucket = self._buckets.setdefault(origin, _bucket(origin))
            share = self._share(origin)
            before = self._shares.pop(origin, 0)
            self._sums[bucket] = (self._sums[bucket] + share - before) % _SUMS
            if share:
                self._shares[origin] = share
            if origin not in self._replicas:
                del self._buckets[origin]
        self._changed.clear()
        return _LAYOUT.pack(*self._sums)

    def differing(self, other: bytes) -> list[NodeId]:
        """The members in the buckets that are not the same there, by name."""
        mine = _LAYOUT.unpack(self.summary())
        differ = [one != two for one, two in zip(mine, _LAYOUT.unpack(other), strict=True)]
        if not any(differ):
            return []
        return sorted(
            origin
            for origin in self._replicas
            if differ[self._buckets.setdefault(origin, _bucket(origin))]
        )

    def _share(self, origin: NodeId) -> int:
        """0 for whoever has nothing, so that one who does not know him holds the same; and for
        what is not whole."""
        replica = self._replicas.get(origin)
        if replica is None or not replica.version or not replica.whole:
            return 0
        told = f"{origin.name}\0{origin.incarnation}\0{replica.version}\0{replica.check}".encode()
        return int.from_bytes(blake2b(told, digest_size=8).digest())


def _bucket(origin: NodeId) -> int:
    return blake2b(origin.name.encode(), digest_size=1).digest()[0] % BUCKETS
