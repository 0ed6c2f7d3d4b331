"""Calls actors by the Dapr SDK as it is.  Reads lines [type, id, method, argument] of JSON; of each
it writes ["ok", answer] or ["failed", text].
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from counter_app import PyCounterInterface
from dapr.actor import ActorId, ActorProxy
from dapr.clients.exceptions import DaprHttpError


async def main() -> None:
    for line in sys.stdin:
        type_, id_, method, argument = json.loads(line)
        proxy: Any = ActorProxy.create(type_, ActorId(id_), PyCounterInterface)
        try:
            data = None if argument is None else json.dumps(argument).encode()
            answer = json.loads(await proxy.invoke_method(method, data) or b"null")
            told = ["ok", answer]
        except Exception as error:
            told = ["failed", str(error.as_dict() if isinstance(error, DaprHttpError) else error)]
        print(json.dumps(told), flush=True)  # noqa: T201


asyncio.run(main())
