"""Supervisors: processes that start others, restart them when they end, and end them in order.

A supervisor keeps a part of a program running: it knows its children by their specs, and what is
to happen when one ends.  What cannot be kept running is given up as a whole, and becomes the
trouble of the supervisor above.  After Erlang/OTP (design principles, "Supervisor Behaviour"; the
manual page supervisor(3)); docs/supervisors.md has where this one differs.

    specs       what it is told
    engine      what it decides; sans-IO
    placing     on which node, of a cluster; sans-IO
    shell       carries it out: one process
    local       children on its own node: `supervisor`
    cluster     children on any member: `cluster_supervisor`
    requests    what it can be asked for, by calls

Both kinds of supervisor are one engine and one shell, and differ in how a child is started, ended
and watched.  All of it stands on what every program has: spawn, links, monitors, calls and exits.

A Trio nursery was refused as the model: there, the first task that fails ends the others, and what
comes next is up to the caller; and it cannot be asked, nor reach another node.  The two go well
together: nurseries inside a process, supervisors between processes.
"""

from steinadler.supervision.cluster import cluster_supervisor
from steinadler.supervision.local import supervisor
from steinadler.supervision.requests import (
    delete_child,
    rebalance,
    restart_child,
    start_child,
    terminate_child,
    which_children,
)
from steinadler.supervision.specs import ChildInfo, ChildSpec, SupervisorSpec

__all__ = [
    "ChildInfo",
    "ChildSpec",
    "SupervisorSpec",
    "cluster_supervisor",
    "delete_child",
    "rebalance",
    "restart_child",
    "start_child",
    "supervisor",
    "terminate_child",
    "which_children",
]
