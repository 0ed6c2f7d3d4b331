"""What runs on the nodes of a cluster's history, and writes down what it does and what it sees.

Each node has an inbox, some workers that come and go, and actors that make all of them do things:
send, call, take names, join groups, watch each other.  Nobody here knows what is right: a program
writes down what it was told, and `cluster_checking` compares.
"""

from __future__ import annotations

import math
import random
from contextlib import suppress
from typing import Any

import trio
from recording import Recorder

import steinadler
from steinadler import Call, Down, Exit, Node, NodeId, Process, ProcessId, SteinadlerError
from steinadler.wire.signals import CLOSING

# What a worker is told to do, by its own node.
RETURN, RAISE, WATCH, UNWATCH = "return", "raise", "watch", "unwatch"
# An actor's pause between two acts.
PAUSE_S = (0.02, 0.25)
MOST_WORKERS = 5
# How long a caller waits that does not wait for ever.
CALL_PATIENCE_S = (0.5, 6.0)


def life(node: NodeId) -> str:
    return f"{node.name}/{node.incarnation}"


def text(destination: Any) -> str:
    """A process or a name as histories have it."""
    if isinstance(destination, ProcessId):
        return f"{life(destination.node)}#{destination.number}"
    return str(destination)


class Directory:
    """What everybody may know of everybody: the processes of all lives, those of the dead too."""

    def __init__(self, names: int, groups: int) -> None:
        self.names = [f"name-{number}" for number in range(names)]
        self.groups = [f"group-{number}" for number in range(groups)]
        self.inboxes: dict[str, list[ProcessId]] = {}
        self.workers: list[ProcessId] = []

    def somebody(self, draw: random.Random) -> ProcessId:
        """An inbox, mostly that of a present life."""
        of_a_name = self.inboxes[draw.choice(list(self.inboxes))]
        return draw.choice(of_a_name[-2:]) if draw.random() < 0.2 else of_a_name[-1]


