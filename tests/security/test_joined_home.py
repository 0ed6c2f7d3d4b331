"""Homes that joined a cluster: who may be run there, and what becomes of files that change."""

from __future__ import annotations

import json
import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from clocks import Clock
from cryptography.hazmat.primitives.asymmetric import ec
from joined_home import join_home

from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import NODE, OBSERVER
from steinadler.security import (
    Cluster,
    Home,
    IssuedCredentials,
    JoinedCredentials,
    PeerIdentity,
)
from steinadler.security.credentials import utc_now
from steinadler.security.rotation import Rotation
from steinadler.security.trust import Trust


@pytest.fixture
def issuer(tmp_path: Path) -> Home:
    return Home(tmp_path / "issuer")


def sign(issuer: Home, role: str, name: str) -> tuple[ec.EllipticCurvePrivateKey, list[object]]:
    """What an issuer answers to a signing request."""
    cluster = issuer.default_cluster()
    key = ec.generate_private_key(ec.SECP256R1())
    authority = issuer.cluster_folder(cluster).authority()
    identity = PeerIdentity(cluster.id, role, name)
    return key, [authority.issue(identity, key.public_key(), utc_now())]


@pytest.fixture
def joined(tmp_path: Path, issuer: Home) -> Home:
    home = Home(tmp_path / "joined")
    join_home(home, issuer, (NODE, "bob"), (OBSERVER, "bob"), ("gpu-worker", "w-1.x"))
    return home


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    unfinished = [
        client.wrap_bio(down, up, server_side=False),
        server.wrap_bio(up, down, server_side=True),
    ]
    while unfinished:
        for side in tuple(unfinished):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                assert up.pending or down.pending
            else:
                unfinished.remove(side)


def test_a_joined_home_is_whom_it_was_let_in_as(joined: Home, issuer: Home) -> None:
    cluster = joined.default_cluster()
    assert (cluster.joined, cluster.id) == (True, issuer.default_cluster().id)
    assert not (joined.path / "clusters/default/ca.key").exists()
    for role, name, identity in (
        (None, "bob", PeerIdentity(cluster.id, NODE, "bob")),
        (NODE, "bob", PeerIdentity(cluster.id, NODE, "bob")),
        (None, "w-1.x", PeerIdentity(cluster.id, "gpu-worker", "w-1.x")),
        (OBSERVER, "bob.f00", PeerIdentity(cluster.id, OBSERVER, "bob")),
    ):
        assert joined.credentials(cluster, role, name).identity == identity


@pytest.mark.parametrize(
    ("role", "name"),
    [(None, "carol"), (NODE, "bob.2"), ("sidecar", "bob"), (OBSERVER, "bobby"), (NODE, "w-1.x")],
)
def test_it_can_be_nobody_else(joined: Home, role: str | None, name: str) -> None:
    """X3, before anything is dialled: it says who it is, and what to do."""
    with pytest.raises(ConfigError) as raised:
        joined.credentials(joined.default_cluster(), role, name)
    for words in ("node 'bob'", f"called {name!r}", f"cluster token --name {name}"):
        assert words in str(raised.value)


def test_both_kinds_of_home_meet(joined: Home, issuer: Home) -> None:
    alice = issuer.credentials(issuer.default_cluster(), NODE, "alice")
    bob = joined.credentials(joined.default_cluster(), NODE, "bob")
    shake(alice.server_context(), bob.client_context())
    shake(bob.server_context(), alice.client_context())


def test_any_number_of_observers_can_watch(joined: Home, issuer: Home) -> None:
    """Each under a name of its own, that the one certificate vouches for."""
    for home in (joined, issuer):
        cluster = home.default_cluster()
        names = {home.observer_name(cluster) for _ in range(20)}
        assert len(names) == 20
        for name in names:
            assert home.credentials(cluster, OBSERVER, name).identity.vouches_for(name)


def test_without_an_observers_certificate_nobody_can_watch(tmp_path: Path, issuer: Home) -> None:
    home = Home(tmp_path / "other")
    cluster = join_home(home, issuer, (NODE, "bob"), name="theirs")
    with pytest.raises(ConfigError, match=r"cluster 'theirs' as node 'bob': none .* an observer"):
        home.observer_name(cluster)


