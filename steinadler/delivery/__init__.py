"""Who waits for whom, who may claim what, and who owns what: all without I/O.

Who waits for whom:

    monitors     the watcher's end and the watched end of each monitor
    links        pairs of processes that end together
    calls        the caller's end of each call, and the end that owes the answer
    index        from one key to several values: by it `monitors` and `links` find their entries

Every entry has two ends, which may be on two nodes, and three ways to go: its holder ends, its
target ends, or the node of the other end goes down.  Each of these tables has exactly those three
clean-ups, and each hands back what must be told to whom.  An entry is removed in the same step
that reports it, so it is reported once (D1, C1).

Beside them:

    offers       ends of channels that were given away: claimed once, by a token, or expired
    placement    which member owns an entity, of those that host its type
    rendezvous   who of some nodes gets a key, so that all who know them pick the same
"""

from steinadler.delivery.calls import OwedCalls, PendingCalls
from steinadler.delivery.links import LinkTable
from steinadler.delivery.monitors import MonitorsHeld, MonitorsOfUs

__all__ = ["LinkTable", "MonitorsHeld", "MonitorsOfUs", "OwedCalls", "PendingCalls"]
