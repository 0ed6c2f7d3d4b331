"""The clocks of suspects: until when each may say that it lives.

How long that is depends on who has accused it and on who else could (`timing`): any of its
neighbours, since they are the ones that probe it, and in a mesh these are all members.  A new
accuser counts at once.  That others have become suspects themselves, and will confirm nothing,
counts from the next probe round on, and when the time is up: computing all verdicts anew with
every suspicion would take a node seconds when a network of a thousand members breaks in two.
"""

from __future__ import annotations

from collections.abc import Iterable

from steinadler.config import MembershipSettings
from steinadler.membership import timing
from steinadler.membership.table import Table


class Suspicions:
    """The suspects, by name, each with the time of its verdict."""

    def __init__(self, table: Table, settings: MembershipSettings) -> None:
        self._table = table
        self._settings = settings
        self._since: dict[str, float] = {}
        self._verdict_at: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._since

    def start(self, name: str, now: float) -> None:
        """Start, or start again, the time that a suspect has."""
        self._since[name] = now
        self.reckon(name)

    def lasts_for(self, name: str, now: float) -> float:
        """For how long it is a suspect, or was not heard from since it is one."""
        return now - self._since.get(name, now)

    def clear(self, name: str) -> None:
        """It is no suspect."""
        self._since.pop(name, None)
        self._verdict_at.pop(name, None)

    def reckon(self, name: str) -> None:
        """Compute the time of a suspect's verdict."""
        entry = self._table.find(name)
        accusers = 0 if entry is None else len(entry.member.accusers)
        unsuspected = sum(
            other not in self._since for other in self._table.overlay.neighbours_of(name)
        )
        timeout = timing.suspicion_timeout_s(self._settings, accusers, max(0, unsuspected - 1))
        self._verdict_at[name] = self._since[name] + timeout

    def reckon_all(self) -> None:
        """Compute the times of all verdicts."""
        for name in self._since:
            self.reckon(name)

    def postpone(self, seconds: float) -> None:
        """Give every suspect more time."""
        for clocks in (self._since, self._verdict_at):
            for name in clocks:
                clocks[name] += seconds

    def deadlines(self) -> Iterable[float]:
        """When each verdict falls."""
        return self._verdict_at.values()

    def due(self, now: float) -> dict[str, float]:
        """Whose time is up, and when it was."""
        for name in [name for name, at in self._verdict_at.items() if at <= now]:
            self.reckon(name)
        return {name: at for name, at in self._verdict_at.items() if at <= now}