def test_a_renewed_file_is_what_the_next_handshake_shows(joined: Home, issuer: Home) -> None:
    """M3's base: the object stays, and with it every session that it began."""
    cluster = joined.default_cluster()
    bob = joined.credentials(cluster, NODE, "bob")
    assert isinstance(bob, JoinedCredentials)
    first = bob.certificate
    joined.cluster_folder(cluster).store_credentials(NODE, "bob", *sign(issuer, NODE, "bob"))  # type: ignore[arg-type]
    assert bob.certificate.serial_number != first.serial_number
    assert stat.S_IMODE(bob.file.stat().st_mode) == 0o600
    assert [path.name for path in bob.file.parent.glob(".*")] == []


def test_a_rotated_authority_is_followed_by_every_node(joined: Home, issuer: Home) -> None:
    """Trust both, sign with the new one, drop the old: no node starts again, all meet throughout,
    and whoever shows a certificate of the old one is shut out at the end."""
    place = issuer.cluster_folder(issuer.default_cluster())
    known_as = issuer.default_cluster().fingerprint
    alice = issuer.credentials(issuer.default_cluster(), NODE, "alice")
    bob = joined.credentials(joined.default_cluster(), NODE, "bob")
    carol = issuer.credentials(issuer.default_cluster(), NODE, "carol")
    late = joined.credentials(joined.default_cluster(), None, "w-1.x")
    rotation = Rotation(place)

    def meet() -> None:
        for one, other in ((alice, bob), (bob, carol), (carol, alice)):
            shake(one.server_context(), other.client_context())

    def tell(trust: Trust) -> None:
        for each in (alice, bob, carol):
            each.adopt(trust)
            each.store_trust()

    tell(rotation.begin())
    meet()
    tell(rotation.switch())
    folder = joined.cluster_folder(joined.default_cluster())
    folder.store_credentials(NODE, "bob", *sign(issuer, NODE, "bob"))  # type: ignore[arg-type]
    meet()
    for each in (alice, carol, bob):
        each.certificate.verify_directly_issued_by(place.trust()[0])
    tell(rotation.drop())
    meet()
    assert issuer.default_cluster().id == joined.default_cluster().id
    assert issuer.default_cluster().fingerprint != known_as
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(alice.server_context(), late.client_context())


def test_a_home_of_the_first_format_is_read_and_becomes_one_of_the_second(
    issuer: Home,
) -> None:
    """What 0.1 wrote goes on, and has its authority's fingerprint checked until it is rotated."""
    cluster = issuer.default_cluster()
    place = issuer.cluster_folder(cluster)
    description = place.path / "cluster.json"
    fields = json.loads(description.read_bytes())
    first = {key: value for key, value in fields.items() if key != "kind"}
    first |= {"format": 1, "fingerprint": cluster.fingerprint}
    description.write_text(json.dumps(first))
    assert issuer.default_cluster() == cluster
    place.change_trust(lambda held, _: held)
    assert json.loads(description.read_bytes())["format"] == 1
    added = Rotation(place).begin()
    assert json.loads(description.read_bytes()) == fields
    assert issuer.default_cluster() == cluster
    assert place.trust() == added.authorities


def test_whom_to_trust_counts_also_for_who_was_not_issued_anew(
    joined: Home, issuer: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that slept through a rotation must not go on trusting the authority that is gone."""
    place = issuer.cluster_folder(issuer.default_cluster())
    bob = joined.credentials(joined.default_cluster(), NODE, "bob")
    old = IssuedCredentials(place.authority(), PeerIdentity(bob.trust.cluster_id, NODE, "eve"))
    rotation = Rotation(place)
    for step in (rotation.begin, rotation.switch, rotation.drop):
        shake(old.server_context(), bob.client_context())
        bob.adopt(step())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(old.server_context(), bob.client_context())
    assert caplog.records == []


def test_a_home_without_its_key_renews_nothing(home: Home, cluster: Cluster, clock: Clock) -> None:
    """Taking `ca.key` away from a machine is enough: what it has shown runs out."""
    credentials = home.credentials(cluster, NODE, "alice")
    first = credentials.certificate
    home.cluster_folder(cluster).key_path.unlink()
    clock.forward(timedelta(days=5))
    assert credentials.certificate == first
    clock.forward(timedelta(days=2))
    with pytest.raises(SecurityError, match=r"ca\.key"):
        credentials.server_context()
