"""The times of timers and reminders, as the SDKs write them.  Sans-IO: reads no clock.

    duration   Go: "1h30m", "0h0m0s100ms0µs", "0.1s"; ISO 8601: "PT0.1S", "P1DT2H", "P2W"
    period     a duration, or with a number of runs in all: "R5/PT10S"; none, "" and zero: once
    due        a duration from now, or a point in time, RFC 3339: "2030-01-02T03:04:05Z"; none: now

Both spellings of micro are read (U+00B5 and U+03BC), and ISO durations in lower case: the SDKs send
them.  Years and months are refused: they have no length.  So is whatever is negative, longer than
a hundred years, or a period below a millisecond, which would be a loop.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

LONGEST_S = 100 * 365 * 86400.0
SHORTEST_PERIOD_S = 0.001
MOST_REPEATS = 1_000_000_000
# No duration that anybody writes is longer; what is is not worth reading.
_MAX_LENGTH = 100

_UNITS_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_GO_PART = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)")
_GO = re.compile(rf"(?:{_GO_PART.pattern})+\Z")
_ISO = re.compile(
    rf"P(?:({_NUMBER})W)?(?:({_NUMBER})D)?"
    rf"(?:T(?=.)(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER})S)?)?\Z",
    re.IGNORECASE,
)
_ISO_UNITS_S = (7 * 86400.0, 86400.0, 3600.0, 60.0, 1.0)
_REPEATS = re.compile(r"R([0-9]*)/(.+)\Z", re.IGNORECASE)


class BadTime(ValueError):
    """The text is not one of the above; says what it is and what to write."""


@dataclass(frozen=True, slots=True)
class Period:
    """How a timer goes on after its first run.

    Every `every_s` seconds (None: not at all), `repeats` further times (None: without end).
    """

    every_s: float | None = None
    repeats: int | None = None


def read_duration(text: str) -> float:
    """Seconds.  Raises `BadTime`."""
    if len(text) > _MAX_LENGTH:
        raise BadTime(f"{text[:40]!r}... is too long for a duration")
    if text == "0":
        return 0.0
    if _GO.match(text):
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _GO_PART.findall(text))
    elif (iso := _ISO.match(text)) and any(iso.groups()):
        seconds = sum(
            float(number) * unit
            for number, unit in zip(iso.groups(), _ISO_UNITS_S, strict=True)
            if number is not None
        )
    else:
        raise BadTime(f'{text!r} is not a duration: write "1m30s", "0.1s" or "PT1M30S"')
    if not seconds <= LONGEST_S:
        raise BadTime(f"{text!r} is longer than 100 years")
    return seconds


def read_period(text: str | None) -> Period:
    """How to go on.  Raises `BadTime`."""
    if not text:
        return Period()
    if (counted := _REPEATS.match(text)) is None or len(text) > _MAX_LENGTH:
        every_s = read_duration(text)
        if every_s == 0:
            return Period()
        return Period(_not_too_short(every_s, text))
    every_s = _not_too_short(read_duration(counted[2]), text)
    if not counted[1]:
        return Period(every_s)
    runs = int(counted[1])
    if not 0 < runs <= MOST_REPEATS:
        raise BadTime(f"{text!r}: the number of runs is from 1 to {MOST_REPEATS}")
    return Period(every_s, runs - 1) if runs > 1 else Period()


def read_due(text: str | None, now: float) -> float:
    """Seconds from `now` (seconds since 1970): not below zero.  Raises `BadTime`."""
    if not text:
        return 0.0
    if "-" not in text or len(text) > _MAX_LENGTH:
        return read_duration(text)
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise BadTime(f'{text!r} has no time zone: write "2030-01-02T03:04:05Z"')
        seconds = at.timestamp() - now
    except (ValueError, OverflowError) as error:
        if isinstance(error, BadTime):
            raise
        raise BadTime(
            f'{text!r} is neither a duration nor a time: write "1m30s" or "2030-01-02T03:04:05Z"'
        ) from None
    if seconds > LONGEST_S:
        raise BadTime(f"{text!r} is more than 100 years away")
    return max(0.0, seconds)


def _not_too_short(seconds: float, text: str) -> float:
    if seconds < SHORTEST_PERIOD_S:
        raise BadTime(f"{text!r}: a period is at least a millisecond")
    return seconds
