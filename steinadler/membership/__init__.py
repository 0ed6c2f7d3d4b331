"""Who is in the cluster: the SWIM engine, without I/O.

`Swim` takes what happens and hands it on: to `detection`, which looks for signs of life, to
`beliefs`, which holds the records that win, to `rumours`, which pass them on, and to `exchange`,
which compares tables.  All of them turn to `neighbours` only, which `overlay` finds among all
members.  `health` knows how far this node may trust its own judgement.  `members` has the records
and the one rule that compares them; `messages` is what travels; `events` is what the engine is told
and what it asks for.  `partition` groups what it says into losses and merges.  The protocol is that
of Das, Gupta and Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group
Membership Protocol" (2002), with Dadgar, Phillips and Currey, "Lifeguard: Local Health Awareness
for More Accurate Failure Detection" (2017), run over connections that are already authenticated and
ordered instead of UDP.
"""

from steinadler.membership.events import (
    Admission,
    Bar,
    Blocked,
    Cleared,
    Connected,
    Disconnected,
    Down,
    Effect,
    Input,
    Leave,
    NeighbourAdded,
    NeighbourRemoved,
    ObserverConnected,
    ObserverDisconnected,
    PathLost,
    Reach,
    Received,
    Refused,
    Relabel,
    Send,
    Suspected,
    Up,
    Updated,
    Usurped,
)
from steinadler.membership.health import Health
from steinadler.membership.members import ROLE_LABEL, Member, MemberState
from steinadler.membership.messages import Message, decode, encode
from steinadler.membership.partition import MembersLost, Partitions, SidesMerged
from steinadler.membership.round_trips import RoundTrip
from steinadler.membership.swim import Swim

__all__ = [
    "ROLE_LABEL",
    "Admission",
    "Bar",
    "Blocked",
    "Cleared",
    "Connected",
    "Disconnected",
    "Down",
    "Effect",
    "Health",
    "Input",
    "Leave",
    "Member",
    "MemberState",
    "MembersLost",
    "Message",
    "NeighbourAdded",
    "NeighbourRemoved",
    "ObserverConnected",
    "ObserverDisconnected",
    "Partitions",
    "PathLost",
    "Reach",
    "Received",
    "Refused",
    "Relabel",
    "RoundTrip",
    "Send",
    "SidesMerged",
    "Suspected",
    "Swim",
    "Up",
    "Updated",
    "Usurped",
    "decode",
    "encode",
]
