"""Certificates and contexts: who is trusted, for how long, and that nothing turns it off."""

from __future__ import annotations

import logging
import ssl
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from clocks import NOON, Clock
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import NODE, OBSERVER
from steinadler.security import Authority, Cluster, Home, IssuedCredentials, PeerIdentity
from steinadler.security.credentials import RETRY_AFTER

CLUSTER_ID = "0123456789abcdef" * 2
DAY = timedelta(days=1)


def authority() -> Authority:
    return Authority.create(CLUSTER_ID, NOON)


def node(name: str, cluster_id: str = CLUSTER_ID) -> PeerIdentity:
    return PeerIdentity(cluster_id, NODE, name)


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A whole handshake in memory; raises what the side that refuses raises."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(down, up, server_side=False),
        server.wrap_bio(up, down, server_side=True),
    )
    waiting = set(sides)
    while waiting:
        for side in sides:
            try:
                side.do_handshake()
                waiting.discard(side)
            except ssl.SSLWantReadError:
                assert up.pending or down.pending
    return sides[1], sides[0]


def at_real_time(*contexts: ssl.SSLContext) -> None:
    """Let OpenSSL, which reads the real clock, accept certificates of the tests' time."""
    for context in contexts:
        context.verify_flags |= ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME


def test_both_sides_learn_the_certified_identity(home: Home, cluster: Cluster) -> None:
    """X3, and section 5: TLS 1.3, both certificates, our ALPN, no tickets."""
    alice = home.credentials(cluster, NODE, "alice")
    watcher = home.credentials(cluster, OBSERVER, "watcher")
    at_real_time(alice.server_context(), watcher.client_context())
    server, client = shake(alice.server_context(), watcher.client_context())
    for side, us, peer in ((server, alice, watcher), (client, watcher, alice)):
        der = side.getpeercert(binary_form=True)
        assert der is not None
        assert us.judge(der) == peer.identity
        assert side.version() == "TLSv1.3"
        assert side.selected_alpn_protocol() == "steinadler/1"
    assert alice.server_context().num_tickets == 0


def test_no_context_can_do_without_a_certificate(home: Home, cluster: Cluster) -> None:
    """X1: every context that is handed out verifies, speaks TLS 1.3 alone, and writes no keys."""
    credentials = home.credentials(cluster, NODE, "alice")
    for context in (credentials.server_context(), credentials.client_context()):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is context.maximum_version is ssl.TLSVersion.TLSv1_3
        assert context.keylog_filename is None
        assert len(context.get_ca_certs()) == 1


def test_another_clusters_certificate_is_refused(home: Home, cluster: Cluster) -> None:
    """X2, S3: trust is this cluster's authority alone, on either side."""
    other = home.create_cluster("other")
    ours = home.credentials(cluster, NODE, "alice")
    theirs = home.credentials(other, NODE, "alice")
    for server, client in ((ours, theirs), (theirs, ours)):
        at_real_time(server.server_context(), client.client_context())
        with pytest.raises(ssl.SSLCertVerificationError) as raised:
            shake(server.server_context(), client.client_context())
        # No issuer that we trust (20), or one that we do not (19), as OpenSSL built the chain.
        assert raised.value.verify_code in (19, 20)


def test_an_authority_cannot_vouch_for_another_cluster() -> None:
    """The name constraints hold: a stolen key forges no other cluster's names."""
    mine = authority()
    good = IssuedCredentials(mine, node("alice"), clock=Clock())
    forged = IssuedCredentials(mine, node("alice", "f" * 32), clock=Clock())
    at_real_time(good.server_context(), good.client_context(), forged.client_context())
    shake(good.server_context(), good.client_context())
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake(good.server_context(), forged.client_context())


def test_what_a_certificate_says() -> None:
    """Seven days, backdated five minutes; both ends; no CA; one critical name, no subject."""
    signer = authority()
    key = ec.generate_private_key(ec.SECP256R1())
    issued = signer.issue(node("alice"), key.public_key(), NOON)
    issued.verify_directly_issued_by(signer.certificate)
    assert issued.not_valid_before_utc == NOON - timedelta(minutes=5)
    assert issued.not_valid_after_utc == NOON + 7 * DAY
    usage = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {
        x509.ExtendedKeyUsageOID.SERVER_AUTH,
        x509.ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert not list(issued.subject)


def test_a_certificate_does_not_outlive_its_authority() -> None:
    signer = authority()
    public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    end = signer.certificate.not_valid_after_utc
    assert signer.issue(node("a"), public_key, end - DAY).not_valid_after_utc == end
    for moment in (end, NOON - DAY):
        with pytest.raises(SecurityError, match="correct the clock, or make a new cluster"):
            signer.issue(node("a"), public_key, moment)


def test_a_cluster_is_known_by_its_authoritys_fingerprint(home: Home, cluster: Cluster) -> None:
    pem = (home.path / "clusters/default/ca.pem").read_bytes()
    digest = x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()
    assert cluster.fingerprint == digest
    assert len(cluster.id) == 32


def test_renewal_at_two_thirds_of_the_validity(clock: Clock) -> None:
    """Section 6: renewed in the background, at the first context asked for after that time."""
    credentials = IssuedCredentials(authority(), node("alice"), clock=clock)
    first, context = credentials.certificate, credentials.server_context()
    clock.forward(7 * DAY * 2 / 3 - timedelta(seconds=1))
    assert credentials.server_context() is context
    clock.forward(timedelta(seconds=2))
    assert credentials.server_context() is not context
    second = credentials.certificate
    assert second.serial_number != first.serial_number
    assert second.not_valid_after_utc > first.not_valid_after_utc
    assert second.public_bytes(Encoding.DER) == credentials.certificate.public_bytes(Encoding.DER)


def test_a_failed_renewal_waits_until_the_certificate_expires(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk does not stop a node whose certificate is still good."""
    credentials = IssuedCredentials(authority(), node("alice"), clock=clock)
    context = credentials.client_context()
    clock.forward(5 * DAY)
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        with caplog.at_level(logging.WARNING, "steinadler.security"):
            assert credentials.client_context() is context
        assert "certificate of node alice could not be renewed" in caplog.text
        clock.forward(2 * DAY)
        with pytest.raises(SecurityError, match="cannot be loaded"):
            credentials.client_context()
    clock.forward(RETRY_AFTER)
    assert credentials.client_context() is not context


def test_every_life_has_its_own_key(home: Home, cluster: Cluster) -> None:
    """The key is fresh per process life, and stays through renewals within it."""
    keys = {
        home.credentials(cluster, NODE, "alice").certificate.public_key().public_numbers()  # type: ignore[union-attr]
        for _ in range(3)
    }
    assert len(keys) == 3


def test_the_key_leaves_nothing_on_disk(
    home: Home, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OpenSSL is made to read is encrypted, private, and gone at once."""
    seen: list[tuple[bytes, int]] = []

    def look(self: ssl.SSLContext, path: Path, *, password: str) -> None:
        seen.append((path.read_bytes(), path.stat().st_mode & 0o777))

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", look)
    home.credentials(cluster, NODE, "alice")
    assert len(seen) == 2
    for content, mode in seen:
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in content
        assert b"BEGIN PRIVATE KEY" not in content
        assert b"BEGIN EC PRIVATE KEY" not in content
        assert mode == 0o600
    assert list(scratch.iterdir()) == []


def test_a_name_that_no_node_can_have_is_refused(home: Home, cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="cannot name a node"):
        home.credentials(cluster, NODE, "al/ice")
