"""Monitors, links and exit signals: news of processes, to whoever asked for it.

Every piece of news is a signal, to this node or another; both go through `post` and come out in
`handle`, so a local monitor and a remote one are the same code.  News of a process for another
process travels on the receiving process's own channel, behind the messages that the ended one
sent it (see `steinadler.wire.signals`).

News that this node asked for is always taken: a peer ends nothing by it that was not tied to its
process.  What a peer asks for is held against the policy, and a refusal ends the monitor or link at
its end, like the news that there is no such process.
"""

from __future__ import annotations

from typing import assert_never

import trio

from steinadler.delivery import LinkTable, MonitorsHeld, MonitorsOfUs
from steinadler.delivery.monitors import Held, Watcher
from steinadler.errors import NodeDown, NoSuchProcess, RemoteProtocolError
from steinadler.identity import ANY_NODE, Destination, NodeId, ProcessId, ProcessName
from steinadler.node.guard import Guard, described
from steinadler.node.peering import Peering
from steinadler.node.router import Router
from steinadler.process.messages import Down
from steinadler.process.process import Process
from steinadler.process.table import Processes
from steinadler.security.policy import Action
from steinadler.wire.channels import CONTROL, Target, ToName, ToNode, ToProcess, ToStream
from steinadler.wire.signals import (
    NO_CONNECTION,
    NO_PROCESS,
    NOT_AUTHORIZED,
    CancelCall,
    DemonitorRequest,
    DownNotice,
    ExitNotice,
    LinkRequest,
    MonitorRequest,
    Signal,
    StreamAbort,
    StreamStop,
    UnlinkRequest,
)

# The watcher of a monitor that no process holds.
HANDLE = 0
# What a peer may have at once, or its connection is closed: it pays no credit for these (X4).
MAX_WATCHED_BY_PEER = 262_144  # monitors, and as many links; each costs about 500 bytes
MAX_UNREAD_EXIT_BYTES = 8 << 20  # in one mailbox: about 100,000 with short reasons


class Monitor:
    """A monitor held outside of any process: `async with node.monitor(destination) as down`.

    It begins when it is made and fires once; leaving the block lets go of it.
    """

    def __init__(self, watching: Watching, destination: ProcessId | ProcessName) -> None:
        self._watching = watching
        self._fired = trio.Event()
        self._down: Down | None = None
        self.destination = destination
        self.reference = watching.hold(self)

    def __repr__(self) -> str:
        return f"<Monitor {self.reference} of {self.destination}: {self._down or 'waiting'}>"

    @property
    def down(self) -> Down | None:
        """The Down, once it fired."""
        return self._down

    async def wait(self) -> Down:
        """Wait for the end of the process; return the same `Down` every time.

        Cancellation leaves the monitor in place.
        """
        await self._fired.wait()
        assert self._down is not None
        return self._down

    def fire(self, down: Down) -> None:
        """The node's side: the process is down."""
        self._down = down
        self._fired.set()

    async def __aenter__(self) -> Monitor:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.demonitor(self.reference)


