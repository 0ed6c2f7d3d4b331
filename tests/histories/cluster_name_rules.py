"""The rules about names of the cluster (N2); the head of `cluster_checking` tells them in words."""

from __future__ import annotations

from collections import defaultdict

from cluster_events import Conflict, life_of
from cluster_facts import Facts, Found, Holding

# Within so long a connected side knows who holds a name.
KNOWN_WITHIN_S = 10.0
# For so long a claim that came to nothing, or whose node is dead, may keep others from a name.
REMEMBERED_S = 25.0


def standing(facts: Facts) -> defaultdict[str, list[Holding]]:
    """Who holds which name in the end, as far as it was told."""
    found: defaultdict[str, list[Holding]] = defaultdict(list)
    for holding in facts.holdings.values():
        if holding.granted is not None and holding.until >= facts.settled:
            found[holding.claim.name].append(holding)
    return found


def holders(facts: Facts) -> Found:
    """N2: one holder; the loser is told, once; the oldest claim wins; no refusal for nothing."""
    for name, holdings in sorted(standing(facts).items()):
        if len({holding.claim.process for holding in holdings}) > 1:
            told = ", ".join(f"{h.claim.process} ({h.claim.where})" for h in holdings)
            yield "N2 one winner", f"{name} is held by {told}"
    for event, had_it in facts.told:
        if not had_it:
            yield "N2 told", f"{event.where}: {event.process} had lost nothing: {event.reason}"
    for event in facts.events:
        if not isinstance(event, Conflict) or life_of(event.loser) != event.node:
            continue
        mine = [h for h in claims_of(facts, event.name, event.loser) if h.granted is not None]
        lost_now = [h for h in mine if h.lost == event.at]
        if not lost_now and facts.end_of(event.loser) > event.at:
            yield "N2 told", f"{event.where}: {event.loser} was not told that it lost {event.name}"
        for holding in lost_now:
            assert holding.granted is not None
            rivals = claims_of(facts, event.name, event.winner)
            if not any(rival.claim.at <= holding.granted for rival in rivals):
                yield "N2 oldest", f"{event.where}: {event.winner} asked after {event.loser} had it"
    for op, holding in facts.holdings.items():
        claim, refused = holding.claim, holding.refused
        if refused is None:
            if holding.granted is None and facts.running(life_of(claim.process)):
                yield "N2 no answer", f"{claim.where}: {op} was never answered"
        elif refused.error not in ("NameConflict", "NoSuchProcess", "NodeClosed"):
            yield "N2 error", f"{refused.where}: {op} failed with {refused.error}"
        elif refused.error == "NoSuchProcess" and facts.end_of(claim.process) > refused.at:
            yield "N2 error", f"{refused.where}: {claim.process} lives"
        elif refused.error == "NameConflict" and not _wanted(facts, holding, refused.at):
            yield "N2 for nothing", f"{refused.where}: nobody else wanted {claim.name}"


def claims_of(facts: Facts, name: str, process: str) -> list[Holding]:
    return [
        holding
        for holding in facts.holdings.values()
        if holding.claim.name == name and holding.claim.process == process
    ]


def _wanted(facts: Facts, refused: Holding, at: float) -> bool:
    """Whether anybody else had the name, or had asked for it, not long before."""
    return any(
        other.claim.name == refused.claim.name
        and other.claim.process != refused.claim.process
        and other.claim.at <= at
        and max(other.until, other.claim.at) >= refused.claim.at - REMEMBERED_S
        for other in facts.holdings.values()
    )


def two_winners(facts: Facts) -> Found:
    """N2: within a connected side a name is granted to one."""
    by_name: defaultdict[str, list[tuple[float, Holding]]] = defaultdict(list)
    for holding in facts.holdings.values():
        if holding.granted is not None:
            by_name[holding.claim.name].append((holding.granted, holding))
    for name, granted in sorted(by_name.items()):
        granted.sort(key=lambda pair: pair[0])
        for n, (at, second) in enumerate(granted):
            for first_at, first in granted[:n]:
                one, other = first.claim.process, second.claim.process
                if one == other or first.until <= at:
                    continue
                begin = max(first.claim.at, second.claim.at - KNOWN_WITHIN_S)
                if _one_side(facts, life_of(one), life_of(other), begin, at):
                    yield (
                        "N2 one side",
                        f"{name} was granted to {other} ({second.claim.where}), and {one} has it "
                        f"since {first_at} ({first.claim.where})",
                    )


def _one_side(facts: Facts, one: str, other: str, begin: float, end: float) -> bool:
    side = facts.view_unchanged(one, begin, end)
    return (
        side is not None
        and side == facts.view_unchanged(other, begin, end)
        and all(
            facts.holds_throughout(member, each, begin, end)
            for member in side
            for each in (one, other)
            if member in facts.lives
        )
    )
