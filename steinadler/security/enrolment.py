"""How a machine without a certificate comes by one: what is said, and by whom it is believed.

It is a protocol of its own, with an ALPN name of its own, on the port that serves everything.  The
side that was dialled (an issuer: it has the cluster's key) shows its node's certificate, and asks
for none.  Then, each message once, with its length before it:

    joiner                                                                                  issuer
       <----------  OFFER    [offered, the authority's signature]
                    where offered is CBOR: [nonce, time, [an authority that is trusted, in DER ...]]
       REQUEST  [token's id, wanted, signature with the token's key]  ---------->
                where wanted is CBOR: [[role, name, signing request] ...]
       <----------  ANSWER   [0, [certificate ...]]  or  [1, reason, text]

1. The issuer speaks first, so that the joiner need not say a word before it knows to whom: one of
   the authorities in the offer must have the fingerprint that is in the token; it must have signed
   the certificate that was shown, which must name a member of the token's cluster; and its key must
   have signed the offer, together with the SHA-256 of that certificate.  So a member that is no
   issuer cannot pass for one, nor for its own trust in other authorities.  TLS has verified that
   who shows the certificate has its key, and nothing else.  Last, the clocks must agree.
2. The joiner signs what it wants, together with the same SHA-256 and the nonce.  That is good for
   one connection to one node: who relays it has nothing of it.  The secret does not travel.
3. The issuer looks at what is wanted only when the signature is right.  It spends a use of the
   token, puts that on disk, and signs.
4. The joiner keeps what it was given only if it is signed by the authority of the token, for the
   keys that it made and as what it asked for.

A member asks for two certificates, one of them an observer's of the same name: so that commands of
its machine can watch.  An observer may nothing that a member may not.

Pure: bytes in, bytes out, and the time is an argument.  Here are the messages; who makes and judges
them is the `joiner` on one side, and the `registrar` on the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from steinadler.errors import ConfigError, RemoteProtocolError
from steinadler.identity import OBSERVER, check_node_name, check_role
from steinadler.security.authority import Authority
from steinadler.security.signing_request import MAX_REQUEST_BYTES
from steinadler.security.token_store import JoinRefused, Refusal
from steinadler.wire import plain

NONCE_BYTES = 32
# What each message may take, its length's two bytes not counted.
MAX_OFFER_BYTES = 16 * 1024
MAX_JOIN_REQUEST_BYTES = 6 * 1024
MAX_ANSWER_BYTES = 16 * 1024
# A member's certificate, and an observer's.
MAX_CERTIFICATES = 2
# A rotation has two, and one that begins in its middle three.
MAX_AUTHORITIES = 8
MAX_TEXT = 300
# What is signed begins so.  No certificate does, which the authority's key signs too.
_OFFER_LABEL = b"steinadler-join/1 offer\x00"
_REQUEST_LABEL = b"steinadler-join/1 request\x00"


# -- framing ----------------------------------------------------------------------------------


def framed(message: bytes) -> bytes:
    """A message as it travels: with its length, u16, before it."""
    return len(message).to_bytes(2, "big") + message


class Inbox:
    """Puts one message together from pieces, of at most `longest` bytes.

    `feed` returns it when it is whole, and raises `RemoteProtocolError` as soon as it is longer
    than it may be, or is followed by more: whoever sends it has to wait for an answer.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._data = b""

    def feed(self, data: bytes) -> bytes | None:
        self._data += data[: self._longest + 3 - len(self._data)]
        if len(self._data) < 2:
            return None
        size = int.from_bytes(self._data[:2], "big")
        if size > self._longest:
            raise RemoteProtocolError(f"a message of {size} bytes, over {self._longest}")
        if len(self._data) > 2 + size:
            raise RemoteProtocolError("more than one message")
        return self._data[2:] if len(self._data) == 2 + size else None


# -- messages ---------------------------------------------------------------------------------


