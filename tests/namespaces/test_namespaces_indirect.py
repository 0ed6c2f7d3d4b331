"""Members that cannot reach each other, but a third one that reaches both."""

from __future__ import annotations

import time
from itertools import permutations
from pathlib import Path

import pytest
import trio
from running_members import Member, Members, all_say, all_write, meet
from switched_machines import Switch

pytestmark = pytest.mark.slow

MESSAGES, PER_SECOND = 10_000, 2_500
DIALS_OUT = {"listen": False, "port": 0}
SILENCE_S = 3.0
# The longest call while the silence of a path is noticed and another one is found.
CALL_S = 6.0
# A relayed connection's ends try the direct path about every 15 s.
DIRECT_AGAIN_S = 20.0


async def test_s2_m3_a_one_way_cut_between_two_of_three_is_no_death(
    switch: Switch, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """For 20 s bob hears nothing from alice; what they tell each other goes through carol."""
    members = Members(nursery, tmp_path)
    machines = [await switch.machine(name) for name in ("alice", "bob", "carol")]
    alice, bob, _ = three = await members.start_all(machines, seeds=machines[:1])
    await meet(*three)
    cut = time.monotonic()
    waits: list[float] = []

    async def call_until_done(member: Member, other: Member) -> None:
        while True:
            started = trio.current_time()
            with trio.fail_after(CALL_S):
                assert await member.ask("call", other.name, "hello") == "hello"
            waits.append(round(trio.current_time() - started, 2))
            await trio.sleep(0.5)

    async with switch.deafened(machines[1], machines[0]), trio.open_nursery() as calling:
        calling.start_soon(call_until_done, alice, bob)
        calling.start_soon(call_until_done, bob, alice)
        async with trio.open_nursery() as sending:
            for member, other in ((alice, bob), (bob, alice)):
                sending.start_soon(member.ask, "send", other.name, "cut", 1000, 50)
        await all_say([bob], 5, lambda got: got.get("alice cut") == 1000, "received")
        await all_say([alice], 5, lambda got: got.get("bob cut") == 1000, "received")
        await all_say([alice], 1, lambda remote: remote == "via carol", "remote", "bob")
        await all_say([bob], 1, lambda remote: remote == "via carol", "remote", "alice")
        calling.cancel_scope.cancel()
    healed = trio.current_time()
    for member, peer in ((alice, machines[1]), (bob, machines[0])):
        await all_say(
            [member],
            DIRECT_AGAIN_S,
            lambda remote: remote is not None and remote.startswith(f"{peer.address}:"),  # noqa: B023
            "remote",
            peer.name,
        )
    print(f"longest calls {sorted(waits)[-3:]} s of {len(waits)}; ", end="")  # noqa: T201
    print(f"direct again {trio.current_time() - healed:.1f} s after healing")  # noqa: T201
    await all_write(three, "after")
    assert [member.downs(cut) for member in three] == [{}, {}, {}]


async def test_members_that_only_dial_out_are_full_members(
    switch: Switch, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """M2, M3, C1, D1: also when NAT forgets their connections, and between two of them."""
    members = Members(nursery, tmp_path)
    public = [await switch.machine(name) for name in ("alice", "bob")]
    router, hidden = await switch.behind_nat("carol")
    _, hidden_too = await switch.behind_nat("dave")
    alice, bob = await members.start_all(public, seeds=public[:1])
    carol, dave = await members.start_all([hidden, hidden_too], seeds=public[:1], **DIALS_OUT)
    four = [alice, bob, carol, dave]
    started = trio.current_time()
    await meet(*four)
    print(f"all met {trio.current_time() - started:.1f} s after all were open")  # noqa: T201
    met = time.monotonic()
    for member, other in permutations(four, 2):
        with trio.fail_after(10):
            assert await member.ask("call", other.name, "hello") == "hello"
        await member.ask("watch", f"inbox@{other.name}")
    await all_say([carol], 1, lambda remote: remote in ("via alice", "via bob"), "remote", "dave")

    ways = [(carol, alice), (alice, carol), (carol, dave), (dave, carol)]
    async with trio.open_nursery() as sending:
        for sender, receiver in ways:
            sending.start_soon(sender.ask, "send", receiver.name, "many", MESSAGES, PER_SECOND)
        with trio.fail_after(20):
            await alice.ask("until_received", "carol", "many", MESSAGES // 3)
        await switch.readdress(router)
        changed = trio.current_time()
    with trio.fail_after(20):
        for sender, receiver in ways:
            await receiver.ask("until_received", sender.name, "many", MESSAGES)
    print(f"all arrived {trio.current_time() - changed:.1f} s after the change")  # noqa: T201
    for sender, receiver in ways:
        assert (await receiver.ask("received"))[f"{sender.name} many"] == MESSAGES
    assert [member.told("down", met) + member.told("fired") for member in four] == [[]] * 4

    killed = time.monotonic()
    await carol.kill()
    rest = [alice, bob, dave]
    with trio.fail_after(2 * SILENCE_S):
        for member in rest:
            await member.until(lambda: bool(member.told("fired", of="inbox@carol")))  # noqa: B023
    print("the death of carol was noticed after", [m.downs(killed) for m in rest])  # noqa: T201
    for member in rest:
        (fired,) = member.told("fired")
        assert fired["reason"] == "noconnection"
        assert fired["at"] - killed <= SILENCE_S
