"""Who may do what: the policy of a node, as data, and how it is asked.

    policy.access(role, name) -> Access          what a peer of that role and name may do here
    access.allows(Action.CALL, "ledger")         every question is one of these
    access.rule(Action.CALL)                     which lines decided it, for the audit log

A policy allows and never forbids: a peer may do what one of the tables that are about it names,
and nothing else, so the order of tables says nothing and none takes back what another gave.  Rules
that forbid were refused for it: what two of them come to has to be worked out, and a gap in one
opens a door where a gap in a table of permissions leaves one shut.

What a table is about is the role in the peer's certificate, or that and the name there.  What a
peer says of itself is not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Protocol

from steinadler.errors import ConfigError
from steinadler.identity import NODE, OBSERVER, SIDECAR, NodeId, check_role

# The role of a table for all who have none of their own.
ANY_ROLE = "*"
# What there is to look at.
LOOKED_AT = ("echo", "info", "names", "statistics")
# In place of a process's name, for one that has none; no name has an "@" in it.
UNNAMED = "@unnamed"


class Action(StrEnum):
    """What a peer may be allowed to do; the patterns in a policy are of what stands behind it."""

    LOOK = "look"  # what the node tells of itself: echo, info, names, statistics
    SEND = "send"  # a process, by name
    CALL = "call"  # the same
    MONITOR = "monitor"  # the same
    LINK = "link"  # the same
    EXIT = "exit"  # the same: ask it to
    SPAWN = "spawn"  # an exported function
    REGISTER = "register"  # a name of the whole cluster
    JOIN = "join"  # a group
    HOST = "host"  # a type of entities
    CALL_ENTITY = "call_entity"  # the same
    OFFER = "offer"  # a service, to those who connect to "service@*"
    CONNECT = "connect"  # a service
    RELAY = "relay"  # a node, to be reached through this one

    @property
    def verb(self) -> str:
        """As it is said of somebody, before its target."""
        return _VERBS.get(self, self.value)


_VERBS = {
    Action.LOOK: "look at",
    Action.SEND: "send to",
    Action.LINK: "link to",
    Action.EXIT: "ask to exit",
    Action.JOIN: "join the group",
    Action.HOST: "host entities of",
    Action.CALL_ENTITY: "call entities of",
    Action.CONNECT: "connect to",
    Action.RELAY: "be relayed to",
}


@dataclass(frozen=True, slots=True)
class Grants:
    """What is allowed, action by action: patterns, in which `*` stands for any run of characters
    and everything else for itself.

    Of processes, `"@unnamed"` is one without a name, and `"*"` every one.  The built-in processes,
    whose names begin with `$`, are in no pattern: what is asked of them is an action of its own.
    Raises `ConfigError` for what is no pattern, and for what nobody could `look` at.
    """

    look: tuple[str, ...] = ()
    send: tuple[str, ...] = ()
    call: tuple[str, ...] = ()
    monitor: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    exit: tuple[str, ...] = ()
    spawn: tuple[str, ...] = ()
    register: tuple[str, ...] = ()
    join: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    call_entity: tuple[str, ...] = ()
    offer: tuple[str, ...] = ()
    connect: tuple[str, ...] = ()
    relay: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            patterns = getattr(self, item.name)
            if not isinstance(patterns, (tuple, list)) or not all(
                isinstance(pattern, str) and pattern for pattern in patterns
            ):
                raise ConfigError(
                    f'{item.name} is a list of patterns, as in ["*"] or ["orders.*", "ledger"], '
                    f"not {patterns!r:.200}"
                )
            object.__setattr__(self, item.name, tuple(patterns))
        for pattern in self.look:
            if "*" not in pattern and pattern not in LOOKED_AT:
                raise ConfigError(
                    f"look has {pattern!r:.200}, which is none of {', '.join(LOOKED_AT)}"
                )

    def of(self, action: Action) -> tuple[str, ...]:
        """The patterns of an action."""
        patterns: tuple[str, ...] = getattr(self, action.value)
        return patterns


_LOOKING = Grants(
    look=("*",),
    send=("*",),
    call=("*",),
    monitor=("*",),
    call_entity=("*",),
    connect=("*",),
    relay=("*",),
)
# Of roles that a policy has no table for.  docs/security.md has it as a file, and why.
DEFAULT_ROLES: Mapping[str, Grants] = {
    NODE: Grants(
        look=("*",),
        send=("*",),
        call=("*",),
        monitor=("*",),
        link=("*",),
        exit=("*",),
        spawn=("*",),
        register=("*",),
        join=("*",),
        host=("*",),
        call_entity=("*",),
        offer=("*",),
        connect=("*",),
        relay=("*",),
    ),
    OBSERVER: _LOOKING,
    SIDECAR: Grants(look=("*",), host=("*",), call_entity=("*",), relay=("*",)),
    ANY_ROLE: _LOOKING,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the peers of a node may do there.

    `roles`: by role; `"*"` is for every role that has no table, here or in `DEFAULT_ROLES`.  A
    table here takes the place of the default's: what it does not name, the role may not do.
    `nodes`: by role, and a pattern of node names: what such nodes may do beyond that.

    Raises `ConfigError` for what is no role or no pattern.
    """

    roles: Mapping[str, Grants] = field(default_factory=dict)
    nodes: Mapping[str, Mapping[str, Grants]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for role in (*self.roles, *self.nodes):
            if role != ANY_ROLE:
                check_role(role)
        for role, by_name in self.nodes.items():
            if not all(isinstance(pattern, str) and pattern for pattern in by_name):
                raise ConfigError(f"the nodes of {_quoted(role)} are patterns of their names")

    def access(self, role: str, name: str) -> Access:
        """What a peer may do whose certificate gives it this role and name."""
        known = role if role in self.roles or role in DEFAULT_ROLES else ANY_ROLE
        tables = {f"roles.{_quoted(known)}": self.roles.get(known) or DEFAULT_ROLES[known]}
        for pattern, more in self.nodes.get(known, {}).items():
            if _Matcher([pattern]).matches(name):
                tables[f'roles.{_quoted(known)}.nodes."{pattern}"'] = more
        return Access(tables)


class Access:
    """What one peer may do: the tables that are about it, taken together."""

    __slots__ = ("_allowed", "_tables")

    def __init__(self, tables: Mapping[str, Grants]) -> None:
        self._tables = tables
        self._allowed: dict[Action, _Matcher] = {
            action: _Matcher([p for table in tables.values() for p in table.of(action)])
            for action in Action
        }

    def allows(self, action: Action, target: str) -> bool:
        """Whether it may do that to `target`."""
        return self._allowed[action].matches(target)

    def rule(self, action: Action) -> str:
        """What the tables say about an action, as one line."""
        return "; ".join(
            f"{name} has {action.value} = {json.dumps(table.of(action), ensure_ascii=False)}"
            for name, table in self._tables.items()
        )


class Gate(Protocol):
    """What the parts of a node ask of it: see `steinadler.node.guard`."""

    def require(self, caller: NodeId, action: Action, target: str) -> None: ...
    def may(self, node: NodeId, action: Action, target: str) -> bool: ...
    def require_of_us(self, action: Action, target: str) -> None: ...


class _Matcher:
    """Several patterns, made ready."""

    __slots__ = ("_everything", "_exact", "_patterns")

    def __init__(self, patterns: list[str]) -> None:
        self._everything = "*" in patterns
        self._exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
        self._patterns = [pattern for pattern in patterns if "*" in pattern]

    def matches(self, target: str) -> bool:
        if self._everything or target in self._exact:
            return True
        # What stands for having no name is no text that a pattern could fit by accident.
        return target != UNNAMED and any(_fits(pattern, target) for pattern in self._patterns)


def _fits(pattern: str, text: str) -> bool:
    """Whether `text` is like `pattern`.  Not by a regular expression: the text is a peer's, and
    several stars could keep an expression busy for ever."""
    first, *middle, last = pattern.split("*")
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def _quoted(role: str) -> str:
    return f'"{role}"' if role == ANY_ROLE else role
