"""Placement: which member owns an entity, by rendezvous hashing.

Every member that hosts the type gets a score from the hash of its name and the key, and the
highest owns the entity (Thaler & Ravishankar, "Using name-based mappings to increase hit rates",
1998).  Whoever knows the same members picks the same owner, without talking; and when a member
comes or goes only the entities that it owns then, or owned before, change hands.  Consistent
hashing on a ring was refused: it needs virtual nodes to spread as evenly, and state to keep.

Names are hashed, not lives: a node that comes back gets back what it owned.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from steinadler.identity import EntityKey


def owner_of(key: EntityKey, hosts: Iterable[str]) -> str | None:
    """The name of the host that owns an entity; None when there are no hosts."""
    about = b"\0" + key.type.encode() + b"\0" + key.id.encode()
    return max(hosts, key=lambda name: (_score(name.encode() + about), name), default=None)


def _score(data: bytes) -> bytes:
    return blake2b(data, digest_size=8).digest()
