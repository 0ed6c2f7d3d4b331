"""A node: everything below, composed and owned.

A node joins the parts and owns their tasks; what is decided, the parts decide.

What programs see:

    node          `Node`: one node of a cluster
    opening       `open_node`: with this machine's sockets, this user's credentials and discovery
    failures      what comes out of a node's block when it fails
    joining       `join_cluster`: makes this user's home part of a cluster, by a join token
    events        what a node tells its program about the cluster
    groups        `Group`: the processes of the cluster that joined under one name
    statistics    what a node can tell of itself, its connections and its processes

The inside:

    runtime       `Runtime`: owns the parts and their tasks, and answers what they ask
    builtin       processes that every node has: `$echo`, `$info`, `$names`, `$spawn` ...

A message or a call on its way, and what comes of a process's end:

    router        from a destination to a mailbox, here or on another node, and back
    outlets       the near end of the way to one destination: takes an item if there is credit
    calls         from a request to its one outcome (C1), at both ends
    watching      monitors, links and exit signals
    spawning      where an exported function is to run, and asking the nodes there
    naming        cluster-wide names and groups: gives the registry its messages and sends its own

Who is there, and the connections to them:

    peering       members and the links to them: joins membership to connections
    driving       the membership engine's driver: tells it what happens, does what it asks for
    admitting     who is let in as what, and what follows from being turned away
    strangers     addresses of unknown nodes: in a large cluster, members take turns to dial them
    early         what comes from a node that is connected but counts as down: it waits
    strays        links to nodes that are down and do not say that they live: they end
    relaying      connections of two members through a third, for those that cannot reach each other

Whom to trust:

    guard         asks the policy about peers, and tells of what it refused
    trusting      whom this node trusts: hears it from others, passes it on, enforces it
    certifying    who certifies whom: finds a signer, or signs
    renewing      has a certificate renewed before it runs out
"""

from steinadler.membership import MembersLost, SidesMerged
from steinadler.node.events import (
    Event,
    EventsLost,
    EventStream,
    NameConflict,
    NodeDown,
    NodeUp,
)
from steinadler.node.groups import Group
from steinadler.node.joining import Joined, join_cluster
from steinadler.node.node import Node
from steinadler.node.opening import open_node
from steinadler.node.spawning import ALL
from steinadler.node.statistics import ConnectionStatistics, NodeStatistics
from steinadler.node.watching import Monitor

__all__ = [
    "ALL",
    "ConnectionStatistics",
    "Event",
    "EventStream",
    "EventsLost",
    "Group",
    "Joined",
    "MembersLost",
    "Monitor",
    "NameConflict",
    "Node",
    "NodeDown",
    "NodeStatistics",
    "NodeUp",
    "SidesMerged",
    "join_cluster",
    "open_node",
]
