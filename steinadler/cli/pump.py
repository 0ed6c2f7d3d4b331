"""The pump: what comes out of one stream goes into another, both ways, until both ways have ended.

    receive        then
    ------------   -------------------------------------------------------------------------
    bytes          sent on before anything more is received: a pump holds one piece each way
    the end        `send_eof` to the other stream; the other way goes on (half-close)
    an error       the connection is broken: both ways stop, and `BrokenResourceError` comes out

    send           then
    ------------   -------------------------------------------------------------------------
    not taken      the other end reads no more and did not fail: this way stops, the other goes on,
                   so that the answer of a server that had read enough still arrives
    an error       as above

A broken connection is told apart from an ended one to the last step, because a protocol that ends
its data by closing (HTTP/1.0, a database dump) would take what was cut off for the whole.  Buffers
between the two ways were refused: credit and the kernel's windows hold back a fast sender already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

# Larger pieces cost fewer turns of the scheduler; a kernel's buffer seldom holds more.
PIECE_BYTES = 256 * 1024


async def pump(
    client: trio.abc.HalfCloseableStream,
    service: trio.abc.HalfCloseableStream,
    *,
    on_sent: Callable[[int], None],
    on_received: Callable[[int], None],
) -> None:
    """Copy both ways until both have ended; closes neither stream.

    `on_sent` is told how many bytes the service took, piece by piece, `on_received` how many the
    client took.  Raises `trio.BrokenResourceError` when either stream broke off.  Cancelled, at
    most one piece each way is lost.
    """
    broken: trio.BrokenResourceError | None = None

    async def copy(
        source: trio.abc.HalfCloseableStream,
        sink: trio.abc.HalfCloseableStream,
        on_copied: Callable[[int], None],
    ) -> None:
        nonlocal broken
        try:
            while data := await source.receive_some(PIECE_BYTES):
                if not await _taken(sink.send_all(data)):
                    return
                on_copied(len(data))
            await _taken(sink.send_eof())
        except trio.BrokenResourceError as error:
            broken = broken or error
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy, client, service, on_sent)
        await copy(service, client, on_received)
    if broken is not None:
        raise broken


async def _taken(sending: Awaitable[None]) -> bool:
    """Whether it was sent: False when the other end was closed in order, and only reads no more."""
    try:
        await sending
    except trio.BrokenResourceError as error:
        # A stream of the cluster gives no cause for that, a socket EPIPE; a reset is another error.
        if error.__cause__ is None or isinstance(error.__cause__, BrokenPipeError):
            return False
        raise
    return True
