"""Who waits for whom: monitors, links and calls, as tables without I/O.

Every entry has two ends, which may be on two nodes, and three ways to go: its holder ends, its
target ends, or the node of the other end goes down.  Each table has exactly those three
clean-ups, and each hands back what must be told to whom.  An entry is removed in the same step
that reports it, so it is reported once (D1, C1).
"""

from steinadler.delivery.calls import OwedCalls, PendingCalls
from steinadler.delivery.links import LinkTable
from steinadler.delivery.monitors import MonitorsHeld, MonitorsOfUs

__all__ = ["LinkTable", "MonitorsHeld", "MonitorsOfUs", "OwedCalls", "PendingCalls"]
