"""What a supervisor is told: its children, and what to do about their ends.

The words and their defaults are Erlang/OTP's (supervisor(3)).  Declared as frozen dataclasses and
checked when they are made, so that a mistake shows where it was written and not at a restart.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from steinadler.errors import ConfigError
from steinadler.identity import ProcessId, check_process_name
from steinadler.wire.codec import DEFAULT_MESSAGE_TYPES
from steinadler.wire.signals import NORMAL, SHUTDOWN

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
ChildType: TypeAlias = Literal["worker", "supervisor"]
ChildState: TypeAlias = Literal["down", "starting", "running", "stopping"]

# How long a worker may take to end before it is killed, unless its spec says otherwise.
SHUTDOWN_S = 5.0
# Of one supervisor: each step looks at all of them.  Groups of supervisors hold more.
MAX_CHILDREN = 4096


def is_orderly(reason: str) -> bool:
    """Whether an exit was meant: "normal", "shutdown", or "shutdown: " and why."""
    return reason in (NORMAL, SHUTDOWN) or reason.startswith(f"{SHUTDOWN}: ")


@DEFAULT_MESSAGE_TYPES.register(name="steinadler.ChildSpec")
@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child: `function(me, *args)`, run as a process by a supervisor.

    `id` tells it from the supervisor's other children.  `function` is an `async def`, or the name
    that one is exported by; a cluster supervisor and `start_child` take only exported ones.  If it
    has a parameter `task_status`, the child counts as started when it calls
    `task_status.started()`, and otherwise at once; the next child is started after that.

    `restart`: "permanent" is always restarted; "transient" unless it ends with "normal",
    "shutdown" or "shutdown: ..."; "temporary" never, and is forgotten when it ends.

    `shutdown`: how it is ended.  A number of seconds: it is asked to exit with reason "shutdown",
    which cancels it, or is an `Exit` message if it traps exits; after so long it is killed.
    "kill": it is killed at once.  `math.inf`: it is waited for.  None: 5 s for a worker, and
    `math.inf` for a supervisor (`type`), which has to end children of its own.

    `name`: registered for each life of the child in turn, free in between (N1).

    Raises `ConfigError` for what makes no sense.
    """

    id: str
    function: Callable[..., Awaitable[Any]] | str
    args: tuple[Any, ...] = ()
    restart: Restart = "permanent"
    shutdown: float | Literal["kill"] | None = None
    type: ChildType = "worker"
    name: str | None = None

    def __post_init__(self) -> None:
        _check(isinstance(self.id, str) and self.id != "", f"{self.id!r} is no id of a child")
        what = f"child {self.id!r}"
        _check(callable(self.function) or isinstance(self.function, str), f"{what}: no function")
        _check(isinstance(self.args, tuple), f"{what}: its args are to be a tuple")
        _check_word(self.restart, Restart, what)
        _check_word(self.type, ChildType, what)
        if self.shutdown not in (None, "kill"):
            _check_number(self.shutdown, 0, f"{what}: shutdown")
        if self.name is not None:
            check_process_name(self.name)

    @property
    def patience_s(self) -> float:
        """How long it may take to end; 0 when it is to be killed at once."""
        if self.shutdown is None:
            return math.inf if self.type == "supervisor" else SHUTDOWN_S
        return 0.0 if self.shutdown == "kill" else self.shutdown


@DEFAULT_MESSAGE_TYPES.register(name="steinadler.SupervisorSpec")
@dataclass(frozen=True, slots=True)
class SupervisorSpec:
    """A supervisor: its first children, in the order in which they start, and its rules.

    `strategy`, when a child has ended and is to be restarted: "one_for_one" restarts it alone,
    "one_for_all" ends all others and restarts all, "rest_for_one" does so with those that stand
    after it.

    More than `intensity` restarts within `period_s` seconds are too many: the supervisor ends its
    children and exits with "shutdown: " and why.  OTP's defaults, 1 in 5 s, are for children that
    hardly ever fail.

    Raises `ConfigError` for what makes no sense, for two children of one id, and for more than
    `MAX_CHILDREN` (4096).
    """

    children: tuple[ChildSpec, ...] | list[ChildSpec] = ()
    strategy: Strategy = "one_for_one"
    intensity: int = 1
    period_s: float = 5.0

    def __post_init__(self) -> None:
        listed = isinstance(self.children, (tuple, list))
        _check(
            listed and all(isinstance(child, ChildSpec) for child in self.children),
            "the children of a supervisor are ChildSpecs, in a tuple or a list",
        )
        _check(len(self.children) <= MAX_CHILDREN, f"more than {MAX_CHILDREN} children")
        ids = [child.id for child in self.children]
        _check(len(set(ids)) == len(ids), f"two children of one id: {sorted(ids)}")
        _check_word(self.strategy, Strategy, "supervisor")
        _check(isinstance(self.intensity, int), "intensity is a whole number of restarts")
        _check_number(self.intensity, 0, "intensity")
        _check_number(self.period_s, 0, "period_s")
        # A copy: what the caller does to its list later is nothing to the supervisor.
        object.__setattr__(self, "children", tuple(self.children))


@DEFAULT_MESSAGE_TYPES.register(name="steinadler.ChildInfo")
@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One child as `which_children` tells it; `process` is None while there is none."""

    id: str
    process: ProcessId | None
    state: ChildState
    restart: Restart
    type: ChildType


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ConfigError(otherwise)


def _check_word(word: object, words: Any, what: str) -> None:
    known = get_args(words)
    _check(word in known, f"{what}: {word!r} is none of {', '.join(known)}")


def _check_number(number: object, least: float, what: str) -> None:
    # Not a comparison alone: NaN is neither less nor more.
    holds = isinstance(number, (int, float)) and number >= least
    _check(holds, f"{what} is {number!r}, not a number of {least} or more")
