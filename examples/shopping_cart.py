"""A shopping cart that survives the node that holds it.

    python examples/shopping_cart.py

Two shop programs host carts, each with a node of its own.  This program hosts none: it calls the
cart by type and id, and the shop that owns it answers.  Then it kills that shop's OS process
(SIGKILL).  The next call finds the cart, with all that was acknowledged, in the other shop.

A call that was under way when its shop died may or may not have put its item into the cart, and
the library never repeats it by itself (promise E3).  `add` may be repeated here, because it is
told the number of the request and forgets none that it has seen.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

import steinadler

SHOPS = ("shop-1", "shop-2")


@steinadler.message
@dataclass
class Line:
    """One line of a cart."""

    item: str
    count: int = 1


class Cart(steinadler.Entity):
    """What somebody means to buy."""

    lines: list[Line] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    @steinadler.command
    def add(self, request: str, item: str, count: int = 1) -> int:
        """Add items, and return how many there are in all; a request counts once."""
        if count < 1:
            raise ValueError("a cart holds whole things")
        if request not in self.seen:
            self.seen.add(request)
            self.lines.append(Line(item, count))
        return sum(line.count for line in self.lines)

    @steinadler.command(read_only=True)
    def show(self) -> list[Line]:
        """All lines."""
        return self.lines


async def be_shop(name: str) -> None:
    """What each shop's program does: host carts until its standard input ends."""
    async with steinadler.open_node(name) as node:
        node.host(Cart)
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)


@asynccontextmanager
async def shop_programs() -> AsyncIterator[dict[str, trio.Process]]:
    """Start the shops, each as a program of its own; end them with the block."""
    programs: dict[str, trio.Process] = {}
    try:
        for name in SHOPS:
            command = [sys.executable, __file__, name]
            programs[name] = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        for program in programs.values():
            assert program.stdout is not None
            await program.stdout.receive_some()
        yield programs
    finally:
        with trio.CancelScope(shield=True):
            for program in programs.values():
                assert program.stdin is not None
                assert program.stdout is not None
                await program.stdin.aclose()
            for program in programs.values():
                await program.wait()
                await program.stdout.aclose()


async def add(cart: steinadler.EntityRef, request: str, item: str, count: int = 1) -> int:
    """Add to the cart, and again for as long as it is not known to have happened."""
    while True:
        try:
            total: int = await cart.call("add", request, item, count)
            return total
        except (steinadler.EntityHostFailed, steinadler.EntityUnavailable) as error:
            print("once more:", error)
            await trio.sleep(0.1)


async def main() -> None:
    """Fill a cart, kill its shop, and look into the cart again."""
    with trio.fail_after(60):
        async with shop_programs() as shops, steinadler.open_node("customer") as node:
            for name in shops:
                await node.wait_for_member(name)
            cart = node.entity("Cart", secrets.token_hex(4))  # the last run's cart is still there
            print("nuts:", await add(cart, "r1", "nut", 2))
            print("bolts:", await add(cart, "r2", "bolt"))
            try:
                await cart.call("add", "r3", "air", 0)
            except steinadler.RemoteError as error:
                print("air:", error)

            owner = cart.owner or ""
            print(f"the cart is in {owner}; killing it")
            shops[owner].kill()

            print("a washer:", await add(cart, "r4", "washer"))
            print(f"the cart is in {cart.owner}, and holds:")
            for line in await cart.call("show"):
                print(f"  {line.count} x {line.item}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(be_shop, sys.argv[1])
    else:
        trio.run(main)
