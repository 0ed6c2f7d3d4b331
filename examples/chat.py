"""A chat room without a server: every node keeps the room, every line goes to every node.

    python examples/chat.py

runs three nodes in one program that talk by themselves.  The same room on nodes of their own,
from this folder, each line in a terminal of its own:

    steinadler node alice --app chat:chat
    steinadler node bob --app chat:chat
    steinadler send chat@alice '"hello, all"'

Shows a process made for `--app`, `events()` (who comes and goes), and a broadcast to all members.
A broadcast is a loop: each destination has a window of its own, so nobody who listens waits for
somebody who does not.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

import steinadler
from steinadler.node import NodeDown, NodeUp


async def chat(me: steinadler.Process, hear: Callable[[str], None] = print) -> None:
    """The room on one node.  A text is said to all; a line that somebody said goes to `hear`."""
    node = me.node
    assert isinstance(node, steinadler.Node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce, node, node.events(), hear)
        async for message in me:
            match message:
                case str(text):
                    say(node, text)
                case {"from": str(speaker), "text": str(text)}:
                    hear(f"[{node.name}] {speaker}: {text}")


def say(node: steinadler.Node, text: str) -> None:
    """Send a line to the room of every member, this node included."""
    for member in node.members():
        name = member.node.name
        try:
            node.send_nowait(f"chat@{name}", {"from": node.name, "text": text})
        except steinadler.MailboxFull:
            print(f"[{node.name}] {name} does not listen, and misses a line")
        except steinadler.NodeDown:
            continue  # it went between `members` and here; `events` tells


async def announce(
    node: steinadler.Node, events: steinadler.EventStream, hear: Callable[[str], None]
) -> None:
    """Tell who comes and who goes."""
    async for event in events:
        match event:
            case NodeUp(member):
                hear(f"[{node.name}] * {member.node.name} came")
            case NodeDown(member, reason):
                hear(f"[{node.name}] * {member.node.name} went: {reason}")


async def main() -> None:
    """Three nodes in one program; each says a line, and all hear all three; one goes."""
    tell, told = trio.open_memory_channel[str](1000)

    def hear(line: str) -> None:
        print(line)
        tell.send_nowait(line)

    async def wait_for(lines: set[str]) -> None:
        async for line in told:
            lines.discard(line)
            if not lines:
                return

    names = ("alice", "bob", "carol")
    with trio.fail_after(30):
        async with steinadler.open_node("alice") as alice, steinadler.open_node("bob") as bob:
            async with steinadler.open_node("carol") as carol:
                for node in (alice, bob, carol):
                    await node.wait_for_members(len(names))
                for node in (alice, bob, carol):
                    node.spawn(chat, hear, name="chat")
                for node in (alice, bob, carol):
                    await node.send("chat", f"hello from {node.name}")
                await wait_for({f"[{a}] {b}: hello from {b}" for a in names for b in names})
            # Carol has left her block, and so the cluster.
            await wait_for({"[alice] * carol went: left", "[bob] * carol went: left"})
            await alice.send("chat", "and then there were two")
            await wait_for({f"[{a}] alice: and then there were two" for a in names[:2]})


if __name__ == "__main__":
    trio.run(main)
