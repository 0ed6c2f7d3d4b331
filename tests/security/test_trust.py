"""Documents that say whom to trust: who is believed, what is refused, what two at once come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.errors import CertificateRevoked, ConfigError, RemoteProtocolError, SecurityError
from steinadler.security import Authority
from steinadler.security.revocation import MAX_REVOKED, NOBODY, Revocation, Revocations
from steinadler.security.trust import MAX_DOCUMENT_BYTES, Trust, read, sign, signers_of
from steinadler.wire import plain

CLUSTER = "0123456789abcdef0123456789abcdef"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW, EVIL = (Authority.create(CLUSTER, NOW + timedelta(days=n)) for n in range(3))
FIRST = Trust(CLUSTER, 0, (OLD.certificate,))

names = st.sampled_from(["alice", "bob", "carol", "dave"])
entries = st.builds(Revocation, names, st.integers(0, 5), st.booleans())


@st.composite
def lists(draw: st.DrawFn) -> Revocations:
    found = NOBODY
    for entry in draw(st.lists(entries, max_size=6)):
        found = found.join(Revocations((entry,)))
    return found


# -- who was revoked --------------------------------------------------------------------------


@given(lists(), lists(), lists())
def test_lists_are_joined_alike_in_any_order(
    a: Revocations, b: Revocations, c: Revocations
) -> None:
    joined = a.join(b).join(c)
    for one, other, third in permutations((a, b, c)):
        assert one.join(other.join(third)) == joined
    assert joined.join(a) == joined
    assert joined.barred <= a.barred | b.barred | c.barred


@given(lists(), names, st.integers(0, 10))
def test_a_revoked_name_is_shut_out_and_a_readmitted_one_comes_back_with_a_new_certificate(
    held: Revocations, name: str, second: int
) -> None:
    now = datetime.fromtimestamp(second, UTC)
    revoked = held.revoke(name, now)
    with pytest.raises(CertificateRevoked):
        revoked.check(name, now + timedelta(days=9999))
    with pytest.raises(CertificateRevoked, match=f"cluster readmit {name}"):
        revoked.earliest_for(name)
    back = revoked.readmit(name)
    assert back.join(revoked) == back, "a readmission is later than what it undoes"
    with pytest.raises(CertificateRevoked):
        back.check(name, now if name not in held.barred else datetime.fromtimestamp(0, UTC))
    earliest = back.earliest_for(name)
    assert earliest is not None
    back.check(name, earliest)
    again = back.revoke(name, datetime.fromtimestamp(0, UTC))  # by a clock that is far behind
    assert name in again.join(back).barred


def test_revoking_twice_changes_nothing_and_readmitting_nobody_is_an_error() -> None:
    once = NOBODY.revoke("bob", NOW)
    assert once.revoke("bob", NOW + timedelta(days=1)) is once
    for held in (NOBODY, once.readmit("bob")):
        with pytest.raises(ConfigError, match="'bob' is not revoked; revoked is: nobody"):
            held.readmit("bob")


def test_a_list_is_bounded() -> None:
    full = Revocations(tuple(Revocation(f"n{n:04}", 0) for n in range(MAX_REVOKED)))
    with pytest.raises(ConfigError, match=r"rotate-ca --drop-old"):
        full.revoke("bob", NOW)
    longest = Revocations(tuple(Revocation(f"{n:063}", 2**40) for n in range(MAX_REVOKED)))
    document = FIRST.successor([OLD], revoked=longest).document
    assert len(document) <= MAX_DOCUMENT_BYTES
    assert read(document).revoked == longest


def test_an_authority_certifies_nobody_who_was_revoked() -> None:
    """Whatever asks for it, a token or a renewal: the one function that signs refuses."""
    revoked = NOBODY.revoke("bob", NOW)
    key = EVIL.key.public_key()
    from steinadler.security import PeerIdentity

    for role in ("node", "observer"):
        signer = Authority(OLD.certificate, OLD.key, revoked=revoked)
        with pytest.raises(CertificateRevoked, match="'bob' was revoked at 2026"):
            signer.issue(PeerIdentity(CLUSTER, role, "bob"), key, NOW)
        signer.issue(PeerIdentity(CLUSTER, role, "alice"), key, NOW)
        signer = Authority(OLD.certificate, OLD.key, revoked=revoked.readmit("bob"))
        new = signer.issue(PeerIdentity(CLUSTER, role, "bob"), key, NOW)
        revoked.readmit("bob").check("bob", new.not_valid_before_utc)


# -- whom to believe --------------------------------------------------------------------------


def test_a_document_says_what_was_signed() -> None:
    revoked = NOBODY.revoke("bob", NOW)
    made = FIRST.successor([OLD], authorities=[OLD.certificate, NEW.certificate], revoked=revoked)
    found = read(made.document)
    assert found == made
    assert (found.version, found.digest) == made.mark == (1, made.digest)
    assert found.authorities == (OLD.certificate, NEW.certificate)
    assert found.revoked.barred == {"bob"}
    assert signers_of(found) == (OLD.fingerprint,)


def test_a_rotation_is_believed_step_by_step() -> None:
    both = FIRST.successor([OLD, NEW], authorities=[OLD.certificate, NEW.certificate])
    turned = both.successor([OLD, NEW], authorities=[NEW.certificate, OLD.certificate])
    alone = turned.successor([OLD, NEW], authorities=[NEW.certificate])
    assert signers_of(both) == signers_of(turned)[::-1] or len(signers_of(turned)) == 2
    assert signers_of(alone) == (NEW.fingerprint,), "who is dropped vouches for nobody"
    for held, later in ((FIRST, both), (both, turned), (turned, alone), (both, alone)):
        assert held.judge(read(later.document))
        assert not later.judge(held)
        assert not later.judge(later)
    assert FIRST.judge(turned), "who missed the first step learns of both by the second"
    with pytest.raises(SecurityError, match="signed by no authority that is trusted here"):
        FIRST.judge(alone)


def test_nobody_else_is_believed() -> None:
    """X4: neither who is not trusted, nor a signature of other words, nor another cluster's."""
    alone = sign(Trust(CLUSTER, 7, (EVIL.certificate,)), [EVIL])
    beside = sign(Trust(CLUSTER, 7, (OLD.certificate, EVIL.certificate)), [EVIL])
    body, _ = plain.loads(beside.document)
    _, [[digest, signature]] = plain.loads(FIRST.successor([OLD]).document)
    borrowed = read(plain.dumps([body, [[digest, signature], [bytes(32), signature]]]))
    unsigned = read(plain.dumps([body, []]))
    for later in (alone, beside, borrowed, unsigned):
        with pytest.raises(SecurityError, match="signed by no authority"):
            FIRST.judge(later)
    other = Authority.create("f" * 32, NOW)
    with pytest.raises(SecurityError, match=r"of cluster f{32}"):
        FIRST.judge(sign(Trust("f" * 32, 9, (other.certificate,)), [other]))


