"""The guard: asks the policy about peers, and tells of what it refused.

    require(caller, action, target)      a peer asks for something now: NotAuthorized, a line
    may(node, action, target)            what a node says of itself, whoever passed it on
    require_of_us(action, target)        what this node is about to say of itself

A peer that asks has a link, and the role of a link is the certificate's: nothing else counts.  What
a node says of itself to the whole cluster (names, groups, types of entities, services) also reaches
nodes that have no connection to it.  Those go by the label `$role` of its record, which everybody
who has a connection holds against the certificate (`Peering`).

This node's own processes are never asked.  What it says of itself to the cluster it holds against
its own policy first, so that whoever asks for something that others would not heed is told so.
"""

from __future__ import annotations

import trio

from steinadler.errors import NodeDown, NotAuthorized
from steinadler.identity import NodeId
from steinadler.node.peering import Peering
from steinadler.security.audit import SUMMARY_S, Audit, log, shown
from steinadler.security.policy import UNNAMED, Access, Action, Policy
from steinadler.transport.link import Link
from steinadler.wire.channels import Target, ToName, ToProcess

# How many pairs of role and name are kept ready; observers have many names.
_MAX_READY = 1024


class Guard:
    """What the peers of one node may do there."""

    def __init__(self, node: NodeId, role: str, policy: Policy, peering: Peering) -> None:
        self._node = node
        self._role = role
        self._policy = policy
        self._peering = peering
        self._ready: dict[tuple[str, str], Access] = {}
        self._audit = Audit()
        self._owes = trio.Event()

    @property
    def refusals(self) -> int:
        """How often a peer was refused something."""
        return self._audit.count

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell, now and then, how much was not told one by one; until cancelled."""
        task_status.started()
        while True:
            await self._owes.wait()
            await trio.sleep(SUMMARY_S)
            self.tell_rest()

    def tell_rest(self) -> None:
        """Tell how many refusals no line was written about."""
        self._owes = trio.Event()
        if self._audit.owes:
            log.warning("%s on %s", self._audit.summary(), self._node)

    # -- what peers ask -----------------------------------------------------------------------

    def require(self, caller: NodeId, action: Action, target: str) -> None:
        """Raise `NotAuthorized` when a peer may not do that here, and write the line about it.

        Raises `NodeDown` when the peer is gone.
        """
        if caller == self._node:
            return
        link = self._peering.connections.link(caller)
        if link is None or not link.has_met:
            raise NodeDown(caller.name, "it asked, and is gone")
        if not self._access(link.role, caller.name).allows(action, target):
            raise self.refuse(link, action, target)

    def permits(self, link: Link, action: Action, target: Target, names: tuple[str, ...]) -> bool:
        """Whether a peer may do that to a process, which has these names.

        By a name, that name counts; by number, any that the process has.
        """
        access = self._access(link.role, link.node.name)
        if isinstance(target, ToName):
            names = (target.name,)
        # What is asked of a built-in process it holds against the policy itself.
        return any(
            name.startswith("$") or access.allows(action, name) for name in names or (UNNAMED,)
        )

    def refuse(self, link: Link, action: Action, target: str, times: int = 1) -> NotAuthorized:
        """Write the line about a refusal, and return what its caller is told.

        That is what was refused and by whom, and not what the policy says.
        """
        peer, what = link.node.name, f"{action.verb} {shown(target)}"
        more = self._audit.refused(peer, trio.current_time(), times)
        if more is None:
            self._owes.set()
        else:
            rule = self._access(link.role, peer).rule(action)
            where = self._peering.connections.remote_of(link.node) or "not connected"
            log.warning(
                "refused: node %r (%s, %s) may not %s on %s: %s%s",
                *(peer, link.role, where, what, self._node, rule, more),
            )
        return NotAuthorized(f"{self._node} does not let {link.role} {peer!r} {what}")

    # -- what nodes say of themselves ---------------------------------------------------------

    def may(self, node: NodeId, action: Action, target: str) -> bool:
        """Whether a node may say that of itself: see the module's text.  Writes no line."""
        return self._access(self._peering.role_of(node), node.name).allows(action, target)

    def require_of_us(self, action: Action, target: str) -> None:
        """Raise `NotAuthorized` when this node may not say that of itself."""
        if not self._access(self._role, self._node.name).allows(action, target):
            raise NotAuthorized(
                f"{self._node} is a node of the role {self._role!r}, and its own policy does not "
                f"let those {action.verb} {shown(target)}"
            )

    def _access(self, role: str, name: str) -> Access:
        access = self._ready.get((role, name))
        if access is None:
            if len(self._ready) >= _MAX_READY:
                self._ready.clear()
            access = self._ready[role, name] = self._policy.access(role, name)
        return access


def described(target: Target, names: tuple[str, ...]) -> str:
    """A process in a line of the log: its name, or its number."""
    match target:
        case ToName(name):
            return name
        case ToProcess(number) if not names:
            return f"#{number}"
        case _:
            return ", ".join(names)
