"""What a node does for its peers' entity calls: the built-in process `$entities`.

    ("call", type, id, method, argument, remaining_s or None)    -> an answer: see `answers`
    ("set_reminder", type, id, fields) and ("delete_reminder", type, id, name) and
    ("get_reminder", type, id, name)                             -> an answer
    ("release", type, id, epoch)   -> None, once that epoch is not an activation's there any more
    ("here",)                  -> None: what was said before was heard

Who may ask the first four is in the node's policy: whoever may call entities of the type, and for
"release" host them.

It hands work over and takes the next message: an answer comes from the turn, whenever that ends.
What is in its mailbox when the node closes is sent on, because none of it has run: to leave it
unanswered would say that it may have (E3).
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from steinadler.entity import answers
from steinadler.entity.active import Entity, Work
from steinadler.entity.answers import Answer
from steinadler.entity.behaviour import Kind
from steinadler.entity.store import Reminder
from steinadler.errors import ConfigError, SteinadlerError
from steinadler.identity import EntityKey
from steinadler.process import Call, Process, serve_calls
from steinadler.security.policy import Action

if TYPE_CHECKING:
    from steinadler.entity.router import Entities

SERVICE = "$entities"


class PeerWork(Work):
    """A turn, or something to do beside turns, for a caller on another node."""

    __slots__ = ("call",)

    call: Call

    def answer(self, answer: Answer) -> None:
        answer_call(self.call, answer)


class ReminderWork(Work):
    """A change of an entity's reminders, or a question about them, from outside its turns."""

    __slots__ = ()

    async def run(self, entity: Entity) -> Any:
        argument = entity.host.codec.decode(self.argument)
        match self.method, argument:
            case "set_reminder", (name, due_at, period_s, repeats, expires_at, data):
                reminder = Reminder(name, due_at, period_s, repeats, expires_at, data)
                await entity.set_reminder(reminder)
            case "delete_reminder", str() as name:
                await entity.delete_reminder(name)
            case "get_reminder", str() as name:
                found = await entity.get_reminder(name)
                return None if found is None else found.as_tuple()
            case _:
                raise ConfigError("not a reminder")
        return None


class PeerReminderWork(PeerWork, ReminderWork):
    """The same, for a caller on another node."""

    __slots__ = ()


def answer_call(call: Call, answer: Answer) -> None:
    """Answer a peer; that the answer is too large for it is an answer too."""
    try:
        call.reply(answers.to_peer(answer))
    except SteinadlerError as error:
        call.reply(answers.to_peer(answers.of_error(error)))


async def serve(me: Process, entities: Entities) -> None:
    """Run as a process for as long as the node lives."""
    try:
        await serve_calls(me, partial(_take, entities))
    finally:
        with suppress(trio.WouldBlock):
            while True:
                message = me.receive_nowait()
                if isinstance(message, Call):
                    answer_call(message, answers.moved(None))


def _take(entities: Entities, call: Call) -> None:
    require = entities.guard.require
    match call.request:
        case ("call", str(type_), str(id_), str(method), bytes(body), None | float() as remaining):
            require(call.caller, Action.CALL_ENTITY, type_)
            key = EntityKey(type_, id_)
            deadline = float("inf") if remaining is None else trio.current_time() + remaining
            work = PeerWork(Kind.CALL, method, body, deadline)
            work.call = call
            entities.arrived(key, work)
            call.on_abandoned(lambda: entities.withdrawn(key, work))
        case (
            "set_reminder" | "delete_reminder" | "get_reminder" as method,
            str(type_),
            str(id_),
            bytes(body),
        ):
            require(call.caller, Action.CALL_ENTITY, type_)
            beside = PeerReminderWork(Kind.REMINDER, method, body)
            beside.call = call
            key = EntityKey(type_, id_)
            entities.arrived(key, beside)
            call.on_abandoned(lambda: entities.withdrawn(key, beside))
        case ("release", str(type_), str(id_), int(epoch)):
            require(call.caller, Action.HOST, type_)  # it is for one that is to have it now
            entities.release(EntityKey(type_, id_), epoch, call.reply)
        case ("here",):
            call.reply()
        case _:
            raise ConfigError("$entities does not understand this; is the peer of a later version?")
