"""Who a certificate says its holder is.

A certificate carries exactly one subject alternative name, the URI
`spiffe://<cluster-id>/node/<name>` or `spiffe://<cluster-id>/observer/<name>` (the SPIFFE X.509
SVID standard, sections 2 and 3).  The subject is empty, so that there is no second place where
a name could stand and differ.  Host names were refused as identities: nodes move, sit behind
NAT, and are found by address, so what a peer is called must not hang on where it was reached.

Whoever reads an identity has already had the chain verified by TLS; `identify` only reads, and
is strict, because what it lets through is believed from there on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from cryptography import x509

from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import check_node_name

_SPIFFE = re.compile(r"spiffe://(?P<cluster>[0-9a-f]{32})/(?P<role>[a-z]+)/(?P<name>[^/?#]+)\Z")


class Role(Enum):
    """What a certificate entitles its holder to be."""

    NODE = "node"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who the far end of a stream is, as its certificate says."""

    cluster_id: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        """The SPIFFE ID that stands in the certificate."""
        return f"spiffe://{self.cluster_id}/{self.role.value}/{self.name}"

    def __str__(self) -> str:
        return f"{self.role.value} {self.name}"


def identify(der: bytes, cluster_id: str) -> PeerIdentity:
    """Read the identity of a peer of the cluster `cluster_id` from its certificate.

    `der` is a certificate whose chain has been verified.  Raises `SecurityError`, with a text
    for the log, when it is anything but one well-formed name of that cluster: not a certificate,
    no alternative name, more than one, another trust domain, an unknown role, a name that no
    node can have.
    """
    uri = _only_uri(der)
    match = _SPIFFE.match(uri)
    if match is None:
        raise SecurityError(f"the certificate names {uri!r}, which is not a SPIFFE ID of a cluster")
    if match["cluster"] != cluster_id:
        raise SecurityError(
            f"the certificate is of cluster {match['cluster']}, and this is {cluster_id}"
        )
    try:
        role = Role(match["role"])
    except ValueError:
        raise SecurityError(f"the certificate gives an unknown role: {uri!r}") from None
    try:
        name = check_node_name(match["name"])
    except ConfigError as error:
        raise SecurityError(f"the certificate gives a bad name: {error}") from None
    return PeerIdentity(cluster_id, role, name)


def _only_uri(der: bytes) -> str:
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = list(
            certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
    except x509.ExtensionNotFound:
        raise SecurityError("the certificate has no subject alternative name") from None
    except Exception as error:  # a damaged certificate raises any of an undocumented set
        raise SecurityError(f"the certificate cannot be read: {error}") from error
    match names:
        case [x509.UniformResourceIdentifier(value=uri)]:
            return uri
        case _:
            raise SecurityError(
                f"the certificate has {len(names)} alternative names where one URI belongs"
            )
