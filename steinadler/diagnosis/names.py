"""Names: what host names stand for, and what sources say that find nodes by names."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from steinadler.diagnosis.findings import Finding, Topic, listed, note, ok, problem, warning
from steinadler.identity import Address
from steinadler.transport.network import DialError
from steinadler.transport.tcp import look_up

LOOK_UP_S = 3.0

# What a name stands for, or why for nothing.
Looked: TypeAlias = "tuple[Address, ...] | str"


@dataclass(frozen=True, slots=True)
class NamesFacts:
    """`seeds` are those that are names, as written; `problems` is what sources say of themselves,
    by what they are."""

    host: str
    host_stands_for: Looked
    seeds: Mapping[str, Looked] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


async def look_up_name(address: Address) -> Looked:
    """What the host of an address stands for, within `LOOK_UP_S`; never raises."""
    with trio.move_on_after(LOOK_UP_S):
        try:
            return await look_up(address)
        except DialError as error:
            return str(error).removeprefix(f"{address}: ")
    return f"no answer within {LOOK_UP_S:g} s"


async def look_at_host_name() -> tuple[str, Looked]:
    """This machine's own name, and what it stands for."""
    name = socket.gethostname()
    return name, await look_up_name(Address(name, 0))


def judge_names(facts: NamesFacts) -> list[Finding]:
    """What these come to."""
    findings = [_judge_host(facts.host, facts.host_stands_for)]
    for seed, stands_for in sorted(facts.seeds.items()):
        if isinstance(stands_for, str):
            findings.append(
                problem(
                    Topic.SEED_NAME,
                    f"the seed {seed} stands for no address: {stands_for}",
                    "correct the name, or ask another name server (/etc/resolv.conf); or give the "
                    "IP address",
                )
            )
        else:
            ips = listed(each.host for each in stands_for)
            findings.append(ok(Topic.SEED_NAME, f"the seed {seed} stands for {ips}"))
    for source, said in sorted(facts.problems.items()):
        findings.append(
            warning(
                Topic.SOURCE,
                f"nothing, or not all, was found {source}: {said}",
                "correct what is written there, or see that it can be asked (docs/discovery.md)",
            )
        )
    return findings


def _judge_host(host: str, stands_for: Looked) -> Finding:
    if isinstance(stands_for, str):
        return note(
            Topic.HOST_NAME,
            f"this machine's own name, {host}, stands for no address: {stands_for}",
            "nothing, unless it is given to nodes as --host or --seed: then put it into DNS or "
            "/etc/hosts",
        )
    ips = [each.host for each in stands_for]
    seen = f"this machine's own name, {host}, stands for {listed(ips)}"
    if all(ipaddress.ip_address(ip.partition("%")[0]).is_loopback for ip in ips):
        return note(
            Topic.HOST_NAME,
            f"{seen}, which is on every machine that machine itself",
            "give other machines an address of this one, not that name, unless their DNS has it",
        )
    return ok(Topic.HOST_NAME, seen)
