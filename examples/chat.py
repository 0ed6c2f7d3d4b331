"""A chat room without a server: every node keeps the room, every line goes to every node.

    python examples/chat.py

runs three nodes in one program with lines said by themselves.  The same room on real nodes, one
a terminal, from this folder:

    steinadler node alice --app chat:app
    steinadler node bob --app chat:app
    steinadler send chat@bob '{"from": "me", "text": "hello, bob"}'

Shows `events()` (who comes and goes), a broadcast to all members, labels, and a process that
hears of its node's neighbours as ordinary messages.  A broadcast is a loop: each member has a
channel of its own, so the loop below does not wait for a member that does not read.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

import steinadler
from steinadler.node import NodeDown, NodeUp

ROOM = "chat"


async def room(me: steinadler.Process, node_name: str, hear: Callable[[str], None]) -> None:
    """Hand on whatever is said."""
    async for message in me:
        match message:
            case {"from": str(speaker), "text": str(text)}:
                hear(f"[{node_name}] {speaker}: {text}")


def say(node: steinadler.Node, text: str) -> None:
    """Send a line to the room of every member that has one, this node included."""
    line = {"from": node.name, "text": text}
    for member in node.members():
        try:
            node.send_nowait(f"{ROOM}@{member.node.name}", line)
        except steinadler.MailboxFull:
            print(f"[{node.name}] {member.node.name} does not listen; it misses a line")
        except steinadler.NodeDown:
            pass  # it went between `members` and here; `events` tells


async def app(node: steinadler.Node) -> None:
    """Open the room on this node, and greet whoever comes: for `steinadler node --app`."""
    events = node.events()
    node.spawn(room, node.name, print, name=ROOM)
    async for event in events:
        match event:
            case NodeUp(member):
                print(f"[{node.name}] * {member.node.name} came")
            case NodeDown(member, reason):
                print(f"[{node.name}] * {member.node.name} went: {reason}")


async def main() -> None:
    """Three nodes in one program; each says a line, and all hear all three."""
    hear, heard = trio.open_memory_channel[str](100)
    with trio.fail_after(30):
        async with steinadler.open_node("alice") as alice, steinadler.open_node("bob") as bob:
            events = alice.events()
            async with steinadler.open_node("carol", labels={"mood": "brief"}) as carol:
                nodes = (alice, bob, carol)
                for node in nodes:
                    node.spawn(room, node.name, hear.send_nowait, name=ROOM)
                for node in nodes:
                    await node.wait_for_members(len(nodes))
                for node in nodes:
                    say(node, f"hello from {node.name}")
                for _ in range(len(nodes) ** 2):
                    print(await heard.receive())
            # Carol has left her block, and so the cluster.
            async for event in events:
                match event:
                    case NodeUp(member):
                        print(f"* {member.node.name} came, with labels {dict(member.labels)}")
                    case NodeDown(member, reason):
                        print(f"* {member.node.name} went: {reason}")
                        break
            say(alice, "and then there were two")
            for _ in range(2):
                print(await heard.receive())


if __name__ == "__main__":
    trio.run(main)
