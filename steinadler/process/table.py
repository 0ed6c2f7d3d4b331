"""The processes of one node, by number and by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import outcome
import trio

from steinadler.errors import ConfigError, NodeClosed, NoSuchProcess
from steinadler.identity import NodeId, ProcessId
from steinadler.process.exports import ProcessFunction
from steinadler.process.mailbox import Mailbox
from steinadler.process.process import Host, Process
from steinadler.registry import LocalNames
from steinadler.wire.channels import Target, ToName, ToNode, ToProcess, ToStream
from steinadler.wire.signals import CLOSING

WhenDone = Callable[[outcome.Outcome[Any]], None]


class Processes:
    """Spawns processes in a nursery and knows them until they end."""

    def __init__(self, node: NodeId, mailbox_bytes: int) -> None:
        self._node = node
        self._mailbox_bytes = mailbox_bytes
        self.names = LocalNames()
        self._processes: dict[int, Process] = {}
        self._when_done: dict[int, WhenDone] = {}
        self._next_number = 1
        self._nursery: trio.Nursery | None = None
        self._awaited: set[int] = set()  # whose end somebody waits for
        self._awaited_ended = trio.Event()

    def __len__(self) -> int:
        return len(self._processes)

    def open(self, nursery: trio.Nursery) -> None:
        """Run processes in this nursery from now on."""
        self._nursery = nursery

    def spawn(
        self,
        host: Host,
        function: ProcessFunction,
        args: tuple[Any, ...],
        *,
        name: str | None = None,
        parent: int | None = None,
        when_done: WhenDone | None = None,
        by_runtime: bool = False,
    ) -> Process:
        """Start a process; its mailbox and name exist when this returns.

        Raises `NodeClosed`, `ConfigError` for what cannot run as a process with these arguments,
        or what `LocalNames.register` raises (then nothing was started).
        """
        if self._nursery is None:
            raise NodeClosed("processes run only while the node is open")
        _check_runnable(function, args)
        number = self._next_number
        if name is not None:
            self.names.register(name, number, by_runtime=by_runtime)
        self._next_number += 1
        function_name = getattr(function, "__qualname__", repr(function))
        process = Process(
            ProcessId(self._node, number),
            host,
            Mailbox(self._mailbox_bytes),
            function_name,
            parent=parent,
            of_runtime=by_runtime,
        )
        self._processes[number] = process
        if when_done is not None:
            self._when_done[number] = when_done
        self._nursery.start_soon(process.run, function, args, name=function_name)
        return process

    def find(self, target: Target) -> Process | None:
        """The living process that a target of this node means."""
        match target:
            case ToProcess(number):
                return self._processes.get(number)
            case ToName(name):
                found = self.names.find(name)
                return self._processes.get(found) if found is not None else None
            case ToNode() | ToStream():
                return None

    def require(self, process: ProcessId) -> None:
        """Raise `NoSuchProcess` for one that is not alive on this node, and `ConfigError` for what
        is no ProcessId."""
        if not isinstance(process, ProcessId):
            raise ConfigError(
                f"{process!r} is no ProcessId, as `spawn` returns and `whereis` finds"
            )
        if process.node != self._node:
            raise NoSuchProcess(f"{process} among those of this node, {self._node.name}")
        if process.number not in self._processes:
            raise NoSuchProcess(process)

    def by_number(self, number: int) -> Process | None:
        """The living process of that number."""
        return self._processes.get(number)

    def all(self) -> list[Process]:
        """The living processes, oldest first."""
        return list(self._processes.values())

    def remove(self, process: Process, result: outcome.Outcome[Any]) -> None:
        """The process ended: its number and its names mean nobody from now on (N1)."""
        number = process.id.number
        del self._processes[number]
        self.names.process_ended(number)
        when_done = self._when_done.pop(number, None)
        if when_done is not None:
            when_done(result)
        self._awaited.discard(number)
        if not self._awaited:
            self._awaited_ended.set()

    # -- closing ------------------------------------------------------------------------------

    def trapping(self) -> list[Process]:
        """The living processes that trap exits, and so may end by themselves."""
        return [each for each in self.all() if each.trap_exits and not each.of_runtime]

    async def end_in_order(self) -> None:
        """Ask those that trap exits to end, and wait until they have.  The caller bounds the wait.

        Asked is the topmost of each tree; whom it has started it ends by itself, in its own order.
        """
        trapping = self.trapping()
        for process in trapping:
            if not any(above.trap_exits for above in self._above(process)):
                process.node_closes()
        await self._ends_of(trapping)

    async def shut_down(self) -> None:
        """Start no more, end all, and wait until they have ended.  The caller bounds the wait."""
        self._nursery = None
        processes = self.all()
        for process in processes:
            process.end(CLOSING)
        await self._ends_of(processes)

    def _above(self, process: Process) -> Iterator[Process]:
        """Its parent, the parent of that, and so on, as far as they live."""
        parent = self._processes.get(process.parent or 0)
        while parent is not None:
            yield parent
            parent = self._processes.get(parent.parent or 0)

    async def _ends_of(self, processes: Iterable[Process]) -> None:
        self._awaited = {each.id.number for each in processes}
        self._awaited_ended = trio.Event()
        if self._awaited:
            await self._awaited_ended.wait()


def _check_runnable(function: ProcessFunction, args: tuple[Any, ...]) -> None:
    what = getattr(function, "__qualname__", repr(function))
    is_coroutine: bool = inspect.iscoroutinefunction(function)
    if not is_coroutine:
        raise ConfigError(
            f"{what} cannot be a process: it must be an 'async def' whose first parameter is the "
            "Process it runs as"
        )
    try:
        inspect.signature(function).bind(None, *args)
    except TypeError as error:
        raise ConfigError(
            f"{what} cannot run with these {len(args)} arguments after its Process: {error}"
        ) from None
