"""Process functions that several tests run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

import steinadler
from steinadler import Call, Process


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.002)


async def counter(me: Process, start: int = 0) -> None:
    total = start
    async for message in me:
        match message:
            case Call(("add", n)):
                total += n
                message.reply(total)
            case "stop":
                return


async def collector(me: Process, into: list[Any]) -> None:
    while True:
        into.append(await me.receive())


async def sleeper(me: Process) -> None:
    await trio.sleep_forever()


@steinadler.export
async def programs_counter(me: Process, start: int = 0) -> None:
    await counter(me, start)


@steinadler.export
async def programs_who(me: Process) -> steinadler.ProcessId:
    return me.id


@steinadler.export
async def programs_raises(me: Process, text: str) -> None:
    raise ValueError(text)


@steinadler.export
async def programs_unsendable(me: Process) -> object:
    return object()


@steinadler.export
async def programs_sleeper(me: Process, name: str) -> None:
    me.node.register(name, me.id)  # type: ignore[attr-defined]
    await trio.sleep_forever()
