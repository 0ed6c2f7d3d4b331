"""The protocol by which machines join, in memory: both sides honest, and either of them not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from clocks import Clock
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steinadler.errors import CertificateRevoked, JoinFailed, RemoteProtocolError
from steinadler.identity import NODE, OBSERVER, Address
from steinadler.security import Admission, Authority, Home, Joiner, JoinToken, PeerIdentity
from steinadler.security.enrolment import (
    MAX_JOIN_REQUEST_BYTES,
    Inbox,
    der_of,
    framed,
    make_grant,
    make_offer,
    request_transcript,
)
from steinadler.security.registrar import Answered, Registrar, Visit
from steinadler.security.signing_request import make_request
from steinadler.security.token_store import Refusal
from steinadler.wire import plain


@dataclass
class Issuer:
    """A home with the cluster's key, and a node of it that lets joiners in."""

    home: Home
    clock: Clock

    def __post_init__(self) -> None:
        self.cluster = self.home.default_cluster()
        self.folder = self.home.cluster_folder(self.cluster)
        node = self.home.credentials(self.cluster, NODE, "alice")
        assert node.registrar is not None
        self.registrar: Registrar = node.registrar

    def token(self, **options: object) -> JoinToken:
        tokens = self.home.tokens(self.cluster)
        return tokens.make(self.cluster, now=self.clock(), **options)  # type: ignore[arg-type]

    def receive(self) -> Visit:
        return self.registrar.receive(self.registrar.show()[0])

    def answer(
        self, request: bytes, visit: Visit, living: Collection[str] = ("alice",)
    ) -> Answered:
        return self.registrar.answer(request, visit, living)

    def refusal(self, request: bytes, visit: Visit) -> str:
        """Why a request is refused, as the joiner is told."""
        answered = self.answer(request, visit)
        assert not answered.admitted
        _, reason, _ = plain.loads(answered.message)
        return str(reason)


@pytest.fixture
def issuer(home: Home, clock: Clock) -> Issuer:
    return Issuer(home, clock)


def admit(issuer: Issuer, joiner: Joiner) -> Admission:
    """All of it, nobody lying."""
    visit, now = issuer.receive(), issuer.clock()
    meeting = joiner.meet(visit.offer, visit.shown, now)
    answered = issuer.answer(meeting.request(), visit)
    return meeting.read_answer(answered.message, now)


@pytest.mark.parametrize("role", [NODE, "gpu-worker"])
def test_a_member_gets_its_certificate_and_one_to_watch_with(issuer: Issuer, role: str) -> None:
    admission = admit(issuer, Joiner(issuer.token(role=role), "bob"))
    id_ = issuer.cluster.id
    assert admission.issuer == PeerIdentity(id_, NODE, "alice")
    assert [each.identity for each in admission.granted] == [
        PeerIdentity(id_, role, "bob"),
        PeerIdentity(id_, OBSERVER, "bob"),
    ]
    assert admission.authorities == issuer.folder.trust()
    for each in admission.granted:
        each.certificate.verify_directly_issued_by(admission.authorities[0])
        assert each.certificate.public_key() == each.key.public_key()


def test_an_observer_gets_no_more_than_that(issuer: Issuer) -> None:
    (only,) = admit(issuer, Joiner(issuer.token(role=OBSERVER), "bob")).granted
    assert only.identity.is_observer


def test_what_was_given_is_kept_and_opens_nodes(issuer: Issuer, tmp_path: Path) -> None:
    home = Home(tmp_path / "bob", clock=issuer.clock)
    seeds = [Address("192.0.2.7", 4370), Address("2001:db8::7", 4370)]
    cluster = home.keep("default", admit(issuer, Joiner(issuer.token(), "bob")), seeds)
    assert (cluster.id, cluster.joined) == (issuer.cluster.id, True)
    bob = home.credentials(cluster, None, "bob")
    assert bob.identity == PeerIdentity(cluster.id, NODE, "bob")
    assert bob.registrar is None, "it lets nobody in"
    assert home.credentials(cluster, OBSERVER, "bob.1").identity.is_observer
    lines = home.cluster_folder(cluster).seeds_path.read_text().splitlines()
    assert lines[1:] == ["192.0.2.7:4370", "[2001:db8::7]:4370"]
    first = bob.certificate
    home.keep("default", admit(issuer, Joiner(issuer.token(name="bob"), "bob")), seeds)
    assert bob.certificate != first, "joining again renews, while the node runs"


