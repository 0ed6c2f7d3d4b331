"""What is said of addresses that answer in some way, and of members and their clocks, as tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from steinadler.diagnosis.answers import Knocked, NodesFacts, explain_obstacle, judge_nodes
from steinadler.diagnosis.cluster import ClusterFacts, MemberFacts, Skew, judge_cluster
from steinadler.diagnosis.findings import Finding, Level, Topic
from steinadler.diagnosis.outcomes import Obstacle, Obstructed, Outcome, Reached, Shown, TurnedAway
from steinadler.diagnosis.validity import Validity
from steinadler.identity import Address, NodeId
from steinadler.security import PeerIdentity
from steinadler.wire.handshake import Reject, RejectReason

OK, NOTE, WARNING, PROBLEM = Level
OURS, THEIRS = "ab" * 16, "cd" * 16
GOOD = Validity("it", datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 8, tzinfo=UTC))
ALICE = PeerIdentity(OURS, "node", "alice")
HERE, THERE = Address("10.0.0.1", 4000), Address("10.0.0.2", 4000)
ANSWERS = Reached(ALICE, GOOD, 0.004, NodeId("alice", 1), (HERE,))
REFUSED = Obstructed(Obstacle.REFUSED, "Connection refused")
SILENT = Obstructed(Obstacle.NO_ANSWER, "no answer within 3 s")


def at(
    address: Address, outcome: Outcome, *sources: str, hint: str = "", given: str = ""
) -> Knocked:
    return Knocked(address, sources, outcome, hint or None, given)


def judged(*knocked: Knocked, seeded: bool = False) -> list[Finding]:
    facts = NodesFacts(OURS, "everywhere", knocked, multicast=True, seeded=seeded)
    return judge_nodes(facts, GOOD.begins)


def test_who_answers_is_told_with_all_addresses() -> None:
    (found,) = judged(at(HERE, ANSWERS, "mdns"), at(THERE, ANSWERS, "runtime"))
    assert (found.topic, found.level, found.do) == (Topic.DIALLED, OK, "")
    for words in ("node alice answers at 10.0.0.1:4000, 10.0.0.2:4000", "(mdns, runtime)", "4 ms"):
        assert words in found.seen


def test_without_an_observers_certificate_tls_is_all_that_is_claimed() -> None:
    (found,) = judged(at(HERE, Reached(ALICE, GOOD, 0.3), "mdns"))
    assert "lets us in" in found.seen


@pytest.mark.parametrize(
    ("knocked", "level"),
    [
        (at(THERE, REFUSED, "seed"), PROBLEM),
        (at(THERE, REFUSED, "seed file"), PROBLEM),
        (at(THERE, REFUSED, "mdns", hint="bob"), WARNING),  # announced, and killed just now
        (at(THERE, REFUSED, "runtime", hint="bob"), WARNING),
        (at(THERE, REFUSED, "dns"), WARNING),
        (at(THERE, REFUSED, "mdns", "seed"), PROBLEM),
        (at(THERE, SILENT, "mdns", hint="bob"), PROBLEM),  # the firewall, as a rule
        (at(THERE, SILENT, "dns"), WARNING),
        (at(THERE, SILENT, "mdns", hint="alice"), NOTE),  # who answers elsewhere
        (at(THERE, SILENT, "seed", given="nodes:4000"), NOTE),  # whose name has another that does
    ],
)
def test_how_bad_it_is_that_nobody_answers(knocked: Knocked, level: Level) -> None:
    answers = at(HERE, ANSWERS, "seed", given="nodes:4000")
    _, found = judged(answers, knocked)
    assert (found.topic, found.level) == (Topic.DIALLED, level)
    assert "10.0.0.2:4000" in found.seen
    assert found.do


@pytest.mark.parametrize(
    ("knocked", "seeded", "words"),
    [
        ([], False, "--seed HOST:PORT"),
        ([], True, "steinadler node NAME"),
        ([at(THERE, REFUSED, "seed")], True, "see below"),
    ],
)
def test_that_nobody_is_there_is_a_warning(
    knocked: list[Knocked], seeded: bool, words: str
) -> None:
    first, *_ = judged(*knocked, seeded=seeded)
    assert (first.topic, first.level) == (Topic.FOUND, WARNING)
    assert words in first.do


def test_without_credentials_nobody_is_asked() -> None:
    (found,) = judge_nodes(NodesFacts(None, "everywhere"), GOOD.begins)
    assert (found.topic, found.level) == (Topic.FOUND, NOTE)


def test_what_was_too_much_or_too_slow_is_told() -> None:
    facts = NodesFacts(OURS, "everywhere", (at(HERE, ANSWERS, "dns"),), left_out=3, unfinished=2)
    _, left_out, unfinished = judge_nodes(facts, GOOD.begins)
    assert (left_out.topic, left_out.level) == (Topic.FOUND, NOTE)
    assert (unfinished.topic, unfinished.level) == (Topic.UNFINISHED, WARNING)


def test_a_node_whose_certificate_is_not_renewed_is_told() -> None:
    facts = NodesFacts(OURS, "everywhere", (at(HERE, ANSWERS, "mdns"),))
    _, ends = judge_nodes(facts, GOOD.ends - timedelta(days=1))
    assert (ends.topic, ends.level) == (Topic.CERTIFICATE, WARNING)
    assert "see its log" in ends.do


@pytest.mark.parametrize("obstacle", Obstacle)
def test_every_obstacle_has_words_and_advice(obstacle: Obstacle) -> None:
    seen, do = explain_obstacle(Obstructed(obstacle, "the text"), OURS)
    assert "the text" in seen
    assert do


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (None, "not signed"),
        (
            Shown(f"spiffe://{THEIRS}/node/x", GOOD, THEIRS),
            "a node of another cluster: spiffe://cd",
        ),
        (Shown(f"spiffe://{OURS}/node/x", GOOD, OURS), "though it is of this cluster"),
        (Shown("O=Example", GOOD, None), "O=Example"),
    ],
)
def test_whose_certificate_was_refused(shown: Shown | None, words: str) -> None:
    refused = Obstructed(Obstacle.OTHER_AUTHORITY, "not signed by this cluster's CA", shown)
    seen, _ = explain_obstacle(refused, OURS)
    assert words in seen


@pytest.mark.parametrize("reason", RejectReason)
def test_every_refusal_has_words_and_advice(reason: RejectReason) -> None:
    _, found = judged(at(HERE, TurnedAway(ALICE, Reject(reason, "the detail")), "seed"))
    assert found.level is (NOTE if reason is RejectReason.CLOSING else PROBLEM)
    assert "the detail" in found.seen
    assert found.do


# -- members -------------------------------------------------------------------------------------

BOTH = frozenset({"alice", "bob"})


def member(name: str = "alice", **changes: object) -> MemberFacts:
    facts: dict[str, object] = {"members": BOTH, "skew": Skew(0.001, 0.001), "version": "0.1.0"}
    return MemberFacts(name, **(facts | changes))  # type: ignore[arg-type]


def of(topic: Topic, *members: MemberFacts) -> list[tuple[Level, str]]:
    findings = judge_cluster(ClusterFacts(members))
    assert all(bool(finding.do) == (finding.level is not OK) for finding in findings)
    return [(finding.level, finding.seen) for finding in findings if finding.topic is topic]


@pytest.mark.parametrize(
    ("ahead_s", "doubt_s", "level", "words"),
    [
        (0.002, 0.001, OK, "within 0.003 s"),
        (-4.9, 0.001, OK, "within 4.9 s"),
        (6.0, 2.0, OK, "within 8 s"),  # the round trip was too slow to tell
        (6.0, 0.001, WARNING, "6 s ahead of"),
        (-290, 0.001, WARNING, "5 minutes behind"),
        (-301, 0.001, PROBLEM, "5 minutes behind"),
        (7200, 0.001, PROBLEM, "2 hours ahead of"),
    ],
)
def test_clocks(ahead_s: float, doubt_s: float, level: Level, words: str) -> None:
    (found,) = of(Topic.CLOCKS, member(skew=Skew(ahead_s, doubt_s)))
    assert found[0] is level
    assert words in found[1]


def test_a_version_that_tells_no_time_is_named() -> None:
    assert [level for level, _ in of(Topic.CLOCKS, member(), member("bob", skew=None))] == [
        OK,
        NOTE,
    ]


def test_members_that_disagree_about_who_is_one() -> None:
    agreeing = of(Topic.MEMBER, member(), member("bob"))
    assert [level for level, _ in agreeing] == [OK, OK]
    *_, (level, seen) = of(Topic.MEMBER, member(members=frozenset({"alice"})), member("bob"))
    assert level is WARNING
    assert "alice does not count bob" in seen


def test_a_member_that_does_not_answer_is_a_warning() -> None:
    found = of(Topic.MEMBER, member(failure="no answer within 2 s"), member("bob"))
    assert [level for level, _ in found] == [WARNING, OK]


@pytest.mark.parametrize(
    ("addresses", "here", "level", "words"),
    [
        ({HERE: ANSWERS}, False, OK, "is reached at all its addresses"),
        ({HERE: ANSWERS, THERE: SILENT}, False, NOTE, "not at 10.0.0.2:4000"),
        ({THERE: SILENT}, False, NOTE, "cannot be reached from here"),
        ({Address("127.0.0.1", 1): REFUSED}, True, NOTE, "loopback alone"),
        ({Address("localhost", 1): REFUSED}, True, NOTE, "loopback alone"),
        ({Address("127.0.0.1", 1): REFUSED}, False, None, ""),
        ({}, False, None, ""),
    ],
)
def test_addresses_that_members_give_out(
    addresses: dict[Address, Outcome], here: bool, level: Level | None, words: str
) -> None:
    """None is a problem: a member that only dials out is a good one."""
    found = of(Topic.ADDRESSES, member(addresses=addresses, here=here))
    assert [each[0] for each in found] == ([] if level is None else [level])
    assert all(words in seen for _, seen in found)


def test_a_member_that_cannot_be_reached_and_does_not_answer_is_a_warning() -> None:
    mute = member(addresses={THERE: SILENT}, failure="no answer within 2 s")
    assert of(Topic.ADDRESSES, mute)[0][0] is WARNING


def test_a_member_that_listens_nowhere_is_in_order() -> None:
    (found,) = of(Topic.ADDRESSES, member(listens=False))
    assert found == (OK, "alice listens nowhere, and only dials")


def test_how_many_were_not_asked_is_told() -> None:
    *_, found = judge_cluster(ClusterFacts((member(),), left_out=936))
    assert (found.topic, found.level) == (Topic.MEMBER, NOTE)
    assert "936 more" in found.seen


def test_members_that_were_not_asked_are_a_note() -> None:
    (found,) = judge_cluster(ClusterFacts(None, "none answers", "see above"))
    assert (found.topic, found.level, found.do) == (Topic.MEMBER, NOTE, "see above")
