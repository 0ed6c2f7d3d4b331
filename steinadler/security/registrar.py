"""The registrar: lets joiners in, where the cluster's key is.

It decides; what is said, `enrolment` knows, and what of tokens is kept, `token_store`.  In this
order, so that who has no token makes it do nothing but check a signature: the token is looked up,
the proof verified, what is asked for read, the name looked at, a use spent, the certificates
signed.  Whoever has not proved that it has a token is told the same of one that was never there and
of one that it only guessed at.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from steinadler.errors import CertificateRevoked, ConfigError, SecurityError
from steinadler.security.cluster_folder import ClusterFolder
from steinadler.security.enrolment import (
    NONCE_BYTES,
    JoinRequest,
    Wanted,
    der_of,
    make_grant,
    make_offer,
    make_refusal,
    read_join_request,
)
from steinadler.security.peer import PeerIdentity
from steinadler.security.signing_request import check_request, sign_request
from steinadler.security.token_store import JoinRefused, Refusal, TokenStore


@dataclass(frozen=True, slots=True)
class Visit:
    """One connection of a joiner: the certificate shown on it (DER), the nonce, and OFFER."""

    shown: bytes
    nonce: bytes
    offer: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """What to send to a joiner, what to log, and whether it had a token and was let in."""

    message: bytes
    text: str
    proved: bool
    admitted: bool


class Registrar:
    """Admits joiners to the cluster whose key is in a folder.

    `receive` and `answer` read the disk, and block for some milliseconds; `answer` for up to
    three seconds, while other processes change the tokens.
    """

    def __init__(
        self,
        folder: ClusterFolder,
        cluster_id: str,
        show: Callable[[], tuple[x509.Certificate, ssl.SSLContext]],
        *,
        clock: Callable[[], datetime],
    ) -> None:
        """`show`: the node's certificate, and a context of `make_join_server` for it.  It raises
        `SecurityError` when there is none that is valid, and is for the thread that uses the node's
        credentials."""
        self.show = show
        self._folder = folder
        self._cluster_id = cluster_id
        self._tokens = TokenStore(folder.path)
        self._clock = clock

    def is_open(self) -> bool:
        """Whether there is a token that has not expired.  Cheap, and never raises."""
        return self._tokens.is_open(self._clock())

    def receive(self, certificate: x509.Certificate) -> Visit:
        """What to receive a joiner with, who is shown that certificate of the node's; raises
        `SecurityError` when the cluster's key is not at hand."""
        shown, nonce = der_of(certificate), secrets.token_bytes(NONCE_BYTES)
        authority, trust = self._folder.authority(), self._folder.trust()
        offer = make_offer(nonce, self._clock(), authority, trust, shown)
        return Visit(shown, nonce, offer)

    def answer(self, message: bytes, visit: Visit, living: Collection[str]) -> Answered:
        """What to answer to REQUEST; raises `RemoteProtocolError` when it is none.

        `living`: the names that members have now.
        """
        request = read_join_request(message)
        proved = False
        try:
            self._verify(request, visit)
            proved = True
            wanted = request.wanted()
            granted = self._admit(request.token_id, wanted, living)
        except JoinRefused as error:
            return Answered(make_refusal(error.refusal, str(error)), str(error), proved, False)
        except (SecurityError, ConfigError) as error:
            # In the log with its path; a joiner is told no more than that.
            detail = "it cannot let anybody in now; its log says why"
            return Answered(make_refusal(Refusal.UNABLE, detail), str(error), proved, False)
        who = f"{wanted[0].role} {wanted[0].name}"
        return Answered(granted, f"{who} joined by the token {request.token_id}", proved, True)

    def _verify(self, request: JoinRequest, visit: Visit) -> None:
        record = self._tokens.find(request.token_id, self._clock())
        if record is None or not request.is_signed_by(record.public_key, visit.shown, visit.nonce):
            raise JoinRefused(
                Refusal.UNKNOWN_TOKEN,
                "the token is not known here: it was made by another home, or has expired; make "
                "one where the cluster's key is: steinadler cluster token",
            )

    def _admit(self, token_id: str, wanted: tuple[Wanted, ...], living: Collection[str]) -> bytes:
        asked = [
            (PeerIdentity(self._cluster_id, each.role, each.name), each.request) for each in wanted
        ]
        try:
            for identity, request in asked:
                check_request(request, identity)
        except SecurityError as error:
            raise JoinRefused(Refusal.BAD_REQUEST, str(error)) from error
        now = self._clock()
        authority = self._folder.authority()  # before a use is spent
        try:
            authority.revoked.earliest_for(wanted[0].name)
        except CertificateRevoked as error:
            raise JoinRefused(
                Refusal.NAME_REVOKED,
                f"the name {wanted[0].name} was revoked: choose another, or let it in again where "
                f"the cluster's key is, with steinadler cluster readmit {wanted[0].name}",
            ) from error
        self._tokens.spend(token_id, wanted[0].role, wanted[0].name, now, living)
        return make_grant(
            sign_request(authority, request, identity, now) for identity, request in asked
        )
