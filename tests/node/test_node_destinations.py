"""A node that allows its peers few channels: who sends to more destinations than that is told."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from programs import counter, until

from steinadler import Config, DeliveryError, MailboxFull, Node, Process, WireSettings

# Two of them are for signals and replies.
FEW = Config(wire=WireSettings(max_channels=5, channel_idle_s=0.2))


async def test_one_destination_too_many_is_refused_until_others_have_consumed(nodes: Any) -> None:
    """X4: neither end buffers without bound, and the connection survives."""
    alice: Node = await nodes.open("alice")
    bob: Node = await nodes.open("bob", config=FEW)
    begin = trio.Event()

    async def busy(me: Process) -> None:
        await begin.wait()
        await me.receive()
        await trio.sleep_forever()

    with trio.fail_after(10):
        await alice.wait_for_member("bob")
        fourth = bob.spawn(counter)
        for process in [bob.spawn(busy) for _ in range(3)]:
            await alice.send(process, "wait for it")
        with pytest.raises(DeliveryError, match="max_channels") as refused:
            await alice.send(fourth, "one too many")
        assert not isinstance(refused.value, MailboxFull)
        with pytest.raises(DeliveryError, match="max_channels"):
            await alice.call(fourth, ("add", 1))
        begin.set()

        def accepted() -> bool:
            try:
                alice.send_nowait(fourth, "stop")
            except DeliveryError:
                return False
            return True

        async with alice.monitor(fourth) as down:
            await until(accepted)
            assert (await down.wait()).reason == "normal"
        assert [member.node.name for member in alice.members()] == ["alice", "bob"]
