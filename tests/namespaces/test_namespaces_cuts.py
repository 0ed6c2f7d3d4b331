"""Cables, cuts and partitions between real machines, as far as network namespaces are machines."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import trio
from running_members import LETTERS, Member, Members, all_say, all_write, meet
from switched_machines import Switch

pytestmark = pytest.mark.slow

# Silence to Down, at default settings (S1).
SILENCE_S = 3.0
# The same where nobody else confirms it, as may be on the smaller side.
ALONE_S = 6.5
# From healing until all tables agree.
AGREE_S = 10.0


async def test_s1_a_member_whose_cable_is_pulled_is_down_everywhere_within_3_s(
    switch: Switch, tmp_path: Path, nursery: trio.Nursery
) -> None:
    members = Members(nursery, tmp_path)
    machines = [await switch.machine(name) for name in ("alice", "bob", "carol")]
    three = await members.start_all(machines, seeds=machines[:1])
    await meet(*three)
    for machine, unplugged in zip(machines, three, strict=True):
        others = [member for member in three if member is not unplugged]
        pulled = await switch.unplug(machine)
        with trio.fail_after(3 * SILENCE_S):
            for member in others:
                await member.until(lambda: unplugged.name in member.downs(pulled, verdicts=True))  # noqa: B023
        times = [member.downs(pulled, verdicts=True) for member in others]
        print(f"{unplugged.name}'s cable pulled:", times)  # noqa: T201
        for downs in times:
            assert downs.keys() == {unplugged.name}
            assert downs[unplugged.name][0] <= SILENCE_S
        await switch.plug(machine)
        await meet(*three)


async def test_a_partition_of_five_heals(
    switch: Switch, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Two sides go on by themselves and find each other again: S1, N2, N3, D1, D3, M4."""
    members = Members(nursery, tmp_path)
    machines = [await switch.machine(name) for name in ("alice", "bob", "carol", "dave", "erin")]
    alice, bob, carol, dave, erin = five = await members.start_all(machines, seeds=machines[:1])
    await meet(*five)
    for member in five:
        await member.ask("join", "workers")
        for other in five:
            if other is not member:
                await member.ask("watch", f"inbox@{other.name}")
    await all_write(five, "before")
    await all_say(five, 5, lambda group: len(group) == 5, "group", "workers")

    async with switch.parted(machines[:3], machines[3:]) as parted:
        await each_side_sees_the_other_down([alice, bob, carol], [dave, erin], parted)
        with trio.fail_after(10):
            twice = [await alice.ask("register", "both"), await dave.ask("register", "both")]
            for member in (alice, dave):
                await member.ask("watch", "both-holder")
            once = {"left": await bob.ask("register", "left")}
            once["right"] = await dave.ask("register", "right")
            # A life that the other side never saw until now, and that has nothing of the former.
            await erin.kill()
            await dave.until(lambda: "erin" not in dave.members)
            erin = await members.start(machines[4], seeds=[machines[3]])
            await meet(dave, erin)
            await erin.ask("join", "workers")

    healed = trio.current_time()
    five = [alice, bob, carol, dave, erin]
    await meet(*five)
    print(f"{trio.current_time() - healed:.1f} s after healing all are members")  # noqa: T201
    with trio.fail_after(AGREE_S):
        winner = await alice.until_answer(lambda who: who in twice, "whereis", "both")
        loser, keeper = (dave, alice) if winner == twice[0] else (alice, dave)
        await all_say(five, AGREE_S, lambda who: who == winner, "whereis", "both")
        for name, holder in once.items():
            await all_say(five, AGREE_S, lambda who: who == holder, "whereis", name)  # noqa: B023
        workers = await alice.until_answer(lambda group: len(group) == 5, "group", "workers")
        await all_say(five, AGREE_S, lambda group: group == workers, "group", "workers")
        lives = await erin.ask("members")
        await all_say(five, AGREE_S, lambda all_: all_ == lives, "members")
        await loser.until(lambda: bool(loser.told("fired", of="both-holder")))
        await loser.until(lambda: bool(loser.told("conflict")))
    took_s = trio.current_time() - healed
    print(f"{took_s:.1f} s after healing all agree on names and groups")  # noqa: T201
    assert took_s <= AGREE_S
    (ended,), (conflict,) = loser.told("fired", of="both-holder"), loser.told("conflict")
    assert ended["reason"].startswith("NameConflict")
    assert (conflict["name"], conflict["winner"]) == ("both", winner)
    assert {conflict["winner"], conflict["loser"]} == set(twice)
    assert keeper.told("fired", of="both-holder") == []

    await all_write(five, "after")
    for member in five:
        # Nothing of what was written into the cut, and nothing that was for a former life.
        phases = {"after"} if member is erin else {"before", "after"}
        got = await member.ask("received")
        assert {key.rpartition(" ")[2] for key in got} == phases
        assert set(got.values()) == {LETTERS}
        far = [dave.name, erin.name]
        if member is dave:
            far = [each.name for each in five if each is not dave]
        if member is erin:
            far = []
        fired = sorted(each["of"] for each in member.told("fired", reason="noconnection"))
        assert fired == sorted(f"inbox@{name}" for name in far)
        assert sorted(each["name"] for each in member.told("down")) == sorted(far)


async def each_side_sees_the_other_down(
    many: list[Member], few: list[Member], since: float
) -> None:
    """And nobody of its own; with messages on their way."""
    for member, other in [*product(many, few), *product(few, many)]:
        await member.ask("send", other.name, "cut", LETTERS, 1000)
    for side, rest, limit_s in ((many, few, SILENCE_S), (few, many, ALONE_S)):
        others = {other.name for other in rest}
        for member in side:
            with trio.fail_after(2 * limit_s):
                await member.until(lambda: member.downs(since).keys() >= others)  # noqa: B023
            downs = member.downs(since)
            print(f"{member.name} after the cut: {downs}")  # noqa: T201
            assert downs.keys() == others
            assert all(len(times) == 1 and times[0] <= limit_s for times in downs.values())
