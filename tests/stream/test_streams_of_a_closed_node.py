"""Whoever waits on a stream of a node that closes is told, also where both ends are its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from steinadler import Node, NodeDown


async def a_byte_stream(node: Node) -> Callable[[], Awaitable[Any]]:
    node.listen("service")
    return (await node.connect("service")).receive_some


async def a_full_byte_stream(node: Node) -> Callable[[], Awaitable[Any]]:
    listener = node.listen("service")
    stream = await node.connect("service")
    await listener.accept()
    return lambda: stream.send_all(bytes(50_000_000))


async def a_channel(node: Node) -> Callable[[], Awaitable[Any]]:
    return node.open_channel()[1].receive


async def a_source_that_nobody_claimed(node: Node) -> Callable[[], Awaitable[Any]]:
    send, receive = node.open_channel()
    receive.ref()
    return lambda: send.send(1)


async def a_sink_that_nobody_claimed(node: Node) -> Callable[[], Awaitable[Any]]:
    send, receive = node.open_channel()
    send.ref()
    return receive.receive


@pytest.mark.parametrize(
    "waits_on",
    [
        a_byte_stream,
        a_full_byte_stream,
        a_channel,
        a_source_that_nobody_claimed,
        a_sink_that_nobody_claimed,
    ],
    ids=lambda waits_on: waits_on.__name__,
)
async def test_a_task_that_waits_is_told(nodes: Any, waits_on: Any) -> None:
    node = await nodes.open("alice")
    what = await waits_on(node)
    told = []

    async def wait() -> None:
        try:
            await what()
        except (NodeDown, trio.BrokenResourceError) as error:
            told.append(error)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.001)
            await nodes.close(node)
    assert all(isinstance(error, NodeDown) or error.__cause__ for error in told)
    # What nobody took can still be taken.
    assert all(end.bytes_waiting for end in node.stream_statistics())
