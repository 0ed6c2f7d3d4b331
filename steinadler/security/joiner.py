"""The joiner: asks to be let in, and believes nobody who does not prove to be the cluster's.

The protocol is told in `enrolment`.  A `Joiner` outlives connections: it may meet several nodes,
and ask all of them the same, until one lets it in.  What it makes of one it met is a `Meeting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.errors import JoinFailed, JoinFailure, RemoteProtocolError, SecurityError
from steinadler.identity import OBSERVER
from steinadler.security.authority import CLOCK_SKEW, constrained_to, fingerprint
from steinadler.security.enrolment import (
    MAX_AUTHORITIES,
    MAX_OFFER_BYTES,
    MAX_TEXT,
    NONCE_BYTES,
    der_of,
    octets,
    offer_transcript,
    request_transcript,
)
from steinadler.security.pattern import SpiffePattern
from steinadler.security.peer import PeerIdentity, is_authority
from steinadler.security.signing_request import make_request
from steinadler.security.token import JoinToken
from steinadler.wire import plain


@dataclass(frozen=True, slots=True)
class Granted:
    """A key that was made here, and its certificate."""

    identity: PeerIdentity
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Admission:
    """What came of joining: whom to trust, and what to show."""

    issuer: PeerIdentity
    authorities: tuple[x509.Certificate, ...]
    granted: tuple[Granted, ...]


class Joiner:
    """Who wants to join by a token, as `name`.  Makes its keys, which all attempts share."""

    def __init__(self, token: JoinToken, name: str) -> None:
        self.token = token
        roles = [token.role] if token.role == OBSERVER else [token.role, OBSERVER]
        self._wanted = [
            (PeerIdentity(token.cluster_id, role, name), ec.generate_private_key(ec.SECP256R1()))
            for role in roles
        ]
        self.wanted_body = plain.dumps(
            [
                [identity.role, identity.name, make_request(identity, key)]
                for identity, key in self._wanted
            ]
        )

    def meet(self, offer: bytes, shown: bytes, now: datetime) -> Meeting:
        """Judge an offer, and the certificate (DER) that was shown with it.

        Raises `JoinFailed` when it is not from a member of the token's cluster, or the clocks do
        not agree; then nothing must be said to it.
        """
        try:
            offered, signature = plain.array(plain.loads(offer), 2)[:2]
            offered = octets(offered, MAX_OFFER_BYTES)
            nonce, time, ders = plain.array(plain.loads(offered), 3)[:3]
            if len(octets(nonce, NONCE_BYTES)) != NONCE_BYTES:
                raise RemoteProtocolError(f"a nonce of {len(nonce)} bytes")
            entries = plain.array(ders, 1)[:MAX_AUTHORITIES]
            authorities = tuple(map(_certificate, entries))
            certificate = _certificate(shown)
            seal = _Seal(offer_transcript(shown, offered), octets(signature, 80))
            theirs_s = plain.natural(time)
        except RemoteProtocolError as error:
            raise JoinFailed(
                JoinFailure.IMPOSTOR, f"what answers is no node of a cluster: {error}"
            ) from error
        signer, issuer = self._verify(certificate, authorities, seal)
        _compare_clocks(issuer, certificate, theirs_s, now)
        transcript = request_transcript(shown, nonce, self.wanted_body)
        return Meeting(self, issuer, signer, authorities, transcript)

    def _verify(
        self, shown: x509.Certificate, authorities: Sequence[x509.Certificate], seal: _Seal
    ) -> tuple[x509.Certificate, PeerIdentity]:
        token = self.token
        known = [each for each in authorities if fingerprint(each) == token.fingerprint]
        if not known:
            other = fingerprint(authorities[0])
            raise JoinFailed(
                JoinFailure.IMPOSTOR,
                f"somebody else answers: its authority is {other[:16]}..., and the token is for "
                f"{token.fingerprint[:16]}...; nothing was sent to it (was the cluster made anew, "
                "or its authority replaced? then make a new token)",
            )
        try:
            shown.verify_directly_issued_by(known[0])
            issuer = SpiffePattern.of_cluster(token.cluster_id).identify(der_of(shown))
            key = known[0].public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise SecurityError("its authority has no elliptic-curve key")
            key.verify(seal.signature, seal.transcript, ec.ECDSA(hashes.SHA256()))
            for each in authorities:
                if not is_authority(each) or constrained_to(each) != token.cluster_id:
                    raise SecurityError("it trusts what is no authority of the cluster")
        except Exception as error:  # a damaged certificate raises any of an undocumented set
            raise JoinFailed(
                JoinFailure.IMPOSTOR,
                "somebody else answers: it does not have the key of the authority in the token "
                f"({str(error) or type(error).__name__}); nothing was sent to it",
            ) from error
        if issuer.is_observer:
            raise JoinFailed(JoinFailure.IMPOSTOR, f"{issuer} answers, which is no member")
        return known[0], issuer

    def read_grant(
        self, certificates: object, signer: x509.Certificate, now: datetime
    ) -> tuple[Granted, ...]:
        """What was asked for, certified; raises `RemoteProtocolError` or `SecurityError`."""
        entries = plain.array(certificates, len(self._wanted))
        granted = []
        for (identity, key), der in zip(self._wanted, entries, strict=False):
            certificate = _certificate(der)
            certificate.verify_directly_issued_by(signer)
            named = SpiffePattern.of_cluster(identity.cluster_id).identify(der_of(certificate))
            if named != identity or certificate.public_key() != key.public_key():
                raise SecurityError(f"it is not for {identity} and its key")
            if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
                raise SecurityError("it is not valid now")
            granted.append(Granted(identity, key, certificate))
        return tuple(granted)


class Meeting:
    """A joiner and an issuer on one connection, once the issuer is known to be one."""

    def __init__(
        self,
        joiner: Joiner,
        issuer: PeerIdentity,
        signer: x509.Certificate,
        authorities: tuple[x509.Certificate, ...],
        transcript: bytes,
    ) -> None:
        self.issuer = issuer
        self._joiner = joiner
        self._signer = signer
        self._authorities = authorities
        self._transcript = transcript

    def request(self) -> bytes:
        """REQUEST."""
        token = self._joiner.token
        signature = token.key().sign(self._transcript)
        return plain.dumps([bytes.fromhex(token.id), self._joiner.wanted_body, signature])

    def read_answer(self, answer: bytes, now: datetime) -> Admission:
        """What ANSWER comes to; raises `JoinFailed` when it is a refusal, or makes no sense."""
        try:
            match plain.array(plain.loads(answer), 2):
                case [0, certificates, *_]:
                    granted = self._joiner.read_grant(certificates, self._signer, now)
                    return Admission(self.issuer, self._authorities, granted)
                case [1, str(reason), str(text), *_]:
                    raise JoinFailed(reason[:40], f"{self.issuer} refuses: {text[:MAX_TEXT]}")
                case _:
                    raise RemoteProtocolError("neither a grant nor a refusal")
        except JoinFailed:
            raise
        except Exception as error:  # a damaged certificate raises any of an undocumented set
            raise JoinFailed(
                JoinFailure.BAD_ANSWER, f"what {self.issuer} answers makes no sense: {error}"
            ) from error


def _compare_clocks(
    issuer: PeerIdentity, shown: x509.Certificate, theirs_s: int, now: datetime
) -> None:
    ahead_s = int(now.timestamp()) - theirs_s
    if abs(ahead_s) > CLOCK_SKEW.total_seconds():
        way = "ahead of" if ahead_s > 0 else "behind"
        raise JoinFailed(
            JoinFailure.CLOCK,
            f"this machine's clock is {_span(abs(ahead_s))} {way} that of {issuer}: set "
            "whichever is wrong, and join again",
        )
    if not shown.not_valid_before_utc <= now < shown.not_valid_after_utc:
        raise JoinFailed(JoinFailure.IMPOSTOR, f"the certificate of {issuer} is not valid now")


def _span(seconds: int) -> str:
    for unit, size in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds // 60} minutes"


@dataclass(frozen=True, slots=True)
class _Seal:
    """What the authority's key is to have signed, and the signature."""

    transcript: bytes
    signature: bytes


def _certificate(der: object) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(octets(der, MAX_OFFER_BYTES))
    except RemoteProtocolError:
        raise
    except Exception as error:  # any of an undocumented set
        raise RemoteProtocolError(f"no certificate: {error}") from error
