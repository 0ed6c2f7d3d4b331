"""Whom a cluster trusts: a signed document with a version, which nodes pass on to each other.

    [body, [[authority, signature], ...]]                                          the document
    [1, cluster id, version, [certificate, ...], [[name, moment, barred], ...]]    its body

CBOR without tags (RFC 8949).  `certificate` is an authority's, in DER; the first one is who signs
for nodes, the others are trusted still, or already.  `authority` is the SHA-256 of one of them, and
`signature` its signature (ECDSA P-256, SHA-256) over the text "steinadler trust 1", a zero byte
and the body.  What follows the known elements is passed over.

**Whom to believe.**  A document is a whole statement, and replaces the former one.  It is taken
when it is later (`mark`), and signed by an authority that it names itself and that is trusted
here.  So who is added was vouched for by one that was there, and a document on a disk or on the
way can be checked by itself.  It does not matter who brings it.

**Versions.**  One more than the version that was held by whoever signed.  Two who sign at once, on
two sides of a partition say, make two documents of one version; everybody takes the one with the
greater digest, and whoever has the key and sees that the other one's revocations are missing
signs the next version, with both.  A document for each revocation was refused: it would have to be
signed anew with every rotation, by whoever is there then, and a node could have some and not
others.  Comparing times of signing was refused: clocks differ.

Version 0 is what a cluster begins with: one authority, no signature, told to nobody.

Sans-IO: documents come and go as bytes, and nothing is kept here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.errors import ConfigError, RemoteProtocolError, SecurityError
from steinadler.identity import check_node_name
from steinadler.security.authority import Authority, constrained_to, fingerprint
from steinadler.security.peer import is_authority
from steinadler.security.revocation import NOBODY, Revocation, Revocations
from steinadler.wire import plain

MAX_DOCUMENT_BYTES = 128 * 1024
# Two while one takes the place of the other; and room for what nobody thought of.
MAX_AUTHORITIES = 8
MAX_VERSION = 2**62
# The greater one is the later one.
Mark = tuple[int, bytes]

_CONTEXT = b"steinadler trust 1\0"
_FORMAT = 1
_MOST_MOMENT = 2**40


@dataclass(frozen=True, slots=True)
class Trust:
    """Authorities, the first of which signs for nodes, and revocations.

    `document` is what was signed of it, and `digest` the first 16 bytes of the SHA-256 of its
    body; both empty in version 0.
    """

    cluster_id: str
    version: int
    authorities: tuple[x509.Certificate, ...]
    revoked: Revocations = NOBODY
    document: bytes = field(default=b"", compare=False, repr=False)
    digest: bytes = b""

    @property
    def mark(self) -> Mark:
        """What tells which of two is the later one."""
        return self.version, self.digest

    @property
    def signs(self) -> x509.Certificate:
        """The authority that nodes are to be certified by."""
        return self.authorities[0]

    def is_trusted(self, certificate: x509.Certificate) -> bool:
        """Whether one of the authorities signed that, itself."""
        return any(is_issued_by(certificate, each) for each in self.authorities)

    def successor(
        self,
        signers: Iterable[Authority],
        *,
        authorities: Sequence[x509.Certificate] | None = None,
        revoked: Revocations | None = None,
    ) -> Trust:
        """The next version, with what is given changed, signed.

        By all `signers` that it trusts; raises `SecurityError` when none of these is trusted
        already, so that nobody would believe it.
        """
        kept = tuple(self.authorities if authorities is None else authorities)
        list_ = self.revoked if revoked is None else revoked
        next_ = Trust(
            self.cluster_id,
            self.version + 1,
            kept,
            list_.without_void(each.not_valid_before_utc for each in kept),
        )
        able = [each for each in signers if each.certificate in kept]
        if not any(each.certificate in self.authorities for each in able):
            raise SecurityError(
                "no key is at hand of an authority that the cluster trusts, now and afterwards"
            )
        return sign(next_, able)

    def lacks(self, former: Trust) -> bool:
        """Whether revocations of a former document are missing, which it did not make void."""
        since = [each.not_valid_before_utc for each in self.authorities]
        ours = self.revoked.without_void(since)
        return ours.join(former.revoked.without_void(since)) != ours

    def judge(self, later: Trust) -> bool:
        """Whether to hold `later` in the place of this; False for what is not later.

        Raises `SecurityError` when nobody who is trusted signed it, or it is of another cluster.
        """
        if later.cluster_id != self.cluster_id:
            raise SecurityError(f"it is of cluster {later.cluster_id}")
        if later.mark <= self.mark:
            return False
        if not set(signers_of(later)) & {fingerprint(each) for each in self.authorities}:
            raise SecurityError(
                f"version {later.version} of whom to trust is signed by no authority that is "
                f"trusted here (version {self.version})"
            )
        return True


def sign(trust: Trust, signers: Iterable[Authority]) -> Trust:
    """The same with a document, signed by these; raises `ConfigError` when it can be none."""
    body = plain.dumps(
        [
            _FORMAT,
            trust.cluster_id,
            trust.version,
            [each.public_bytes(serialization.Encoding.DER) for each in trust.authorities],
            [[entry.name, entry.moment, entry.barred] for entry in trust.revoked],
        ]
    )
    signatures = [
        [
            bytes.fromhex(signer.fingerprint),
            signer.key.sign(_CONTEXT + body, ec.ECDSA(hashes.SHA256())),
        ]
        for signer in signers
    ]
    document = plain.dumps([body, signatures])
    try:
        return read(document)
    except RemoteProtocolError as error:
        raise ConfigError(f"no member would take this: {error}") from error


def read(document: bytes) -> Trust:
    """What a document says.  Who signed it, `signers_of` tells, and `Trust.judge` weighs.

    Raises `RemoteProtocolError` for what is none.
    """
    body, _ = _split(document)
    format_, cluster_id, version, authorities, revoked = plain.array(plain.loads(body), 5)[:5]
    if plain.natural(format_) != _FORMAT:
        raise RemoteProtocolError(f"whom to trust in format {format_}: a later version wrote that")
    if not 0 < plain.natural(version) <= MAX_VERSION:
        raise RemoteProtocolError(f"version {version} of whom to trust")
    cluster_id = plain.text(cluster_id, 64)
    trusted = tuple(_authority(each, cluster_id) for each in plain.array(authorities, 1))
    if len(trusted) > MAX_AUTHORITIES or len(set(trusted)) != len(trusted):
        raise RemoteProtocolError(f"one to {MAX_AUTHORITIES} authorities, each once")
    try:
        entries = tuple(_entry(each) for each in plain.array(revoked, 0))
        return Trust(cluster_id, version, trusted, Revocations(entries), document, _digest(body))
    except ConfigError as error:
        raise RemoteProtocolError(f"whom to trust: {error}") from error


def signers_of(trust: Trust) -> tuple[str, ...]:
    """The fingerprints of the authorities it names that have signed it."""
    if not trust.document:
        return ()
    body, signatures = _split(trust.document)
    by_fingerprint = {fingerprint(each): each for each in trust.authorities}
    found = []
    for each in signatures:
        digest, signature = plain.array(each, 2)[:2]
        if not isinstance(digest, bytes) or not isinstance(signature, bytes):
            raise RemoteProtocolError("a signature that is none")
        authority = by_fingerprint.pop(digest.hex(), None)
        if authority is not None and _verifies(authority, signature, body):
            found.append(fingerprint(authority))
    return tuple(found)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` signed that certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _split(document: bytes) -> tuple[bytes, list[object]]:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise RemoteProtocolError(f"whom to trust in {len(document)} bytes")
    body, signatures = plain.array(plain.loads(document), 2)[:2]
    if not isinstance(body, bytes):
        raise RemoteProtocolError("whom to trust without a body")
    # One for each authority at the most: each costs a verification.
    return body, plain.array(signatures, 0)[:MAX_AUTHORITIES]


def _authority(der: object, cluster_id: str) -> x509.Certificate:
    if not isinstance(der, bytes):
        raise RemoteProtocolError("an authority that is no certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
        fits = is_authority(certificate) and constrained_to(certificate) == cluster_id
        key = certificate.public_key()
    except Exception as error:  # a damaged certificate raises any of an undocumented set
        raise RemoteProtocolError(f"an authority that cannot be read: {error}") from error
    if not fits or not isinstance(key, ec.EllipticCurvePublicKey):
        raise RemoteProtocolError("a certificate that is no authority of this cluster")
    return certificate


def _entry(value: object) -> Revocation:
    name, moment, barred = plain.array(value, 3)[:3]
    if plain.natural(moment) > _MOST_MOMENT or not isinstance(barred, bool):
        raise RemoteProtocolError("a revocation that is none")
    return Revocation(check_node_name(plain.text(name, 63)), moment, barred)


def _verifies(authority: x509.Certificate, signature: bytes, body: bytes) -> bool:
    key = authority.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(signature, _CONTEXT + body, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:16]
