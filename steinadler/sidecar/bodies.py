"""What the JSON bodies of requests mean, in the entities' terms.  Sans-IO.

Values of the state are kept as JSON text.  Timers and reminders are sent back to the program as it
described them, so their descriptions are kept whole: a timer's in its argument, a reminder's in
its data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from steinadler.entity import requests
from steinadler.entity.behaviour import Timer
from steinadler.entity.store import Reminder
from steinadler.sidecar.durations import BadTime, read_due, read_period
from steinadler.sidecar.problems import malformed

# The first and the last second that a date can tell.
_EARLIEST = datetime.min.replace(tzinfo=UTC).timestamp()
_LATEST = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Changes:
    """A state transaction: what to set (None: delete), and which keys expire when."""

    values: dict[str, bytes | None]
    ttl_s: dict[str, float]


def read_json(body: bytes) -> Any:
    """Raises `Problem` 400 for what is not JSON: NaN, and numbers beyond all floats, included."""
    try:
        return requests.read_json(body)
    except ValueError as error:
        raise malformed(f"the body is not JSON: {error}") from None


def write_json(value: Any) -> bytes:
    """Short JSON, in ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def read_changes(body: bytes) -> Changes:
    """Read a state transaction; of several operations on one key the last counts.

    Raises `Problem` 400.
    """
    operations = read_json(body)
    if not isinstance(operations, list):
        raise malformed("a transaction is a list of operations")
    changes = Changes({}, {})
    for operation in operations:
        match operation:
            case {"operation": "upsert", "request": {"key": str(key)} as request}:
                changes.values[_key(key)] = write_json(request.get("value"))
                changes.ttl_s.pop(key, None)
                ttl_s = _ttl(request.get("metadata"))
                if ttl_s is not None:
                    changes.ttl_s[key] = ttl_s
            case {"operation": "delete", "request": {"key": str(key)}}:
                changes.values[_key(key)] = None
                changes.ttl_s.pop(key, None)
            case _:
                raise malformed(
                    'an operation is {"operation": "upsert" or "delete", "request": {"key": ...}}'
                )
    return changes


def _key(key: str) -> str:
    try:
        if key and key.encode():
            return key
    except UnicodeEncodeError:
        pass
    raise malformed("a key of the state is text, and not empty")


def _ttl(metadata: Any) -> float | None:
    """`ttlInSeconds`, a number or its text; -1 is for ever."""
    if not isinstance(metadata, dict) or metadata.get("ttlInSeconds") is None:
        if metadata is not None and not isinstance(metadata, dict):
            raise malformed("metadata is an object")
        return None
    told = metadata["ttlInSeconds"]
    try:
        seconds = int(told) if isinstance(told, (str, int)) and not isinstance(told, bool) else 0
    except ValueError:
        seconds = 0
    if seconds == -1:
        return None
    if not 0 < seconds <= 10**10:
        raise malformed("ttlInSeconds is a whole number of seconds above zero, or -1")
    return float(seconds)


def read_timer(name: str, body: bytes, now: float) -> Timer:
    """Read a timer; its argument is the body of the turns it will start.

    `now` is in seconds since 1970.  Raises `Problem` 400.
    """
    told = _Description(body, now)
    document = {"callback": told.text("callback") or "", **told.document()}
    return Timer(
        name,
        told.due_s,
        name,
        write_json(document),
        told.period.every_s,
        told.period.repeats,
        told.ttl_s,
    )


def read_reminder(name: str, body: bytes, now: float) -> Reminder:
    """Read a reminder; its data is the body of the turns it will start.  Raises `Problem` 400."""
    told = _Description(body, now)
    return Reminder(
        name,
        now + told.due_s,
        told.period.every_s,
        told.period.repeats,
        None if told.ttl_s is None else now + told.ttl_s,
        write_json(told.document()),
    )


def describe_reminder(reminder: Reminder) -> bytes:
    """A reminder as it was set, but due at its next time, as a point in time.

    One set by an entity that is no program behind a sidecar may be due when no date can tell, and
    is then told as due at the nearest one that can.
    """
    try:
        document = requests.read_json(reminder.data)
    except ValueError:  # set by such an entity
        document = {}
    due_at = min(max(reminder.due_at, _EARLIEST), _LATEST)
    due = datetime.fromtimestamp(due_at, UTC).isoformat().replace("+00:00", "Z")
    return write_json({**(document if isinstance(document, dict) else {}), "dueTime": due})


class _Description:
    """What timers and reminders have in common."""

    def __init__(self, body: bytes, now: float) -> None:
        told = read_json(body) if body else {}
        if not isinstance(told, dict):
            raise malformed("a timer or reminder is a JSON object")
        self._told = told
        try:
            self.due_s = read_due(self.text("dueTime"), now)
            self.period = read_period(self.text("period"))
            ttl = self.text("ttl")
            self.ttl_s = read_due(ttl, now) if ttl else None
        except BadTime as error:
            raise malformed(str(error)) from None
        if self.ttl_s is not None and self.ttl_s <= self.due_s:
            raise malformed("it would expire before it is due: ttl counts from now, as dueTime")

    def text(self, field: str) -> str | None:
        value = self._told.get(field)
        if value is not None and not isinstance(value, str):
            raise malformed(f"{field} is a text")
        return value

    def document(self) -> dict[str, Any]:
        """What the program is sent.  The SDKs expect these three, whatever was set."""
        document: dict[str, Any] = {
            "data": self._told.get("data"),
            "dueTime": self.text("dueTime") or "0s",
            "period": self.text("period") or "",
        }
        if ttl := self.text("ttl"):
            document["ttl"] = ttl
        return document
