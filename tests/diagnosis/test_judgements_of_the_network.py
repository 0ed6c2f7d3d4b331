"""What is said of interfaces, multicast, names, and who else is about, as tables."""

from __future__ import annotations

import pytest

from steinadler.diagnosis.findings import Finding, Level, Topic, listed, split_advice
from steinadler.diagnosis.names import NamesFacts, judge_names
from steinadler.diagnosis.neighbourhood import (
    NeighbourhoodFacts,
    Stranger,
    judge_neighbourhood,
)
from steinadler.diagnosis.network import (
    Asked,
    Interface,
    NetworkFacts,
    judge_network,
    sharers_of_port,
)
from steinadler.identity import Address, NodeId

OK, NOTE, WARNING, PROBLEM = Level
LO, ETH, WIFI = Interface("lo", "127.0.0.1"), Interface("eth0", "10.0.0.5"), Interface("w", "fd::5")
LEASELESS = Interface("eth0", "169.254.3.4")
WORKS = Asked(ETH, came_back=True, others=("10.0.0.7",))
ALONE = Asked(ETH, came_back=True)
FILTERED = Asked(ETH)
REFUSED = Asked(ETH, "No such device")


def levels(findings: list[Finding], topic: Topic) -> list[Level]:
    return [finding.level for finding in findings if finding.topic is topic]


@pytest.mark.parametrize(
    ("interfaces", "level", "words"),
    [
        ([LO, ETH, WIFI], OK, "eth0 (10.0.0.5), w (fd::5)"),
        ([LO], WARNING, "no interface but loopback"),
        ([], WARNING, "no interface but loopback"),
        ([LO, LEASELESS], NOTE, "link-local"),
        ([LO, LEASELESS, WIFI], OK, "169.254.3.4"),
    ],
)
def test_interfaces(interfaces: list[Interface], level: Level, words: str) -> None:
    (found,) = judge_network(NetworkFacts(tuple(interfaces)))
    assert (found.topic, found.level) == (Topic.INTERFACES, level)
    assert words in found.seen


@pytest.mark.parametrize(
    ("asked", "seeded", "expected", "words"),
    [
        ([WORKS], False, [OK], "is answered by 10.0.0.7"),
        ([ALONE], False, [OK, NOTE], "nobody else"),
        ([FILTERED], False, [PROBLEM], "a packet filter drops it"),
        ([FILTERED], True, [WARNING], "a packet filter drops it"),
        ([REFUSED], False, [PROBLEM], "No such device"),
        ([REFUSED], True, [WARNING], "No such device"),
        ([WORKS, Asked(WIFI)], False, [OK, WARNING], "did not come back"),
        ([Asked(LO, came_back=True), WORKS], False, [OK], "10.0.0.7"),
        ([Asked(LO), WORKS], False, [NOTE, OK], "does not work on lo"),
        ([Asked(ETH, others=("10.0.0.9",))], False, [PROBLEM], "though 10.0.0.9 was heard"),
        ([], False, [], ""),  # --no-mdns
    ],
)
def test_multicast(asked: list[Asked], seeded: bool, expected: list[Level], words: str) -> None:
    """Without multicast and without seeds nodes of other machines are not found: a problem."""
    findings = judge_network(NetworkFacts((LO, ETH, WIFI), tuple(asked), seeded=seeded))
    assert levels(findings, Topic.MULTICAST) == expected
    assert any(words in finding.seen for finding in findings)
    assert all(bool(finding.do) == (finding.level is not OK) for finding in findings)


def test_a_port_that_somebody_holds_for_himself_is_named() -> None:
    facts = NetworkFacts((ETH,), port_failure="Address already in use", sharers=1)
    assert levels(judge_network(facts), Topic.MDNS_PORT) == [PROBLEM]


def test_sockets_at_the_port_are_counted() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue\n"
        "  431: 00000000:14E9 00000000:0000 07 00000000:00000000\n"
        "  432: 0500000A:14E9 00000000:0000 07 00000000:00000000\n"
        "  433: 00000000:14E8 00000000:14E9 07 00000000:00000000\n"
        "\n"
    )
    assert sharers_of_port(table) == 2
    assert sharers_of_port("") == 0


@pytest.mark.parametrize(
    ("facts", "topic", "expected"),
    [
        (NamesFacts("vm", (Address("10.0.0.5", 0),)), Topic.HOST_NAME, [OK]),
        (NamesFacts("vm", (Address("127.0.1.1", 0),)), Topic.HOST_NAME, [NOTE]),
        (NamesFacts("vm", "unknown"), Topic.HOST_NAME, [NOTE]),
        (
            NamesFacts("vm", "unknown", {"a:1": (Address("10.0.0.1", 1),), "b:1": "no such name"}),
            *(Topic.SEED_NAME, [OK, PROBLEM]),
        ),
        (NamesFacts("vm", "unknown", {}, {"in DNS at x": "silence"}), Topic.SOURCE, [WARNING]),
    ],
)
def test_names(facts: NamesFacts, topic: Topic, expected: list[Level]) -> None:
    assert levels(judge_names(facts), topic) == expected


OTHER = Stranger("ab" * 16, "alice", "10.0.0.7:4000")
THIRD = Stranger("ef" * 16, "bob", "10.0.0.8:4000")
LOCAL = Stranger("ab" * 16, "carol", "127.0.0.1:4000", here=True)


@pytest.mark.parametrize(
    ("met", "strangers", "expected", "words"),
    [
        (True, [], [OK], "no other cluster"),
        (True, [OTHER], [NOTE], "alice (10.0.0.7:4000)"),
        (False, [OTHER], [WARNING], "ours is cdcdcdcdcdcdcdcd"),
        (False, [OTHER, THIRD], [WARNING, WARNING], "bob (10.0.0.8:4000)"),
        (True, [OTHER, LOCAL], [NOTE], "alice (10.0.0.7:4000), carol"),
        (True, [LOCAL], [NOTE], "runs on this machine"),
    ],
)
def test_other_clusters_matter_where_nobody_of_ours_is_met(
    met: bool, strangers: list[Stranger], expected: list[Level], words: str
) -> None:
    findings = judge_neighbourhood(NeighbourhoodFacts("cd" * 16, met, True, tuple(strangers)))
    assert levels(findings, Topic.OTHER_CLUSTERS) == expected
    assert any(words in finding.seen for finding in findings)


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        ([NodeId("a", 1), NodeId("a", 1), NodeId("b", 2)], []),  # one life at two addresses
        ([NodeId("a", 1), NodeId("a", 2)], [PROBLEM]),
    ],
)
def test_two_living_nodes_of_one_name(answered: list[NodeId], expected: list[Level]) -> None:
    facts = NeighbourhoodFacts("cd" * 16, True, True, answered=tuple(answered))
    assert levels(judge_neighbourhood(facts), Topic.SAME_NAME) == expected


def test_announcements_that_cannot_be_used_are_told() -> None:
    facts = NeighbourhoodFacts(
        "cd" * 16, True, True, other_versions=("2",), malformed=("no cluster",)
    )
    assert levels(judge_neighbourhood(facts), Topic.OTHER_CLUSTERS) == [WARNING, NOTE]


# -- texts ---------------------------------------------------------------------------------------


def test_long_lists_are_cut_and_errors_are_divided() -> None:
    assert listed("abc", most=3) == "a, b, c"
    assert listed("abcd", most=2) == "a, b and 2 more"
    assert split_advice("x is bad; y too; mend it", "?") == ("x is bad; y too", "mend it")
    assert split_advice("x is bad", "mend x") == ("x is bad", "mend x")
