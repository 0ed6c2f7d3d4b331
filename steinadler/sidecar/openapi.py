"""The OpenAPI document, served at /openapi.json.

Paths and verbs come from `routes` and statuses from `problems`, so it cannot tell of what is not
served; what each operation means is said here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from steinadler.sidecar.problems import STATUS_OF
from steinadler.sidecar.routes import ROUTES, WITHOUT_TOKEN, Operation

_ANY: dict[str, Any] = {"*/*": {"schema": {}}}
_COMMON = ("ERR_MALFORMED_REQUEST", "ERR_API_TOKEN", "ERR_DRAINING", "ERR_INTERNAL")
_OWN_TURN = ("ERR_ACTOR_NOT_ACTIVE", "ERR_ACTOR_STALE_OWNER", "ERR_STATE_STORE")
_ROUTED = (
    "ERR_PERMISSION_DENIED",
    "ERR_ACTOR_TYPE_NOT_FOUND",
    "ERR_ACTOR_STALE_OWNER",
    "ERR_ACTOR_HOST_FAILED",
    "ERR_ACTOR_UNAVAILABLE",
    "ERR_STATE_STORE",
    "ERR_ACTOR_TIMEOUT",
)

_WITH_DEADLINE = (
    Operation.CALL,
    Operation.REMINDER_SET,
    Operation.REMINDER_GET,
    Operation.REMINDER_DELETE,
)


def _ref(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


@dataclass(frozen=True, slots=True)
class _About:
    """What is said of an operation."""

    summary: str
    codes: tuple[str, ...] = ()
    # Status, what it means, and the content, if any.
    answers: tuple[tuple[str, str, dict[str, Any] | None], ...] = (("204", "Done.", None),)
    body: dict[str, Any] | None = None


_ABOUT: dict[Operation, _About] = {
    Operation.CALL: _About(
        "Call an entity, wherever in the cluster it lives.",
        (*_ROUTED, "ERR_ACTOR_METHOD_NOT_FOUND", "ERR_ACTOR_INVOKE_METHOD", "ERR_BODY_TOO_LARGE"),
        (
            ("200", "The program's answer, as it is.", _ANY),
            ("4XX", "The program's own, as it is; or a problem.", _ANY),
        ),
        _ANY,
    ),
    Operation.STATE_GET: _About(
        "Read a key of the state, in a turn of the entity.",
        _OWN_TURN,
        (
            ("200", "The value.", {"application/json": {"schema": {}}}),
            ("204", "It is not set.", None),
        ),
    ),
    Operation.STATE_CHANGE: _About(
        "Change keys of the state, all or nothing, in a turn of the entity.",
        (*_OWN_TURN, "ERR_BODY_TOO_LARGE"),
        body=_ref("Transaction"),
    ),
    Operation.REMINDER_SET: _About(
        "Set a durable timer.", (*_ROUTED, "ERR_BODY_TOO_LARGE"), body=_ref("Reminder")
    ),
    Operation.REMINDER_GET: _About(
        "Look at a reminder.",
        (*_ROUTED, "ERR_ACTOR_REMINDER_NOT_FOUND"),
        (("200", "The reminder; dueTime is its next time.", _ref("Reminder")),),
    ),
    Operation.REMINDER_DELETE: _About("Delete a reminder, if there is one.", _ROUTED),
    Operation.TIMER_SET: _About(
        "Set a timer that lives with the activation, in a turn of the entity.",
        ("ERR_ACTOR_NOT_ACTIVE", "ERR_ACTOR_STALE_OWNER", "ERR_BODY_TOO_LARGE"),
        body=_ref("Timer"),
    ),
    Operation.TIMER_DELETE: _About(
        "Delete a timer, if there is one, in a turn of the entity.", ("ERR_ACTOR_NOT_ACTIVE",)
    ),
    Operation.HEALTH: _About(
        "Whether the sidecar serves and its program is there.", ("ERR_NOT_READY",)
    ),
    Operation.HEALTH_OUTBOUND: _About("Whether the sidecar serves.", ("ERR_NOT_READY",)),
    Operation.METADATA: _About(
        "Name, version, and the active entities by type.",
        answers=(("200", "The metadata.", _ref("Metadata")),),
    ),
    Operation.METRICS: _About(
        "Figures for Prometheus.",
        answers=(("200", "The metrics.", {"text/plain": {"schema": {"type": "string"}}}),),
    ),
    Operation.OPENAPI: _About(
        "This document.",
        answers=(("200", "The document.", {"application/json": {"schema": {"type": "object"}}}),),
    ),
}

_TIMES = {
    "dueTime": {
        "type": "string",
        "description": 'From now: "1m30s", "0.1s", "PT1M30S"; or when: "2030-01-02T03:04:05Z".',
    },
    "period": {
        "type": "string",
        "description": 'As a duration; "R5/PT10S" for five runs in all. Without, it runs once.',
    },
    "ttl": {"type": "string", "description": "When it ends, as dueTime."},
    "data": {"description": "What the program is given when it is due."},
}

_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "required": ["errorCode", "message"],
        "properties": {
            "errorCode": {"type": "string", "enum": sorted(STATUS_OF)},
            "message": {"type": "string"},
        },
    },
    "Transaction": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["operation", "request"],
            "properties": {
                "operation": {"type": "string", "enum": ["upsert", "delete"]},
                "request": {
                    "type": "object",
                    "required": ["key"],
                    "properties": {
                        "key": {"type": "string", "minLength": 1},
                        "value": {},
                        "metadata": {
                            "type": "object",
                            "properties": {
                                "ttlInSeconds": {"oneOf": [{"type": "string"}, {"type": "integer"}]}
                            },
                        },
                    },
                },
            },
        },
    },
    "Reminder": {"type": "object", "properties": _TIMES},
    "Timer": {"type": "object", "properties": {**_TIMES, "callback": {"type": "string"}}},
    "Metadata": {
        "type": "object",
        "required": ["id", "runtimeVersion", "actors", "extended"],
        "properties": {
            "id": {"type": "string"},
            "runtimeVersion": {"type": "string"},
            "actors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["type", "count"],
                    "properties": {"type": {"type": "string"}, "count": {"type": "integer"}},
                },
            },
            "extended": {"type": "object"},
        },
    },
}


@cache
def document(version: str) -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Steinadler sidecar",
            "version": version,
            "description": "Entities behind a sidecar: the Dapr actors HTTP API.",
        },
        "paths": {path: _path(path, verbs) for path, verbs in ROUTES.items()},
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "dapr-api-token"}
            },
        },
    }


def _path(path: str, verbs: dict[str, Operation]) -> dict[str, Any]:
    parameters = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in path.split("/")
        if part.startswith("{")
    ]
    made: dict[str, Any] = {"parameters": parameters} if parameters else {}
    for verb, operation in verbs.items():
        made[verb.lower()] = _operation(verb, operation)
    return made


def _operation(verb: str, operation: Operation) -> dict[str, Any]:
    about = _ABOUT[operation]
    common = () if operation in WITHOUT_TOKEN else _COMMON
    by_status: dict[str, list[str]] = {}
    for code in (*common, *about.codes):
        by_status.setdefault(str(STATUS_OF[code]), []).append(code)
    responses: dict[str, Any] = {
        status: {"description": ", ".join(codes), "content": _ref("Problem")}
        for status, codes in sorted(by_status.items())
    }
    for status, text, content in about.answers:
        responses[status] = {"description": text}
        if content is not None:
            responses[status]["content"] = content
    made: dict[str, Any] = {
        "operationId": f"{operation.value}_{verb.lower()}",
        "summary": about.summary,
        "responses": responses,
    }
    if operation not in WITHOUT_TOKEN:
        made["security"] = [{"token": []}, {}]
    if operation in _WITH_DEADLINE:
        made["parameters"] = [
            {
                "name": "Steinadler-Timeout-Ms",
                "in": "header",
                "schema": {"type": "integer", "minimum": 1},
                "description": "How long the caller waits.  A call tells the program what is left.",
            }
        ]
    if about.body is not None and verb in ("POST", "PUT"):
        made["requestBody"] = {"content": about.body}
    return made
