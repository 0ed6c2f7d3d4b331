"""Rendezvous hashing: who of some nodes gets a key, so that all who know them pick the same.

Every node has a score from the hash of its name and the key, and the highest wins (Thaler &
Ravishankar, "Using name-based mappings to increase hit rates", 1998).  Whoever knows the same nodes
picks the same one, without talking; and when a node comes or goes only the keys that it has then,
or had before, change hands.  Consistent hashing on a ring was refused: it needs virtual nodes to
spread as evenly, and state to keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


def pick(nodes: Iterable[str], *key: str) -> str | None:
    """The one of `nodes` that gets the key; None when there are none."""
    about = _about(key)  # once for all nodes: each call to an entity comes here
    return max(nodes, key=lambda node: (_hash(node, about), node), default=None)


def score(node: str, *key: str) -> bytes:
    """How high a node scores for a key."""
    return _hash(node, _about(key))


def _about(key: tuple[str, ...]) -> bytes:
    return "\0".join(("", *key)).encode()


def _hash(node: str, about: bytes) -> bytes:
    return blake2b(node.encode() + about, digest_size=8).digest()
