"""What a node does for peers that open streams to it: the built-in process `$streams`.

    ("connect", service, number)    -> None, once the stream waits to be accepted
    ("source", token, number)       -> None, once what was sent goes to the claimer
    ("sink", token, number)         -> None, once what the claimer sends is received

`number` is the caller's for the new stream.  Calls carry the errors, and are taken back when the
caller gives up, so opening needs no protocol of its own.  Who may connect is in the node's policy;
a channel's end is for whoever has its token.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from steinadler.errors import ConfigError
from steinadler.process import Call, Process, serve_calls
from steinadler.security.policy import Action

if TYPE_CHECKING:
    from steinadler.stream.streams import Streams

SERVICE = "$streams"


async def serve(me: Process, streams: Streams) -> None:
    """Run as a process for as long as the node lives."""
    await serve_calls(me, partial(_answer, streams))


def _answer(streams: Streams, call: Call) -> None:
    match call.request:
        case ("connect", str(service), int(number)) if 0 < number < 2**64:
            streams.guard.require(call.caller, Action.CONNECT, service)
            streams.connected(call.caller, service, number)
        case ("source", int(token), int(number)) if 0 < number < 2**64:
            streams.source_claimed(call.caller, token, number)
        case ("sink", int(token), int(number)) if 0 < number < 2**64:
            streams.sink_claimed(call.caller, token, number)
        case _:
            raise ConfigError("$streams does not understand this; is the peer of a later version?")
    call.reply()
