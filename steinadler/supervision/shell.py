"""The shell around the decisions: one process that reads its mailbox and carries them out.

All of it happens in the supervisor's own task, between two messages.  What other tasks have to
tell (a child that says `started`, a node that answered) they leave with `tell`, which wakes it.
So a supervisor never waits for a child: it answers calls, and obeys the order to end, while a
child takes its time to start or to end.

A supervisor traps exits.  The exit of a child is news; every other exit signal but "normal" is an
order to end, as it is for a process that does not trap: from the supervisor above, a linked
process, or `Node.exit`.  Only it is carried out in order, the children first.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, assert_never

import trio

from steinadler.errors import ConfigError, MailboxFull, NodeDown, SteinadlerError
from steinadler.identity import ProcessId
from steinadler.process import Call, Down, Exit, Process
from steinadler.process.exports import ProcessFunction
from steinadler.supervision.engine import (
    Answer,
    Effects,
    Finish,
    GiveUp,
    Start,
    Stop,
    Supervision,
)
from steinadler.supervision.specs import ChildInfo, ChildSpec, ChildState
from steinadler.wire.signals import NORMAL, SHUTDOWN

logger = logging.getLogger("steinadler.supervision")

# How soon a node that does not read is asked again to end one of its processes.
ASK_AGAIN_S = 0.1


class Children(Protocol):
    """How the children of one kind of supervisor are run."""

    def start(self, child: ChildSpec) -> None:
        """Begin to start it: `Shell.lives` and `Shell.child_ended` tell how that went."""

    def stop(self, id_: str, kill: bool) -> None:
        """Begin to end it."""

    def process_of(self, id_: str) -> ProcessId | None:
        """Its process, if it has one."""

    def lost(self, process: ProcessId, reason: str, ended: bool) -> tuple[str, bool] | None:
        """That process is no more (`Down.ended`): which child's it was, and whether that is no
        fault of the child; None if it was no child's."""

    def answer(self, call: Call) -> None:
        """Answer what only this kind of supervisor understands; raises `ConfigError`."""


