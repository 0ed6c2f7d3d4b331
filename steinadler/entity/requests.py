"""Calls to Python entities from programs that speak HTTP and JSON, by way of a sidecar.

    {"verb", "headers", "body"}    a request.  Its body is JSON: an array is the arguments, anything
                                   else the one argument; an empty body is none
    {"status", "headers", "body"}  a response: 200, and the answer as JSON (None: an empty body)

So one class serves Python callers and all others, and neither sees how the other calls.  A body
that is not JSON is answered 400, and nothing runs: NaN is not, nor a number beyond all floats.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from steinadler.wire.as_json import to_json

_JSON = {"content-type": "application/json"}


def read_json(body: bytes) -> Any:
    """The value that a JSON text tells.  Raises `ValueError` when it is not JSON, or too deep."""
    try:
        return json.loads(body, parse_constant=_not_json, parse_float=_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def arguments(body: bytes) -> tuple[Any, ...]:
    """The arguments that a request's body holds.  Raises `ValueError` when it is not JSON."""
    if not body:
        return ()
    told = read_json(body)
    return tuple(told) if isinstance(told, list) else (told,)


def response(answer: Any) -> dict[str, Any]:
    """What goes back for a command's answer."""
    body = b"" if answer is None else to_json(answer).encode(errors="replace")
    return {"status": 200, "headers": _JSON if body else {}, "body": body}


def bad_request(error: ValueError) -> dict[str, Any]:
    """What goes back for a body that is not JSON."""
    told = {"errorCode": "ERR_MALFORMED_REQUEST", "message": f"the body is not JSON: {error}"}
    return {"status": 400, "headers": _JSON, "body": json.dumps(told).encode()}


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _number(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _not_json(f"{digits:.40}")
