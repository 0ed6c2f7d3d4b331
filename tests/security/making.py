"""Certificates of another PKI, made in memory and put into files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PATTERN = "spiffe://example.org/steinadler/{role}/{name}"
BOTH_ENDS = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
DAY = timedelta(days=1)


def uri_of(name: str, role: str = "node") -> str:
    return f"spiffe://example.org/steinadler/{role}/{name}"


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and what it was signed by, up to where trust begins."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()


class OtherAuthority:
    """An authority of a company: a root, and perhaps one below it that signs."""

    def __init__(self, name: str = "Example", *, above: OtherAuthority | None = None) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = above or self
        self.certificate = (
            _builder(self.name, signer, self.key.public_key(), datetime.now(UTC), 100 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(signer.key, hashes.SHA256())
        )
        self.chain = () if above is None else (self.certificate, *above.chain)

    def issue(
        self,
        *uris: str,
        begin: datetime | None = None,
        validity: timedelta = DAY,
        purposes: Sequence[x509.ObjectIdentifier] = BOTH_ENDS,
        signatures: bool = True,
        key: ec.EllipticCurvePrivateKey | None = None,
        hosts: Iterable[str] = (),
    ) -> Issued:
        key = key or ec.generate_private_key(ec.SECP256R1())
        begin = begin or datetime.now(UTC) - timedelta(hours=1)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(host) for host in hosts]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "some subject")])
        certificate = (
            _builder(subject, self, key.public_key(), begin, validity)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False, signatures=signatures), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Issued(certificate, key, self.chain)


class Files:
    """A folder with a certificate, its key and the authorities, as a tool leaves them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.cert, self.key, self.ca = (folder / f"{n}.pem" for n in ("node", "node-key", "ca"))

    def put(self, issued: Issued, *authorities: OtherAuthority) -> Files:
        self.put_cert(issued)
        self.put_key(issued.key)
        if authorities:
            self.put_ca(*authorities)
        return self

    def put_cert(self, issued: Issued) -> None:
        self.cert.write_bytes(pem(issued.certificate, *issued.chain))

    def put_key(self, key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> None:
        self.key.touch(mode=0o600)
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password)
                if password
                else serialization.NoEncryption(),
            )
        )

    def put_ca(self, *authorities: OtherAuthority) -> None:
        self.ca.write_bytes(pem(*(each.certificate for each in authorities)))


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _builder(
    subject: x509.Name,
    signer: OtherAuthority,
    key: ec.EllipticCurvePublicKey,
    begin: datetime,
    validity: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + validity)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
            critical=False,
        )
    )


def _usage(*, signs: bool, signatures: bool = True) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs and signatures,
        content_commitment=False,
        key_encipherment=not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
