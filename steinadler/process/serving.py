"""How the built-in processes answer: every call, one after the other, whatever is asked."""

from __future__ import annotations

from collections.abc import Callable

from steinadler.errors import SteinadlerError
from steinadler.process.messages import Call
from steinadler.process.process import Process


async def serve_calls(me: Process, answer: Callable[[Call], None]) -> None:
    """Hand every call that comes to `answer`, until this process is cancelled.

    What it raises of `SteinadlerError` is the caller's; anything else is a bug, and ends the
    process.  What is no call is passed over.
    """
    async for message in me:
        if isinstance(message, Call):
            try:
                answer(message)
            except SteinadlerError as error:
                message.fail(error)
