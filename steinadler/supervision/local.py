"""`supervisor`: the children are processes of the supervisor's own node, linked to it.

Spawned and linked in one step, so no child is ever without its supervisor (D4): whatever ends the
supervisor ends them.
"""

from __future__ import annotations

import functools
import logging

from steinadler.errors import ConfigError, SteinadlerError
from steinadler.identity import ProcessId
from steinadler.process import DEFAULT_EXPORTS, Call, Process
from steinadler.process.process import describe
from steinadler.supervision.engine import Supervision
from steinadler.supervision.shell import Shell, Started, find, waits_for_started
from steinadler.supervision.specs import ChildSpec, SupervisorSpec
from steinadler.wire.signals import CLOSING, SHUTDOWN

logger = logging.getLogger("steinadler.supervision")


@DEFAULT_EXPORTS.export(name="$supervisor")
async def supervisor(me: Process, spec: SupervisorSpec) -> None:
    """Start children, restart those that end, and end them all when told to.

        top = node.spawn(
            steinadler.supervisor,
            steinadler.SupervisorSpec(
                [
                    steinadler.ChildSpec("store", store, ("carts.db",), name="store"),
                    steinadler.ChildSpec("web", web, restart="transient"),
                ],
                strategy="rest_for_one",
            ),
            name="top",
        )

    Children start in order, each when the one before has started, and end in the reverse order,
    one at a time.  What counts as started, how a child is ended, and which ends lead to a restart
    is in `ChildSpec`; who else is restarted and when it is too much, in `SupervisorSpec`.

    It exits with the reason that it was told (`node.exit(top, "shutdown")`), once the children
    have ended; with "shutdown: " and why when the restart limit is reached, or when one of the
    first children fails to start.  A supervisor may be a child: give it `type="supervisor"`.
    When its node closes it is told to end as well, and has `Config.orderly_shutdown_s` for that.
    Killed, or cancelled because that was not enough, it ends without order, and links end the rest.

    Asked by calls, for which `steinadler.supervision` has functions: "which_children",
    ("start_child", spec), and "terminate_child", "restart_child" or "delete_child" with an id.
    """
    shell = Shell(me, Supervision(spec))
    await shell.run(_Local(shell))


class _Local:
    """`shell.Children`, here."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._processes: dict[str, ProcessId] = {}
        self._ids: dict[ProcessId, str] = {}

    def start(self, child: ChildSpec) -> None:
        try:
            process = self._spawn(child)
        except SteinadlerError as error:
            logger.error("%s cannot start child %r: %s", self._shell.me, child.id, error)
            self._shell.child_ended(child.id, describe(error))
            return
        self._processes[child.id] = process
        self._ids[process] = child.id

    def _spawn(self, child: ChildSpec) -> ProcessId:
        me = self._shell.me
        function = find(me, child.function)
        if not waits_for_started(function):
            process = me.spawn_link(function, *child.args, name=child.name)
            self._shell.child_started(child.id)
            return process
        status = Started(lambda: self._said_started(child.id, process))
        waited_for = functools.partial(function, task_status=status)
        # What the process is called; `update_wrapper` would also bring back the old signature.
        vars(waited_for)["__qualname__"] = getattr(function, "__qualname__", child.id)
        process = me.spawn_link(waited_for, *child.args, name=child.name)
        return process

    def _said_started(self, id_: str, process: ProcessId) -> None:
        if self._processes.get(id_) == process:
            self._shell.child_started(id_)

    def stop(self, id_: str, kill: bool) -> None:
        process = self._processes.get(id_)
        if process is not None:  # otherwise the news of its end is on its way
            self._shell.me.node.exit(process, "kill" if kill else SHUTDOWN)

    def process_of(self, id_: str) -> ProcessId | None:
        return self._processes.get(id_)

    def lost(self, process: ProcessId, reason: str, ended: bool) -> tuple[str, bool] | None:
        id_ = self._ids.pop(process, None)
        if id_ is None:
            return None
        del self._processes[id_]
        return id_, reason == CLOSING

    def answer(self, call: Call) -> None:
        raise ConfigError("a supervisor understands the calls of steinadler.supervision")
