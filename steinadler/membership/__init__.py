"""Who is in the cluster: the SWIM engine, without I/O.

The engine, and what it has to do with the rest:

    swim             takes what happens and hands it on
    events           what the engine is told, and what it asks for
    outbox           what it asks for during one call, in order
    messages         what engines say to each other, as bytes

What is held to be so:

    members          the records, and the one rule that says which of two wins
    beliefs          which records are taken in, and what follows from it
    table            one record for each name; which event a change of it is
    partition        losses and merges, as programs see them; which side is small

Who is ill:

    detection        whom to ask for a sign of life, and when its absence is a verdict
    probes           whom to probe next, and which probes are unanswered
    suspicions       until when each suspect may say that it lives
    timing           the arithmetic of these
    health           how far this node may trust its own judgement
    round_trips      how long the way to each member and back takes

Who is told, and by whom:

    neighbours       those that all of the above turn to: whom this node keeps connected to
    overlay          finds them among all members
    rumours          who is told what, and when
    dissemination    what is still to be passed on, and how much of it fits a message
    exchange         tables, compared and exchanged: mends what gossip missed
    digest           what a table holds, in 32 numbers

The protocol is that of Das, Gupta and Motivala, "SWIM: Scalable Weakly-consistent Infection-style
Process Group Membership Protocol" (2002), with Dadgar, Phillips and Currey, "Lifeguard: Local
Health Awareness for More Accurate Failure Detection" (2017), run over connections that are already
authenticated and ordered instead of UDP.
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
