"""Certificates of another PKI, from files: what is accepted, and what becomes of a change."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from making import DAY, PATTERN, Files, OtherAuthority, pem, uri_of

from steinadler.errors import ConfigError, SecurityError
from steinadler.security import Credentials, FileCredentials, PeerIdentity, SpiffePattern
from steinadler.security.contexts import ALPN

CLUSTER = SpiffePattern(PATTERN).cluster_id


@pytest.fixture
def authority() -> OtherAuthority:
    return OtherAuthority()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "alice")


def load(files: Files, **options: object) -> FileCredentials:
    given = {"pattern": PATTERN, **options}
    return FileCredentials(files.cert, files.key, ca=files.ca, **given)  # type: ignore[arg-type]


def meet(server: Credentials, client: Credentials) -> tuple[PeerIdentity, PeerIdentity]:
    """Whom either side takes the other for, after a handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.client_context().wrap_bio(down, up, server_side=False)
    far = server.server_context().wrap_bio(up, down, server_side=True)
    unfinished = [near, far]
    while unfinished:
        for side in tuple(unfinished):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                assert up.pending or down.pending
            else:
                unfinished.remove(side)
    assert (near.version(), near.selected_alpn_protocol()) == ("TLSv1.3", ALPN)
    shown = near.getpeercert(binary_form=True), far.getpeercert(binary_form=True)
    assert shown[0] is not None
    assert shown[1] is not None
    return client.judge(shown[0]), server.judge(shown[1])


def test_two_nodes_of_another_pki_know_each_other(
    tmp_path: Path, authority: OtherAuthority
) -> None:
    """X2, X3: by SPIFFE ID; a subject and host names beside it say nothing."""
    alice = load(Files(tmp_path / "a").put(authority.issue(uri_of("alice")), authority))
    bob = load(
        Files(tmp_path / "b").put(
            authority.issue(uri_of("bob", "sidecar"), hosts=["alice", "bob.example.org"]), authority
        )
    )
    assert alice.identity == PeerIdentity(CLUSTER, "node", "alice")
    assert bob.identity == PeerIdentity(CLUSTER, "sidecar", "bob")
    assert meet(alice, bob) == (alice.identity, bob.identity)


def test_intermediate_authorities_travel_behind_the_certificate(tmp_path: Path) -> None:
    """Trust may be in the root alone, or in the authority below it alone."""
    root = OtherAuthority("root")
    below = OtherAuthority("below", above=root)
    alice = load(Files(tmp_path / "a").put(below.issue(uri_of("alice")), root))
    bob = load(Files(tmp_path / "b").put(below.issue(uri_of("bob")), below))
    carol = load(Files(tmp_path / "c").put(root.issue(uri_of("carol")), root, below))
    for one, other in ((alice, bob), (bob, alice), (alice, carol), (carol, alice)):
        assert meet(one, other) == (one.identity, other.identity)


def test_key_and_certificate_may_be_in_one_file(files: Files, authority: OtherAuthority) -> None:
    files.put(authority.issue(uri_of("alice")), authority)
    files.key.write_bytes(files.key.read_bytes() + files.cert.read_bytes())
    one = FileCredentials(files.key, ca=str(files.ca), pattern=PATTERN)
    assert one.identity.name == "alice"


def test_the_pattern_of_the_clusters_own_authority_needs_not_be_told(
    files: Files, authority: OtherAuthority
) -> None:
    own = "0123456789abcdef" * 2
    files.put(authority.issue(f"spiffe://{own}/node/alice"), authority)
    assert load(files, pattern=None).identity == PeerIdentity(own, "node", "alice")
    files.put(authority.issue(uri_of("alice")))
    with pytest.raises(SecurityError, match="say by a pattern where the node's name is"):
        load(files, pattern=None)


def test_somebody_elses_certificate_of_the_same_pki_is_nobody(
    tmp_path: Path, authority: OtherAuthority
) -> None:
    """X2: a company's authority signs for web servers too, and for other clusters."""
    alice = load(Files(tmp_path / "a").put(authority.issue(uri_of("alice")), authority))
    for uris in (
        ["spiffe://example.org/web/node/alice"],
        ["spiffe://example.org/steinadler/node/eve/more"],
        [uri_of("bob"), uri_of("eve")],
        [uri_of("bob", "Node")],
        [],
    ):
        issued = authority.issue(*uris, hosts=["eve"])
        with pytest.raises(SecurityError):
            alice.judge(issued.certificate.public_bytes(Encoding.DER))


