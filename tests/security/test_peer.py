"""What is believed of a certificate, and that it believes nothing else (promises X3, X4, S3)."""

from __future__ import annotations

import pytest
from clocks import NOON
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st

from steinadler.errors import SecurityError
from steinadler.identity import NODE, OBSERVER
from steinadler.security import Authority, PeerIdentity, SpiffePattern
from steinadler.security.authority import CERTIFICATE_VALIDITY

CLUSTER = "0123456789abcdef" * 2
ALICE = PeerIdentity(CLUSTER, NODE, "alice")
PATTERN = SpiffePattern.of_cluster(CLUSTER)
KEY = ec.generate_private_key(ec.SECP256R1())
GOOD = (
    Authority.create(CLUSTER, NOON).issue(ALICE, KEY.public_key(), NOON).public_bytes(Encoding.DER)
)


def certificate(*names: x509.GeneralName) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOON)
        .not_valid_after(NOON + CERTIFICATE_VALIDITY)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize("role", [NODE, OBSERVER, "sidecar", "my-role-2"])
@pytest.mark.parametrize("name", ["a", "web-1.example", "A_b", "x" * 63])
def test_the_identity_is_the_certificates(role: str, name: str) -> None:
    """X3: what was certified is what is read."""
    identity = PeerIdentity(CLUSTER, role, name)
    issued = Authority.create(CLUSTER, NOON).issue(identity, KEY.public_key(), NOON)
    assert PATTERN.identify(issued.public_bytes(Encoding.DER)) == identity


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], "no subject alternative name"),
        ([x509.DNSName("alice")], "0 URIs among its 1 alternative names"),
        ([uri(ALICE.uri), uri(ALICE.uri)], "2 URIs among its 2"),
        ([uri(ALICE.uri), x509.DNSName("alice"), uri("x:y")], "2 URIs among its 3"),
        ([uri(f"spiffe://{'f' * 32}/node/alice")], "are like spiffe://0123"),
        ([uri(f"spiffe://{CLUSTER}/Admin/alice")], "'Admin' is not a role"),
        ([uri(f"spiffe://{CLUSTER}/{'r' * 32}/alice")], "is not a role"),
        ([uri(f"spiffe://{CLUSTER}/node/{'x' * 3000}")], r"'spiffe://.{188}\.\.\.'"),
        ([uri(f"spiffe://{CLUSTER}/node/-alice")], "bad name"),
        ([uri(f"spiffe://{CLUSTER}/node/al%20ice")], "bad name"),
        ([uri(f"spiffe://{CLUSTER}/node/{'x' * 64}")], "bad name"),
        ([uri(f"spiffe://{CLUSTER}/node/alice\n")], "bad name"),
        ([uri(f"spiffe://{CLUSTER}/node/")], "are like spiffe://0123"),
        ([uri(f"spiffe://{CLUSTER}/node/alice/more")], "are like spiffe://0123"),
        ([uri(f"spiffe://{CLUSTER}/node/alice?x")], "are like spiffe://0123"),
        ([uri(f"spiffe://{CLUSTER}:1/node/alice")], "are like spiffe://0123"),
        ([uri(f"spiffe://eve@{CLUSTER}/node/alice")], "are like spiffe://0123"),
        ([uri(f"https://{CLUSTER}/node/alice")], "are like spiffe://0123"),
        ([uri(f"SPIFFE://{CLUSTER}/node/alice")], "are like spiffe://0123"),
    ],
)
def test_anything_odd_is_refused(names: list[x509.GeneralName], complaint: str) -> None:
    with pytest.raises(SecurityError, match=complaint):
        PATTERN.identify(certificate(*names))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate_are_refused(der: bytes) -> None:
    """X4: no bytes from a peer raise anything but `SecurityError`."""
    with pytest.raises(SecurityError):
        PATTERN.identify(der)


@given(st.dictionaries(st.integers(0, len(GOOD) - 1), st.integers(0, 255), min_size=1, max_size=3))
@example({GOOD.index(b"\xa0\x03\x02\x01") + 4: 76})
def test_a_damaged_certificate_is_refused_or_still_names_this_cluster(
    damage: dict[int, int],
) -> None:
    """X4, over a real certificate (its chain would fail; reading it does not crash)."""
    der = bytearray(GOOD)
    for at, value in damage.items():
        der[at] = value
    try:
        identity = PATTERN.identify(bytes(der))
    except SecurityError:
        return
    assert identity.cluster_id == CLUSTER
