"""What a machine that joins says and is told, for the fuzzer.

Invariant: no bytes of somebody who has no token let anybody in, and none of somebody who does not
have the cluster's key are believed; nothing is raised but errors with a reason (X4).
"""

from __future__ import annotations

from datetime import UTC, datetime

from steinadler.errors import ConfigError, JoinFailed, RemoteProtocolError
from steinadler.identity import NODE, Address
from steinadler.security import Authority, Joiner, JoinToken, PeerIdentity, parse_token
from steinadler.security.enrolment import (
    MAX_JOIN_REQUEST_BYTES,
    Inbox,
    der_of,
    framed,
    make_grant,
    make_offer,
    make_refusal,
    read_join_request,
)
from steinadler.security.token_store import JoinRefused, Refusal
from steinadler.transport.client_hello import missing_bytes, offered_protocols

CLUSTER = "0123456789abcdef" * 2
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NONCE = bytes(32)
AUTHORITY = Authority.create(CLUSTER, NOW)
NODE_KEY = Authority.create(CLUSTER, NOW).key
SHOWN = AUTHORITY.issue(PeerIdentity(CLUSTER, NODE, "alice"), NODE_KEY.public_key(), NOW)
TOKEN = JoinToken(
    "default",
    CLUSTER,
    AUTHORITY.fingerprint,
    bytes(16),
    NODE,
    None,
    NOW,
    (Address("192.0.2.7", 4370),),
)
JOINER = Joiner(TOKEN, "bob")
OFFER = make_offer(NONCE, NOW, AUTHORITY, [AUTHORITY.certificate], der_of(SHOWN))
MEETING = JOINER.meet(OFFER, der_of(SHOWN), NOW)
REQUEST = MEETING.request()


def told(error: Exception) -> None:
    """The reason is one that a log can hold."""
    assert 0 < len(str(error)) < 2_000


def token(data: bytes) -> None:
    """A token as a user pasted it."""
    text = data.decode(errors="replace")
    try:
        read = parse_token(text)
    except ConfigError as error:
        told(error)
        return
    assert parse_token(read.encode()) == read


def joining(data: bytes) -> None:
    """Bytes to either side, at each point of a conversation; and as it comes in pieces."""
    inbox = Inbox(MAX_JOIN_REQUEST_BYTES)
    try:
        for place in range(0, len(data), 7):
            if inbox.feed(data[place : place + 7]) is not None:
                break
        request = read_join_request(data)
    except RemoteProtocolError as error:
        told(error)
    else:
        if request.is_signed_by(TOKEN.public_key, der_of(SHOWN), NONCE):
            assert request.body == JOINER.wanted_body, "nothing but what the token's holder signed"
        try:
            assert 1 <= len(request.wanted()) <= 2
        except JoinRefused as refused:
            told(refused)
    try:
        JOINER.meet(data, der_of(SHOWN), NOW)
    except JoinFailed as failed:
        told(failed)
    else:
        assert data[: len(OFFER) - 80] == OFFER[: len(OFFER) - 80]
    for answer in (data, b"\x82" + data):
        try:
            admission = MEETING.read_answer(answer, NOW)
        except JoinFailed as failed:
            told(failed)
        else:
            assert [each.identity.name for each in admission.granted] == ["bob", "bob"]


def client_hello(data: bytes) -> None:
    """The first bytes of a connection."""
    assert 0 <= missing_bytes(data) <= 5 + 16 * 1024, "RFC 8446, section 5.1"
    assert all(isinstance(name, str) for name in offered_protocols(data))


def _granted() -> bytes:
    return make_grant(
        AUTHORITY.issue(identity, key.public_key(), NOW) for identity, key in JOINER._wanted
    )


# What OpenSSL sends for ALPN "steinadler-join/1", shortened to one cipher suite and extension.
_ALPN = b"\x00\x10\x00\x14\x00\x12\x11steinadler-join/1"
_BODY = b"\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x02\x01\x00"
_HELLO = _BODY + len(_ALPN).to_bytes(2, "big") + _ALPN
_RECORD = b"\x01" + len(_HELLO).to_bytes(3, "big") + _HELLO

SEEDS = {
    token: [TOKEN.encode().encode(), b"steinadler2_mzxw6", b"steinadler1_mzxw6"],
    joining: [
        OFFER,
        REQUEST,
        framed(REQUEST),
        _granted(),
        make_refusal(Refusal.REVOKED, "the token was revoked"),
    ],
    client_hello: [b"\x16\x03\x01" + len(_RECORD).to_bytes(2, "big") + _RECORD],
}
assert offered_protocols(SEEDS[client_hello][0]) == ("steinadler-join/1",)