Spoil = Callable[[Files, OtherAuthority], object]


def _forget_the_one_between(files: Files, authority: OtherAuthority) -> None:
    issued = OtherAuthority("below", above=authority).issue(uri_of("alice"))
    files.put(issued)
    files.cert.write_bytes(pem(issued.certificate))


ONLY_SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)


@pytest.mark.parametrize(
    ("spoil", "file", "words"),
    [
        (lambda f, a: f.cert.unlink(), "cert", "No such file"),
        (lambda f, a: f.cert.write_text("junk"), "cert", "holds no certificate in PEM"),
        (lambda f, a: f.key.unlink(), "key", "No such file"),
        (lambda f, a: f.key.write_text("junk"), "key", "holds no private key in PEM"),
        (lambda f, a: f.ca.unlink(), "ca", "No such file"),
        (lambda f, a: f.ca.write_text(""), "ca", "holds no certificate in PEM"),
        (
            lambda f, a: f.ca.write_bytes(f.ca.read_bytes() + f.cert.read_bytes()),
            "ca",
            "is no authority: put there only those that sign",
        ),
        (
            lambda f, a: f.put_key(ec.generate_private_key(ec.SECP256R1())),
            "key",
            "put the two that were made together",
        ),
        (
            lambda f, a: f.put_key(ec.generate_private_key(ec.SECP256R1()), b"secret"),
            "key",
            "openssl pkey -in KEY -out KEY",
        ),
        (
            lambda f, a: f.put(a.issue(uri_of("alice"), purposes=ONLY_SERVER)),
            "cert",
            "with serverAuth and clientAuth",
        ),
        (
            lambda f, a: f.put(a.issue(uri_of("alice"), signatures=False)),
            "cert",
            "with digitalSignature",
        ),
        (
            lambda f, a: f.put(a.issue(uri_of("alice"), begin=datetime.now(UTC) - 2 * DAY)),
            "cert",
            "has expired",
        ),
        (
            lambda f, a: f.put(a.issue(uri_of("alice"), begin=datetime.now(UTC) + DAY)),
            "cert",
            "is the clock right",
        ),
        (lambda f, a: f.put(a.issue("spiffe://x.org/alice")), "cert", "are like " + PATTERN),
        (lambda f, a: f.put(a.issue(hosts=["alice"])), "cert", "exactly one"),
        (lambda f, a: f.put_ca(OtherAuthority()), "ca", "put the authority there that it comes"),
        (_forget_the_one_between, "ca", "certificates between the two behind it"),
    ],
)
def test_what_does_not_fit_is_named_and_what_to_do(
    files: Files, authority: OtherAuthority, spoil: Spoil, file: str, words: str
) -> None:
    files.put(authority.issue(uri_of("alice")), authority)
    load(files)
    spoil(files, authority)
    with pytest.raises(SecurityError) as raised:
        load(files)
    assert words in str(raised.value)
    assert str(getattr(files, file)) in str(raised.value)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o440, True), (0o644, False), (0o660, False)]
)
def test_a_key_is_read_by_its_owner_and_at_most_its_group(
    files: Files, authority: OtherAuthority, mode: int, good: bool
) -> None:
    files.put(authority.issue(uri_of("alice")), authority)
    files.key.chmod(mode)
    if good:
        load(files)
    else:
        with pytest.raises(SecurityError, match=f"chmod 640 '{files.key}'"):
            load(files)


def test_the_next_handshake_shows_what_the_files_hold(
    files: Files, authority: OtherAuthority
) -> None:
    """Renewal is replacing files; nobody needs to tell the node."""
    files.put(authority.issue(uri_of("alice")), authority)
    credentials = load(files)
    context = credentials.server_context()
    assert credentials.server_context() is context
    renewed = authority.issue(uri_of("alice"))
    files.put(renewed)
    assert credentials.server_context() is not context
    assert credentials.certificate == renewed.certificate


