"""Processes: a task, a mailbox, an identity, and an exit reason.

A process is one Trio task that runs `async def function(me, *args)`.  It ends when the function
returns (exit reason "normal"), raises ("ErrorType: text"), or is told to (the reason that it was
told).  A crash is contained: it becomes the exit reason and one log entry, and never ends the
node.  What a process is to others (names, monitors, links, unanswered calls) is undone by the
node when it ends, in one step.

    process       `Process`: what a process function gets as `me`
    mailbox       what waits for a process, and who has to wait because of it
    messages      what is in a mailbox beside plain messages: `Call`, `Down`, `Exit`
    table         the processes of one node, by number and by name
    exports       exported functions: the only code that a peer can make a node run (X4)
    serving       how the built-in processes answer calls
    statistics    what can be told of one process

The vocabulary is Erlang/OTP's (reference manual, "Processes"); cancellation is Trio's.
"""

from steinadler.process.exports import DEFAULT_EXPORTS, Exports
from steinadler.process.mailbox import Mailbox
from steinadler.process.messages import Call, Down, Exit
from steinadler.process.process import Host, Process
from steinadler.process.serving import serve_calls
from steinadler.process.statistics import ProcessStatistics

__all__ = [
    "DEFAULT_EXPORTS",
    "Call",
    "Down",
    "Exit",
    "Exports",
    "Host",
    "Mailbox",
    "Process",
    "ProcessStatistics",
    "serve_calls",
]
