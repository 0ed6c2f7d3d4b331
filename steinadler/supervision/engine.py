"""The decisions of a supervisor: who is started, who is ended, in which order, when it gives up.

Sans-IO: a method for each thing that may happen; it returns what is to be done.  A child is

    down --Start--> starting --started--> running --Stop--> stopping --ended--> down

and from any of these down when it ends.  Two marks say what is to become of it: `wanted`, whether
it is to run, and `doomed`, whether this life of it is to end.  What happens only sets marks;
`_settle` alone turns marks into steps: while somebody is doomed, the last of them in the order of
starting is ended; then the first that is wanted and down is started.  With `in_order`, one step at
a time: the next is taken when the last has come to its end.

So a crash in the midst of a restart needs no rule of its own: it sets marks.  Procedures that end
and start children, and wait in between, were refused: whatever comes meanwhile (a call, another
crash, the order to end) would wait for them, or need a case in each.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from steinadler.errors import ConfigError
from steinadler.supervision.specs import (
    MAX_CHILDREN,
    ChildSpec,
    ChildState,
    SupervisorSpec,
    is_orderly,
)
from steinadler.wire.signals import SHUTDOWN


@dataclass(frozen=True, slots=True)
class Start:
    """Start a child; report `started`, or `ended` when that fails."""

    child: ChildSpec
    again: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a child to end, or kill it; report `ended`."""

    id: str
    kill: bool
    late: bool = False  # it was asked before, and has had its time


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked for under `ticket` is done, or has failed with `error`."""

    ticket: object
    id: str
    error: str | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """All children are being ended, because of `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """No child is left: exit with this reason."""

    reason: str


Effect: TypeAlias = Start | Stop | Answer | GiveUp | Finish
Effects: TypeAlias = list[Effect]


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    state: ChildState = "down"
    wanted: bool = True
    doomed: bool = False
    lived: bool = False  # was started, once at least
    on_trial: bool = False  # added by `start_child`: forgotten when it does not start
    deadline: float = math.inf
    on_started: list[object] = field(default_factory=list)  # tickets
    on_stopped: list[object] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.state != "down"


class Supervision:
    """The children of one supervisor.

    `now` is in seconds of any clock that does not go back.
    """

    def __init__(self, spec: SupervisorSpec, *, in_order: bool = True) -> None:
        self._spec = spec
        self._in_order = in_order
        self._children: dict[str, _Child] = {child.id: _Child(child) for child in spec.children}
        self._restarts: deque[float] = deque()
        self._ending: str | None = None
        self._finished = False

    # -- what is known ------------------------------------------------------------------------

    def children(self) -> list[tuple[ChildSpec, ChildState]]:
        """Every child that is known, in the order of starting."""
        return [(child.spec, child.state) for child in self._children.values()]

    def next_deadline(self) -> float:
        """When `tick` is due."""
        return min((child.deadline for child in self._children.values()), default=math.inf)

    # -- what happens -------------------------------------------------------------------------

    def begin(self, now: float) -> Effects:
        """The supervisor runs: start the first children."""
        return self._settle(now)

    def started(self, id_: str, now: float) -> Effects:
        """A child runs.  Nothing to do when it is to end already."""
        child = self._children.get(id_)
        if child is None or child.state != "starting":
            return []
        child.state = "running"
        child.lived = True
        child.on_trial = False
        answers: Effects = [Answer(ticket, id_, None) for ticket in child.on_started]
        child.on_started.clear()
        return answers + self._settle(now)

    def ended(self, id_: str, reason: str, now: float, *, faultless: bool = False) -> Effects:
        """A child ended, or could not be started.

        `faultless`: not by any fault of its own, as when its node went down; it does not count
        as a restart.
        """
        child = self._children[id_]
        failed = child.state == "starting" and not faultless
        child.state = "down"
        child.deadline = math.inf
        if child.doomed:
            return self._met_its_end(child) + self._settle(now)
        if failed and child.on_trial:
            return self._forget(child, reason) + self._settle(now)
        if failed and child.on_started:
            return self._could_not_start(child, reason) + self._settle(now)
        if failed and not child.lived:
            return self._give_up(f"{id_!r} did not start: {reason}", now)
        if child.spec.restart == "temporary":
            return self._forget(child, reason) + self._settle(now)
        if child.spec.restart == "transient" and is_orderly(reason) and not failed:
            child.wanted = False
            return self._settle(now)
        if not faultless and self._too_many(now):
            limit = f"{self._spec.intensity} in {self._spec.period_s:g} s"
            return self._give_up(
                f"the restart limit ({limit}) is reached: {id_!r} ended: {reason}", now
            )
        for other in self._with(child):
            other.doomed = other.alive
        return self._settle(now)

    def end(self, reason: str, now: float) -> Effects:
        """End all children and finish; the first reason given is the one that counts."""
        if self._ending is None:
            self._ending = reason
            for child in self._children.values():
                child.wanted = False
                child.doomed = child.alive
        return self._settle(now)

    def tick(self, now: float) -> Effects:
        """Kill those whose time to end has passed."""
        effects: Effects = []
        for child in self._children.values():
            if child.deadline <= now:
                child.deadline = math.inf
                effects.append(Stop(child.spec.id, kill=True, late=True))
        return effects

    # -- what is asked ------------------------------------------------------------------------

    def start_child(self, spec: ChildSpec, ticket: object, now: float) -> Effects:
        """Add a child behind the others, and start it; when that fails, it is forgotten.

        Raises `ConfigError` when one of its id is known, or there are `MAX_CHILDREN`.
        """
        self._require_open()
        if spec.id in self._children:
            raise ConfigError(f"there is a child {spec.id!r} already")
        if len(self._children) >= MAX_CHILDREN:
            raise ConfigError(f"a supervisor has {MAX_CHILDREN} children at the most")
        self._children[spec.id] = _Child(spec, on_trial=True, on_started=[ticket])
        return self._settle(now)

    def terminate_child(self, id_: str, ticket: object, now: float) -> Effects:
        """End a child; it stays down, and known unless it is temporary.

        Raises `ConfigError` for an id that is not known, as all below.
        """
        child = self._find(id_)
        child.wanted = False
        child.on_stopped.append(ticket)
        if not child.alive:
            return self._met_its_end(child) + self._settle(now)
        child.doomed = True
        return self._settle(now)

    def restart_child(self, id_: str, ticket: object, now: float) -> Effects:
        """Start a child that is down, and was to be.  Raises `ConfigError` when it was not."""
        child = self._find(id_)
        if child.alive or child.wanted:
            raise ConfigError(f"child {id_!r} is {child.state}, and to run")
        child.wanted = True
        child.on_started.append(ticket)
        return self._settle(now)

    def delete_child(self, id_: str) -> None:
        """Forget a child that is down.  Raises `ConfigError` when it is not, or not to be."""
        child = self._find(id_)
        if child.alive or child.wanted:
            raise ConfigError(f"child {id_!r} is {child.state}: terminate it first")
        del self._children[id_]

    def move(self, id_: str, now: float) -> Effects:
        """End a running child and start it again, which does not count as a restart."""
        child = self._find(id_)
        child.doomed = child.doomed or child.state == "running"
        return self._settle(now)

    # -- decisions ----------------------------------------------------------------------------

    def _settle(self, now: float) -> Effects:
        """Take the steps that the marks ask for, as far as they may be taken now."""
        everyone = list(self._children.values())
        effects: Effects = []
        if self._in_order and any(child.state == "stopping" for child in everyone):
            return effects
        for child in reversed(everyone):
            if child.doomed and child.state != "stopping":
                effects.append(self._stop(child, now))
                if self._in_order:
                    return effects
        if self._in_order and any(child.state == "starting" for child in everyone):
            return effects
        for child in everyone:
            if child.wanted and not child.alive:
                child.state = "starting"
                effects.append(Start(child.spec, again=child.lived))
                if self._in_order:
                    return effects
        if self._ending is not None and not self._finished:
            self._finished = not any(child.alive for child in everyone)
            if self._finished:
                effects.append(Finish(self._ending))
        return effects

    def _stop(self, child: _Child, now: float) -> Stop:
        child.state = "stopping"
        kill = child.spec.shutdown == "kill"
        child.deadline = math.inf if kill else now + child.spec.patience_s
        return Stop(child.spec.id, kill=kill)

    def _with(self, child: _Child) -> list[_Child]:
        """Those who are restarted together with a child."""
        everyone = list(self._children.values())
        match self._spec.strategy:
            case "one_for_one":
                return []
            case "one_for_all":
                return everyone
            case "rest_for_one":
                return everyone[everyone.index(child) + 1 :]

    def _too_many(self, now: float) -> bool:
        self._restarts.append(now)
        while self._restarts[0] < now - self._spec.period_s:
            self._restarts.popleft()
        return len(self._restarts) > self._spec.intensity

    def _give_up(self, why: str, now: float) -> Effects:
        reason = f"{SHUTDOWN}: {why}"
        return [GiveUp(reason), *self.end(reason, now)]

    def _met_its_end(self, child: _Child) -> Effects:
        """It is down, as it was meant to be."""
        child.doomed = False
        effects: Effects = [Answer(ticket, child.spec.id, None) for ticket in child.on_stopped]
        child.on_stopped.clear()
        if child.spec.restart == "temporary":
            effects += self._forget(child, SHUTDOWN)
        elif not child.wanted:
            effects += self._could_not_start(child, SHUTDOWN)
        return effects

    def _could_not_start(self, child: _Child, reason: str) -> Effects:
        """Say so to those who asked for it; it is not tried again."""
        child.wanted = False
        tickets = list(child.on_started)
        child.on_started.clear()
        return [Answer(ticket, child.spec.id, reason) for ticket in tickets]

    def _forget(self, child: _Child, reason: str) -> Effects:
        effects = self._could_not_start(child, reason)
        del self._children[child.spec.id]
        return effects

    def _find(self, id_: str) -> _Child:
        self._require_open()
        if id_ not in self._children:
            known = ", ".join(map(repr, self._children)) or "none"
            raise ConfigError(f"there is no child {id_!r}; there are: {known}")
        return self._children[id_]

    def _require_open(self) -> None:
        if self._ending is not None:
            raise ConfigError("the supervisor is ending")