def test_half_a_renewal_changes_nothing(
    files: Files, authority: OtherAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is there, its certificate not yet: one warning, and the former pair goes on."""
    first = authority.issue(uri_of("alice"))
    files.put(first, authority)
    credentials = load(files)
    second = authority.issue(uri_of("alice"))
    with caplog.at_level(logging.WARNING, "steinadler.security"):
        files.put_key(second.key)
        for _ in range(3):
            assert credentials.certificate == first.certificate
        assert len(caplog.records) == 1
        assert "made together" in caplog.text
        files.put_cert(second)
        assert credentials.certificate == second.certificate
    assert len(caplog.records) == 1


def test_a_new_name_takes_a_new_start(
    files: Files, authority: OtherAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """X3: peers know the node by the name that it came with."""
    first = authority.issue(uri_of("alice"))
    files.put(first, authority)
    credentials = load(files)
    files.put(authority.issue(uri_of("bob")))
    assert credentials.certificate == first.certificate
    assert credentials.identity.name == "alice"
    assert "start the node again" in caplog.text


def test_an_expired_certificate_is_used_no_longer(files: Files, authority: OtherAuthority) -> None:
    """What to do is told at each handshake, and doing it is enough."""
    now = datetime.now(UTC)
    issued = authority.issue(uri_of("alice"))
    files.put(issued, authority)
    credentials = load(files, clock=lambda: now)
    now = issued.certificate.not_valid_after_utc
    with pytest.raises(SecurityError, match="have a new one issued, and put it there"):
        credentials.client_context()
    files.put(authority.issue(uri_of("alice"), validity=3 * DAY))
    assert credentials.client_context()


def test_authorities_are_replaced_in_their_file(tmp_path: Path) -> None:
    """Rotation of the authority: trust both, issue anew, trust the new one; nobody restarts."""
    old, new = OtherAuthority("old"), OtherAuthority("new")
    places = [Files(tmp_path / name) for name in ("a", "b")]
    nodes = [
        load(place.put(old.issue(uri_of(name)), old))
        for place, name in zip(places, ("alice", "bob"), strict=True)
    ]
    for place in places:
        place.put_ca(old, new)
        meet(nodes[0], nodes[1])
    for place, name in zip(places, ("alice", "bob"), strict=True):
        place.put(new.issue(uri_of(name)))
        meet(nodes[0], nodes[1])
    for place in places:
        place.put_ca(new)
        meet(nodes[0], nodes[1])
    late = load(Files(tmp_path / "c").put(old.issue(uri_of("carol")), old))
    with pytest.raises(ssl.SSLCertVerificationError):
        meet(nodes[0], late)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://example.org/{name}",
        "spiffe://example.org/{role}",
        "spiffe://example.org",
        "spiffe://{name}/node",
        "spiffe://Example.org/{name}",
        "spiffe://example.org/{name}/{name}",
        "spiffe://example.org/{role}-{name}",
        "spiffe://example.org/{role}/{role}/{name}",
        "spiffe://example.org/ns/*/{name}",
        "spiffe://example.org//{name}",
        "spiffe://example.org/../{name}",
        "spiffe://example.org/{name}\n",
    ],
)
def test_a_pattern_that_could_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no pattern of SPIFFE IDs"):
        SpiffePattern(text)


def test_a_pattern_says_where_the_name_is() -> None:
    """And two patterns are two clusters, though one authority signs for both (S3)."""
    plain = SpiffePattern("spiffe://example.org/ns/prod/sa/db-{name}")
    assert plain.read("spiffe://example.org/ns/prod/sa/db-7") == PeerIdentity(
        plain.cluster_id, "node", "7"
    )
    for other in ("ns/prod/sa/web-7", "ns/test/sa/db-7", "ns/prod/sa/db-", "ns/prod/sa/db-7/x"):
        with pytest.raises(SecurityError):
            plain.read(f"spiffe://example.org/{other}")
    test = SpiffePattern("spiffe://example.org/ns/test/sa/db-{name}")
    assert len({plain.cluster_id, test.cluster_id}) == 2
    own = SpiffePattern.of_cluster("f" * 32)
    assert (own.cluster_id, SpiffePattern(own.text)) == ("f" * 32, own)


def test_an_authority_is_nobodys_certificate(authority: OtherAuthority) -> None:
    with pytest.raises(SecurityError, match="is an authority's"):
        SpiffePattern(PATTERN).identify(_with_name(authority))


def _with_name(authority: OtherAuthority) -> bytes:
    certificate = authority.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.subject)
        .public_key(authority.key.public_key())
        .serial_number(1)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_before_utc + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri_of("eve"))]),
            critical=False,
        )
    )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.DER)