class Watching:
    """The monitors and links of one node's processes and handles."""

    def __init__(
        self, node: NodeId, processes: Processes, router: Router, peering: Peering, guard: Guard
    ) -> None:
        self._node = node
        self._processes = processes
        self._peering = peering
        self._guard = guard
        self._router = router
        self._held = MonitorsHeld()
        self._of_us = MonitorsOfUs()
        self._links = LinkTable()
        self._handles: dict[int, Monitor] = {}
        router.on_signal = self._handle

    # -- monitors -----------------------------------------------------------------------------

    def monitor(self, destination: Destination) -> Monitor:
        """Begin to watch, for a handle."""
        return Monitor(self, self._router.resolve(destination))

    def hold(self, monitor: Monitor) -> int:
        """Register a handle's monitor; return its reference."""
        held, ask = self._begin(monitor.destination, HANDLE)
        self._handles[held.reference] = monitor
        self._ask(held, ask)
        return held.reference

    def monitor_for(self, process: Process, destination: Destination) -> int:
        """Begin to watch, for a process; return the reference."""
        held, ask = self._begin(self._router.resolve(destination), process.id.number)
        self._ask(held, ask)
        return held.reference

    def _begin(
        self, destination: ProcessId | ProcessName, watcher: int
    ) -> tuple[Held, int | str | None]:
        """Hold a monitor.  Also return whom to ask the node about; None when it is down."""
        try:
            outlet = self._router.outlet(destination)
        except (NodeDown, NoSuchProcess):
            return self._held.add(_nowhere(destination), watcher, destination), None
        self._router.require_room(outlet.node)
        held = self._held.add(outlet.node, watcher, destination)
        match outlet.target:
            case ToName(name):
                return held, name
            case ToProcess(number):
                return held, number
            case ToNode() | ToStream():
                raise AssertionError("a route leads to a process")

    def _ask(self, held: Held, target: int | str | None) -> None:
        if target is None:
            self._held.remove(held.reference)
            unknown = isinstance(held.destination, ProcessName) and (
                held.destination.node == ANY_NODE
            )
            self._fire(held, NO_PROCESS if unknown else NO_CONNECTION, None)
        else:
            request = MonitorRequest(held.reference, target, held.watcher)
            self._router.post(held.node, CONTROL, request)

    def demonitor(self, reference: int) -> None:
        """Let go of a monitor, if it has not fired."""
        held = self._held.remove(reference)
        self._handles.pop(reference, None)
        if held is not None:
            self._router.post(held.node, CONTROL, DemonitorRequest(reference))

    def _fire(self, held: Held, reason: str, process: ProcessId | None) -> None:
        """`process`: what ended; None where nothing is known to have."""
        ended = process is not None
        down = Down(process or held.destination, reason, held.reference, ended)
        if held.watcher == HANDLE:
            handle = self._handles.pop(held.reference, None)
            if handle is not None:
                handle.fire(down)
        else:
            watcher = self._processes.find(ToProcess(held.watcher))
            if watcher is not None:
                watcher.mailbox.put(down)

    # -- links --------------------------------------------------------------------------------

    def link(self, process: Process, other: ProcessId) -> None:
        """Tie a process of this node to any process."""
        try:
            self._router.outlet(other)
        except NodeDown:
            process.exit_signal(other, NO_CONNECTION, linked=True)
            return
        self._router.require_room(other.node)
        self._links.add(process.id.number, other)
        self._router.post(other.node, CONTROL, LinkRequest(process.id.number, other.number))

    def unlink(self, process: Process, other: ProcessId) -> None:
        """Untie them."""
        if self._links.remove(process.id.number, other):
            self._router.post(other.node, CONTROL, UnlinkRequest(process.id.number, other.number))

    def exit(self, source: ProcessId, destination: Destination, reason: str) -> None:
        """Ask a process to exit.  Raises `NodeDown`; does nothing when there is no such process."""
        outlet = self._router.outlet(destination)
        self._router.require_room(outlet.node)
        self._router.post(outlet.node, outlet.target, ExitNotice(source, reason, linked=False))

    def count(self, number: int) -> tuple[int, int, int]:
        """Of one process: the monitors it holds, those of it, and its links."""
        watched = self._of_us.count_of(number)
        return self._held.count(number), watched, self._links.count_of(number)

    # -- signals ------------------------------------------------------------------------------

    def _handle(self, sender: NodeId, target: Target, signal: Signal) -> None:
        match signal:
            case MonitorRequest(reference, watched, watcher):
                self._watch(sender, reference, watched, watcher)
            case DemonitorRequest(reference):
                self._of_us.remove(sender, reference)
            case DownNotice(reference, process, reason):
                held = self._held.remove(reference, sender)
                if held is not None:
                    self._fire(held, reason, process)
            case LinkRequest(source, local):
                self._link_asked(ProcessId(sender, source), local)
            case UnlinkRequest(source, local):
                self._links.remove(local, ProcessId(sender, source))
            case ExitNotice(ended, reason, linked):
                self._exit_came(sender, target, ended, reason, linked)
            case CancelCall() | StreamStop() | StreamAbort():
                raise AssertionError("the router keeps these to itself")
            case _:
                assert_never(signal)

    def _watch(self, sender: NodeId, reference: int, watched: int | str, watcher: int) -> None:
        target = ToName(watched) if isinstance(watched, str) else ToProcess(watched)
        process = self._processes.find(target)
        entry = Watcher(sender, reference, watcher)
        if not self._permitted(sender, Action.MONITOR, target, process):
            self._tell(entry, None, NOT_AUTHORIZED)
            return
        if process is None:
            self._tell(entry, None, NO_PROCESS)
            return
        if sender != self._node and self._of_us.count(sender) >= MAX_WATCHED_BY_PEER:
            raise RemoteProtocolError(f"more than {MAX_WATCHED_BY_PEER} monitors")
        if not self._of_us.add(process.id.number, entry):
            raise RemoteProtocolError(f"monitor {reference} was begun twice")

    def _permitted(
        self, sender: NodeId, action: Action, target: Target, process: Process | None
    ) -> bool:
        """Whether a peer may do that; if not, there is a line about it.  What has ended, or never
        was, may be asked about by its number: the answer is that it is not there."""
        link = self._peering.connections.link(sender) if sender != self._node else None
        if link is None or (process is None and isinstance(target, ToProcess)):
            return True
        names = () if process is None else self._processes.names.names_of(process.id.number)
        if self._guard.permits(link, action, target, names):
            return True
        self._guard.refuse(link, action, described(target, names))
        return False

    def _tell(self, watcher: Watcher, process: ProcessId | None, reason: str) -> None:
        target = CONTROL if watcher.number == HANDLE else ToProcess(watcher.number)
        self._router.post(watcher.node, target, DownNotice(watcher.reference, process, reason))

    def _link_asked(self, other: ProcessId, local: int) -> None:
        target = ToProcess(local)
        process = self._processes.find(target)
        permitted = self._permitted(other.node, Action.LINK, target, process)
        if process is None or not permitted:
            source = ProcessId(self._node, local)
            reason = NO_PROCESS if permitted else NOT_AUTHORIZED
            notice = ExitNotice(source, reason, linked=True)
            self._router.post(other.node, ToProcess(other.number), notice)
            return
        if other.node != self._node and self._links.count(other.node) >= MAX_WATCHED_BY_PEER:
            raise RemoteProtocolError(f"more than {MAX_WATCHED_BY_PEER} links")
        self._links.add(local, other)

    def _exit_came(
        self, sender: NodeId, target: Target, source: ProcessId, reason: str, linked: bool
    ) -> None:
        if source.node != sender:
            raise RemoteProtocolError("an exit signal in another node's name")
        process = self._processes.find(target)
        if process is None:
            return
        if linked and not self._links.remove(process.id.number, source):
            return  # unlinked in the meantime
        if not linked and not self._permitted(sender, Action.EXIT, target, process):
            return
        if sender != self._node and process.mailbox.exit_bytes >= MAX_UNREAD_EXIT_BYTES:
            raise RemoteProtocolError(f"more than {MAX_UNREAD_EXIT_BYTES} bytes of unread exits")
        process.exit_signal(source, reason, linked=linked)

    # -- ends ---------------------------------------------------------------------------------

    def process_ended(self, process: Process, reason: str) -> None:
        """Tell watchers and linked processes, and let go of what the process watched."""
        number = process.id.number
        for held in self._held.watcher_ended(number):
            self._router.post(held.node, CONTROL, DemonitorRequest(held.reference))
        for watcher in self._of_us.target_ended(number):
            self._tell(watcher, process.id, reason)
        for other in self._links.process_ended(number):
            notice = ExitNotice(process.id, reason, linked=True)
            self._router.post(other.node, ToProcess(other.number), notice)

    def peer_lost(self, node: NodeId) -> None:
        """Everything that hung on a peer's processes fires now, once (D1, M4)."""
        for held in self._held.node_down(node):
            self._fire(held, NO_CONNECTION, None)
        for local, other in self._links.node_down(node):
            process = self._processes.find(ToProcess(local))
            if process is not None:
                process.exit_signal(other, NO_CONNECTION, linked=True)
        self._of_us.node_down(node)


def _nowhere(destination: ProcessId | ProcessName) -> NodeId:
    """A node that is not up, for a monitor that fires at once."""
    if isinstance(destination, ProcessId):
        return destination.node
    return NodeId(destination.node or "", 0)
