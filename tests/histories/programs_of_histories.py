"""A node of a real history, in a process of its own.

    python programs_of_histories.py HOME NAME HISTORY URL CLIENTS ENTITY ...

Hosts ledgers in the store at URL, unless that is "-", and has so many clients call those entities;
writes what they do to the file HISTORY.  Prints "ready" when it does.  Told "quiet" by a line on
standard input it lets its clients end; told "last", it has every entity take one more turn; and
says so.  It ends with standard input, and by SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import trio
from databases import LOCK_PATIENCE_S
from ledgers import Client, Ledger, Plan
from recording import Recorder

from steinadler import Node, open_node
from steinadler.entity import sqlite


def say(word: str) -> None:
    """To whoever started this."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


async def follow(node: Node, recorder: Recorder, clients: int, plan: Plan) -> None:
    """Do what standard input says."""
    stop = trio.Event()
    async with trio.lowlevel.FdStream(os.dup(0)) as told, trio.open_nursery() as nursery:
        async with trio.open_nursery() as calling:
            for number in range(clients):
                name = f"{node.name}/{node.id.incarnation}/{number}"
                calling.start_soon(Client(name, node, recorder, plan).keep_calling, stop)
            say("ready")
            while (word := await told.receive_some()) == b"\n":
                pass
            stop.set()
        last = Client(f"{node.name}/{node.id.incarnation}/last", node, recorder, plan)
        while word:
            if word == b"last\n":
                await last.recover()
            say(word.decode().strip())
            word = await told.receive_some()
        nursery.cancel_scope.cancel()


async def until_terminated(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def main(*arguments: str) -> None:
    home, name, history, url, clients, *entities = arguments
    plan = Plan(tuple(entities), pause_s=(0.0, 0.05), timeout_s=(0.5, 5.0))
    store = None if url == "-" else url
    with Recorder(Path(history), time.monotonic) as recorder:
        async with open_node(
            name, host="127.0.0.1", mdns=False, home=Path(home), store=store
        ) as node:
            async with trio.open_nursery() as nursery:
                await nursery.start(until_terminated, nursery.cancel_scope)
                if store is not None:
                    node.host(Ledger)
                await follow(node, recorder, int(clients), plan)
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sqlite.LOCK_PATIENCE_S = LOCK_PATIENCE_S
    trio.run(main, *sys.argv[1:])