def make_offer(
    nonce: bytes,
    now: datetime,
    authority: Authority,
    trust: Iterable[x509.Certificate],
    shown: bytes,
) -> bytes:
    """OFFER, for the connection on which the certificate `shown` (DER) was."""
    offered = plain.dumps([nonce, int(now.timestamp()), [der_of(each) for each in trust]])
    signed = authority.key.sign(offer_transcript(shown, offered), ec.ECDSA(hashes.SHA256()))
    return plain.dumps([offered, signed])


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate that a joiner asks for."""

    role: str
    name: str
    request: bytes


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """REQUEST, of which nothing is believed yet, and the body, what it wants, is not looked at."""

    token_id: str
    body: bytes
    signature: bytes

    def is_signed_by(self, public_key: bytes, shown: bytes, nonce: bytes) -> bool:
        """Whether the holder of the token made it, for the connection on which the certificate
        `shown` (DER) and the nonce were."""
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(
                self.signature, request_transcript(shown, nonce, self.body)
            )
        except (InvalidSignature, ValueError):
            return False
        return True

    def wanted(self) -> tuple[Wanted, ...]:
        """What it asks for: as a member and as an observer of one name, or either.

        Raises `JoinRefused` for anything else.
        """
        try:
            entries = plain.array(plain.loads(self.body), 1)
            if len(entries) > MAX_CERTIFICATES:
                raise RemoteProtocolError(f"more than {MAX_CERTIFICATES} certificates")
            wanted = tuple(map(_wanted, entries))
        except (RemoteProtocolError, ConfigError) as error:
            raise JoinRefused(Refusal.BAD_REQUEST, str(error)) from error
        first, *others = wanted
        for other in others:
            if other.role != OBSERVER or first.role == OBSERVER or other.name != first.name:
                raise JoinRefused(
                    Refusal.BAD_REQUEST,
                    "beside a member's certificate, only an observer's of the same name is given",
                )
        return wanted


def read_join_request(message: bytes) -> JoinRequest:
    """Read REQUEST; raise `RemoteProtocolError` for anything else."""
    id_, body, signature = plain.array(plain.loads(message), 3)[:3]
    return JoinRequest(
        octets(id_, 6).hex(), octets(body, MAX_JOIN_REQUEST_BYTES), octets(signature, 64)
    )


def make_grant(certificates: Iterable[x509.Certificate]) -> bytes:
    """ANSWER, to what was asked for and in that order."""
    return plain.dumps([0, [der_of(each) for each in certificates]])


def make_refusal(refusal: Refusal, detail: str) -> bytes:
    """ANSWER, to who is not let in."""
    return plain.dumps([1, refusal.value, plain.clipped(detail, MAX_TEXT)])


# -- parts ------------------------------------------------------------------------------------


def offer_transcript(shown: bytes, offered: bytes) -> bytes:
    """What the authority's key signs."""
    return _OFFER_LABEL + hashlib.sha256(shown).digest() + offered


def request_transcript(shown: bytes, nonce: bytes, wanted: bytes) -> bytes:
    """What the token's key signs."""
    return _REQUEST_LABEL + hashlib.sha256(shown).digest() + nonce + wanted


def _wanted(entry: object) -> Wanted:
    role, name, request = plain.array(entry, 3)[:3]
    return Wanted(
        check_role(plain.text(role, 31)),
        check_node_name(plain.text(name, 63)),
        octets(request, MAX_REQUEST_BYTES),
    )


def octets(value: object, longest: int) -> bytes:
    """`value`, if it is at most so many bytes; raises `RemoteProtocolError`."""
    if not isinstance(value, bytes) or len(value) > longest:
        raise RemoteProtocolError(f"at most {longest} bytes were expected")
    return value


def der_of(certificate: x509.Certificate) -> bytes:
    """A certificate as it travels."""
    return certificate.public_bytes(serialization.Encoding.DER)