class Shell:
    """One supervisor at work."""

    def __init__(self, me: Process, engine: Supervision) -> None:
        self.me = me
        self.engine = engine
        self._told: deque[Callable[[], Effects]] = deque()
        self._waiting = trio.CancelScope()
        self._reason: str | None = None

    async def run(self, children: Children) -> None:
        """Supervise until the order to end has been carried out, or it is given up.

        Ends the process, with the reason.  Cancelled, it leaves its children to their links.
        """
        self.me.trap_exits = True
        self._children = children
        self.carry_out(self.engine.begin(trio.current_time()))
        while self._reason is None:
            message: Any = None
            with trio.CancelScope(deadline=self.engine.next_deadline()) as self._waiting:
                if self._told:
                    self._waiting.cancel()
                message = await self.me.receive()
            self._handle(message)
            while self._told:
                self.carry_out(self._told.popleft()())
            self.carry_out(self.engine.tick(trio.current_time()))
        self.me.end(self._reason)
        await trio.lowlevel.checkpoint()

    # -- what other tasks, and the children's side, report ------------------------------------

    def tell(self, happened: Callable[[], Effects]) -> None:
        """Let `happened` be called in the supervisor's task, and carry out what it returns."""
        self._told.append(happened)
        self._waiting.cancel()

    def child_started(self, id_: str) -> None:
        """It runs."""
        self.tell(lambda: self.engine.started(id_, trio.current_time()))

    def child_ended(self, id_: str, reason: str, *, faultless: bool = False) -> None:
        """It is no more, or could not be started."""
        now = trio.current_time
        self.tell(lambda: self.engine.ended(id_, reason, now(), faultless=faultless))

    # -- messages -----------------------------------------------------------------------------

    def _handle(self, message: Any) -> None:
        match message:
            case None:
                pass  # woken, or it is time for something
            case Exit(process, reason):
                if not self._lost(process, reason) and reason != NORMAL:
                    self.tell(lambda: self.engine.end(reason, trio.current_time()))
            case Down(ProcessId() as process, reason, _, ended):
                self._lost(process, reason, ended)
            case Call():
                try:
                    self._answer(message)
                except SteinadlerError as error:
                    message.fail(error)
            case _:
                logger.warning("%s dropped a message: it takes only calls", self.me)

    def _lost(self, process: ProcessId, reason: str, ended: bool = True) -> bool:
        """A process is no more; whether it was a child's."""
        lost = self._children.lost(process, reason, ended)
        if lost is None:
            return False
        id_, faultless = lost
        self.child_ended(id_, reason, faultless=faultless)
        return True

    def _answer(self, call: Call) -> None:
        now = trio.current_time()
        match call.request:
            case "which_children":
                call.reply([self._info(*child) for child in self.engine.children()])
            case ("start_child", ChildSpec() as spec):
                self._require_allowed(call, spec)
                self.carry_out(self.engine.start_child(spec, call, now))
            case ("terminate_child", str() as id_):
                self.carry_out(self.engine.terminate_child(id_, call, now))
            case ("restart_child", str() as id_):
                self.carry_out(self.engine.restart_child(id_, call, now))
            case ("delete_child", str() as id_):
                self.engine.delete_child(id_)
                call.reply()
            case _:
                self._children.answer(call)

    def _require_allowed(self, call: Call, spec: ChildSpec) -> None:
        """Raise `NotAuthorized` for a peer that may not `spawn` the function here."""
        if call.caller != self.me.id.node:
            name = self.me.node.exports.name_of(spec.function)
            self.me.require_spawn(call.caller, name, *spec.args)

    def _info(self, spec: ChildSpec, state: ChildState) -> ChildInfo:
        process = self._children.process_of(spec.id)
        return ChildInfo(spec.id, process, state, spec.restart, spec.type)

    # -- effects ------------------------------------------------------------------------------

    def carry_out(self, effects: Effects) -> None:
        """Do what was decided; only in the supervisor's own task."""
        for effect in effects:
            match effect:
                case Start(child, again):
                    if again:
                        logger.info("%s starts child %r again", self.me, child.id)
                    self._children.start(child)
                case Stop(id_, kill, late):
                    if late:
                        logger.warning("%s kills child %r: it has not ended in time", self.me, id_)
                    self._children.stop(id_, kill)
                case Answer(call, id_, error):
                    assert isinstance(call, Call)
                    if error is None:
                        call.reply(self._children.process_of(id_))
                    else:
                        call.fail(ConfigError(f"child {id_!r} did not start: {error}"))
                case GiveUp(reason):
                    logger.error("%s gives up: %s", self.me, reason)
                case Finish(reason):
                    self._reason = reason
                case _:
                    assert_never(effect)


class Started:
    """What a child's `task_status` is: `trio.TaskStatus`, for a process."""

    def __init__(self, when_started: Callable[[], None]) -> None:
        self._when_started: Callable[[], None] | None = when_started

    def started(self, value: object = None) -> None:
        """Say so, once.  Raises `RuntimeError` the second time, as in Trio; `value` is nobody's."""
        if self._when_started is None:
            raise RuntimeError("called 'started' twice on the same task status")
        when_started, self._when_started = self._when_started, None
        when_started()


def waits_for_started(function: ProcessFunction) -> bool:
    """Whether a child says itself when it has started."""
    return "task_status" in inspect.signature(function).parameters


def find(me: Process, function: ProcessFunction | str) -> ProcessFunction:
    """The function, which may be given by exported name.  Raises `ConfigError`."""
    if not isinstance(function, str):
        return function
    return me.node.exports.require(function, me.node.name)


async def ask_to_end(me: Process, process: ProcessId, kill: bool) -> None:
    """Send the exit signal, as soon as its node takes it.  Nothing is left to do if it is down."""
    while True:
        try:
            me.node.exit(process, "kill" if kill else SHUTDOWN)
        except NodeDown:
            return
        except MailboxFull:
            await trio.sleep(ASK_AGAIN_S)
        else:
            return
