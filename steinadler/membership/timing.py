"""The arithmetic of the failure detector, apart from any clock so that it can be tabulated.

A member is probed every `P` seconds by each other member, where `P` is two probe rounds while
the cluster has at most nine members.  A probe fails after `direct_timeout_s +
indirect_timeout_s`, and the suspicion that follows lasts `suspicion_timeout_s`.  Silence is
therefore declared, after it began,

    at the earliest  direct + indirect + suspicion        (a probe was just on its way)
    at the latest    P + direct + indirect + suspicion    (a probe had just been answered)

plus the time messages take: 2.2 to 2.7 s at default settings with three to nine members
(promises S1 and S2 ask for 2 to 3).

Lifeguard (Dadgar, Phillips, Currey 2017) scales three of these numbers by the local node's own
health: the probe interval, the direct timeout and the length of a suspicion that few have
confirmed.  Each is computed or read in one place, here or in `steinadler.membership.probes`,
so that a health factor has one place to enter.
"""

from __future__ import annotations

import math

from steinadler.config import MembershipSettings

# With four probes each, a member escapes all probes of one round with probability e**-4.
MOST_PROBES_PER_ROUND = 4
# With three each, e**-3 = 5 % of the members miss the first wave; piggy-backing reaches those.
FANOUT = 3
# A tick later than this was not jitter: the process was stopped or starved.
STALL_S = 0.05


def probes_per_round(others: int) -> int:
    """How many of the `others` to probe in one round: half of them, four at the most.

    Half means that everybody is probed by everybody in every second round, which bounds
    detection time in a small cluster.  In a large one it does not matter who notices first: n
    members that each probe four at random leave one member unprobed by all with probability
    (1 - 4/n)**n = e**-4 = 1.8 % per round and e**-8 = 0.03 % per two rounds, and the load of a
    node stays the same at any size.  (SWIM's one probe a round would leave e**-1 = 37 %.)
    """
    return min((others + 1) // 2, MOST_PROBES_PER_ROUND)


def suspicion_timeout_s(settings: MembershipSettings, members: int) -> float:
    """How long a suspected member has to refute: `suspicion_s * max(1, log10(members))`.

    The logarithm is the time that gossip takes to reach the suspect and to come back (SWIM
    section 4.2; memberlist's `suspicionTimeout` does the same).
    """
    return settings.suspicion_s * max(1.0, math.log10(max(members, 1)))


def transmissions(settings: MembershipSettings, members: int) -> int:
    """In how many messages a node passes one update on: factor * ceil(log10(members + 1)).

    SWIM section 4.1: lambda * log(n) transmissions reach all with high probability.
    """
    return settings.retransmit_factor * math.ceil(math.log10(members + 1))


def stall_allowance_s(settings: MembershipSettings, late_s: float) -> float:
    """How much later every pending verdict falls because this node ran `late_s` late.

    Nothing up to `STALL_S`.  Above it, the time lost, and as much again (one direct timeout at
    the most) to read what arrived meanwhile: answers may be waiting in the sockets, and a
    verdict must not overtake them (promise S2).  The second part is no larger than the first so
    that a node which is always late still reaches its verdicts.
    """
    if late_s <= STALL_S:
        return 0.0
    return late_s + min(late_s, settings.direct_timeout_s)
