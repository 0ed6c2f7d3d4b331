"""What registries say to each other, for the fuzzer: one node's registry, two neighbours, and a
member beyond them, about which both may say anything.

Beside the invariant of `fuzz_targets`: nobody's word changes what this node registered, nor that
of a neighbour's which only another one tells; and what goes out is what peers accept.
"""

from __future__ import annotations

import random

from steinadler.errors import RemoteProtocolError
from steinadler.identity import NodeId, ProcessId
from steinadler.registry import Registry
from steinadler.registry.effects import Tell
from steinadler.registry.messages import (
    SUMMARY_BYTES,
    GroupEntry,
    NameEntry,
    Removal,
    Summary,
    Update,
    Versions,
    Want,
    decode,
    encode,
)
from steinadler.registry.replica import Replica

ME, NEAR, NEXT, FAR = NodeId("me", 1), NodeId("near", 2), NodeId("next", 3), NodeId("far", 4)
MAX_TEXT = 1_000


def told(text: str) -> None:
    """The reason is one that a log can hold."""
    assert 0 < len(text) < MAX_TEXT


def registry(data: bytes) -> None:
    """REGISTRY frames, each after two bytes that say how long it is; the first of these bits says
    which neighbour sends it."""
    engine = Registry(ME, random.Random(1), lambda: (NEAR, NEXT))
    for node in (NEAR, NEXT, FAR):
        engine.member_up(node)
    engine.register("ours", 1, 5)
    engine.join("group", 1)
    engine.news()
    for node in (NEAR, NEXT):
        engine.neighbour_connected(node)
    now = 1.0
    while data:
        head = int.from_bytes(data[:2], "big")
        sender = NEAR if head & 0x8000 else NEXT
        payload, data = data[2 : 2 + (head & 0x7FFF)], data[2 + (head & 0x7FFF) :]
        try:
            message = decode(payload)
        except RemoteProtocolError as error:
            told(str(error))
            continue
        if message is None:
            continue
        assert decode(encode(message)) == message
        now += 0.3
        before = dict(engine._replicas[NEAR].names)
        effects = [*engine.received(sender, message, now), *engine.compare(now), *engine.news()]
        for effect in effects:
            if isinstance(effect, Tell):
                assert decode(encode(effect.message)) is not None
        assert set(engine._replicas) == {ME, NEAR, NEXT, FAR}, "nobody makes members"
        assert set(engine._exchange.arriving) <= {NEAR, NEXT, FAR}
        assert sender == NEAR or engine._replicas[NEAR].names == before
        assert ProcessId(ME, 1) in engine.members_of("group")
        for node in (NEAR, NEXT, FAR):  # who may say that they had it before
            for claim in engine.older_claims(node):
                assert engine.find("ours") != ProcessId(ME, 1)
                assert engine.lose(node, claim)
        assert engine.holds("ours", 1, 5) == (engine.find("ours") == ProcessId(ME, 1))
    for node in (NEAR, NEXT, FAR):
        engine.member_down(node)
    assert len(engine) == len(engine._own)


def _update(origin: NodeId, *entries: NameEntry | GroupEntry | Removal, base: int = 0) -> Update:
    replica = Replica(origin)
    for entry in entries:
        replica.apply(entry)
    return Update(origin, base, replica.version, replica.version, replica.check, entries)


_MESSAGES = [
    Summary(bytes(SUMMARY_BYTES)),
    Versions(((NEAR, 3, 7), (FAR, 9, 1), (ME, 2, 5))),
    Want(ME, 0, 0, 1),
    Want(FAR, 1, 1, 8),
    _update(NEAR, NameEntry(1, "ours", 9, 1), GroupEntry(2, "group", 9), Removal(3, "group", 9)),
    _update(FAR, NameEntry(1, "theirs", 4, 9)),
    Update(FAR, 1, 5, 900, 0, (NameEntry(5, "more to come", 4, 9),)),
]


def _said(by_near: bool, data: bytes) -> bytes:
    return (len(data) | (0x8000 if by_near else 0)).to_bytes(2, "big") + data


SEEDS = [
    *(_said(near, encode(message)) for near in (True, False) for message in _MESSAGES),
    b"".join(_said(True, encode(message)) for message in _MESSAGES),
]
