"""A counter with a name, on one node, used from another.

    python examples/counter.py

Two nodes in one program, so that it runs anywhere; on two machines nothing would change but
where `open_node` is called.  Shows a process with a name, calls, messages, a monitor, and
`spawn_on`.  Prints what it does and ends by itself.
"""

from __future__ import annotations

import trio

import steinadler


@steinadler.export
async def counter(me: steinadler.Process, start: int = 0) -> None:
    """Count; answer each addition with the total.  "stop" ends it."""
    total = start
    async for message in me:
        match message:
            case steinadler.Call(("add", int(n))):
                total += n
                message.reply(total)
            case steinadler.Call(other):
                message.fail(f"a counter does not understand {other!r}")
            case "stop":
                return


async def main() -> None:
    """Run both nodes, and everything between them."""
    async with (
        steinadler.open_node("alice") as alice,
        steinadler.open_node("bob") as bob,
    ):
        bob.spawn(counter, name="counter")
        await alice.wait_for_member("bob")

        for n in (2, 40):
            print(f"add {n}: the total is", await alice.call("counter@bob", ("add", n)))

        try:
            await alice.call("counter@bob", "reset")
        except steinadler.RemoteError as error:
            print("reset:", error)

        async with alice.monitor("counter@bob") as down:
            await alice.send("counter@bob", "stop")
            print("the counter ended:", (await down.wait()).reason)

        try:
            await alice.call("counter@bob", ("add", 1))
        except steinadler.NoSuchProcess as error:
            print("add 1:", error)

        second = await alice.spawn_on("bob", counter, 100)
        print(f"a second one, {second}:", await alice.call(second, ("add", 1)))


if __name__ == "__main__":
    trio.run(main)
