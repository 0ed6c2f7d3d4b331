"""A work queue: jobs spread over worker nodes, each in an OS process of its own; one is killed.

    python examples/work_queue.py

A dispatcher starts three worker nodes, spawns one worker process on each, and gives every
worker one job at a time.  It monitors the workers.  After a few results it kills one worker's
OS process (SIGKILL); the monitor fires, the dispatcher queues that worker's job again, and the
others finish the work.

Whether a job may be run twice is for the program to say, so the library never repeats a call or
a message by itself (promise C3).  Counting primes may be run twice, and here the dispatcher does
just that, in one visible line.
"""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

import steinadler

WORKERS = 3
JOBS = [(start, start + 20_000) for start in range(0, 400_000, 20_000)]
PRIMES_BELOW_400_000 = 33_860
KILL_AFTER_RESULTS = 4


@steinadler.message
@dataclass(frozen=True)
class Job:
    """Count the primes from `low` to below `high`, and tell `answer_to`."""

    low: int
    high: int
    answer_to: steinadler.ProcessId


@steinadler.message
@dataclass(frozen=True)
class Result:
    """What `worker` found out about the job that starts at `low`."""

    worker: steinadler.ProcessId
    low: int
    primes: int


def count_primes(low: int, high: int) -> int:
    """Plain, slow, synchronous work."""
    return sum(
        all(n % divisor for divisor in range(2, int(n**0.5) + 1)) for n in range(max(low, 2), high)
    )


@steinadler.export
async def prime_worker(me: steinadler.Process) -> None:
    """Do one job after the other."""
    async for message in me:
        match message:
            case Job(low, high, answer_to):
                # In a thread, so that the node goes on answering probes: it is busy, not dead.
                primes = await trio.to_thread.run_sync(count_primes, low, high)
                await me.send(answer_to, Result(me.id, low, primes))


class Dispatcher:
    """Who does what, and what is left to do."""

    def __init__(self, me: steinadler.Process) -> None:
        self.me = me
        self.waiting = deque(JOBS)
        self.busy: dict[steinadler.ProcessId, tuple[int, int]] = {}
        self.results: dict[int, int] = {}

    async def hire(self, worker: steinadler.ProcessId) -> None:
        """Watch a new worker, and give it something to do."""
        self.me.monitor(worker)  # before the first job: an answer or a Down will come (D2)
        await self.assign(worker)

    async def assign(self, worker: steinadler.ProcessId) -> None:
        """Give a worker the next job, if there is one."""
        if not self.waiting:
            return
        low, high = self.busy[worker] = self.waiting.popleft()
        with suppress(steinadler.NodeDown):  # its Down is in the mailbox, and puts the job back
            await self.me.send(worker, Job(low, high, self.me.id))

    def dismiss(self, worker: steinadler.ProcessId, reason: str) -> None:
        """A worker is gone: what it was doing is to be done again."""
        job = self.busy.pop(worker, None)
        print(f"worker {worker} is down ({reason}); its job {job} is queued again")
        if job is not None:
            self.waiting.appendleft(job)


async def dispatcher(
    me: steinadler.Process, node: steinadler.Node, workers: dict[str, trio.Process]
) -> None:
    """Answer one call with the number of primes, once all jobs are done."""
    work = Dispatcher(me)
    request = await me.receive()
    for name in workers:
        await work.hire(await node.spawn_on(name, prime_worker))
    idle: list[steinadler.ProcessId] = []
    victims = list(workers)[:1]
    while len(work.results) < len(JOBS):
        match await me.receive():
            case Result(worker, low, primes):
                if work.busy.pop(worker, None) is not None:
                    work.results[low] = primes
                    idle.append(worker)
                if len(work.results) >= KILL_AFTER_RESULTS and victims:
                    name = victims.pop()
                    print(f"{len(work.results)} of {len(JOBS)} results; killing {name}")
                    workers[name].kill()
            case steinadler.Down(steinadler.ProcessId() as worker, reason):
                idle = [one for one in idle if one != worker]
                work.dismiss(worker, reason)
        while idle and work.waiting:
            await work.assign(idle.pop())
    request.reply(sum(work.results.values()))


@asynccontextmanager
async def worker_programs() -> AsyncIterator[dict[str, trio.Process]]:
    """Start the worker nodes, each as a program of its own; end them with the block."""
    programs: dict[str, trio.Process] = {}
    try:
        for number in range(1, WORKERS + 1):
            name = f"worker-{number}"
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
    """What each worker program does: lend its node to whoever spawns on it, and wait."""
    async with steinadler.open_node(name, labels={"role": "worker"}):
        await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)


async def main() -> None:
    """Start everything, have the primes counted, and check the number."""
    async with worker_programs() as programs, steinadler.open_node("dispatcher") as node:
        with trio.fail_after(60):
            for name in programs:
                await node.wait_for_member(name)
            print("workers:", *(member.node for member in node.members(role="worker")))
            boss = node.spawn(dispatcher, node, programs)
            primes = await node.call(boss, "count")
    print(f"{primes} primes")
    if primes != PRIMES_BELOW_400_000:
        raise SystemExit("the number is wrong")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(be_worker, sys.argv[1])
    else:
        trio.run(main)
