"""Pipe a file of any size from one node to another: constant memory, progress, a checksum.

    python examples/pipe_file.py [MIB]

sends 16 MiB, or so many, made on the fly, from one program to a second one.  By hand, each line in
a terminal of its own:

    python examples/pipe_file.py receive copy.iso
    python examples/pipe_file.py send big.iso

`receive` listens at the service "pipe"; `send` connects to whoever offers it.  Neither holds more
than a piece and a window: when the receiver's disk is slow, the window fills up, and the sender's
`send_all` waits.  An end of the stream is the end of the file, so a sender that fails must not end
it: it closes the stream with its error, and `receive_some` raises there, as it does when the sender
is killed.  The receiver answers with the checksum of what it wrote.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import trio

import steinadler

SERVICE = "pipe"
PIECE_BYTES = 1 << 20
MIB = 1 << 20


class Readable(Protocol):
    """What is needed of a file to send it."""

    def read(self, most: int, /) -> bytes: ...


class Progress:
    """Counts and sums what passes, and tells how far it is, twice a second."""

    def __init__(self, title: str, whole: int | None = None) -> None:
        self.count = 0
        self._digest = hashlib.sha256()
        self._title = title
        self._whole = whole
        self._began = self._told_at = trio.current_time()

    def passed(self, data: bytes) -> None:
        self._digest.update(data)
        self.count += len(data)
        if trio.current_time() - self._told_at > 0.5:
            self._told_at = trio.current_time()
            self.tell()

    def tell(self) -> None:
        seconds = max(trio.current_time() - self._began, 1e-6)
        share = f" ({self.count / self._whole:.0%})" if self._whole else ""
        speed = f"{self.count / MIB / seconds:.0f} MiB/s"
        print(f"{self._title}: {self.count / MIB:,.0f} MiB{share}, {speed}", flush=True)

    @property
    def checksum(self) -> bytes:
        return self._digest.digest()


async def send(node: steinadler.Node, file: Readable, whole: int) -> None:
    """Send a file to whoever offers the service, and check that it arrived."""
    stream = await connect(node)
    progress = Progress("sent", whole)
    async with stream:  # which breaks off when the block raises: half a file is not a file
        while data := await trio.to_thread.run_sync(file.read, PIECE_BYTES):
            await stream.send_all(data)
            progress.passed(data)
        await stream.send_eof()  # the file ends; the answer is still to come
        answer = b"".join([data async for data in stream])
    progress.tell()
    if answer != progress.checksum:
        raise SystemExit("what arrived is not what was sent")
    print(f"sha256 {answer.hex()}, as {stream.peer.name} wrote it")


async def connect(node: steinadler.Node) -> steinadler.ByteStream:
    """Wait until somebody offers the service."""
    with trio.fail_after(30):
        while True:
            try:
                return await node.connect(f"{SERVICE}@*")
            except steinadler.NoSuchService:
                await trio.sleep(0.1)


async def receive(node: steinadler.Node, file: BinaryIO) -> None:
    """Take one file, and answer with its checksum."""
    with node.listen(SERVICE, backlog=1) as listener:
        stream = await listener.accept()
    progress = Progress("received")
    async with stream:
        while data := await stream.receive_some(PIECE_BYTES):
            await trio.to_thread.run_sync(file.write, data)
            progress.passed(data)
        await stream.send_all(progress.checksum)
    progress.tell()


class MadeOnTheFly:
    """A file that needs no disk."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._block = hashlib.shake_128(b"steinadler").digest(PIECE_BYTES)

    def read(self, most: int) -> bytes:
        taken = self._block[: min(most, self._left)]
        self._left -= len(taken)
        return taken


async def be_sender(file: Readable, whole: int) -> None:
    async with steinadler.open_node("pipe-sender") as node:
        await send(node, file, whole)


async def be_receiver(path: str) -> None:
    async with steinadler.open_node("pipe-receiver") as node:
        with open(path, "wb") as file:  # noqa: ASYNC230 -- the writes are in threads
            await receive(node, file)


async def both(mib: int) -> None:
    """The sender here, the receiver in a program of its own."""
    command = [sys.executable, __file__, "receive", os.devnull]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.run_process, command))
        await be_sender(MadeOnTheFly(mib * MIB), mib * MIB)


def main(words: list[str]) -> None:
    """Play the role that the command line says; without one, both."""
    match words:
        case ["send", path]:
            with open(path, "rb") as file:
                trio.run(be_sender, file, os.stat(path).st_size)
        case ["receive", path]:
            trio.run(be_receiver, path)
        case [] | [_]:
            trio.run(both, int(words[0]) if words else 16)
        case _:
            raise SystemExit(__doc__)
    print(f"peak memory {peak_memory_kib() // 1024} MiB")


def peak_memory_kib() -> int:
    """Of this process alone: `ru_maxrss` begins with what its parent had when it was forked."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main(sys.argv[1:])
