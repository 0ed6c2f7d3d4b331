"""Real certificates of several roles, and what they let their holders do (X3, X4)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import trio
from programs import counter, programs_counter, programs_who, until
from raw_peer import raw_peer

from steinadler import ConfigError, Grants, NotAuthorized, Policy, open_node
from steinadler.wire.frames import FrameType
from steinadler.wire.handshake import RejectReason, decode_reject


async def test_each_role_may_do_what_the_policy_says(
    nodes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        """
        [roles.gateway]
        look = ["names"]
        call = ["counter"]
        [roles.gateway.nodes."gate-a"]
        spawn = ["programs_who"]
        """,
        encoding="utf-8",
    )
    bob = await nodes.open("bob", policy=file)
    carol = await nodes.open("carol")
    sidecar = await nodes.open("cars", role="sidecar")
    first, second = [await nodes.open(f"gate-{x}", role="gateway") for x in "ab"]
    eye = await nodes.open("eye", observer=True)
    process = bob.spawn(counter, name="counter")
    with trio.fail_after(20):
        for node in (carol, sidecar, first, second, eye):
            await node.wait_for_member("bob")
        assert await carol.spawn_on("bob", programs_counter)
        for node in (carol, first, second, eye):
            assert await node.call(process, ("add", 1))
        for node in (sidecar, second, eye):
            with pytest.raises(NotAuthorized, match=r"^bob does not let .* spawn 'programs_who'$"):
                await node.run_on("bob", programs_who)
        assert (await first.run_on("bob", programs_who)).node == bob.id
        with pytest.raises(
            NotAuthorized, match=r"^bob does not let sidecar 'cars' call 'counter'$"
        ):
            await sidecar.call("counter@bob", ("add", 1))
        with pytest.raises(NotAuthorized, match="look at 'statistics'"):
            await first.call("$statistics@bob", ("statistics", 1))
        # Each node by its own policy: carol's is the default.
        assert await first.call("$statistics@carol", ("statistics", 1))
        assert await bob.call("counter", ("add", 1)) == 5
    audit = [r for r in caplog.records if r.name == "steinadler.audit"]
    assert {r.levelno for r in audit} == {logging.WARNING}
    assert len(audit) == bob.statistics().refusals == 5
    spawns = [r.getMessage() for r in audit if "(gateway, 127.0.0.1:" in r.getMessage()]
    assert spawns[0].endswith("may not spawn 'programs_who' on bob: roles.gateway has spawn = []")


async def test_a_label_that_is_not_the_certificate_s_role_is_turned_away(nodes: Any) -> None:
    bob = await nodes.open("bob")
    async with raw_peer(bob, nodes.home, "mallory") as peer:
        with trio.fail_after(5):
            frame = await peer.shake_hands(labels=(("$role", "gateway"),))
        assert frame is not None
        assert frame.type == FrameType.REJECT
        assert decode_reject(frame.payload).reason is RejectReason.IDENTITY
    assert [member.node.name for member in bob.members()] == ["bob"]


async def test_a_policy_that_cannot_be_read_opens_no_node(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[roles.node]\nspwan = []\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"policy\.toml: roles.node has spwan"):
        async with open_node("bob", mdns=False, home=tmp_path / "home", policy=str(file)):
            pass
    assert not (tmp_path / "home").exists()


async def test_a_session_that_is_resumed_has_the_same_role(nodes: Any) -> None:
    """M3 and X4: what was decided for a channel is decided again for no other peer."""
    bob = await nodes.open("bob", policy=Policy({"gateway": Grants(call=("counter",))}))
    gate = await nodes.open("gate", role="gateway")
    process = bob.spawn(counter, name="counter")
    with trio.fail_after(20):
        await gate.wait_for_member("bob")
        assert await gate.call("counter@bob", ("add", 1)) == 1
        for link in bob._peering.connections.links():
            link.drop_connection()
        assert await gate.call(process, ("add", 1)) == 2
        with pytest.raises(NotAuthorized):
            await gate.call("other@bob", 1)
        await gate.send(process, "stop")
        await until(lambda: bob.statistics().refusals == 2)
        assert await gate.call(process, ("add", 1)) == 3
