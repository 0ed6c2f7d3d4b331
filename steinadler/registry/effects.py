"""What the registry's engine asks for: a closed union of frozen values.

Links, processes and events belong to the shell, which carries the effects out in the order given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from steinadler.identity import NodeId, ProcessId
from steinadler.registry.messages import Message


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to a member.  Whatever becomes of it: comparing finds what is lost."""

    to: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class NameContested:
    """A process of this node has a name that somebody else's had first, as far as is known here.

    Ask that one's node whether it has it still, for as long as there is a `Registry.rival`, and
    have it lost (`Registry.lose`) when it says so.
    """

    name: str


@dataclass(frozen=True, slots=True)
class NameLost:
    """A process of this node has a name no more: `winner` had it first."""

    name: str
    number: int
    winner: ProcessId


@dataclass(frozen=True, slots=True)
class NameSettled:
    """Two processes had a name, and `winner` keeps it."""

    name: str
    winner: ProcessId
    loser: ProcessId


Effect: TypeAlias = Tell | NameContested | NameLost | NameSettled
