"""Who was found, and how each address answers: the judgement of what `search` and `knocking` saw.

How bad an address that does not answer is depends on what it comes from.  A seed was written down
by somebody who expects a node there.  What mDNS announces may be two minutes old, and what DNS has
may be a pod that is gone: where the machine says that nobody listens, that is what one would see.
And if the node answers at another of its addresses, nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from steinadler.diagnosis.findings import Finding, Level, Topic, listed, note, ok, problem, warning
from steinadler.diagnosis.outcomes import (
    Obstacle,
    Obstructed,
    Outcome,
    Reached,
    Shown,
    TurnedAway,
)
from steinadler.diagnosis.validity import day, judge_certificate
from steinadler.identity import Address
from steinadler.wire.handshake import RejectReason

SEED = "seed"
# Written down by somebody: something is expected there.
_EXPECTED = {SEED, "seed file"}
_COMPARE = (
    "compare `steinadler cluster show` on both machines: one of them has probably made a cluster "
    "of its own, and needs the credentials of the other's (docs/security.md, a second machine)"
)


@dataclass(frozen=True, slots=True)
class Knocked:
    """An address, which sources proposed it, the node that they think is there, and what came of
    knocking.  `given` is the seed as it was written, where that is a name."""

    address: Address
    sources: tuple[str, ...]
    outcome: Outcome
    hint: str | None = None
    given: str = ""

    def __str__(self) -> str:
        given = f"{self.given}, " if self.given else ""
        name = f"{self.hint} at " if self.hint else ""
        return f"{name}{self.address} ({given}{listed(self.sources)})"


@dataclass(frozen=True, slots=True)
class NodesFacts:
    """What was found; `cluster_id` is ours, None when no credentials could be taken.

    `looked` says where was looked, `left_out` how many addresses were too many, `unfinished` how
    many had not answered when the time was over.
    """

    cluster_id: str | None
    looked: str
    knocked: tuple[Knocked, ...] = ()
    left_out: int = 0
    unfinished: int = 0
    multicast: bool = False
    seeded: bool = False


def judge_nodes(facts: NodesFacts, now: datetime) -> list[Finding]:
    """What this comes to, at the time `now`."""
    if facts.cluster_id is None:
        return [
            note(
                Topic.FOUND,
                "nobody was asked, because there is nothing to show to them",
                "mend what was found of the home first",
            )
        ]
    reached: dict[str, list[Knocked]] = {}
    for each in facts.knocked:
        if isinstance(each.outcome, Reached):
            reached.setdefault(each.outcome.identity.name, []).append(each)
    findings: list[Finding] = []
    for name, at in sorted(reached.items()):
        findings += _judge_reached(name, at, now)
    if not findings:
        findings.append(_judge_nobody(facts))
    seeds_reached = {each.given for at in reached.values() for each in at if each.given}
    for each in facts.knocked:
        match each.outcome:
            case Reached():
                continue
            case TurnedAway() as refusal:
                findings.append(_judge_turned_away(each, refusal))
            case Obstructed() as obstructed:
                elsewhere = each.hint in reached or each.given in seeds_reached
                findings.append(judge_obstructed(each, obstructed, facts.cluster_id, elsewhere))
            case _:
                assert_never(each.outcome)
    if facts.left_out:
        findings.append(
            note(
                Topic.FOUND,
                f"{facts.left_out} more addresses were proposed than are knocked at",
                "nothing, if so many are right; else see what the sources name",
            )
        )
    if facts.unfinished:
        findings.append(
            warning(
                Topic.UNFINISHED,
                f"{facts.unfinished} addresses had not answered when the time was over",
                "give more time (--timeout)",
            )
        )
    return findings


def _judge_reached(name: str, at: Sequence[Knocked], now: datetime) -> list[Finding]:
    outcomes = [each.outcome for each in at if isinstance(each.outcome, Reached)]
    quickest = min(outcome.took_s for outcome in outcomes) * 1000
    sources = listed(dict.fromkeys(source for each in at for source in each.sources))
    how = "answers" if all(outcome.node is not None for outcome in outcomes) else "lets us in"
    where = listed(str(each.address) for each in at)
    role, certificate = outcomes[0].identity.role, outcomes[0].certificate
    answers = ok(
        Topic.DIALLED,
        f"{role} {name} {how} at {where} ({sources}), within {quickest:.0f} ms; its certificate is "
        f"good until {day(certificate.ends)}",
    )
    ends = judge_certificate(certificate, now, renew="see its log, which says why it has no newer")
    return [answers] if ends.level is Level.OK else [answers, ends]


def _judge_nobody(facts: NodesFacts) -> Finding:
    if facts.knocked:
        return warning(
            Topic.FOUND,
            f"no node of this cluster answers; looked {facts.looked}",
            "see below what is at the addresses that were found",
        )
    ways = ["see that one runs there (steinadler node NAME)"]
    if not facts.seeded:
        ways.append("give its address (--seed HOST:PORT), if it is on another network")
    if not facts.multicast:
        ways.append("leave --no-mdns out, if it is on this one")
    return warning(
        Topic.FOUND,
        f"no node of this cluster was found; looked {facts.looked}",
        ", or ".join(ways) + "; and run this command on its machine too, which sees the other side",
    )


def _judge_turned_away(knocked: Knocked, refusal: TurnedAway) -> Finding:
    reason, seen = refusal.reject.reason, f"{knocked}: {refusal.identity} turns us away"
    seen = f"{seen} ({reason}): {refusal.reject.detail}"
    match reason:
        case RejectReason.CLOSING:
            return note(Topic.DIALLED, seen, "nothing: it is leaving")
        case RejectReason.VERSION:
            return problem(Topic.DIALLED, seen, "upgrade the older of the two")
        case RejectReason.STALE:
            return problem(Topic.DIALLED, seen, "set this machine's clock")
        case (
            RejectReason.CLUSTER
            | RejectReason.IDENTITY
            | RejectReason.NAME_IN_USE
            | RejectReason.SELF
            | RejectReason.SUPERSEDED
        ):
            return problem(Topic.DIALLED, seen, "run this command again; else see that node's log")
        case _:
            assert_never(reason)


def judge_obstructed(
    knocked: Knocked, obstructed: Obstructed, cluster_id: str, elsewhere: bool
) -> Finding:
    """Of an address where nobody would have us; with `elsewhere`, the node that it is of answers
    at another."""
    seen, do = explain_obstacle(obstructed, cluster_id)
    seen = f"{knocked}: {seen}"
    if elsewhere:
        return Finding(Topic.DIALLED, Level.NOTE, f"{seen}; it answers elsewhere", do)
    expected = bool(_EXPECTED.intersection(knocked.sources))
    gone = obstructed.obstacle is Obstacle.REFUSED or knocked.sources == ("dns",)
    level = Level.WARNING if gone and not expected else Level.PROBLEM
    if level is Level.WARNING and "mdns" in knocked.sources:
        do = f"if it was killed within two minutes, nothing; else {do}"
    return Finding(Topic.DIALLED, level, seen, do)


def explain_obstacle(obstructed: Obstructed, cluster_id: str) -> tuple[str, str]:
    """What is there instead of a node that would have us, and what to do about it."""
    text, shown = obstructed.text, obstructed.shown
    match obstructed.obstacle:
        case Obstacle.REFUSED:
            return (
                f"nobody listens there ({text})",
                "start the node there, or correct the port; a node without --port has another one "
                "each time",
            )
        case Obstacle.NO_ANSWER:
            return (
                f"{text}: the machine is off, or a packet filter drops what is sent there",
                "open that TCP port to this machine, in the filter of that machine and of every "
                "network between",
            )
        case Obstacle.UNREACHABLE:
            return (
                f"there is no way there ({text})",
                "see the routes of this machine (ip route get), and that both are on the network",
            )
        case Obstacle.SILENT:
            return (
                f"it takes the connection, and then nothing comes ({text})",
                "see what listens there: a node that is paused or blocked, another program, or a "
                "proxy on the way that waits for something else",
            )
        case Obstacle.CLOSED:
            return (
                f"it takes the connection, and hangs up: {text}",
                "see what listens there, and its log: a node that is closing, or that does not "
                "like our certificate, or a proxy before it",
            )
        case Obstacle.OTHER_PROTOCOL:
            return (
                f"something else listens there ({text})",
                "give the port of the node, and no proxy's that ends TLS",
            )
        case Obstacle.OTHER_NODE:
            return text, "nothing, if addresses change hands there; else see who has that one"
        case Obstacle.OTHER_AUTHORITY:
            return _explain_authority(text, shown, cluster_id)
        case Obstacle.EXPIRED:
            when = f": {shown.named}, at {day(shown.validity.ends)}" if shown else ""
            return (
                f"{text}{when}",
                "have it renewed there, whose log says why it was not; or set this machine's clock",
            )
        case Obstacle.NOT_YET_VALID:
            when = f"; {shown.named} is good from {day(shown.validity.begins)} on" if shown else ""
            return f"{text}{when}", "set the clock: it is behind here, or ahead there"
        case Obstacle.NOT_ACCEPTABLE:
            return text, "have a certificate issued there that is (docs/pki.md)"
        case Obstacle.REFUSES_US:
            return (
                text,
                "see its log, which says why; if it holds our certificate for one of another "
                "cluster, or not valid, compare `steinadler cluster show` and the clocks",
            )
        case Obstacle.TLS_FAILED:
            return text, "see what listens there; nodes speak TLS 1.3 and nothing else"
        case Obstacle.BREAKS_RULES:
            return text, "see which version runs there, and its log"
        case Obstacle.NO_CREDENTIALS:
            return text, "mend what was found of the home first"
        case _:
            assert_never(obstructed.obstacle)


def _explain_authority(text: str, shown: Shown | None, cluster_id: str) -> tuple[str, str]:
    if shown is None:
        return text, _COMPARE
    if shown.cluster_id == cluster_id:
        return (
            f"{text}, though it is of this cluster: {shown.named}",
            "one of the two homes has not got the authorities of now: bring ca.pem there",
        )
    if shown.cluster_id is None:
        return f"{text}: {shown.named}", "see that --ca has the authority that it comes from"
    return (
        f"a node of another cluster: {shown.named}, and this home's is {cluster_id}",
        _COMPARE,
    )
