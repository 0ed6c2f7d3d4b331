"""Names of processes: of one node, and of the whole cluster; and groups of processes.

`LocalNames` are a node's own: a name belongs to one living process of it, and to one only (N1).
`Registry` has what the members share: names that are unique in the cluster (N2), and groups (N3).
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
