"""A cluster's certificate authority: it signs, and does nothing else.

The authority is one self-signed ECDSA P-256 certificate with a path length of zero, so that
nothing below it can sign in turn, and with name constraints (RFC 5280, section 4.2.1.10) that
confine it to the URIs of its own cluster: were the certificate ever put in a system's trust
store by mistake, its key could still not vouch for any web site.

What it signs lives for seven days.  Renewal needs only the authority's key, so a short life
costs nothing, and a stolen certificate is of little use.  P-256 was taken over Ed25519 because
every TLS library and every hardware store speaks it, and over RSA because its handshake is
several times cheaper.

No clock is read here: `now` is an argument.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from steinadler.errors import SecurityError
from steinadler.security.peer import PeerIdentity
from steinadler.security.revocation import NOBODY, Revocations

AUTHORITY_VALIDITY = timedelta(days=3650)
CERTIFICATE_VALIDITY = timedelta(days=7)
# Machines' clocks differ; a certificate made a moment ago must be good on a machine that is behind.
CLOCK_SKEW = timedelta(minutes=5)


class Authority:
    """The key and certificate that make a cluster.

    `certificate` is public: it is what every peer trusts.  The key is held in memory for as long
    as the object lives, because renewal needs it.
    """

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        *,
        revoked: Revocations = NOBODY,
    ) -> None:
        """`revoked`: who gets no certificate.

        Raises `ValueError` when `key` is not the one that `certificate` was made for.
        """
        if certificate.public_key() != key.public_key():
            raise ValueError("the key does not belong to the certificate")
        self.certificate = certificate
        self.key = key
        self.revoked = revoked

    @classmethod
    def create(cls, cluster_id: str, now: datetime) -> Authority:
        """Make a new authority, valid for ten years, for the cluster `cluster_id`."""
        key = ec.generate_private_key(ec.SECP256R1())
        # The id in the subject keeps two clusters' authorities apart in every tool and log.
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Steinadler"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"cluster {cluster_id}"),
            ]
        )
        constraints = x509.NameConstraints(
            permitted_subtrees=[x509.UniformResourceIdentifier(cluster_id)],
            excluded_subtrees=[
                x509.DNSName(""),
                x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
                x509.IPAddress(ipaddress.ip_network("::/0")),
            ],
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + AUTHORITY_VALIDITY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(constraints, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate's DER, in lower-case hexadecimal."""
        return fingerprint(self.certificate)

    def issue(
        self,
        identity: PeerIdentity,
        public_key: ec.EllipticCurvePublicKey,
        now: datetime,
        *,
        validity: timedelta = CERTIFICATE_VALIDITY,
    ) -> x509.Certificate:
        """Sign a certificate for `identity`, valid for so long and backdated five minutes.

        It serves both ends of a connection, because every node dials and is dialled.  It never
        outlives the authority; raises `SecurityError` when the authority itself is not valid
        at `now`, and `CertificateRevoked` for a name that is to get none.
        """
        # Here, and not with those who ask for it: whatever signs, signs by this.
        earliest = self.revoked.earliest_for(identity.name)
        if not self.certificate.not_valid_before_utc <= now < self.certificate.not_valid_after_utc:
            raise SecurityError(
                f"the certificate authority of cluster {identity.cluster_id} is valid from "
                f"{self.certificate.not_valid_before_utc} to "
                f"{self.certificate.not_valid_after_utc}, and it is {now}; "
                "correct the clock, or make a new cluster"
            )
        since, until = now - CLOCK_SKEW, min(now + validity, self.certificate.not_valid_after_utc)
        if earliest is not None:
            since = max(since, earliest)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            # Critical because the subject is empty (RFC 5280, section 4.1.2.6).
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)]),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's DER, in lower-case hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def constrained_to(authority: x509.Certificate) -> str | None:
    """The id of the cluster that an authority's certificate confines it to, if it does."""
    try:
        permitted = authority.extensions.get_extension_for_class(
            x509.NameConstraints
        ).value.permitted_subtrees
    except (x509.ExtensionNotFound, ValueError):
        return None
    match permitted:
        case [x509.UniformResourceIdentifier(value=cluster_id)]:
            return cluster_id
        case _:
            return None


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
