"""The arithmetic of the failure detector, apart from any clock so that it can be tabulated.

    detection     P + direct_timeout_s + indirect_timeout_s, `P` being 0 to two probe rounds
    suspicion     suspicion_s * (f - (f - 1) * log(c + 1) / log(k + 1)), f = unconfirmed_factor

`P` is how long the silent one goes unprobed: two rounds at most up to nine members, and with
many members hardly ever more, because four probes a round come to each of them on the average.
`c` is how many others have confirmed the suspicion by failed probes of their own, and `k` how
many are waited for: three, or as many other members as there are that are alive.  So a suspicion
lasts, as a multiple of `suspicion_s`, with the default factor of 3,

    confirmations      0      1      2      3
    two members        1                          nobody could confirm
    three members      3      1
    four members       3      1.74   1
    five or more       3      2      1.42   1

Everybody probes all the time, so the dead are confirmed within a second and declared `suspicion_s`
after the first accusation, at any size of the cluster:

    at the earliest  direct + indirect + suspicion_s                          2.2 s
    at the latest    two rounds more, and the time that messages take         2.7 s and some 0.1 s

by default (promises S1 and S2 ask for 3 and 2).  SWIM lets suspicion grow with log(members)
instead, the time of gossip to the suspect and back; here the suspect is told over a connection,
and what the logarithm is to guard against, an accuser that is itself at fault, waits for
confirmations (Lifeguard: Dadgar, Phillips, Currey 2017, section IV-B).

The accuser's own health stretches its probes, and moves its verdicts by the time in which it did
not run: see `steinadler.membership.health`.
"""

from __future__ import annotations

import math

from steinadler.config import MembershipSettings

# With four probes each, a member escapes all probes of one round with probability e**-4.
MOST_PROBES_PER_ROUND = 4
# With three each, e**-3 = 5 % of the members miss the first wave; piggy-backing reaches those.
FANOUT = 3
# How many confirmations bring a suspicion down to its shortest: more say nothing new.
CONFIRMATIONS = 3


def probes_per_round(others: int) -> int:
    """How many of the `others` to probe in one round: half of them, four at the most.

    Half means that everybody is probed by everybody in every second round, which bounds
    detection time in a small cluster.  In a large one it does not matter who notices first: n
    members that each probe four at random leave one member unprobed by all with probability
    (1 - 4/n)**n = e**-4 = 1.8 % per round and e**-8 = 0.03 % per two rounds, and the load of a
    node stays the same at any size.  (SWIM's one probe a round would leave e**-1 = 37 %.)
    """
    return min((others + 1) // 2, MOST_PROBES_PER_ROUND)


def suspicion_timeout_s(settings: MembershipSettings, accusers: int, others: int) -> float:
    """How long a suspected member has to refute, while so many have accused it.

    `others` beside the first accuser could confirm it: the suspect's neighbours that are alive.
    A node that is cut off from all others, and suspects them all, therefore waits for nobody, and
    both sides of a partition are settled in time (S1).  Where nobody has accused it, and the
    suspicion is only a table's old word, it lasts longest, whoever could confirm it.
    """
    if not settings.local_health:
        return settings.suspicion_s
    if accusers == 0:
        return settings.suspicion_s * settings.unconfirmed_factor
    confirmations, expected = accusers - 1, min(CONFIRMATIONS, others)
    if confirmations >= expected:
        return settings.suspicion_s
    factor = settings.unconfirmed_factor
    shrunk = math.log(confirmations + 1) / math.log(expected + 1)
    return settings.suspicion_s * (factor - (factor - 1) * shrunk)


def transmissions(settings: MembershipSettings, members: int) -> int:
    """In how many messages a node passes one update on: factor * ceil(log10(members + 1)).

    SWIM section 4.1: lambda * log(n) transmissions reach all with high probability.
    """
    return settings.retransmit_factor * math.ceil(math.log10(members + 1))
