"""`steinadler doctor` on machines of a network: filters, another cluster, a member behind NAT."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from running_members import PORT, Members, meet
from switched_machines import Machine, Switch

from steinadler.security import open_home

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]


class Told(NamedTuple):
    """How the command ended, and its findings: topic, level, what was seen."""

    code: int
    findings: list[tuple[str, str, str]]

    def of(self, topic: str, *levels: str) -> list[str]:
        return [
            s for t, level, s in self.findings if t == topic and (level in levels or not levels)
        ]

    @property
    def problems(self) -> list[str]:
        return [topic for topic, level, _ in self.findings if level == "problem"]


async def doctor(machine: Machine, home: Path, *options: str) -> Told:
    """Run it on a machine, with a home that it finds there."""
    with trio.fail_after(30):
        done = await trio.run_process(
            machine.inside(sys.executable, "-m", "steinadler", "doctor", "--json", *options),
            env=os.environ | {"STEINADLER_HOME": str(home), "PYTHONPATH": str(_ROOT)},
            capture_stdout=True,
            check=False,
        )
    told: dict[str, Any] = json.loads(done.stdout)
    findings = [
        (finding["topic"], finding["level"], finding["seen"])
        for check in told["checks"]
        for finding in check["findings"]
    ]
    return Told(done.returncode, findings)


async def test_a_second_machine_that_shows_up_and_all_that_may_keep_it_away(
    switch: Switch, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The same two machines, step by step: in order; behind filters; with a cluster of its own."""
    members = Members(nursery, tmp_path)
    home = tmp_path / "brought"
    shutil.copytree(tmp_path / "cluster/home", home)
    alice, bob = await switch.machine("alice"), await switch.machine("bob")
    await members.start(alice, mdns=True)
    seed = f"{alice.address}:{PORT}"

    told = await doctor(bob, home)
    assert (told.code, told.problems) == (0, [])
    assert f"is answered by {alice.address}" in told.of("multicast", "ok")[0]
    assert f"node alice answers at {seed} (mdns)" in told.of("dialled", "ok")[0]
    assert told.of("member", "ok")[0].startswith("alice is a member")
    assert "clocks agree" in told.of("clocks", "ok")[0]
    assert "reached at all" in told.of("addresses", "ok")[0]

    # A filter for mDNS alone: a seed does, and beside it one at which nobody listens is told.
    await bob.run("iptables", "-A", "INPUT", "-p", "udp", "--dport", "5353", "-j", "DROP")
    told = await doctor(bob, home, "--seed", seed, "--seed", f"{alice.address}:9")
    assert "a packet filter drops it" in told.of("multicast", "warning")[0]
    assert f"node alice answers at {seed} (seed)" in told.of("dialled", "ok")[0]
    assert told.problems == ["dialled"]
    assert f"{alice.address}:9 (seed): nobody listens there" in told.of("dialled", "problem")[0]
    await bob.hear_all()

    # One for everything that alice sends, and an address of the link where no machine is.
    async with switch.deafened(bob, alice):
        told = await doctor(bob, home, "--seed", seed, "--seed", "10.77.0.99:4000")
    assert (told.code, told.problems) == (1, ["dialled", "dialled"])
    filtered, nowhere = sorted(told.of("dialled"))
    assert filtered.startswith(f"{seed} (seed): no answer within 3 s: ")
    assert nowhere.startswith("10.77.0.99:4000 (seed): ")
    assert "nobody else on the network answers" in told.of("multicast", "note")[0]

    # A cluster that bob has made himself: alice is heard, and named at the seed.
    open_home(tmp_path / "own").default_cluster()
    told = await doctor(bob, tmp_path / "own", "--seed", seed)
    assert told.problems == ["dialled"]
    assert "a node of another cluster: spiffe://" in told.of("dialled", "problem")[0]
    assert f"alice ({seed})" in told.of("other-clusters", "warning")[0]

    # No multicast, and no seed.
    await bob.run("iptables", "-A", "OUTPUT", "-d", "224.0.0.0/4", "-j", "DROP")
    told = await doctor(bob, home)
    assert (told.code, told.problems) == (1, ["multicast"])
    assert "multicast cannot be used on eth0" in told.of("multicast", "problem")[0]
    assert told.of("found", "warning")


async def test_a_member_that_only_dials_out_is_no_problem(
    switch: Switch, tmp_path: Path, nursery: trio.Nursery
) -> None:
    members = Members(nursery, tmp_path)
    home = tmp_path / "brought"
    shutil.copytree(tmp_path / "cluster/home", home)
    alice = await switch.machine("alice")
    _, carol = await switch.behind_nat("carol")
    one = await members.start(alice)
    other = await members.start(carol, seeds=[alice])
    await meet(one, other)
    told = await doctor(await switch.machine("bob"), home, "--seed", f"{alice.address}:{PORT}")
    assert (told.code, told.problems) == (0, [])
    (addresses,) = told.of("addresses", "note", "warning")
    assert addresses.startswith(f"carol gives out {carol.address}:{PORT}")