# -- joiners that mean harm -------------------------------------------------------------------


def test_without_the_secret_nobody_gets_in(issuer: Issuer) -> None:
    """Whoever knows all of a token but its secret: its id, who it is for, the fingerprint."""
    token = issuer.token(name="bob")
    joiner = Joiner(token, "bob")
    visit = issuer.receive()
    thief = Ed25519PrivateKey.generate()
    signature = thief.sign(request_transcript(visit.shown, visit.nonce, joiner.wanted_body))
    request = plain.dumps([bytes.fromhex(token.id), joiner.wanted_body, signature])
    answered = issuer.answer(request, visit)
    assert (answered.proved, answered.admitted) == (False, False)
    nobody = plain.dumps([bytes(6), joiner.wanted_body, signature])
    assert issuer.answer(nobody, visit) == answered, "nor learns whether there is such a token"
    assert admit(issuer, joiner), "and it costs no use"


def test_what_was_overheard_is_good_for_nothing(issuer: Issuer, home: Home) -> None:
    """A request is for one connection, to one node: by replay or relay nobody joins."""
    joiner = Joiner(issuer.token(uses=9), "bob")
    first, second = issuer.receive(), issuer.receive()
    request = joiner.meet(first.offer, first.shown, issuer.clock()).request()
    assert issuer.refusal(request, second) == Refusal.UNKNOWN_TOKEN.value
    member = home.credentials(issuer.cluster, NODE, "mallory").certificate
    relayed = replace(first, shown=der_of(member))
    assert issuer.refusal(request, relayed) == Refusal.UNKNOWN_TOKEN.value
    assert issuer.answer(request, first).admitted


def signed(token: JoinToken, visit: Visit, wanted: object) -> bytes:
    body = wanted if isinstance(wanted, bytes) else plain.dumps(wanted)
    signature = token.key().sign(request_transcript(visit.shown, visit.nonce, body))
    return plain.dumps([bytes.fromhex(token.id), body, signature])


