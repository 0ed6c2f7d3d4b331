"""What a table holds, in 32 numbers that are equal where two tables are.

A name belongs to a bucket, and a bucket's digest is the XOR of the hashes of its records, so that a
change takes the same time however large the table is.  Only members are in it, and of them what the
node itself said last: name, incarnation and refutation.  Suspicions come and go while summaries
travel; and who is down is forgotten by each node in its own time, so that tables would differ for
minutes where nothing is wrong.
"""

from __future__ import annotations

from hashlib import blake2b
from zlib import crc32

from steinadler.membership.members import Member
from steinadler.membership.messages import BUCKETS

# Under 2**62, which every integer of the protocol is.
_HASH_BYTES = 7


def bucket_of(name: str) -> int:
    """The bucket that a name is in."""
    return crc32(name.encode()) % BUCKETS


class Digest:
    """The digests of a table."""

    def __init__(self) -> None:
        self._buckets = [0] * BUCKETS

    def toggle(self, record: Member) -> None:
        """Put a member's record in, or take it out again."""
        self._buckets[bucket_of(record.node.name)] ^= _hash(record)

    def buckets(self, me: Member) -> tuple[int, ...]:
        """All of them, with `me` beside what is in the table."""
        buckets = list(self._buckets)
        buckets[bucket_of(me.node.name)] ^= _hash(me)
        return tuple(buckets)


def _hash(record: Member) -> int:
    said = f"{record.node.name}\0{record.node.incarnation}\0{record.refutation}"
    return int.from_bytes(blake2b(said.encode(), digest_size=_HASH_BYTES).digest())
