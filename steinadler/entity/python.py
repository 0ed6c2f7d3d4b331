"""Entities written as Python classes.

    class Cart(steinadler.Entity):
        items: dict[str, int] = field(default_factory=dict)     # its state: see `state`

        @steinadler.command
        def add(self, item: str, count: int = 1) -> int:
            self.items[item] = self.items.get(item, 0) + count
            return sum(self.items.values())

One turn: the command runs on the object; the state is encoded after it and, when its bytes are not
those that were last committed, written; then the answer goes out (E2).  So nothing has to be
marked as changed, and a command that changes nothing writes nothing.

A command that raises has changed nothing: the object is thrown away, and the next turn gets one
made from what was last committed.  The same when the write fails, or the answer cannot travel.  To
undo changes one by one was refused: what the bytes say is right, whatever the command did.

Callers in other languages come through a sidecar: see `requests`.

What a command raises is its caller's `RemoteError`, and so is an `EntityError` of an entity that
it called itself: taken as it is, it would tell the caller that nothing had run here.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar, cast, dataclass_transform, overload

from steinadler.entity import requests
from steinadler.entity.behaviour import Active, Behaviour, Kind, Timer, Turn
from steinadler.entity.router import Entities, EntityRef
from steinadler.entity.state import CODEC, StateOf
from steinadler.entity.store import Reminder
from steinadler.errors import (
    ConfigError,
    EntityError,
    LocalProtocolError,
    NoSuchCommand,
    RemoteError,
    RemoteProtocolError,
)
from steinadler.identity import EntityKey, check_entity_type

_F = TypeVar("_F", bound=Callable[..., Any])

# The one key of the stored state.
STATE = "state"
_MARK = "__steinadler_command__"


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """What a class says about one of its commands."""

    function: Callable[..., Any]
    read_only: bool


@overload
def command(function: _F) -> _F: ...
@overload
def command(*, read_only: bool = False) -> Callable[[_F], _F]: ...


def command(function: Any = None, *, read_only: bool = False) -> Any:
    """Let callers run a method of an entity class, under its name.

    It is a `def` or an `async def`; its arguments, by position, and what it returns are what
    messages may hold.  `read_only` promises that it does not change the state, which is then not
    looked at after the turn; what it changes all the same may or may not be stored later.

    Raises `ConfigError` for what cannot be called so: no method, a generator, a parameter that can
    only be given by keyword and has no default.
    """
    if function is None:
        return lambda f: _mark(f, read_only)
    return _mark(function, read_only)


def _mark(function: Any, read_only: bool) -> Any:
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.isfunction(function):
        raise ConfigError(
            f"{name} cannot be a command: put @steinadler.command above a plain 'def'"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(
            f"{name} cannot be a command: it yields, and a command returns its answer"
        )
    for each in inspect.signature(function).parameters.values():
        if each.kind is each.KEYWORD_ONLY and each.default is each.empty:
            raise ConfigError(f"{name} cannot be a command: nobody can give it {each.name!r}")
    setattr(function, _MARK, read_only)
    return function


@dataclass_transform(eq_default=False, kw_only_default=True, field_specifiers=(dataclasses.field,))
class Entity:
    """The base of entities.  Its subclasses declare state and commands.

    `type` is the name that the entities are called by, if not the class's own; `idle_s` the seconds
    without a turn after which one is passivated.  Both are class arguments and not inherited.

    An object may be made by hand, to test its commands without a node: `Cart(items={"nut": 1})`.
    Then it has no key, timers or reminders.

    Raises `ConfigError` at the definition of a class that cannot work: a field without a default,
    an `__init__`, a name that this class uses itself, a type that is none.
    """

    _commands: ClassVar[dict[str, Command]] = {}
    _state: ClassVar[StateOf[Any]]
    _type: ClassVar[str]
    _idle_s: ClassVar[float]
    _active: Active | None = None
    _entities: Entities | None = None
    # What a reminder's change raised in this turn: that is about this entity, and no other's.
    _failure: EntityError | None = None

    def __init_subclass__(
        cls, *, type: str | None = None, idle_s: float = Behaviour.idle_s, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        for name in (*vars(cls), *inspect.get_annotations(cls)):
            if name in _RESERVED:
                raise ConfigError(f"{cls.__qualname__}.{name}: the name is taken by Entity itself")
        if not idle_s > 0:
            raise ConfigError(f"idle_s of {cls.__qualname__} must be above zero, not {idle_s!r}")
        cls._type = check_entity_type(cls.__name__ if type is None else type)
        cls._idle_s = idle_s
        cls._state = StateOf(cls)
        members = ((name, getattr(cls, name, None)) for name in dir(cls))
        cls._commands = {
            name: Command(member, getattr(member, _MARK))
            for name, member in members
            if inspect.isfunction(member) and hasattr(member, _MARK)
        }

    @property
    def key(self) -> EntityKey:
        """Which entity this is.  Raises `LocalProtocolError` when no node made the object."""
        return self._here().key

    def entity(self, type: str, id: str) -> EntityRef:
        """Another entity, to call.  See `Node.entity`.

        One that calls this one back waits for this turn, and so does this turn: until the time is
        up.  Raises `ConfigError` for what is no key, `LocalProtocolError` as `key` does.
        """
        if self._entities is None:
            raise LocalProtocolError("this object is not an active entity: no node made it")
        return EntityRef(EntityKey(type, id), self._entities)

    def start_timer(
        self,
        name: str,
        command: Callable[..., Any] | str,
        *args: Any,
        after_s: float,
        every_s: float | None = None,
        repeats: int | None = None,
    ) -> None:
        """Run a command of this entity in a turn of its own, in `after_s` seconds.

        With `every_s` again and again, `repeats` further times or without end.  The timer ends
        with the activation: when the entity is passivated, moves, or its node dies.  It takes the
        place of the one of that name.  Nothing undoes it when the present turn fails.

        Raises `ConfigError` for what is no command of this class or no time, `NotEncodable`.
        """
        _check_times(after_s, every_s, repeats)
        timer = Timer(name, after_s, self._name_of(command), args, every_s, repeats)
        self._here().start_timer(timer)

    def stop_timer(self, name: str) -> None:
        """Stop a timer; nothing happens when there is none of that name."""
        self._here().stop_timer(name)

    async def set_reminder(
        self,
        name: str,
        command: Callable[..., Any] | str,
        *args: Any,
        after_s: float,
        every_s: float | None = None,
        repeats: int | None = None,
    ) -> None:
        """As `start_timer`, but durable: it outlives the activation, the node, and all nodes.

        Durable on return, whether the turn succeeds or not.  Raises also `StaleEpoch` and
        `StoreUnavailable`; cancelled, it may or may not stand.
        """
        _check_times(after_s, every_s, repeats)
        here = self._here()
        data = CODEC.encode((self._name_of(command), args))
        reminder = Reminder(name, here.now() + after_s, every_s, repeats, data=data)
        await self._own(here.set_reminder(reminder))

    async def delete_reminder(self, name: str) -> None:
        """Delete a reminder; nothing happens when there is none of that name.  Raises as
        `set_reminder`."""
        await self._own(self._here().delete_reminder(name))

    def _here(self) -> Active:
        if self._active is None:
            raise LocalProtocolError("this object is not an active entity: no node made it")
        return self._active

    async def _own(self, change: Awaitable[None]) -> None:
        try:
            await change
        except EntityError as error:
            self._failure = error
            raise

    def _name_of(self, command: Callable[..., Any] | str) -> str:
        name = command if isinstance(command, str) else getattr(command, "__name__", "")
        if name not in self._commands:
            raise ConfigError(f"{command!r} is no command of {type(self).__qualname__}")
        return name


_RESERVED = frozenset(
    name for name in (*vars(Entity), *inspect.get_annotations(Entity)) if not name.startswith("__")
)


def _check_times(after_s: float, every_s: float | None, repeats: int | None) -> None:
    if not (math.isfinite(after_s) and after_s >= 0):
        raise ConfigError(f"after_s must be a number of seconds from 0, not {after_s!r}")
    if every_s is not None and not (math.isfinite(every_s) and every_s > 0):
        raise ConfigError(f"every_s must be a number of seconds above 0, not {every_s!r}")
    if repeats is not None and (every_s is None or repeats < 0):
        raise ConfigError("repeats is a number from 0, and needs every_s")


class PythonBehaviour(Behaviour):
    """Runs the turns of one entity class, on a node whose `entities` its objects may call.

    Raises `ConfigError` when the class has no commands, or a state that cannot be stored.
    """

    def __init__(self, cls: type[Entity], entities: Entities | None = None) -> None:
        if not (isinstance(cls, type) and issubclass(cls, Entity)):
            raise ConfigError(f"{cls!r} is not a subclass of steinadler.Entity")
        if not cls._commands:
            raise ConfigError(
                f"{cls.__qualname__} has no commands; put @steinadler.command above its methods"
            )
        self.type = cls._type
        self.idle_s = cls._idle_s
        self._entities = entities
        self._commands = cls._commands
        self._state = cls._state
        self._defaults = cls._state.check()

    async def activate(self, entity: Active) -> None:
        self._load(entity)

    async def run(self, entity: Active, turn: Turn) -> Any:
        match turn.argument:
            case {"body": bytes() as body}:  # through a sidecar
                try:
                    args = requests.arguments(body)
                except ValueError as error:
                    return requests.bad_request(error)
                return await self._run(entity, turn.method, args, requests.response)
        name, args = _open(turn)
        return await self._run(entity, name, args)

    async def _run(
        self,
        entity: Active,
        name: str,
        args: tuple[Any, ...],
        respond: Callable[[Any], Any] | None = None,
    ) -> Any:
        command = self._commands.get(name)
        if command is None:
            raise NoSuchCommand(f"{entity.key.type} has no command {name!r}")
        current: Entity = self._load(entity) if entity.memory is None else entity.memory
        current._failure = None
        try:
            answer = command.function(current, *args)
            if inspect.isawaitable(answer):
                answer = await answer
            if respond is not None:
                answer = respond(answer)
            if not command.read_only:
                await self._store(entity, current, answer)
        except EntityError as error:
            entity.memory = None
            if error is current._failure:
                raise
            raise RemoteError(type(error).__name__, str(error)) from error
        except BaseException:
            entity.memory = None
            raise
        return answer

    async def deactivate(self, entity: Active) -> None:
        entity.memory = None

    def _load(self, entity: Active) -> Entity:
        try:
            loaded = cast(Entity, self._state.decode(entity.read(STATE)))
        except ConfigError as error:
            raise ConfigError(f"{entity.key}: {error}") from error
        loaded._active = entity
        loaded._entities = self._entities
        entity.memory = loaded
        return loaded

    async def _store(self, entity: Active, current: Entity, answer: Any) -> None:
        state = self._state.encode(current)
        committed = entity.read(STATE)
        if state == (self._defaults if committed is None else committed):
            return
        if answer is not None:
            entity.check_answer(answer)  # fails the turn while it can be undone
        await current._own(entity.write({STATE: state}))


def _open(turn: Turn) -> tuple[str, tuple[Any, ...]]:
    """The command's name and arguments."""
    match turn:
        case Turn(Kind.REMINDER, reminder, bytes() as data):
            try:
                opened = CODEC.decode(data)
            except RemoteProtocolError:
                opened = None
            match opened:
                case (str() as name, tuple() as args):
                    return name, args
            raise NoSuchCommand(f"the reminder {reminder!r} was not set by a Python entity")
        case Turn(_, name, tuple() | list() as args):
            return name, tuple(args)
    raise NoSuchCommand("a command's arguments are a tuple")
