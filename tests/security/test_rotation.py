"""Rotating an authority in a home: steps that can be interrupted anywhere, and files that agree."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from joined_home import join_home

from steinadler.errors import CertificateRevoked, ConfigError, SecurityError
from steinadler.identity import NODE
from steinadler.security import ClusterFolder, Home
from steinadler.security import cluster_folder as cluster_folder_module
from steinadler.security import rotation as rotation_module
from steinadler.security.credentials import utc_now
from steinadler.security.rotation import Rotation
from steinadler.security.trust import Trust


@pytest.fixture
def issuer(tmp_path: Path) -> Home:
    return Home(tmp_path / "issuer")


@pytest.fixture
def place(issuer: Home) -> ClusterFolder:
    return issuer.cluster_folder(issuer.default_cluster())


def run(place: ClusterFolder, *, drop: bool = True) -> Trust:
    rotation = Rotation(place)
    if not rotation.is_dropping:
        rotation.begin()
        rotation.switch()
    if drop:
        rotation.drop()
        rotation.finish()
    return place.read_trust()


def test_a_rotation_leaves_one_authority_whose_key_is_here(place: ClusterFolder) -> None:
    old = place.authority()
    trust = run(place)
    new = place.authority()
    assert trust.authorities == (new.certificate,)
    assert new.certificate != old.certificate
    assert trust.version == 3
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.path.iterdir()}
    assert files == dict.fromkeys(("ca.key", "ca.pem", "cluster.json", "trust.lock"), 0o600)


def test_without_dropping_the_old_one_is_trusted_until_a_later_run(place: ClusterFolder) -> None:
    old = place.authority().certificate
    both = run(place, drop=False)
    assert both.authorities == (place.authority().certificate, old)
    assert run(place, drop=False) == both, "no second rotation begins before the first one ends"
    assert run(place).authorities == both.authorities[:1]


WRITES = 6


class Killed(Exception):
    """The process was, at this write."""


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], int]:
    """Let so many files be replaced, and then no more."""
    count = 0
    real = cluster_folder_module.replace_file

    def replace(path: Path, data: bytes) -> None:
        nonlocal count
        if count == after:
            raise Killed
        count += 1
        real(path, data)

    for module in (cluster_folder_module, rotation_module):
        monkeypatch.setattr(module, "replace_file", replace)
    return lambda: count


@pytest.mark.parametrize("after", range(WRITES))
def test_whoever_is_interrupted_goes_on_where_it_was(
    place: ClusterFolder, issuer: Home, after: int
) -> None:
    """Between any two writes a node starts, is certified and trusted; the next run ends it."""
    old = place.authority().certificate
    with pytest.MonkeyPatch.context() as patched:
        done = interrupted(patched, after)
        with pytest.raises(Killed):
            run(place)
        assert done() == after
    node = issuer.credentials(issuer.default_cluster(), NODE, "alice")
    assert node.trust.is_trusted(node.certificate)
    trust = run(place)
    assert trust.authorities == (place.authority().certificate,)
    assert trust.version == 3, "one rotation, and not a second one"
    assert old not in trust.authorities
    assert not (place.path / "ca.dropping").exists()


def test_a_rotation_is_six_writes(place: ClusterFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above leaves one out."""
    done = interrupted(monkeypatch, 100)
    run(place)
    assert done() == WRITES


def test_a_home_that_joined_rotates_nothing(tmp_path: Path, issuer: Home) -> None:
    joined = Home(tmp_path / "joined")
    made = join_home(joined, issuer)
    with pytest.raises(ConfigError, match="joined cluster 'default' and does not have its key"):
        Rotation(joined.cluster_folder(made))


def test_two_homes_with_the_key_do_not_rotate_at_once(tmp_path: Path, place: ClusterFolder) -> None:
    copy = ClusterFolder(tmp_path / "default")
    copy.path.mkdir()
    for path in place.path.iterdir():
        target = copy.path / path.name
        target.write_bytes(path.read_bytes())
        target.chmod(0o600)
    there, here = Rotation(copy), Rotation(place)
    there.begin()
    copy.take_trust(max(here.begin(), copy.read_trust(), key=lambda trust: trust.mark))
    place.take_trust(max(place.read_trust(), copy.read_trust(), key=lambda trust: trust.mark))
    assert place.read_trust() == copy.read_trust()
    won = place if place.next_authority().certificate in place.trust() else copy  # type: ignore[union-attr]
    lost = copy if won is place else place
    with pytest.raises(ConfigError, match="somebody else rotates this authority too"):
        Rotation(lost).switch()
    Rotation(won).switch()


# -- what is kept -----------------------------------------------------------------------------


def revoke(place: ClusterFolder, *names: str) -> Trust:
    for name in names:
        place.change_trust(
            lambda held, keys, name=name: held.successor(
                keys, revoked=held.revoked.revoke(name, utc_now())
            )
        )
    return place.read_trust()


def test_who_was_revoked_stays_so(place: ClusterFolder, issuer: Home) -> None:
    """Restarts of all, and a rotation, change nothing: it is in the file with the authorities."""
    before = issuer.credentials(issuer.default_cluster(), NODE, "bob")
    revoke(place, "bob")
    again = Home(issuer.path)
    cluster = again.default_cluster()
    with pytest.raises(CertificateRevoked, match="cluster readmit bob"):
        again.credentials(cluster, NODE, "bob")
    alice = again.credentials(cluster, NODE, "alice")
    assert alice.trust.revoked.barred == {"bob"}
    with pytest.raises(CertificateRevoked):
        alice.judge(before.certificate.public_bytes(_DER))
    run(place)
    assert again.credentials(cluster, NODE, "carol").trust.revoked.barred == {"bob"}


def test_what_others_tell_is_kept_only_when_it_is_later(place: ClusterFolder) -> None:
    first = revoke(place, "bob")
    second = revoke(place, "carol")
    assert place.take_trust(first) == second
    assert place.read_trust() == second
    stranger = Home(place.path.parent.parent.parent / "other")
    other = stranger.cluster_folder(stranger.default_cluster())
    with pytest.raises(SecurityError, match="it is of cluster"):
        place.take_trust(revoke(other, "dave"))
    assert place.read_trust() == second


@pytest.mark.parametrize("what", ["block", "certificates", "signature"])
def test_a_file_that_was_changed_is_damaged(place: ClusterFolder, what: str) -> None:
    """Nobody is readmitted by a slip of an editor."""
    revoke(place, "bob")
    text = place.trust_path.read_text()
    head, begin, block = text.partition("-----BEGIN STEINADLER TRUST-----")
    if what == "certificates":
        other = Home(place.path.parent.parent.parent / "other")
        changed = head + other.cluster_folder(other.default_cluster()).trust_path.read_text()
        changed += begin + block
    elif what == "block":
        changed = head + begin + block[:40] + block[80:]
    else:
        changed = head + begin + block.replace(block[-60:-40], block[-60:-40].swapcase())
    place.trust_path.write_text(changed)
    with pytest.raises(SecurityError, match=r"ca\.pem is damaged"):
        place.read_trust()


def test_other_tools_read_the_certificates(place: ClusterFolder) -> None:
    revoke(place, "bob")
    run(place, drop=False)
    found = x509.load_pem_x509_certificates(place.trust_path.read_bytes())
    assert tuple(found) == place.trust()


_DER = cluster_folder_module.serialization.Encoding.DER
