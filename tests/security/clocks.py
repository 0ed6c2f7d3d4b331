"""The time of day, as these tests tell it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

NOON = datetime(2031, 5, 1, 12, tzinfo=UTC)


class Clock:
    """A wall clock that a test moves; it starts at noon."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def forward(self, by: timedelta) -> None:
        self.now += by
