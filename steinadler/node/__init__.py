"""A node: everything below, composed and owned.

`node` is the public face; `runtime` the inside, which owns the parts and their tasks; `opening`
makes a node with real sockets and credentials, and `joining` gets these for a home that has none.
`peering` joins membership to connections, with `driving` for what the engine asks for; `router`
carries messages and calls, `watching` monitors and links, `spawning` asks other nodes to run
functions, `statistics` is what is counted, `builtin` the processes that every node has.
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
