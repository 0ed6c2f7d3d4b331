"""Who is passivated when, and what is cut when: no clock but the one that is told."""

from __future__ import annotations

from typing import Any

import pytest

from steinadler.config import EntitySettings
from steinadler.entity.active import Entity
from steinadler.entity.sweeping import IdleEntities, limit_of
from steinadler.entity.turns import State
from steinadler.identity import EntityKey

SETTINGS = EntitySettings(turn_timeout_s=60, drain_s=10)


class Behaves:
    idle_s = 100.0
    drain_s = float("inf")


def entity(state: State = State.IDLE, *, used_at: float = 0.0) -> Entity:
    host: Any = None
    behaviour: Any = Behaves()
    one = Entity(EntityKey("Counter", "1"), behaviour, host)
    one.turns.state = state
    one.used_at = used_at
    return one


def test_an_entity_is_due_when_it_was_idle_for_its_time() -> None:
    idle, one = IdleEntities(1.0), entity()
    idle.add(one, 0.0)
    assert idle.due(99.9, 10) == []
    assert idle.due(100.0, 10) == [one]
    assert len(idle) == 0


def test_one_that_was_used_is_looked_at_again_and_no_sooner() -> None:
    idle, one = IdleEntities(1.0), entity(used_at=60.0)
    idle.add(one, 0.0)
    assert idle.due(100.0, 10) == []
    assert idle.due(159.9, 10) == []
    assert idle.due(160.0, 10) == [one]


def test_one_that_runs_is_kept_and_one_that_is_gone_is_forgotten() -> None:
    idle, busy, gone = IdleEntities(1.0), entity(State.RUNNING), entity(State.DORMANT)
    idle.add(busy, 0.0)
    idle.add(gone, 0.0)
    assert idle.due(100.0, 10) == []
    assert len(idle) == 1
    busy.turns.state = State.IDLE
    assert idle.due(100.5, 10) == []  # not before the next sweep
    assert idle.due(101.0, 10) == [busy]


def test_no_more_than_there_is_room_for() -> None:
    idle, several = IdleEntities(1.0), [entity() for _ in range(5)]
    for one in several:
        idle.add(one, 0.0)
    assert idle.due(100.0, 2) == several[:2]
    assert idle.due(100.0, 0) == []
    assert idle.due(100.0, 10) == several[2:]


@pytest.mark.parametrize("state", State)
def test_a_turn_has_its_time_and_what_is_to_go_has_less(state: State) -> None:
    one = entity(state)
    one.going_since = 3.0
    match state:
        case State.UNWANTED | State.LAST_TURN | State.LOST_TURN:
            assert limit_of(one, 5.0, SETTINGS) == 13.0  # since it is to go
        case State.PASSIVATING | State.LEAVING:
            assert limit_of(one, 5.0, SETTINGS) == 15.0  # since it began
        case _:
            assert limit_of(one, 5.0, SETTINGS) == 65.0


def test_a_type_may_give_its_last_turns_less_time_than_the_node() -> None:
    one = entity(State.LAST_TURN)
    one.going_since = 3.0
    one.behaviour.drain_s = 2.0
    assert limit_of(one, 5.0, SETTINGS) == 5.0
    one.behaviour.drain_s = 99.0
    assert limit_of(one, 5.0, SETTINGS) == 13.0
