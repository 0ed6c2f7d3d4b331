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
    """A name of this node is one of `node` too, and was so first, as far as is known here.

    Ask that node, for as long as there are `Registry.older_claims` of it, and have a name lost
    (`Registry.lose`) when it says that it holds it by that claim.
    """

    node: NodeId


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
