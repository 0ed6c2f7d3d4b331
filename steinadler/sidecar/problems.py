"""What goes wrong, as HTTP tells it: one status and one fixed code for each kind.

The body is always `{"errorCode": CODE, "message": TEXT}`; codes never change, texts may.  Only 503
with `Retry-After` says that nothing ran and the same request may be made again; after 502, 504 and
409, and after 503 without it, the turn may have run (E3).
"""

from __future__ import annotations

import json

from steinadler.errors import (
    ConfigError,
    DeliveryError,
    EntityError,
    EntityHostFailed,
    EntityTimedOut,
    EntityUnavailable,
    MailboxFull,
    MessageTooLarge,
    NodeClosed,
    NoSuchCommand,
    NoSuchEntityType,
    NotAuthorized,
    NotEncodable,
    RemoteError,
    StaleEpoch,
    StateTooLarge,
    SteinadlerError,
    StoreUnavailable,
)

# Every code, with its status: docs/sidecar.md and the OpenAPI document tell them all.
STATUS_OF = {
    "ERR_MALFORMED_REQUEST": 400,
    "ERR_API_TOKEN": 401,
    "ERR_PERMISSION_DENIED": 403,
    "ERR_NOT_FOUND": 404,
    "ERR_ACTOR_TYPE_NOT_FOUND": 404,
    "ERR_ACTOR_METHOD_NOT_FOUND": 404,
    "ERR_ACTOR_REMINDER_NOT_FOUND": 404,
    "ERR_METHOD_NOT_ALLOWED": 405,
    "ERR_ACTOR_NOT_ACTIVE": 409,
    "ERR_ACTOR_STALE_OWNER": 409,
    "ERR_BODY_TOO_LARGE": 413,
    "ERR_ACTOR_INVOKE_METHOD": 500,
    "ERR_NOT_READY": 500,
    "ERR_INTERNAL": 500,
    "ERR_ACTOR_HOST_FAILED": 502,
    "ERR_ACTOR_UNAVAILABLE": 503,
    "ERR_DRAINING": 503,
    "ERR_STATE_STORE": 503,
    "ERR_ACTOR_TIMEOUT": 504,
}
# After these nothing has run.
_AGAIN = ("ERR_ACTOR_UNAVAILABLE", "ERR_DRAINING")
RETRY_AFTER_S = 1


class Problem(Exception):
    """A request that is answered with one of the codes above."""

    def __init__(self, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS_OF[code]
        self.headers = headers
        if code in _AGAIN:
            self.headers = (*headers, ("retry-after", str(RETRY_AFTER_S)))

    @property
    def body(self) -> bytes:
        """The JSON that tells it."""
        return json.dumps({"errorCode": self.code, "message": str(self)}).encode()


def malformed(message: str) -> Problem:
    """The request makes no sense; the text says what to change."""
    return Problem("ERR_MALFORMED_REQUEST", message)


def problem_of(error: SteinadlerError) -> Problem:
    """What a caller is told of what the library raised."""
    text = str(error)
    match error:
        case NoSuchEntityType():
            return Problem("ERR_ACTOR_TYPE_NOT_FOUND", text)
        case NoSuchCommand():
            return Problem("ERR_ACTOR_METHOD_NOT_FOUND", text)
        case EntityHostFailed():
            return Problem("ERR_ACTOR_HOST_FAILED", text)
        case EntityTimedOut():
            return Problem("ERR_ACTOR_TIMEOUT", text)
        case EntityUnavailable():
            return Problem("ERR_ACTOR_UNAVAILABLE", text)
        case StaleEpoch():
            return Problem("ERR_ACTOR_STALE_OWNER", text)
        case StoreUnavailable():
            return Problem("ERR_STATE_STORE", text)
        case MessageTooLarge() | StateTooLarge():
            return Problem("ERR_BODY_TOO_LARGE", text)
        case MailboxFull():
            return Problem("ERR_ACTOR_UNAVAILABLE", text)
        case NotEncodable():
            return malformed(text)
        case NotAuthorized():
            return Problem("ERR_PERMISSION_DENIED", text)
        case NodeClosed():
            return Problem("ERR_DRAINING", "this sidecar is closing")
        case EntityError() | DeliveryError():
            # The owner is down, or its process ended: what it was at is not known.
            return Problem("ERR_ACTOR_HOST_FAILED", text)
        case RemoteError():
            return Problem("ERR_ACTOR_INVOKE_METHOD", text)
        case ConfigError():
            return malformed(text)
        case _:
            return Problem("ERR_INTERNAL", text)
