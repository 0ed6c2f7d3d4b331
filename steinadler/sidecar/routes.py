"""Which paths and verbs there are.  One table serves requests, metrics, the OpenAPI document and
the tests, so that none of them can know of what another does not.

Paths are split before they are decoded: an id may hold a slash, written %2F.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

from steinadler.sidecar.problems import Problem, malformed


class Operation(Enum):
    """What can be asked of a sidecar."""

    CALL = "call"
    STATE_GET = "get_state"
    STATE_CHANGE = "change_state"
    REMINDER_SET = "set_reminder"
    REMINDER_GET = "get_reminder"
    REMINDER_DELETE = "delete_reminder"
    TIMER_SET = "set_timer"
    TIMER_DELETE = "delete_timer"
    HEALTH = "health"
    HEALTH_OUTBOUND = "health_outbound"
    METADATA = "metadata"
    METRICS = "metrics"
    OPENAPI = "openapi"


# These are asked for by who watches over the sidecar, and tell nothing of any entity's state.
WITHOUT_TOKEN = frozenset(
    {Operation.HEALTH, Operation.HEALTH_OUTBOUND, Operation.METRICS, Operation.OPENAPI}
)

_ENTITY = "/v1.0/actors/{type}/{id}"
ROUTES: dict[str, dict[str, Operation]] = {
    f"{_ENTITY}/method/{{method}}": dict.fromkeys(("POST", "PUT", "GET", "DELETE"), Operation.CALL),
    f"{_ENTITY}/state/{{key}}": {"GET": Operation.STATE_GET},
    f"{_ENTITY}/state": dict.fromkeys(("POST", "PUT"), Operation.STATE_CHANGE),
    f"{_ENTITY}/reminders/{{name}}": {
        "POST": Operation.REMINDER_SET,
        "PUT": Operation.REMINDER_SET,
        "GET": Operation.REMINDER_GET,
        "DELETE": Operation.REMINDER_DELETE,
    },
    f"{_ENTITY}/timers/{{name}}": {
        "POST": Operation.TIMER_SET,
        "PUT": Operation.TIMER_SET,
        "DELETE": Operation.TIMER_DELETE,
    },
    "/v1.0/healthz": {"GET": Operation.HEALTH},
    "/v1.0/healthz/outbound": {"GET": Operation.HEALTH_OUTBOUND},
    "/v1.0/metadata": {"GET": Operation.METADATA},
    "/metrics": {"GET": Operation.METRICS},
    "/openapi.json": {"GET": Operation.OPENAPI},
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a request asks for, and of what."""

    operation: Operation
    arguments: dict[str, str]


def _pattern(path: str) -> tuple[str | None, ...]:
    return tuple(None if part.startswith("{") else part for part in path.split("/")[1:])


def _names(path: str) -> tuple[str, ...]:
    return tuple(part[1:-1] for part in path.split("/") if part.startswith("{"))


# By the number of segments: at most two patterns have the same.
_BY_LENGTH: dict[int, list[tuple[tuple[str | None, ...], tuple[str, ...], dict[str, Operation]]]]
_BY_LENGTH = {}
for _path, _verbs in ROUTES.items():
    _BY_LENGTH.setdefault(len(_pattern(_path)), []).append((_pattern(_path), _names(_path), _verbs))


def find(verb: str, raw_path: bytes) -> Found:
    """Read a request's verb and its path as it came, without its query.

    Raises `Problem`: 404 for no such path, 405 with `Allow` for no such verb, 400 for a part that
    is not UTF-8.
    """
    segments = raw_path.decode("latin-1").split("/")[1:]
    for pattern, names, verbs in _BY_LENGTH.get(len(segments), ()):
        values = []
        for expected, segment in zip(pattern, segments, strict=True):
            if expected is None:
                values.append(segment)
            elif expected != segment:
                break
        else:
            operation = verbs.get(verb)
            if operation is None:
                allowed = ", ".join(sorted(verbs))
                raise Problem(
                    "ERR_METHOD_NOT_ALLOWED",
                    f"this path takes {allowed}, not {verb[:20]}",
                    (("allow", allowed),),
                )
            return Found(operation, dict(zip(names, map(_decode, values), strict=True)))
    raise Problem("ERR_NOT_FOUND", "there is no such path; see /openapi.json for those there are")


def _decode(segment: str) -> str:
    try:
        text = unquote_to_bytes(segment.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise malformed("a part of the path is not UTF-8") from None
    if not text:
        raise malformed("a part of the path is empty")
    return text
