"""What the nodes of `steinadler demo` run: ordinary processes, as any program may write them."""

from __future__ import annotations

import os
import signal
from typing import Any

import trio

from steinadler.identity import ProcessId
from steinadler.process import Call, Down, Process


async def leash(me: Process) -> None:
    """End the node when the demo is gone, however it went: it holds the other end of stdin."""
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        await stdin.receive_some()
    signal.raise_signal(signal.SIGTERM)


async def counter(me: Process) -> None:
    """Add up, for whoever calls ("add", n)."""
    total = 0
    async for message in me:
        match message:
            case Call(("add", int() as number)):
                total += number
                message.reply(total)


async def talker(me: Process) -> None:
    """Send the numbers below `count` to a listener, when called ("talk", listener, count)."""
    async for message in me:
        match message:
            case Call(("talk", ProcessId() as listener, int() as count)):
                for number in range(count):
                    await me.send(listener, (me.id.node.name, number))
                message.reply(count)


async def watcher(me: Process) -> None:
    """Monitor a process when called ("watch", process, who), and tell `who` when it is down."""
    told: dict[int, ProcessId] = {}
    async for message in me:
        match message:
            case Call(("watch", ProcessId() as process, ProcessId() as who)):
                told[me.monitor(process)] = who
                message.reply()
            case Down(_, reason, reference):
                await me.send(told.pop(reference), (me.id.node.name, reason))


class Listener:
    """What other nodes told a process of this one, in the order in which it came."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self._changed = trio.Event()

    async def run(self, me: Process) -> None:
        """The process."""
        async for message in me:
            self.received.append(message)
            self._changed.set()

    async def wait_for(self, count: int) -> list[Any]:
        """Wait until so many messages came since the last time, and take them."""
        while len(self.received) < count:
            self._changed = trio.Event()
            await self._changed.wait()
        taken, self.received = self.received, []
        return taken
