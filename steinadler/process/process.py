"""`Process`: what a process function gets as `me`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import outcome
import trio

from steinadler.errors import ProcessExited
from steinadler.identity import Destination, NodeId, ProcessId
from steinadler.process.exports import ProcessFunction
from steinadler.process.mailbox import Item, Mailbox
from steinadler.process.messages import Exit
from steinadler.process.statistics import ProcessStatistics
from steinadler.wire import plain
from steinadler.wire.signals import CLOSING, KILLED, MAX_REASON_LENGTH, NORMAL

if TYPE_CHECKING:
    # The one import from above, for type checkers alone (pyproject.toml allows it): to programs
    # `me.node` is a `Node`, and a protocol here would say all of that a second time.
    from steinadler.node.node import Node

logger = logging.getLogger("steinadler.process")


class _Skipped(Enum):
    SKIPPED = "skipped"


# In place of an item that the process is not to see.
SKIPPED = _Skipped.SKIPPED


class Host(Protocol):
    """What a process asks of its node.  `node` is that node as programs see it."""

    @property
    def node(self) -> Node: ...

    async def send(self, destination: Destination, message: object) -> None: ...
    def send_nowait(self, destination: Destination, message: object) -> None: ...
    async def call(self, destination: Destination, request: object) -> Any: ...
    def open_item(self, process: Process, item: Item) -> Any: ...
    def monitor_for(self, process: Process, destination: Destination) -> int: ...
    def demonitor(self, reference: int) -> None: ...
    def link_for(self, process: Process, other: ProcessId) -> None: ...
    def unlink_for(self, process: Process, other: ProcessId) -> None: ...
    def spawn_linked(
        self, process: Process, function: ProcessFunction, *args: Any, name: str | None
    ) -> ProcessId: ...
    def require_spawn(self, caller: NodeId, name: str, args: Sequence[Any]) -> None: ...
    def statistics_of(self, process: Process) -> ProcessStatistics: ...
    def process_ended(
        self, process: Process, reason: str, result: outcome.Outcome[Any]
    ) -> None: ...


class Process:
    """A process, seen from inside.  Iterate over it to receive messages.

    Its methods are for the tasks of the process itself.
    """

    def __init__(
        self,
        id_: ProcessId,
        host: Host,
        mailbox: Mailbox,
        function_name: str,
        *,
        parent: int | None = None,
        of_runtime: bool = False,
    ) -> None:
        self.id = id_
        self.function_name = function_name
        self.parent = parent  # the process that spawned it, linked to it
        self.closing = False  # told to end by itself, because the node closes
        # One that every node relies on: no exit signal touches it, or a peer could end it.
        self.of_runtime = of_runtime
        # When True, exits of linked processes arrive as `Exit` messages instead of ending this
        # process (Erlang's process_flag(trap_exit, true)).
        self.trap_exits = False
        self._host = host
        self._mailbox = mailbox
        self._scope = trio.CancelScope()
        self._exit_reason: str | None = None

    def __repr__(self) -> str:
        return f"<Process {self.id} {self.function_name}>"

    @property
    def node(self) -> Node:
        """The node that this process runs on."""
        return self._host.node

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def receive(self) -> Any:
        """Wait for the next message and take it: a plain message, `Call`, `Down` or `Exit`.

        A checkpoint when it has to wait, and otherwise at least at every 64th message.
        Cancellation takes nothing from the mailbox.
        """
        mailbox = self._mailbox
        while True:
            item = mailbox.take()
            if item is None:
                await mailbox.wait()
            elif (message := self._host.open_item(self, item)) is not SKIPPED:
                return message

    __anext__ = receive

    def receive_nowait(self) -> Any:
        """As `receive`; raises `trio.WouldBlock` where that would wait."""
        while (item := self._mailbox.take()) is not None:
            if (message := self._host.open_item(self, item)) is not SKIPPED:
                return message
        raise trio.WouldBlock

    async def send(self, destination: Destination, message: object) -> None:
        """As `Node.send`."""
        await self._host.send(destination, message)

    def send_nowait(self, destination: Destination, message: object) -> None:
        """As `Node.send_nowait`."""
        self._host.send_nowait(destination, message)

    async def call(self, destination: Destination, request: object) -> Any:
        """As `Node.call`."""
        return await self._host.call(destination, request)

    def monitor(self, destination: Destination) -> int:
        """Be sent one `Down` when the process at `destination` ends, or at once if there is none.

        Returns the reference that the `Down` will carry.  What the watched process sent to this
        one (by ProcessId) before it ended comes before its `Down`.  Raises `MailboxFull` as
        `Node.monitor` does.
        """
        return self._host.monitor_for(self, destination)

    def demonitor(self, reference: int) -> None:
        """Let go of a monitor; a `Down` of it that is already in the mailbox stays there."""
        self._host.demonitor(reference)

    def require_spawn(self, caller: NodeId, name: str, *args: Any) -> None:
        """For one that spawns exported functions because it is asked to, by a call of `caller`:
        raise `NotAuthorized` when the policy does not let that node `spawn` this one itself.

        Raises `NodeDown` when the caller's node is gone.
        """
        self._host.require_spawn(caller, name, args)

    def link(self, other: ProcessId) -> None:
        """Tie this process to `other`: when one exits for any reason but "normal", so does the
        other, unless it traps exits.  A process that is not there exits with "noproc".  Raises
        `MailboxFull` as `Node.monitor` does.
        """
        self._host.link_for(self, other)

    def unlink(self, other: ProcessId) -> None:
        """Undo `link`."""
        self._host.unlink_for(self, other)

    def spawn_link(
        self, function: ProcessFunction, *args: Any, name: str | None = None
    ) -> ProcessId:
        """Spawn a process on this node and link to it in one step."""
        return self._host.spawn_linked(self, function, *args, name=name)

    def statistics(self) -> ProcessStatistics:
        """What this process took so far, and what waits for it now.

        Takes a step for each message that waits.
        """
        return self._host.statistics_of(self)

    # -- the node's side ----------------------------------------------------------------------

    @property
    def mailbox(self) -> Mailbox:
        """What waits for this process."""
        return self._mailbox

    def end(self, reason: str) -> None:
        """Cancel the process; the first reason given is the one that counts."""
        if self._exit_reason is None:
            self._exit_reason = reason
        self._scope.cancel()

    def exit_signal(self, source: ProcessId, reason: str, *, linked: bool) -> None:
        """Somebody linked ended, or asks this process to (OTP's rules for exit signals)."""
        if self.of_runtime:
            return
        if reason == "kill" and not linked:
            self.end(KILLED)
        elif self.trap_exits:
            self._mailbox.put_exit(Exit(source, reason))
        elif reason != NORMAL:
            self.end(reason)

    def node_closes(self) -> None:
        """Ask the process to end."""
        self.closing = True
        self.exit_signal(ProcessId(self.id.node, 0), CLOSING, linked=False)

    async def run(self, function: ProcessFunction, args: tuple[Any, ...]) -> None:
        """Run to the end, and tell the host how it ended.

        An exception is contained; only what is not an `Exception` (a keyboard interrupt) and
        the node's own cancellation pass.
        """
        reason = KILLED
        result: outcome.Outcome[Any] | None = None
        try:
            # Around the scope: what an inner nursery raises while it is cancelled is a group
            # with Cancelled in it, and an exception only once the scope has taken that out.
            try:
                with self._scope:
                    result = outcome.Value(await function(self, *args))
                    reason = NORMAL
                if self._scope.cancelled_caught:
                    reason = self._exit_reason or KILLED
            except BaseException as error:
                crash, others = _split(error)
                if crash is not None:
                    result = outcome.Error(crash)
                    reason = describe(crash)
                    logger.error("%s exited: %s", self, reason, exc_info=crash)
                if crash is None:
                    raise
                if others is not None:
                    raise others from None
        finally:
            result = result or outcome.Error(ProcessExited(self.id, reason))
            self._host.process_ended(self, reason, result)


def _split(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """What is the process's own crash, and what is not: cancellation, a keyboard interrupt."""
    if isinstance(error, Exception):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        return error.split(Exception)
    return None, error


def describe(error: BaseException) -> str:
    """An exit reason for an exception: its type name and text, such as UTF-8 can say.

    A group of one, as an inner nursery raises, stands for the one.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # a class of the user's, with a fault of its own
        text = "(its text cannot be had)"
    return plain.clipped(f"{name}: {text}" if text else name, MAX_REASON_LENGTH)
