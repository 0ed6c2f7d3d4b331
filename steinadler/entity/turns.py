"""What one entity does next: its states, as a table, and the calls that wait for it.

    DORMANT      not here
    ACTIVATING   taking the epoch and reading the state
    UNWANTED     the same, but it is to go again as soon as it is active
    IDLE         active, with nothing to do
    RUNNING      a turn runs
    LAST_TURN    a turn runs, and then the entity goes
    LOST_TURN    a turn runs, and the entity is no longer ours (its epoch is stale)
    PASSIVATING  being deactivated for want of calls: who calls now waits, and activates it again
    LEAVING      being deactivated because it goes elsewhere: who calls now is sent on

An input moves the entity to its next state and says what is to be done; doing it is the host's,
which reports back with another input.  One thing at a time is being done for an entity, so turns
never overlap (E1).  Calls wait in the order in which they came.  "Sent on" is an answer that says
that nothing ran, so the caller's node may try elsewhere without anything running twice (E3).

A lock for each entity was refused: with it, the order of calls, what happens to those that wait
when the entity moves, and that a lock is given back would be up to whoever holds it.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum, auto
from typing import Generic, NamedTuple, Protocol, TypeVar

from steinadler.errors import LocalProtocolError


class State(IntEnum):
    """Where an entity stands: see the table above."""

    DORMANT = auto()
    ACTIVATING = auto()
    UNWANTED = auto()
    IDLE = auto()
    RUNNING = auto()
    LAST_TURN = auto()
    LOST_TURN = auto()
    PASSIVATING = auto()
    LEAVING = auto()


class Input(IntEnum):
    """What happens to an entity."""

    ARRIVE = auto()  # a call came
    ACTIVATED = auto()
    ACTIVATION_FAILED = auto()
    TURN_ENDED = auto()
    DEACTIVATED = auto()
    LEAVE = auto()  # its owner is another now, or asks for it, or this node drains
    IDLE_TIMEOUT = auto()
    LOSE = auto()  # its epoch is stale, or what is held of it may not be what the store holds


class Action(IntEnum):
    """What is to be done."""

    NOTHING = 0
    WAIT = auto()  # of a call: it is in the queue now
    ACTIVATE = auto()
    RUN = auto()  # the turn of the call that waits longest
    DEACTIVATE = auto()  # and let go of it in the store
    DISCARD = auto()  # deactivate, and leave the store alone
    SEND_ON = auto()  # everybody who waits, or the call that came
    FAIL = auto()  # everybody who waits, with the error
    REFUSE = auto()  # the call that came: too many wait


class _Rule(NamedTuple):
    """Where to, and what to do there; `state_2` and `action_2` when somebody waits."""

    state: State
    action: Action = Action.NOTHING
    state_2: State | None = None
    action_2: Action = Action.NOTHING


_S, _I, _A = State, Input, Action

# An input that is not listed for a state cannot happen there.
TABLE: dict[State, dict[Input, _Rule]] = {
    _S.DORMANT: {
        _I.ARRIVE: _Rule(_S.ACTIVATING, _A.ACTIVATE),
        _I.LEAVE: _Rule(_S.DORMANT),
        _I.IDLE_TIMEOUT: _Rule(_S.DORMANT),
        _I.LOSE: _Rule(_S.DORMANT),
    },
    _S.ACTIVATING: {
        _I.ARRIVE: _Rule(_S.ACTIVATING, _A.WAIT),
        _I.ACTIVATED: _Rule(_S.IDLE, _A.NOTHING, _S.RUNNING, _A.RUN),
        _I.ACTIVATION_FAILED: _Rule(_S.DORMANT, _A.FAIL),
        _I.LEAVE: _Rule(_S.UNWANTED, _A.SEND_ON),
        _I.IDLE_TIMEOUT: _Rule(_S.ACTIVATING),
        _I.LOSE: _Rule(_S.ACTIVATING),
    },
    _S.UNWANTED: {
        _I.ARRIVE: _Rule(_S.UNWANTED, _A.SEND_ON),
        _I.ACTIVATED: _Rule(_S.LEAVING, _A.DEACTIVATE),
        _I.ACTIVATION_FAILED: _Rule(_S.DORMANT),
        _I.LEAVE: _Rule(_S.UNWANTED),
        _I.IDLE_TIMEOUT: _Rule(_S.UNWANTED),
        _I.LOSE: _Rule(_S.UNWANTED),
    },
    _S.IDLE: {
        _I.ARRIVE: _Rule(_S.RUNNING, _A.RUN),
        _I.LEAVE: _Rule(_S.LEAVING, _A.DEACTIVATE),
        _I.IDLE_TIMEOUT: _Rule(_S.PASSIVATING, _A.DEACTIVATE),
        _I.LOSE: _Rule(_S.LEAVING, _A.DISCARD),
    },
    _S.RUNNING: {
        _I.ARRIVE: _Rule(_S.RUNNING, _A.WAIT),
        _I.TURN_ENDED: _Rule(_S.IDLE, _A.NOTHING, _S.RUNNING, _A.RUN),
        _I.LEAVE: _Rule(_S.LAST_TURN, _A.SEND_ON),
        _I.IDLE_TIMEOUT: _Rule(_S.RUNNING),
        _I.LOSE: _Rule(_S.LOST_TURN, _A.SEND_ON),
    },
    _S.LAST_TURN: {
        _I.ARRIVE: _Rule(_S.LAST_TURN, _A.SEND_ON),
        _I.TURN_ENDED: _Rule(_S.LEAVING, _A.DEACTIVATE),
        _I.LEAVE: _Rule(_S.LAST_TURN),
        _I.IDLE_TIMEOUT: _Rule(_S.LAST_TURN),
        _I.LOSE: _Rule(_S.LOST_TURN),
    },
    _S.LOST_TURN: {
        _I.ARRIVE: _Rule(_S.LOST_TURN, _A.SEND_ON),
        _I.TURN_ENDED: _Rule(_S.LEAVING, _A.DISCARD),
        _I.LEAVE: _Rule(_S.LOST_TURN),
        _I.IDLE_TIMEOUT: _Rule(_S.LOST_TURN),
        _I.LOSE: _Rule(_S.LOST_TURN),
    },
    _S.PASSIVATING: {
        _I.ARRIVE: _Rule(_S.PASSIVATING, _A.WAIT),
        _I.DEACTIVATED: _Rule(_S.DORMANT, _A.NOTHING, _S.ACTIVATING, _A.ACTIVATE),
        _I.LEAVE: _Rule(_S.LEAVING, _A.SEND_ON),
        _I.IDLE_TIMEOUT: _Rule(_S.PASSIVATING),
        _I.LOSE: _Rule(_S.PASSIVATING),
    },
    _S.LEAVING: {
        _I.ARRIVE: _Rule(_S.LEAVING, _A.SEND_ON),
        _I.DEACTIVATED: _Rule(_S.DORMANT),
        _I.LEAVE: _Rule(_S.LEAVING),
        _I.IDLE_TIMEOUT: _Rule(_S.LEAVING),
        _I.LOSE: _Rule(_S.LEAVING),
    },
}


class Waiting(Protocol):
    """A call that can wait.  `size` is in bytes; after `deadline` nobody waits for its answer."""

    size: int
    deadline: float


_W = TypeVar("_W", bound=Waiting)


class Turns(Generic[_W]):
    """One entity: its state, and the calls that wait for their turn."""

    __slots__ = ("_bytes", "_calls", "state")

    def __init__(self) -> None:
        self.state = State.DORMANT
        # Made when somebody waits: an empty deque takes more than all the rest of an idle entity.
        self._calls: deque[_W] | None = None
        self._bytes = 0

    def __len__(self) -> int:
        """How many calls wait, the one whose turn is about to begin included."""
        return len(self._calls) if self._calls is not None else 0

    def handle(self, event: Input) -> Action:
        """Take in what happened, and say what to do.

        After `SEND_ON` and `FAIL`, `take_all` has those that waited.  Raises `LocalProtocolError`
        for what cannot happen in this state.
        """
        rule = TABLE[self.state].get(event)
        if rule is None:
            raise LocalProtocolError(f"{event.name} in state {self.state.name}")
        if rule.state_2 is not None and self._calls:
            self.state = rule.state_2
            return rule.action_2
        self.state = rule.state
        return rule.action

    def arrive(self, call: _W, max_calls: int, max_bytes: int) -> Action:
        """A call came.  It waits, unless the answer is `SEND_ON` or `REFUSE`.

        It is refused when `max_calls` wait, or `max_bytes` with it; one call alone may be larger.
        """
        rule = TABLE[self.state][Input.ARRIVE]
        if rule.action is Action.SEND_ON:
            return Action.SEND_ON
        if self._calls is None:
            self._calls = deque()
        elif len(self._calls) >= max_calls or self._bytes + call.size > max_bytes:
            return Action.REFUSE
        self._calls.append(call)
        self._bytes += call.size
        self.state = rule.state
        return rule.action

    def next(self, now: float) -> tuple[_W | None, list[_W]]:
        """The call whose turn it is, and those before it whose callers no longer wait."""
        late: list[_W] = []
        while self._calls:
            call = self._calls.popleft()
            self._bytes -= call.size
            if not self._calls:
                self._calls = None
            if call.deadline > now:
                return call, late
            late.append(call)
        return None, late

    def withdraw(self, call: _W) -> bool:
        """Its caller gave up; False when it does not wait any more."""
        if self._calls is None or call not in self._calls:
            return False
        self._calls.remove(call)
        self._bytes -= call.size
        if not self._calls:
            self._calls = None
        return True

    def take_all(self) -> list[_W]:
        """Take everybody who waits."""
        calls, self._calls, self._bytes = self._calls, None, 0
        return list(calls or ())
