"""What time does to entities: the idle are passivated, and what takes too long is cut.

Passivation is one entry for each entity in a heap, looked at when it may be due and put back when
there were turns in between; so a turn pays nothing for it.
"""

from __future__ import annotations

from steinadler.config import EntitySettings
from steinadler.entity.active import Entity
from steinadler.entity.agenda import Agenda
from steinadler.entity.turns import State


class IdleEntities:
    """Which entities may have been idle for long enough; `sweep_s` is how often that is asked."""

    def __init__(self, sweep_s: float) -> None:
        self._sweep_s = sweep_s
        # By when each may have been idle for long enough.
        self._agenda: Agenda[Entity] = Agenda(_is_here)

    def __len__(self) -> int:
        return len(self._agenda)

    def add(self, entity: Entity, now: float) -> None:
        """It was activated."""
        self._agenda.add(now + entity.behaviour.idle_s, entity)

    def due(self, now: float, room: int) -> list[Entity]:
        """Those that are to be passivated now, `room` at most.  They are not told of again."""
        found: list[Entity] = []
        while len(found) < room and (entity := self._agenda.take(now)) is not None:
            due = entity.used_at + entity.behaviour.idle_s
            if entity.turns.state is State.IDLE and due <= now:
                found.append(entity)
            else:
                self._agenda.add(max(due, now + self._sweep_s), entity)
        return found


def _is_here(entity: Entity) -> bool:
    return entity.turns.state is not State.DORMANT


def limit_of(entity: Entity, since: float, settings: EntitySettings) -> float:
    """When that which is being done for an entity is cut short, begun at `since` at the latest."""
    match entity.turns.state:
        case State.UNWANTED | State.LAST_TURN | State.LOST_TURN:
            return entity.going_since + min(settings.drain_s, entity.behaviour.drain_s)
        case State.PASSIVATING | State.LEAVING:
            return since + settings.drain_s
        case _:
            return since + settings.turn_timeout_s
