"""Who a certificate says its holder is.

A certificate carries exactly one URI among its subject alternative names, its SPIFFE ID (the
SPIFFE X.509 SVID standard, sections 2 and 3); which IDs are of the cluster, and where in them
role and name stand, `steinadler.security.pattern` says.  The cluster's own authority writes
`spiffe://<cluster-id>/<role>/<name>` and nothing beside it; another PKI may add host names and a
subject, which are not looked at.  Host names were refused as identities: nodes move, sit behind
NAT, and are found by address, so what a peer is called must not hang on where it was reached.

Whoever reads an identity has already had the chain verified by TLS; reading is strict, because
what it lets through is believed from there on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography import x509

from steinadler.errors import SecurityError
from steinadler.identity import OBSERVER, may_call_itself


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who the far end of a stream is, as its certificate says.

    `role` is a text of the cluster's choice; "observer" alone means something here: no member.
    """

    cluster_id: str
    role: str
    name: str

    @property
    def uri(self) -> str:
        """The SPIFFE ID in a certificate that the cluster's own authority signs."""
        return f"spiffe://{self.cluster_id}/{self.role}/{self.name}"

    @property
    def is_observer(self) -> bool:
        """Whether the holder may look and call, but is no member."""
        return self.role == OBSERVER

    def vouches_for(self, name: str) -> bool:
        """Whether its holder may go by `name` in this role: see `may_call_itself`."""
        return may_call_itself(self.role, self.name, name)

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


def cluster_fingerprint(cluster_id: str) -> str:
    """What tells clusters apart where anybody can read it: in mDNS, in the runtime folder.

    The SHA-256 of the cluster's id, in hexadecimal.  Not of the authority's certificate: when
    that is rotated, nodes of before and after must go on finding each other.  Not the id itself:
    it stands in certificates, which TLS 1.3 shows to nobody who only listens.
    """
    return hashlib.sha256(cluster_id.encode()).hexdigest()


def spiffe_id(der: bytes) -> str:
    """The SPIFFE ID of a certificate whose chain has been verified.

    Raises `SecurityError`, with a text for the log, when it is not a certificate, is an
    authority's, or has no URI among its alternative names, or more than one.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = list(
            certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
        signs = is_authority(certificate)
    except x509.ExtensionNotFound:
        raise SecurityError("the certificate has no subject alternative name") from None
    except Exception as error:  # a damaged certificate raises any of an undocumented set
        raise SecurityError(f"the certificate cannot be read: {error}") from error
    if signs:
        raise SecurityError("the certificate is an authority's, and names nobody")
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    if len(uris) != 1:
        raise SecurityError(
            f"the certificate has {len(uris)} URIs among its {len(names)} alternative names, where "
            "exactly one belongs"
        )
    return uris[0]


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign others.  Raises `ValueError` when its extensions cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
