"""What members said, judged: do they answer, agree about the time and about each other, and can
they be reached?
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from steinadler.diagnosis.answers import explain_obstacle
from steinadler.diagnosis.findings import Finding, Topic, listed, note, ok, problem, warning
from steinadler.diagnosis.machine import in_words
from steinadler.diagnosis.outcomes import Obstructed, Outcome, Reached, TurnedAway
from steinadler.identity import Address
from steinadler.security.authority import CLOCK_SKEW

# Names and lives are dated too: a node that starts anew on a clock that went back is turned away.
NOTABLE_SKEW_S = 5.0
_SET_CLOCKS = "set the clock of whichever is wrong, and keep it set (chrony, systemd-timesyncd)"


@dataclass(frozen=True, slots=True)
class Skew:
    """How far a clock is ahead of ours, and how far that may be off."""

    ahead_s: float
    give_or_take_s: float


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A member, what it says of itself, and how its addresses answer.

    `failure` is why it said nothing; `skew` is None where its version tells no time.  `listens` is
    whether it gives out any address, and `here` whether it runs on this machine.
    """

    name: str
    addresses: Mapping[Address, Outcome] = field(default_factory=dict)
    failure: str = ""
    round_trip_s: float = 0.0
    version: str = ""
    python: str = ""
    members: frozenset[str] = frozenset()
    skew: Skew | None = None
    listens: bool = True
    here: bool = False


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """`members` is None where nobody was asked; `why_not` says why, and `do` what is to be done.

    `left_out` is how many more members there are than were asked.
    """

    members: tuple[MemberFacts, ...] | None = None
    why_not: str = ""
    do: str = ""
    left_out: int = 0


def judge_cluster(facts: ClusterFacts) -> list[Finding]:
    """What this comes to."""
    if facts.members is None:
        return [note(Topic.MEMBER, f"members were not asked: {facts.why_not}", facts.do)]
    answering = [each for each in facts.members if not each.failure]
    findings = [_judge_member(each) for each in facts.members]
    findings += _judge_views(answering)
    findings += _judge_clocks(answering)
    for each in facts.members:
        findings += _judge_addresses(each)
    if facts.left_out:
        seen = f"{facts.left_out} more members were not asked: {len(facts.members)} are enough"
        findings.append(note(Topic.MEMBER, seen, "run this command on their machines too"))
    return findings


def _judge_member(member: MemberFacts) -> Finding:
    if member.failure:
        return warning(
            Topic.MEMBER,
            f"{member.name} is a member, and cannot be asked from here: {member.failure}",
            "see its addresses below, and run this command on its machine",
        )
    return ok(
        Topic.MEMBER,
        f"{member.name} is a member: steinadler {member.version}, Python {member.python}, "
        f"round trip {member.round_trip_s * 1000:.1f} ms",
    )


def _judge_views(members: Sequence[MemberFacts]) -> list[Finding]:
    views: dict[frozenset[str], list[str]] = {}
    for each in members:
        views.setdefault(each.members, []).append(each.name)
    if len(views) < 2:
        return []
    everybody = frozenset().union(*views)
    sides = [
        f"{listed(names)} {'does' if len(names) == 1 else 'do'} not count {listed(missing)}"
        for view, names in views.items()
        if (missing := sorted(everybody - view))
    ]
    return [
        warning(
            Topic.MEMBER,
            f"members do not agree on who is one: {'; '.join(sides)}",
            "if that lasts for more than some seconds, the way between those two is cut "
            "(docs/partitions.md): run this command on either machine",
        )
    ]


def _judge_clocks(members: Sequence[MemberFacts]) -> list[Finding]:
    findings = []
    most_s = 0.0
    read = [each for each in members if each.skew is not None]
    for each in read:
        assert each.skew is not None
        ahead_s, doubt_s = each.skew.ahead_s, each.skew.give_or_take_s
        sure_s = max(0.0, abs(ahead_s) - doubt_s)
        most_s = max(most_s, abs(ahead_s) + doubt_s)
        if sure_s < NOTABLE_SKEW_S:
            continue
        by = in_words(timedelta(seconds=ahead_s))
        where = "ahead of" if ahead_s > 0 else "behind"
        seen = f"the clock of {each.name} is {by} {where} this machine's"
        if sure_s > CLOCK_SKEW.total_seconds():
            seen = f"{seen}: certificates made by either may be refused by the other"
            findings.append(problem(Topic.CLOCKS, seen, _SET_CLOCKS))
        else:
            findings.append(warning(Topic.CLOCKS, seen, _SET_CLOCKS))
    if read and not findings:
        agree = f"{len(read)} clocks agree with this machine's, within {most_s:.2g} s"
        findings.append(ok(Topic.CLOCKS, agree))
    if len(read) < len(members):
        silent = [each.name for each in members if each.skew is None]
        findings.append(
            note(
                Topic.CLOCKS,
                f"the version of {listed(silent)} does not tell the time",
                "compare clocks by hand (date -u)",
            )
        )
    return findings


def _judge_addresses(member: MemberFacts) -> list[Finding]:
    if not member.listens:
        return [ok(Topic.ADDRESSES, f"{member.name} listens nowhere, and only dials")]
    if not member.addresses:
        return []
    if all(map(_is_loopback, member.addresses)):
        if not member.here:
            return []  # on this machine that address is somebody else's
        return [
            note(
                Topic.ADDRESSES,
                f"{member.name} listens on loopback alone: nodes of other machines cannot reach it",
                "leave --host out, if it is to meet them",
            )
        ]
    failed = {a: o for a, o in member.addresses.items() if not isinstance(o, Reached)}
    reached = [a for a in member.addresses if a not in failed]
    if not failed:
        where = listed(map(str, reached))
        return [ok(Topic.ADDRESSES, f"{member.name} is reached at all its addresses: {where}")]
    outcome = next(iter(failed.values()))
    match outcome:
        case Obstructed():
            why, do = explain_obstacle(outcome, "")
        case TurnedAway(_, reject):
            why, do = reject.detail, "see its log"
        case _:
            why, do = "", ""
    if reached:
        return [
            note(
                Topic.ADDRESSES,
                f"{member.name} is reached at {listed(map(str, reached))}, and not at "
                f"{listed(map(str, failed))}: {why}",
                "nothing, if that address is of a network that this machine is not on",
            )
        ]
    return [
        (warning if member.failure else note)(
            Topic.ADDRESSES,
            f"{member.name} gives out {listed(map(str, failed))}, where it cannot be reached from "
            f"here: {why}",
            "nothing, if it can dial this machine or is to be reached through others; have it only "
            f"dial (--no-listen) if nobody can reach it there, or {do}",
        )
    ]


def _is_loopback(address: Address) -> bool:
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"