class Inhabitants:
    """The processes of one life of a node.  `silent` once the life is over: what its processes do
    while they end concerns nobody.

    `lookers` is for those who look on: their tasks are not the node's.
    """

    def __init__(
        self,
        node: Node,
        recorder: Recorder,
        directory: Directory,
        actors: int,
        lookers: trio.Nursery,
    ) -> None:
        self.node = node
        self.silent = False
        self.failure: Exception | None = None
        self._lookers = lookers
        self._recorder = recorder
        self._directory = directory
        self._actors = actors
        self._workers: list[ProcessId] = []
        self._watching: dict[ProcessId, list[int]] = {}  # which monitors each process holds
        self._acting = actors
        self._idle = trio.Event()
        self._stop = trio.Event()
        self._sent = 0
        self._ops = 0
        self._claims: dict[str, tuple[str, ProcessId]] = {}

    def note(self, event: str, **facts: Any) -> None:
        if not self.silent:
            self._recorder.note(event, **facts)

    def settle(self) -> None:
        """Begin to live."""
        self._lookers.start_soon(self._listen, self.node.events())
        inbox = self._spawn(True, name="inbox")
        self._directory.inboxes.setdefault(self.node.name, []).append(inbox)
        for number in range(self._actors):
            draw = random.Random(f"{self.node.name} {self.node.id.incarnation} {number}")
            self.node.spawn(self._act, draw)

    async def rest(self) -> None:
        """Begin nothing more, and wait until the actors have ended what they had begun."""
        self._stop.set()
        if not self.silent:
            await self._idle.wait()

    def dismiss(self) -> None:
        """Tell every worker to return."""
        for worker in self._workers:
            self.node.send_nowait(worker, RETURN)

    async def _listen(self, events: steinadler.EventStream) -> None:
        me = life(self.node.id)
        async for event in events:
            match event:
                case steinadler.node.NodeUp(member):
                    self.note("up", node=me, member=life(member.node))
                case steinadler.node.NodeDown(member, reason):
                    self.note("down", node=me, member=life(member.node), reason=reason)
                case steinadler.node.events.NameConflict(name, winner, loser):
                    facts = {"winner": text(winner), "loser": text(loser)}
                    self.note("conflict", node=me, name=name, **facts)

    # -- processes ----------------------------------------------------------------------------

    def _spawn(self, traps: bool, name: str | None = None) -> ProcessId:
        process = self.node.spawn(self._work, traps, name=name)
        self.note("spawned", process=text(process), traps=traps)
        self._watching[process] = []
        self._lookers.start_soon(self._see_off, process, name is None)
        return process

    async def _see_off(self, process: ProcessId, is_worker: bool) -> None:
        """Wait for a process to end, with a monitor of its own node; a worker that could end before
        that sees it is no worker yet."""
        async with self.node.monitor(process) as down:
            if is_worker:
                self._workers.append(process)
            reason = (await down.wait()).reason
        self.note("ended", process=text(process), reason=reason)
        del self._watching[process]
        if process in self._workers:
            self._workers.remove(process)

    async def _work(self, me: Process, traps: bool) -> None:
        me.trap_exits = traps
        mine = text(me.id)
        async for message in me:
            match message:
                case ("m", sender, to, number):
                    self.note("received", process=mine, sender=sender, to=to, number=number)
                case Call(("c", op)):
                    self.note("served", process=mine, op=op)
                    message.reply((op, mine))
                case Down(process, reason, reference):
                    facts = {"reference": reference, "target": text(process), "reason": reason}
                    self.note("fired", process=mine, **facts)
                case Exit(_, reason):
                    self.note("told", process=mine, reason=reason)
                    if reason == CLOSING:
                        return
                case (word, target) if word == WATCH:
                    reference = me.monitor(target)
                    facts = {"reference": reference, "target": text(target)}
                    self.note("watch", process=mine, **facts)
                    self._watching[me.id].append(reference)
                case (word, reference) if word == UNWATCH:
                    me.demonitor(reference)
                    self.note("unwatch", process=mine, reference=reference)
                case word if word == RAISE:
                    raise ValueError("as told")
                case word if word == RETURN:
                    return
                case _:
                    raise AssertionError(f"nobody sends {message!r}")

    # -- actors -------------------------------------------------------------------------------

    async def _act(self, me: Process, draw: random.Random) -> None:
        acts = (self._send, self._call, self._hire, self._fire, self._claim, self._release,
                self._join, self._leave, self._watch, self._unwatch)  # fmt: skip
        weights = (40, 10, 9, 4, 12, 6, 7, 3, 12, 2)
        try:
            while not self._stop.is_set():
                (act,) = draw.choices(acts, weights)
                await act(me, draw)
                with trio.move_on_after(draw.uniform(*PAUSE_S)):
                    await self._stop.wait()
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._acting -= 1
            if not self._acting:
                self._idle.set()

    def _worker(self, draw: random.Random) -> ProcessId | None:
        return draw.choice(self._workers) if self._workers else None

    def _destination(self, draw: random.Random) -> Any:
        process = self._directory.somebody(draw)
        way = draw.random()
        if way < 0.6:
            return process
        if way < 0.85:
            return f"inbox@{process.node.name}"
        return f"{draw.choice(self._directory.names)}@*"

    async def _send(self, me: Process, draw: random.Random) -> None:
        destination = self._destination(draw)
        for _ in range(draw.choice((1, 1, 2, 5))):
            self._sent += 1
            number, to, mine = self._sent, text(destination), text(me.id)
            try:
                await me.send(destination, ("m", mine, to, number))
            except SteinadlerError:
                return  # it was not sent, and nobody may ever see it
            self.note("sent", process=mine, to=to, number=number)

    async def _call(self, me: Process, draw: random.Random) -> None:
        destination = self._destination(draw)
        op, mine = self._op(), text(me.id)
        self.note("asked", process=mine, op=op, to=text(destination))
        error = "gave up"
        with trio.move_on_after(draw.choice((math.inf, draw.uniform(*CALL_PATIENCE_S)))):
            try:
                answered, by = await me.call(destination, ("c", op))
            except SteinadlerError as failure:
                error = type(failure).__name__
            else:
                self.note("answered", process=mine, op=answered, by=by)
                return
        self.note("failed", process=mine, op=op, error=error)

    def _op(self) -> str:
        self._ops += 1
        return f"{life(self.node.id)}.{self._ops}"

    async def _hire(self, me: Process, draw: random.Random) -> None:
        if len(self._workers) < MOST_WORKERS:
            self._directory.workers.append(self._spawn(draw.random() < 0.6))

    async def _fire(self, me: Process, draw: random.Random) -> None:
        worker = self._worker(draw)
        if worker is not None:
            match draw.choice((RETURN, RAISE, "kill")):
                case "kill":
                    self.node.exit(worker, "kill")
                case word:
                    await me.send(worker, word)

    async def _claim(self, me: Process, draw: random.Random) -> None:
        worker = self._worker(draw)
        if worker is None:
            return
        name, op = draw.choice(self._directory.names), self._op()
        self.note("claim", process=text(worker), op=op, name=name)
        try:
            await self.node.register_global(name, worker)
        except SteinadlerError as error:
            self.note("refused", op=op, error=type(error).__name__)
        else:
            self.note("granted", op=op)
            self._claims[op] = (name, worker)

    async def _release(self, me: Process, draw: random.Random) -> None:
        if not self._claims:
            return
        name, worker = self._claims.pop(draw.choice(list(self._claims)))
        if await self.node.whereis(f"{name}@*") == worker:
            with suppress(steinadler.NoSuchProcess):  # it was taken away in this moment
                self.node.unregister_global(name)
                self.note("released", process=text(worker), name=name)

    async def _join(self, me: Process, draw: random.Random) -> None:
        await self._in_a_group(draw, "joined")

    async def _leave(self, me: Process, draw: random.Random) -> None:
        await self._in_a_group(draw, "left")

    async def _in_a_group(self, draw: random.Random, event: str) -> None:
        worker = self._worker(draw)
        if worker is None:
            return
        group = self.node.group(draw.choice(self._directory.groups))
        try:
            (group.join if event == "joined" else group.leave)(worker)
        except steinadler.NoSuchProcess:
            return  # it ended in this moment
        self.note(event, process=text(worker), group=group.name)

    async def _watch(self, me: Process, draw: random.Random) -> None:
        watcher = draw.choice(list(self._watching))
        target: Any = draw.choice(self._directory.workers[-40:] or [watcher])
        if draw.random() < 0.4:
            target = self._directory.somebody(draw)
            if draw.random() < 0.5:
                target = f"inbox@{target.node.name}"
        await me.send(watcher, (WATCH, target))

    async def _unwatch(self, me: Process, draw: random.Random) -> None:
        watcher = draw.choice(list(self._watching))
        if self._watching[watcher]:
            await me.send(watcher, (UNWATCH, draw.choice(self._watching[watcher])))