def test_nobody_signs_what_would_not_be_believed() -> None:
    for authorities in ([EVIL.certificate], [OLD.certificate, EVIL.certificate]):
        with pytest.raises(SecurityError, match="no key is at hand"):
            FIRST.successor([EVIL], authorities=authorities)
    with pytest.raises(SecurityError, match="no key is at hand"):
        FIRST.successor([OLD, EVIL], authorities=[EVIL.certificate])


@given(lists(), lists(), st.booleans())
def test_two_who_sign_at_once_lose_no_revocation(
    a: Revocations, b: Revocations, turn: bool
) -> None:
    """Everybody takes the same one of the two, and knows whether the other one is missed."""
    one, other = (FIRST.successor([OLD], revoked=each) for each in (a, b))
    if one.mark == other.mark:
        return
    later, former = max(one, other, key=lambda t: t.mark), min(one, other, key=lambda t: t.mark)
    assert former.judge(later)
    assert not later.judge(former)
    if later.lacks(former):
        joined = later.successor([OLD], revoked=later.revoked.join(former.revoked))
    else:
        joined = later
    assert not joined.lacks(one)
    assert not joined.lacks(other)
    assert joined.revoked.barred >= {
        e.name for e in (a if turn else b) if e.barred and e == a.join(b).find(e.name)
    }


def test_what_no_authority_can_have_signed_falls_off_the_list() -> None:
    """But for names that are barred still: whoever has the key must not certify them."""
    day = timedelta(days=1)
    revoked = NOBODY.revoke("bob", NOW).readmit("bob").revoke("carol", NOW)
    held = FIRST.successor([OLD], revoked=revoked.revoke("dave", NOW + 3 * day).readmit("dave"))
    assert [entry.name for entry in held.revoked] == ["bob", "carol", "dave"]
    both = held.successor([OLD, NEW], authorities=[NEW.certificate, OLD.certificate])
    assert len(both.revoked) == 3
    alone = both.successor([NEW], authorities=[NEW.certificate])
    assert [entry.name for entry in alone.revoked] == ["carol", "dave"]
    assert not alone.lacks(held)


# -- bytes ------------------------------------------------------------------------------------

WHOLE = FIRST.successor([OLD], revoked=NOBODY.revoke("bob", NOW)).document


def changed(**fields: object) -> bytes:
    body, signatures = plain.loads(WHOLE)
    values = plain.loads(body)
    for place, value in fields.items():
        values[int(place[1:])] = value
    return plain.dumps([plain.dumps(values), signatures])


@pytest.mark.parametrize(
    "document",
    [
        b"",
        plain.dumps([]),
        plain.dumps([1, []]),
        plain.dumps([b"", []]),
        changed(_0=2),
        changed(_1=7),
        changed(_2=0),
        changed(_2=2**62 + 1),
        changed(_2=-1),
        changed(_3=[]),
        changed(_3=[b"no certificate"]),
        changed(_3=["text"]),
        changed(_3=plain.loads(plain.loads(WHOLE)[0])[3] * 2),
        changed(_4=[["bob", 1]]),
        changed(_4=[["bob", 1, 1]]),
        changed(_4=[["bob", 2**60, True]]),
        changed(_4=[["no name!", 1, True]]),
        changed(_4=[["b", 1, True], ["a", 1, True]]),
        changed(_4=[["a", 1, True], ["a", 1, True]]),
        changed(_4=[[f"n{n:05}", 1, True] for n in range(MAX_REVOKED + 1)]),
        WHOLE + bytes(MAX_DOCUMENT_BYTES),
    ],
)
def test_what_is_no_document_is_refused_in_words(document: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(document)


@given(st.data())
def test_no_byte_of_a_document_can_be_changed(data: st.DataObject) -> None:
    """X4: it is refused, or nobody has signed it, or it says the same."""
    document = bytearray(WHOLE)
    place = data.draw(st.integers(0, len(document) - 1))
    document[place] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(document))
        believed = FIRST.judge(found)
    except (RemoteProtocolError, SecurityError):
        return
    assert believed
    assert found == read(WHOLE)


def test_what_later_versions_add_is_passed_over() -> None:
    body, _ = plain.loads(WHOLE)
    longer = plain.dumps([*plain.loads(body), "news"])
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    signature = OLD.key.sign(b"steinadler trust 1\0" + longer, ec.ECDSA(hashes.SHA256()))
    document = plain.dumps([longer, [[bytes.fromhex(OLD.fingerprint), signature, 1]], 2])
    assert FIRST.judge(read(document))
    assert read(document).revoked.barred == {"bob"}
