"""What is written down of a run of whole nodes under faults: see `histories` for the form.

A node is one life, "n3/2" (the second life of n3); a process is "n3/2#17"; `at` is virtual time,
in seconds.  What happens at one moment stands in no particular order.

    start      at, node                          a node opened
    closing    at, node                          it was told to close
    end        at, node                          it closed, or was killed
    fault      at, kind, target                  what was done to the cluster, and `heal` after it
    healed     at                                the last fault has ended: nobody begins anything
    agreed     at                                all nodes were seen to believe the same

    up, down   at, node, member (, reason)       an event of the node's
    conflict   at, node, name, winner, loser     the same

    spawned    at, process, traps                a process began; whether it traps exits
    ended      at, process, reason               it is over, as a monitor of its own node says

    sent       at, process, to, number           `send` returned; `to` is a process, "inbox@n3"
                                                 or "red@*", numbers are the sender's own
    received   at, process, sender, to, number   a process took it
    asked      at, process, op, to               it calls
    served     at, process, op                   the call was taken, and answered
    answered   at, process, op, by               the answer came, and names who gave it
    failed     at, process, op, error            the call failed ("gave up": the caller's patience)

    claim      at, process, op, name             a name of the cluster is asked for, for the process
    granted    at, op                            it was given
    refused    at, op, error                     or not
    released   at, process, name                 it was given back
    told       at, process, reason               a process that traps exits got an exit signal

    joined     at, process, group
    left       at, process, group

    watch      at, process, reference, target    a monitor began; `target` is a process or
    unwatch    at, process, reference            "inbox@n3"; it was let go; it fired, and said
    fired      at, process, reference, target, reason      who ended and why

    view       at, node, phase, members, names, groups     what the node says in the end (phase 1),
                                                 and once all processes were ended (phase 2):
                                                 names as [name, process], groups as [group, [...]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from histories import Fault


@dataclass(frozen=True, slots=True)
class Start:
    where: str
    at: float
    node: str


@dataclass(frozen=True, slots=True)
class Closing:
    where: str
    at: float
    node: str


@dataclass(frozen=True, slots=True)
class End:
    where: str
    at: float
    node: str


@dataclass(frozen=True, slots=True)
class Healed:
    where: str
    at: float


@dataclass(frozen=True, slots=True)
class Agreed:
    where: str
    at: float


@dataclass(frozen=True, slots=True)
class Up:
    where: str
    at: float
    node: str
    member: str


@dataclass(frozen=True, slots=True)
class Down:
    where: str
    at: float
    node: str
    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Conflict:
    where: str
    at: float
    node: str
    name: str
    winner: str
    loser: str


@dataclass(frozen=True, slots=True)
class Spawned:
    where: str
    at: float
    process: str
    traps: bool


@dataclass(frozen=True, slots=True)
class Ended:
    where: str
    at: float
    process: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sent:
    where: str
    at: float
    process: str
    to: str
    number: int


@dataclass(frozen=True, slots=True)
class Received:
    where: str
    at: float
    process: str
    sender: str
    to: str
    number: int


@dataclass(frozen=True, slots=True)
class Asked:
    where: str
    at: float
    process: str
    op: str
    to: str


@dataclass(frozen=True, slots=True)
class Served:
    where: str
    at: float
    process: str
    op: str


@dataclass(frozen=True, slots=True)
class Answered:
    where: str
    at: float
    process: str
    op: str
    by: str


@dataclass(frozen=True, slots=True)
class Failed:
    where: str
    at: float
    process: str
    op: str
    error: str


@dataclass(frozen=True, slots=True)
class Claim:
    where: str
    at: float
    process: str
    op: str
    name: str


@dataclass(frozen=True, slots=True)
class Granted:
    where: str
    at: float
    op: str


@dataclass(frozen=True, slots=True)
class Refused:
    where: str
    at: float
    op: str
    error: str


@dataclass(frozen=True, slots=True)
class Released:
    where: str
    at: float
    process: str
    name: str


@dataclass(frozen=True, slots=True)
class Told:
    where: str
    at: float
    process: str
    reason: str


@dataclass(frozen=True, slots=True)
class Joined:
    where: str
    at: float
    process: str
    group: str


@dataclass(frozen=True, slots=True)
class Left:
    where: str
    at: float
    process: str
    group: str


@dataclass(frozen=True, slots=True)
class Watch:
    where: str
    at: float
    process: str
    reference: int
    target: str


@dataclass(frozen=True, slots=True)
class Unwatch:
    where: str
    at: float
    process: str
    reference: int


@dataclass(frozen=True, slots=True)
class Fired:
    where: str
    at: float
    process: str
    reference: int
    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class View:
    where: str
    at: float
    node: str
    phase: int
    members: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]


Event: TypeAlias = (
    Start | Closing | End | Fault | Healed | Agreed | Up | Down | Conflict | Spawned | Ended
    | Sent | Received | Asked | Served | Answered | Failed
    | Claim | Granted | Refused | Released | Told | Joined | Left
    | Watch | Unwatch | Fired | View
)  # fmt: skip
KINDS: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in Event.__args__}


def life_of(process: str) -> str:
    """The life "n3/2" of "n3/2#17"."""
    return process.partition("#")[0]


def name_of(life: str) -> str:
    """The node name "n3" of "n3/2", or of "n3/2#17"."""
    return life.partition("/")[0]
