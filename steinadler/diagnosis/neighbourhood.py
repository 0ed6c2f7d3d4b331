"""Who else is about: other clusters, and two nodes of one name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steinadler.diagnosis.findings import (
    HOW_TO_JOIN,
    Finding,
    Topic,
    listed,
    note,
    ok,
    problem,
    warning,
)
from steinadler.discovery.records import VERSION
from steinadler.identity import NodeId


@dataclass(frozen=True, slots=True)
class Stranger:
    """A node of another cluster: the mark by which its cluster is announced, and where it is."""

    mark: str
    name: str
    where: str
    here: bool = False


@dataclass(frozen=True, slots=True)
class NeighbourhoodFacts:
    """Strangers; lives of nodes of ours that answered; what else is announced under our name.

    `mark` is that of our own cluster, None when that is not known; `met` whether a node of ours
    answered; `listened` whether mDNS was listened to.
    """

    mark: str | None
    met: bool
    listened: bool
    strangers: tuple[Stranger, ...] = ()
    answered: tuple[NodeId, ...] = ()
    other_versions: tuple[str, ...] = ()
    malformed: tuple[str, ...] = ()


def judge_neighbourhood(facts: NeighbourhoodFacts) -> list[Finding]:
    """What this comes to."""
    findings = [_judge_cluster(facts, each) for each in _by_cluster(facts.strangers)]
    findings += _judge_names(facts.answered)
    if facts.other_versions:
        findings.append(
            warning(
                Topic.OTHER_CLUSTERS,
                f"nodes announce themselves in version {listed(facts.other_versions)} of what is "
                f"said over mDNS, and this is version {VERSION}: they are not seen",
                "upgrade the older ones, or give seeds meanwhile",
            )
        )
    if facts.malformed:
        findings.append(
            note(
                Topic.OTHER_CLUSTERS,
                f"something announces itself as a node and is none: {listed(facts.malformed)}",
                "find out what, if it is a surprise; nodes pass it over",
            )
        )
    if not findings:
        where = "announces itself here" if facts.listened else "runs for this user on this machine"
        findings.append(ok(Topic.OTHER_CLUSTERS, f"no other cluster {where}"))
    return findings


def _by_cluster(strangers: Iterable[Stranger]) -> list[list[Stranger]]:
    clusters: dict[str, list[Stranger]] = {}
    for each in strangers:
        clusters.setdefault(each.mark, []).append(each)
    return [nodes for _, nodes in sorted(clusters.items())]


def _judge_cluster(facts: NeighbourhoodFacts, nodes: list[Stranger]) -> Finding:
    who = listed(sorted({f"{each.name} ({each.where})" for each in nodes}))
    how = "runs on this machine" if all(each.here for each in nodes) else "announces itself"
    theirs = f"{nodes[0].mark[:16]}..."
    if facts.mark is None:
        return note(
            Topic.OTHER_CLUSTERS,
            f"a cluster {how}, {theirs}, and whether it is this home's cannot be told: {who}",
            "mend what is wrong with the home's credentials, if it has any; else join it: "
            f"{HOW_TO_JOIN}",
        )
    seen = f"another cluster {how}, {theirs} (ours is {facts.mark[:16]}...): {who}"
    if facts.met:
        return note(Topic.OTHER_CLUSTERS, seen, "nothing: they do not disturb each other")
    return warning(
        Topic.OTHER_CLUSTERS,
        seen,
        "if these are the nodes that are missed, the two homes hold different clusters (compare "
        f"'steinadler cluster show'); join one: {HOW_TO_JOIN}",
    )


def _judge_names(answered: Iterable[NodeId]) -> list[Finding]:
    lives: dict[str, set[int]] = {}
    for node in answered:
        lives.setdefault(node.name, set()).add(node.incarnation)
    return [
        problem(
            Topic.SAME_NAME,
            f"{len(found)} living nodes of this cluster are called {name}",
            "stop all but one, or give them other names",
        )
        for name, found in sorted(lives.items())
        if len(found) > 1
    ]
