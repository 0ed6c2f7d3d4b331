"""Names of processes: of one node, and of the whole cluster; and groups of processes.

`LocalNames` are a node's own: a name belongs to one living process of it, and to one only (N1).
`Registry` has what the members share: names that are unique in the cluster (N2), and groups (N3).

On one node:

    names       a node's own names: which process has which

In the whole cluster:

    registry    `Registry`: takes what happens, keeps a replica of each member's entries
    claims      before a name is registered: an arbiter lets one of two claims pass
    replica     the entries of one node, in versions; only that node changes them
    index       the replicas by name and by group; picks the winner of a name with two holders
    effects     what the engine asks its shell to do

How replicas spread:

    exchange    changes are told to neighbours at once; what is missing is found and asked for
    digests     what a node holds of all others, in 256 bytes, for two nodes to compare
    pulls       whose entries are missing, and who is being asked for them
    messages    what registries say to each other, as bytes
"""

from steinadler.registry.effects import Effect, NameContested, NameLost, NameSettled, Tell
from steinadler.registry.names import LocalNames
from steinadler.registry.registry import Registry, refuse_for

__all__ = [
    "Effect",
    "LocalNames",
    "NameContested",
    "NameLost",
    "NameSettled",
    "Registry",
    "Tell",
    "refuse_for",
]