def csr(issuer: Issuer, role: str, name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return make_request(PeerIdentity(issuer.cluster.id, role, name), key)


def test_the_holder_of_a_token_gets_what_it_is_for_and_nothing_else(issuer: Issuer) -> None:
    """X3: no other name, no other role, no second member, nothing that is asked for on the side."""
    token = issuer.token(name="bob", uses=9)
    visit = issuer.receive()
    bob, watch = csr(issuer, NODE, "bob"), csr(issuer, OBSERVER, "bob")
    eve = csr(issuer, NODE, "eve")
    for wanted, reason in (
        ([[NODE, "eve", eve]], Refusal.WRONG_NAME),
        ([[NODE, "bob", eve]], Refusal.BAD_REQUEST),
        ([["admin", "bob", csr(issuer, "admin", "bob")]], Refusal.WRONG_ROLE),
        ([[OBSERVER, "bob", watch]], Refusal.WRONG_ROLE),
        ([[NODE, "bob", bob], [NODE, "bob", bob]], Refusal.BAD_REQUEST),
        ([[NODE, "bob", bob], [OBSERVER, "eve", csr(issuer, OBSERVER, "eve")]], None),
        ([[NODE, "bob", bob], [OBSERVER, "bob", watch], [OBSERVER, "bob", watch]], None),
        ([[OBSERVER, "bob", watch], [NODE, "bob", bob]], None),
        ([], None),
        ([[NODE, "bob"]], None),
        ([["N", "bob", bob]], None),
        ([[NODE, "b/ob", bob]], None),
        ([[NODE, "bob", bytes(3000)]], None),
        ("bob", None),
        (b"\xff\xff", None),
    ):
        expected = (reason or Refusal.BAD_REQUEST).value
        assert issuer.refusal(signed(token, visit, wanted), visit) == expected, wanted
    assert issuer.answer(signed(token, visit, [[NODE, "bob", bob]]), visit).admitted


def test_a_use_is_spent_before_there_is_a_certificate(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens at that moment, a token does not come to life again."""

    def crash(*arguments: object) -> x509.Certificate:
        raise KeyboardInterrupt

    token = issuer.token()
    monkeypatch.setattr("steinadler.security.registrar.sign_request", crash)
    with pytest.raises(KeyboardInterrupt):
        admit(issuer, Joiner(token, "bob"))
    monkeypatch.undo()
    with pytest.raises(JoinFailed, match="used up already, by bob"):
        admit(issuer, Joiner(token, "bob"))


def test_without_the_key_nobody_is_let_in_and_no_use_is_lost(issuer: Issuer) -> None:
    joiner = Joiner(issuer.token(), "bob")
    visit = issuer.receive()
    meeting = joiner.meet(visit.offer, visit.shown, issuer.clock())
    key = issuer.folder.key_path.read_bytes()
    issuer.folder.key_path.unlink()
    answered = issuer.answer(meeting.request(), visit)
    with pytest.raises(JoinFailed) as raised:
        meeting.read_answer(answered.message, issuer.clock())
    assert raised.value.reason == Refusal.UNABLE.value
    assert "ca.key" in answered.text
    assert "ca.key" not in str(raised.value)
    issuer.folder.key_path.write_bytes(key)
    issuer.folder.key_path.chmod(0o600)
    assert admit(issuer, joiner)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    data=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.binary(max_size=70) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4),
    ).map(plain.dumps)
)
def test_no_bytes_get_in_or_stop_the_registrar(issuer: Issuer, data: bytes) -> None:
    """X4."""
    visit = Visit(b"shown", bytes(32), b"")
    with suppress(RemoteProtocolError):
        assert not issuer.answer(data, visit).proved


# -- issuers that mean harm -------------------------------------------------------------------


@pytest.fixture
def bob(issuer: Issuer) -> Joiner:
    return Joiner(issuer.token(), "bob")


def offer_of(
    issuer: Issuer, signer: Authority, shown: x509.Certificate, *trust: x509.Certificate
) -> tuple[bytes, bytes]:
    offered = make_offer(bytes(32), issuer.clock(), signer, trust, der_of(shown))
    return offered, der_of(shown)


def certificate(
    authority: Authority, clock: Clock, role: str, name: str, id_: str = ""
) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    return authority.issue(PeerIdentity(id_, role, name), key.public_key(), clock())


def test_to_anybody_else_not_a_word_is_said(issuer: Issuer, bob: Joiner) -> None:
    """Only an issuer of the token's cluster passes: not one of another that has the same id, not a
    member of the cluster, not who has seen an issuer's offer."""
    id_, clock = issuer.cluster.id, issuer.clock
    real, forged = issuer.folder.authority(), Authority.create(id_, clock())
    member = certificate(real, clock, NODE, "mallory", id_)
    member_key = Authority.create(id_, clock())  # stands for any key that is not the authority's
    visit = issuer.receive()
    shown = x509.load_der_x509_certificate(visit.shown)
    fake = certificate(forged, clock, NODE, "alice", id_)
    other = Authority.create("f" * 32, clock())
    cases: list[tuple[str, tuple[bytes, bytes]]] = [
        ("another authority", offer_of(issuer, forged, fake, forged.certificate)),
        ("the right one beside it", offer_of(issuer, forged, fake, real.certificate)),
        ("shown by the right one", offer_of(issuer, forged, shown, real.certificate)),
        ("a member", offer_of(issuer, member_key, member, real.certificate)),
        ("a member with an overheard offer", (visit.offer, der_of(member))),
        (
            "an observer",
            offer_of(
                issuer, real, certificate(real, clock, OBSERVER, "eve", id_), real.certificate
            ),
        ),
        (
            "another cluster's node",
            offer_of(issuer, real, certificate(real, clock, NODE, "a", "f" * 32), real.certificate),
        ),
        (
            "trust in another cluster",
            offer_of(issuer, real, shown, real.certificate, other.certificate),
        ),
        ("trust in a member", offer_of(issuer, real, shown, real.certificate, member)),
        ("no authority", offer_of(issuer, real, shown)),
        ("no certificate", (visit.offer, b"")),
        ("nonsense", (b"\x82\x40\x40", visit.shown)),
        (
            "a short nonce",
            (make_offer(b"", clock(), real, [real.certificate], visit.shown), visit.shown),
        ),
    ]
    for what, (offer, der) in cases:
        with pytest.raises(JoinFailed) as raised:
            bob.meet(offer, der, clock())
        assert raised.value.reason == "impostor", what
    assert bob.meet(visit.offer, visit.shown, clock())


def test_what_an_issuer_says_cannot_be_changed_on_the_way(issuer: Issuer, bob: Joiner) -> None:
    visit = issuer.receive()
    offer = bytearray(visit.offer)
    for place in range(0, len(offer), 7):
        offer[place] ^= 1
        with pytest.raises(JoinFailed):
            bob.meet(bytes(offer), visit.shown, issuer.clock())
        offer[place] ^= 1


def test_only_what_was_asked_for_is_taken(issuer: Issuer, bob: Joiner) -> None:
    id_, clock = issuer.cluster.id, issuer.clock
    real, forged = issuer.folder.authority(), Authority.create(id_, clock())
    visit = issuer.receive()
    meeting = bob.meet(visit.offer, visit.shown, clock())
    (node, key), (watcher, watcher_key) = bob._wanted

    def issue(
        signer: Authority, identity: PeerIdentity, key: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        return signer.issue(identity, key.public_key(), clock())

    good, watch = issue(real, node, key), issue(real, watcher, watcher_key)
    eve = PeerIdentity(id_, NODE, "eve")
    for answer in (
        make_grant([good]),
        make_grant([watch, good]),
        make_grant([issue(forged, node, key), watch]),
        make_grant([issue(real, eve, key), watch]),
        make_grant([issue(real, node, watcher_key), watch]),
        make_grant([real.issue(node, key.public_key(), clock(), validity=timedelta(0)), watch]),
        make_grant([]),
        b"",
        b"\x82\x02\x00",
        plain.dumps([0, [b"x", b"y"]]),
        plain.dumps([1, 2, 3]),
    ):
        with pytest.raises(JoinFailed, match="makes no sense"):
            meeting.read_answer(answer, clock())
    assert meeting.read_answer(make_grant([good, watch]), clock()).granted


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (timedelta(minutes=-7), "7 minutes behind that of node alice"),
        (timedelta(hours=30), "30 hours ahead of that of node alice"),
        (timedelta(days=400), "400 days ahead of that of node alice"),
    ],
)
def test_clocks_that_differ_are_told(
    issuer: Issuer, bob: Joiner, by: timedelta, words: str
) -> None:
    """Before a use is spent on certificates that would not be good here."""
    visit = issuer.receive()
    with pytest.raises(JoinFailed, match=words) as raised:
        bob.meet(visit.offer, visit.shown, issuer.clock() + by)
    assert raised.value.reason == "clock"
    assert bob.meet(visit.offer, visit.shown, issuer.clock() + timedelta(minutes=4))


def test_joining_in_the_middle_of_a_rotation(issuer: Issuer) -> None:
    """Both authorities are trusted from then on; a token from before it says so."""
    before = issuer.token(uses=2)
    folder = issuer.folder
    old, new = (
        folder.authority().certificate,
        folder.make_next_authority(issuer.clock()).certificate,
    )
    folder.change_trust(lambda held, keys: held.successor(keys, authorities=[old, new]))
    assert admit(issuer, Joiner(before, "bob")).authorities == (old, new)
    folder.change_trust(lambda held, keys: held.successor(keys, authorities=[new, old]))
    folder.use_next_authority()
    with pytest.raises(JoinFailed, match=r"make a new token|does not have the key"):
        admit(issuer, Joiner(before, "carol"))
    issuer.cluster = issuer.home.default_cluster()
    assert admit(issuer, Joiner(issuer.token(), "carol")).authorities == issuer.folder.trust()


def test_a_home_that_missed_a_rotation_joins_anew(issuer: Issuer, tmp_path: Path) -> None:
    """It begins with whom it was told to trust; one that missed nothing keeps who was revoked."""
    home = Home(tmp_path / "bob", clock=issuer.clock)
    cluster = home.keep("default", admit(issuer, Joiner(issuer.token(), "bob")), [])
    theirs = home.cluster_folder(cluster)
    now, folder = issuer.clock(), issuer.folder
    told = folder.change_trust(
        lambda held, keys: held.successor(keys, revoked=held.revoked.revoke("eve", now))
    )
    theirs.take_trust(told)
    home.keep("default", admit(issuer, Joiner(issuer.token(name="bob"), "bob")), [])
    assert theirs.read_trust().revoked.barred == {"eve"}
    new = folder.make_next_authority(now).certificate
    for trusted in ([new, *told.authorities], [new]):
        folder.change_trust(lambda held, keys: held.successor(keys, authorities=trusted))  # noqa: B023
        folder.use_next_authority()
    issuer.cluster = issuer.home.default_cluster()
    home.keep("default", admit(issuer, Joiner(issuer.token(name="bob"), "bob")), [])
    assert theirs.trust() == (new,)
    assert theirs.read_trust().judge(folder.read_trust()), "and takes what members tell it"
    assert home.credentials(cluster, None, "bob").server_context()


def test_who_was_readmitted_and_joins_again_may_start(issuer: Issuer, tmp_path: Path) -> None:
    """Its home knew no better than that it was revoked: members tell it that it is so no longer."""
    home, folder = Home(tmp_path / "theirs", clock=issuer.clock), issuer.folder
    cluster = home.keep("default", admit(issuer, Joiner(issuer.token(name="bob"), "bob")), [])
    theirs = home.cluster_folder(cluster)
    change, now = folder.change_trust, issuer.clock()
    revoked = change(
        lambda held, keys: held.successor(keys, revoked=held.revoked.revoke("bob", now))
    )
    theirs.take_trust(revoked)
    with pytest.raises(CertificateRevoked):
        home.credentials(cluster, None, "bob").check_own()
    change(lambda held, keys: held.successor(keys, revoked=held.revoked.readmit("bob")))
    issuer.clock.forward(timedelta(seconds=2))
    home.keep("default", admit(issuer, Joiner(issuer.token(name="bob"), "bob")), [])
    bob = home.credentials(cluster, None, "bob")
    bob.check_own()
    assert bob.adopt(folder.read_trust()), "and it takes what members tell it"
    bob.check_own()


def test_a_revoked_name_is_given_to_nobody_and_costs_no_use(issuer: Issuer) -> None:
    token, now = issuer.token(name="bob"), issuer.clock()
    change = issuer.folder.change_trust
    change(lambda held, keys: held.successor(keys, revoked=held.revoked.revoke("bob", now)))
    with pytest.raises(JoinFailed, match="cluster readmit bob") as raised:
        admit(issuer, Joiner(token, "bob"))
    assert raised.value.reason == Refusal.NAME_REVOKED.value
    change(lambda held, keys: held.successor(keys, revoked=held.revoked.readmit("bob")))
    issuer.clock.forward(timedelta(seconds=2))  # certificates are good from after the revocation
    assert admit(issuer, Joiner(token, "bob"))


# -- framing ----------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.integers(1, 9))
def test_a_message_comes_whole_however_it_is_cut(message: bytes, size: int) -> None:
    inbox = Inbox(300)
    data = framed(message)
    pieces = [data[place : place + size] for place in range(0, len(data), size)]
    *before, last = [inbox.feed(piece) for piece in pieces]
    assert before == [None] * len(before)
    assert last == message


@given(st.binary(min_size=1, max_size=50), st.binary(min_size=1, max_size=50))
def test_nothing_follows_a_message(message: bytes, more: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="more than one"):
        Inbox(50).feed(framed(message) + more)


def test_a_message_is_not_longer_than_it_may_be() -> None:
    inbox = Inbox(MAX_JOIN_REQUEST_BYTES)
    feed: Callable[[bytes], bytes | None] = inbox.feed
    assert feed(b"") is None
    with pytest.raises(RemoteProtocolError, match="over 6144"):
        feed((MAX_JOIN_REQUEST_BYTES + 1).to_bytes(2, "big"))
