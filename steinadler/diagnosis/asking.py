"""What members say, when an observer asks each: who they are, whom they know, what time it is.

The observer goes in at the addresses where somebody answered, and learns of the rest as observers
do.  Each member's `$info` is called a few times.  Its clock is read in the middle of the quickest
round trip, as in NTP (RFC 5905): half that trip is how far it may be off, and that is said.

Then the other addresses that a member gives out are tried, as far as TLS, by whose certificate it
is known whether it is that member who answers.  A member that can be reached at none of them may
still be a good one: it dials.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from steinadler.diagnosis.cluster import ClusterFacts, MemberFacts, Skew
from steinadler.diagnosis.credentials import Introduction
from steinadler.diagnosis.knocking import knock
from steinadler.diagnosis.outcomes import Obstacle, Obstructed, Outcome, Reached
from steinadler.errors import SteinadlerError
from steinadler.identity import Address
from steinadler.node import Node, open_node

ASK_S = 2.0
_HEARSAY_S = 1.0
_TRY_S = 4.0
_CALLS = 3
MAX_MEMBERS = 64
MAX_ADDRESSES = 64
_AT_ONCE = 32


@dataclass(slots=True)
class _Answer:
    """The best of what a member answered so far."""

    info: dict[str, Any] = field(default_factory=dict)
    round_trip_s: float = float("inf")
    skew: Skew | None = None
    failure: str = f"no answer within {ASK_S:g} s"


async def ask_members(
    home: Path,
    cluster: str | None,
    introduction: Introduction,
    known: Mapping[Address, Outcome],
    here: frozenset[str],
) -> ClusterFacts:
    """Ask the members, `MAX_MEMBERS` of them, in some seconds at most.

    `known` is how addresses answered that were knocked at before; those are not tried again.
    `here` are the names of nodes on this machine.
    """
    assert introduction.observer is not None
    answering = [address for address, outcome in known.items() if isinstance(outcome, Reached)]
    async with open_node(
        introduction.observer,
        seeds=answering,
        mdns=False,
        cluster=cluster,
        home=home,
        credentials=introduction.credentials if introduction.from_files else None,
        observer=True,
    ) as node:
        answers = await _ask_all(node)
        addresses = {member.node.name: member.addresses for member in node.members()}
    outcomes = dict(known)
    to_try = {each for name in answers for each in addresses.get(name, ()) if each not in known}
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def attempt(address: Address) -> None:
        async with limit:
            outcomes[address] = await knock(address, introduction.credentials, None)

    with trio.move_on_after(_TRY_S):
        async with trio.open_nursery() as nursery:
            for address in sorted(to_try)[:MAX_ADDRESSES]:
                nursery.start_soon(attempt, address)
    return ClusterFacts(
        tuple(
            _facts(name, answer, addresses.get(name), outcomes, name in here)
            for name, answer in sorted(answers.items())
        ),
        left_out=len(addresses.keys() - answers.keys()),
    )


async def _ask_all(node: Node) -> dict[str, _Answer]:
    """Ask the members that are known, and then those that these know of."""
    answers: dict[str, _Answer] = {}
    with trio.move_on_after(ASK_S):
        await node.wait_for_members(1)
    await _ask_each(node, [member.node.name for member in node.members()], answers)
    told = {name for answer in answers.values() for name in _names(answer.info)}
    missing = sorted(told - answers.keys())[: MAX_MEMBERS - len(answers)]
    with trio.move_on_after(_HEARSAY_S):
        for name in missing:
            await node.wait_for_member(name)
    await _ask_each(node, missing, answers)
    return answers


async def _ask_each(node: Node, names: list[str], answers: dict[str, _Answer]) -> None:
    with trio.move_on_after(ASK_S):
        async with trio.open_nursery() as nursery:
            for name in names[:MAX_MEMBERS]:
                answers[name] = _Answer()
                nursery.start_soon(_ask, node, name, answers[name])


async def _ask(node: Node, name: str, answer: _Answer) -> None:
    for _ in range(_CALLS):
        wall_s, begun = time.time(), trio.current_time()
        try:
            info = await node.call(f"$info@{name}", None)
        except SteinadlerError as error:
            answer.failure = str(error)
            return
        took_s = trio.current_time() - begun
        if not isinstance(info, dict):
            answer.failure = "its version tells other facts"
            return
        answer.failure = ""
        if took_s < answer.round_trip_s:
            answer.info, answer.round_trip_s = info, took_s
            match info.get("unix_time_s"):
                case float() | int() as theirs:
                    answer.skew = Skew(theirs - (wall_s + took_s / 2), took_s / 2)


def _names(info: dict[str, Any]) -> frozenset[str]:
    match info.get("members"):
        case [*names]:
            return frozenset(name for name in names if isinstance(name, str))
        case _:
            return frozenset()


def _facts(
    name: str,
    answer: _Answer,
    addresses: tuple[Address, ...] | None,
    outcomes: Mapping[Address, Outcome],
    here: bool,
) -> MemberFacts:
    return MemberFacts(
        name,
        {each: _as_of(name, outcomes[each]) for each in addresses or () if each in outcomes},
        answer.failure,
        answer.round_trip_s,
        str(answer.info.get("version", "")),
        str(answer.info.get("python", "")),
        _names(answer.info),
        answer.skew,
        addresses != (),
        here,
    )


def _as_of(name: str, outcome: Outcome) -> Outcome:
    """How an address of this member answers: that somebody else of the cluster does, is none."""
    if isinstance(outcome, Reached) and not outcome.identity.vouches_for(name):
        return Obstructed(Obstacle.OTHER_NODE, f"{outcome.identity} answers there")
    return outcome
