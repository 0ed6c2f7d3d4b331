"""What may be certified for somebody else, and what comes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from steinadler.errors import SecurityError
from steinadler.security import Authority, PeerIdentity, SpiffePattern
from steinadler.security.signing_request import MAX_REQUEST_BYTES, make_request, sign_request

CLUSTER = "0123456789abcdef0123456789abcdef"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORITY = Authority.create(CLUSTER, NOW)
KEY = ec.generate_private_key(ec.SECP256R1())
BOB = PeerIdentity(CLUSTER, "node", "bob")
REQUEST = make_request(BOB, KEY)


def test_it_is_certified_as_what_it_asks_for() -> None:
    signed = sign_request(AUTHORITY, REQUEST, BOB, NOW)
    signed.verify_directly_issued_by(AUTHORITY.certificate)
    assert signed.public_key() == KEY.public_key()
    der = signed.public_bytes(serialization.Encoding.DER)
    assert SpiffePattern.of_cluster(CLUSTER).identify(der) == BOB
    assert signed.not_valid_after_utc == NOW + timedelta(days=7)


def test_how_long_is_the_issuers_to_say() -> None:
    for validity in (timedelta(hours=1), timedelta(days=4000)):
        signed = sign_request(AUTHORITY, REQUEST, BOB, NOW, validity=validity)
        until = min(NOW + validity, AUTHORITY.certificate.not_valid_after_utc)
        assert signed.not_valid_after_utc == until


def asked(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    *names: x509.GeneralName,
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (asked(KEY, x509.UniformResourceIdentifier(f"{BOB.uri}2")), "does not ask for"),
        (
            asked(KEY, x509.UniformResourceIdentifier(BOB.uri), x509.DNSName("example.org")),
            "does not ask for",
        ),
        (asked(KEY), "cannot be read"),
        (asked(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (asked(rsa.generate_private_key(65537, 2048)), "P-256"),
        (asked(ed25519.Ed25519PrivateKey.generate()), "P-256"),
        (b"", "cannot be read"),
        (bytes(MAX_REQUEST_BYTES + 1), "over 2048"),
    ],
)
def test_nothing_else_is_signed(request_: bytes, why: str) -> None:
    with pytest.raises(SecurityError, match=why):
        sign_request(AUTHORITY, request_, BOB, NOW)


def test_an_authority_is_not_to_be_had() -> None:
    """What else a request asks for is not in the certificate."""
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(BOB.uri)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(name, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
        .sign(KEY, hashes.SHA256())
    )
    signed = sign_request(AUTHORITY, request.public_bytes(serialization.Encoding.DER), BOB, NOW)
    assert not signed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@given(st.data())
def test_a_damaged_request_is_refused_in_words(data: st.DataObject) -> None:
    """X4: whatever the bytes, they are refused with an error of ours, or are as good as before."""
    request = bytearray(REQUEST)
    place = data.draw(st.integers(0, len(request) - 1))
    request[place] ^= data.draw(st.integers(1, 255))
    try:
        signed = sign_request(AUTHORITY, bytes(request), BOB, NOW)
    except SecurityError:
        return
    # DER says how many bits of the signature's last byte count, which may not matter.
    assert signed.public_key() == KEY.public_key()
    der = signed.public_bytes(serialization.Encoding.DER)
    assert SpiffePattern.of_cluster(CLUSTER).identify(der) == BOB
