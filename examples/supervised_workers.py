"""Supervised workers: four of them, kept running over three nodes, one of which is lost.

    python examples/supervised_workers.py

Three worker nodes run in OS processes of their own.  A cluster supervisor spreads four workers
over them.  First one worker crashes, and is started again; then the OS process of one node is
killed, and what ran there runs on the others.  Each time the program waits until all four answer.

At the end the supervisor is told to exit, and ends its workers.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

import steinadler
from steinadler import supervision

NODES = ["worker-1", "worker-2", "worker-3"]
WORKERS = [f"greeter {number}" for number in range(1, 5)]


@steinadler.export
async def greeter(me: steinadler.Process, name: str) -> None:
    """Greets whoever calls."""
    async for message in me:
        match message:
            case steinadler.Call(whom):
                message.reply(f"Hello {whom}, this is {name} on {me.node.name}")
            case "crash":
                raise RuntimeError("this is meant to happen")


async def all_answer(node: steinadler.Node) -> None:
    """Call every worker; begin again as long as one of them is just not there."""
    while True:
        try:
            children = await supervision.which_children(node, "greeters")
            answers = [
                await node.call(child.process, "world")
                for child in children
                if child.process is not None and child.state == "running"
            ]
        except steinadler.DeliveryError:  # it went down while it was called
            continue
        if len(answers) == len(WORKERS):
            print(*answers, sep="\n")
            return
        await trio.sleep(0.02)


async def crash_one(node: steinadler.Node) -> None:
    """Let a worker fail, and wait until it has."""
    (victim, *_) = await supervision.which_children(node, "greeters")
    assert victim.process is not None
    async with node.monitor(victim.process) as down:
        await node.send(victim.process, "crash")
        print(f"-- {victim.id} crashed: {(await down.wait()).reason}")


@asynccontextmanager
async def worker_programs() -> AsyncIterator[dict[str, trio.Process]]:
    """Start the worker nodes, each as a program of its own; end them with the block."""
    programs: dict[str, trio.Process] = {}
    try:
        for name in NODES:
            command = [sys.executable, __file__, name]
            programs[name] = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE)
        yield programs
    finally:
        with trio.CancelScope(shield=True):
            for program in programs.values():
                assert program.stdin is not None
                await program.stdin.aclose()  # a worker program ends with its standard input
            for program in programs.values():
                await program.wait()


async def be_worker(name: str) -> None:
    """What each worker program does: lend its node to whoever starts something on it."""
    logging.disable()  # the crash would be told twice: here, and by the program that sees it
    async with steinadler.open_node(name, labels={"role": "worker"}):
        await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)


async def main() -> None:
    """Start everything, lose some of it, and see that it all still answers."""
    spec = steinadler.SupervisorSpec(
        [steinadler.ChildSpec(name, greeter, (name,)) for name in WORKERS]
    )
    async with worker_programs() as programs, steinadler.open_node("boss") as node:
        with trio.fail_after(60):
            for name in programs:
                await node.wait_for_member(name)
            node.spawn(steinadler.cluster_supervisor, spec, {"role": "worker"}, name="greeters")
            await all_answer(node)
            await crash_one(node)
            await all_answer(node)
            print("-- killing worker-1")
            programs["worker-1"].kill()
            await programs["worker-1"].wait()
            await all_answer(node)
            async with node.monitor("greeters") as down:
                node.exit("greeters")
                print(f"-- the supervisor ended: {(await down.wait()).reason}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(be_worker, sys.argv[1])
    else:
        trio.run(main)
