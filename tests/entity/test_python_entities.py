"""Entities as Python classes, turn by turn: what is stored, what is undone, what is refused."""

from __future__ import annotations

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import Any, ClassVar, Literal, NamedTuple

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import steinadler
from steinadler.entity.behaviour import Kind, Timer, Turn
from steinadler.entity.python import STATE, Entity, PythonBehaviour, command
from steinadler.entity.state import CODEC
from steinadler.entity.store import Reminder
from steinadler.errors import (
    ConfigError,
    EntityUnavailable,
    LocalProtocolError,
    NoSuchCommand,
    NotEncodable,
    RemoteError,
    StaleEpoch,
    StoreUnavailable,
)
from steinadler.identity import EntityKey

NOW = 1_800_000_000.0


class FakeActive:
    """An activation whose store is a dict, and which tells what was asked of it."""

    def __init__(self, stored: bytes | None = None) -> None:
        self.key = EntityKey("Cart", "42")
        self.epoch = 1
        self.memory: Any = None
        self.stored = stored
        self.written: list[bytes] = []
        self.timers: dict[str, Timer] = {}
        self.reminders: dict[str, Reminder] = {}
        self.refuses: BaseException | None = None

    def now(self) -> float:
        return NOW

    def read(self, name: str) -> bytes | None:
        assert name == STATE
        return self.stored

    async def write(
        self, changes: Mapping[str, bytes | None], ttl_s: Mapping[str, float] | None = None
    ) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise self.refuses
        ((name, value),) = changes.items()
        assert name == STATE
        assert value is not None
        self.stored = value
        self.written.append(value)

    def check_answer(self, answer: Any) -> None:
        CODEC.encode(answer)

    def start_timer(self, timer: Timer) -> None:
        self.timers[timer.name] = timer

    def stop_timer(self, name: str) -> None:
        self.timers.pop(name, None)

    async def set_reminder(self, reminder: Reminder) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise self.refuses
        self.reminders[reminder.name] = reminder

    async def delete_reminder(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self.reminders.pop(name, None)

    async def get_reminder(self, name: str) -> Reminder | None:
        await trio.lowlevel.checkpoint()
        return self.reminders.get(name)


@steinadler.message
@dataclass(frozen=True)
class Line:
    item: str
    count: int = 1


class Cart(Entity):
    lines: list[Line] = field(default_factory=list)
    paid: bool = False
    loads: int = field(init=False, default=0)  # not stored
    LIMIT: ClassVar[int] = 100

    def __post_init__(self) -> None:
        self.loads += 1

    @command
    def add(self, item: str, count: int = 1) -> int:
        self.lines.append(Line(item, count))
        if self._total() > self.LIMIT:
            raise ValueError("that is too much")
        return self._total()

    @command
    async def pay(self) -> None:
        await trio.lowlevel.checkpoint()
        self.paid = True

    @command
    async def look(self) -> list[Line]:
        return self.lines

    @command(read_only=True)
    def total(self) -> int:
        return self._total()

    @command
    def say(self, answer: Any, item: str = "") -> Any:
        if item:
            self.lines.append(Line(item))
        return object() if answer == "nonsense" else answer

    @command
    def hold(self, anything: str) -> None:
        self.lines.append(object())  # type: ignore[arg-type]

    @command
    def empty_later(self, after_s: float) -> None:
        self.start_timer("empty", self.remove_all, "timer", after_s=after_s, every_s=5, repeats=2)

    @command
    async def remember(self, words: list[str]) -> None:
        await self.set_reminder("empty", self.remove_all, *words, after_s=60)

    @command
    async def forget(self) -> None:
        self.stop_timer("empty")
        await self.delete_reminder("empty")

    @command
    async def pay_and_remember(self) -> None:
        self.paid = True
        await self.set_reminder("empty", self.remove_all, after_s=60)

    @command
    async def ask_another(self, error: str) -> None:
        self.paid = True
        raise {"unavailable": EntityUnavailable, "stale": StaleEpoch}[error]("Stock/nut: not now")

    @command
    async def wait(self) -> None:
        self.paid = True
        await trio.sleep_forever()

    @command
    def remove_all(self, why: str = "") -> str:
        self.lines.clear()
        return why

    def _total(self) -> int:
        return sum(line.count for line in self.lines)


@pytest.fixture
def cart() -> FakeActive:
    return FakeActive()


BEHAVIOUR = PythonBehaviour(Cart)


async def turn(
    active: FakeActive, method: str, *args: Any, kind: Kind = Kind.CALL, of: Any = BEHAVIOUR
) -> Any:
    argument: Any = args[0] if kind is Kind.REMINDER else args
    return await of.run(active, Turn(kind, method, argument, trio.current_time() + 10))


def stored(active: FakeActive) -> Any:
    return None if active.stored is None else CODEC.decode(active.stored)


# -- one turn --------------------------------------------------------------------------------


async def test_what_a_turn_changed_is_committed_before_its_answer(cart: FakeActive) -> None:
    """E2: the answer comes after the write."""
    await BEHAVIOUR.activate(cart)
    assert await turn(cart, "add", "nut", 2) == 2
    assert stored(cart) == {"lines": [Line("nut", 2)], "paid": False}
    await turn(cart, "pay")
    assert stored(cart)["paid"] is True
    assert len(cart.written) == 2


async def test_a_turn_that_changes_nothing_writes_nothing(cart: FakeActive) -> None:
    await turn(cart, "remove_all")
    assert cart.stored is None, "the defaults need no storing"
    await turn(cart, "add", "nut")
    for method in ("look", "total"):
        await turn(cart, method)
    await turn(cart, "say", {"as": "it was"})
    assert len(cart.written) == 1


async def test_state_is_decoded_once_for_an_activation(cart: FakeActive) -> None:
    await BEHAVIOUR.activate(cart)
    loaded = cart.memory
    for _ in range(3):
        await turn(cart, "add", "nut")
    assert cart.memory is loaded
    assert loaded.loads == 1
    await BEHAVIOUR.deactivate(cart)
    again = FakeActive(cart.stored)
    await BEHAVIOUR.activate(again)
    assert await turn(again, "total") == 3


async def test_a_command_that_raises_has_changed_nothing(cart: FakeActive) -> None:
    await turn(cart, "add", "nut", 99)
    with pytest.raises(ValueError, match="too much"):
        await turn(cart, "add", "bolt", 2)
    assert await turn(cart, "total") == 99
    assert await turn(cart, "look") == [Line("nut", 99)]
    assert len(cart.written) == 1


async def test_a_write_that_is_refused_fails_the_turn_and_changes_nothing(cart: FakeActive) -> None:
    """E1: what another node's epoch refused is not acknowledged."""
    await turn(cart, "add", "nut")
    for error in (StaleEpoch("another node has it"), StoreUnavailable("the disk is full")):
        cart.refuses = error
        with pytest.raises(type(error)) as raised:
            await turn(cart, "add", "bolt")
        assert raised.value is error
        cart.refuses = None
        assert await turn(cart, "total") == 1


async def test_a_turn_that_is_cancelled_leaves_nothing_in_memory(cart: FakeActive) -> None:
    with trio.move_on_after(0):
        await turn(cart, "wait")
    assert cart.stored is None
    await turn(cart, "add", "nut")
    assert stored(cart)["paid"] is False


async def test_an_answer_that_cannot_travel_undoes_its_turn(cart: FakeActive) -> None:
    with pytest.raises(NotEncodable):
        await turn(cart, "say", "nonsense", "nut")
    assert cart.stored is None
    assert await turn(cart, "total") == 0


async def test_a_state_that_messages_cannot_hold_fails_its_turn(cart: FakeActive) -> None:
    await turn(cart, "add", "nut")
    with pytest.raises(NotEncodable, match="object"):
        await turn(cart, "hold", "anything")
    assert await turn(cart, "look") == [Line("nut")]


@pytest.mark.parametrize("method", ["nothing", "_total", "key", "__init__", "start_timer", "LIMIT"])
async def test_only_commands_can_be_called(cart: FakeActive, method: str) -> None:
    """X4: a caller names a command, and reaches nothing else of the class."""
    with pytest.raises(NoSuchCommand):
        await turn(cart, method)


@pytest.mark.parametrize("argument", [None, "nut", {"item": "nut"}, b"nut", 1])
async def test_arguments_that_are_no_tuple_run_nothing(cart: FakeActive, argument: Any) -> None:
    with pytest.raises(NoSuchCommand):
        await BEHAVIOUR.run(cart, Turn(Kind.CALL, "add", argument, 0.0))
    assert cart.stored is None


async def test_wrong_arguments_are_a_type_error(cart: FakeActive) -> None:
    with pytest.raises(TypeError, match="item"):
        await turn(cart, "add")
    with pytest.raises(TypeError):
        await turn(cart, "add", "nut", 1, 2)


@pytest.mark.parametrize("error", ["unavailable", "stale"])
async def test_another_entitys_error_is_not_taken_for_this_ones(
    cart: FakeActive, error: str
) -> None:
    """E3: "nothing ran: call again" of one entity must not be told of another, which did run."""
    with pytest.raises(RemoteError) as raised:
        await turn(cart, "ask_another", error)
    assert raised.value.type_name in ("EntityUnavailable", "StaleEpoch")
    assert "Stock/nut" in raised.value.text
    assert await turn(cart, "look") == []


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.text(max_size=5), st.integers(-60, 60)),
            st.tuples(st.just("remove_all")),
            st.tuples(st.just("total")),
            st.tuples(st.just("reactivate")),
        )
    )
)
def test_turns_are_all_or_nothing_whatever_their_order(steps: list[tuple[Any, ...]]) -> None:
    """E1, E2: what is stored is what the successful turns did, in order, and nothing else."""

    async def play() -> None:
        active, model = FakeActive(), Cart()
        for method, *args in steps:
            if method == "reactivate":
                active = FakeActive(active.stored)
                continue
            try:
                expected = getattr(model, method)(*args)
            except ValueError:
                model.lines.pop()
                with pytest.raises(ValueError, match="too much"):
                    await turn(active, method, *args)
            else:
                assert await turn(active, method, *args) == expected
        assert (await turn(active, "look")) == model.lines

    trio.run(play)


# -- versions of a class ---------------------------------------------------------------------


async def test_fields_come_and_go_between_versions() -> None:
    class One(Entity, type="Thing"):
        name: str = ""
        price: int = 0

        @command
        def set(self, name: str, price: int) -> None:
            self.name, self.price = name, price

    class Two(Entity, type="Thing"):
        name: str = ""
        tags: set[str] = field(default_factory=lambda: {"new"})

        @command
        def tag(self, tag: str) -> list[Any]:
            self.tags.add(tag)
            return [self.name, sorted(self.tags)]

    one, two = PythonBehaviour(One), PythonBehaviour(Two)
    active = FakeActive()
    await turn(active, "set", "nut", 5, of=one)
    later = FakeActive(active.stored)
    assert await turn(later, "tag", "small", of=two) == ["nut", ["new", "small"]]
    assert stored(later) == {"name": "nut", "tags": {"new", "small"}}
    back = FakeActive(later.stored)
    await one.activate(back)
    assert (back.memory.name, back.memory.price) == ("nut", 0)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", CODEC.encode([1]), CODEC.encode(None), b'{"json": true}']
)
async def test_state_that_cannot_be_read_says_so_and_stays(data: bytes) -> None:
    active = FakeActive(data)
    with pytest.raises(ConfigError, match="Cart/42: stored state cannot be read"):
        await BEHAVIOUR.activate(active)
    assert active.stored == data


# -- timers and reminders --------------------------------------------------------------------


async def test_a_timer_runs_a_command(cart: FakeActive) -> None:
    await turn(cart, "empty_later", 1.5)
    assert cart.timers["empty"] == Timer("empty", 1.5, "remove_all", ("timer",), 5, 2)
    await turn(cart, "add", "nut")
    timer = cart.timers["empty"]
    assert await turn(cart, timer.method, *timer.argument, kind=Kind.TIMER) == "timer"
    assert await turn(cart, "total") == 0
    await turn(cart, "forget")
    assert not cart.timers


async def test_a_reminder_finds_its_command_again(cart: FakeActive) -> None:
    await turn(cart, "remember", ["over"])
    reminder = cart.reminders["empty"]
    assert (reminder.name, reminder.due_at, reminder.period_s) == ("empty", NOW + 60, None)
    await turn(cart, "add", "nut")
    assert await turn(cart, "empty", reminder.data, kind=Kind.REMINDER) == "over"
    assert await turn(cart, "total") == 0
    await turn(cart, "forget")
    assert not cart.reminders


@pytest.mark.parametrize(
    "data", [b"", b"\xff", CODEC.encode("remove_all"), CODEC.encode(("remove_all", "x")), b"{}"]
)
async def test_a_reminder_of_another_kind_runs_nothing(cart: FakeActive, data: bytes) -> None:
    await turn(cart, "add", "nut")
    with pytest.raises(NoSuchCommand, match="empty"):
        await turn(cart, "empty", data, kind=Kind.REMINDER)
    assert await turn(cart, "total") == 1


async def test_a_stale_owner_cannot_set_reminders_and_says_so(cart: FakeActive) -> None:
    """E1: refused for itself, and so told to the host as it is."""
    cart.refuses = StaleEpoch("another node has it")
    with pytest.raises(StaleEpoch):
        await turn(cart, "pay_and_remember")
    cart.refuses = None
    assert await turn(cart, "look") == []
    assert cart.stored is None


@pytest.mark.parametrize(
    "times",
    [
        {"after_s": -1},
        {"after_s": float("nan")},
        {"after_s": float("inf")},
        {"after_s": 1, "every_s": 0},
        {"after_s": 1, "repeats": 3},
        {"after_s": 1, "every_s": 1, "repeats": -1},
    ],
)
async def test_times_that_are_none_are_refused(cart: FakeActive, times: dict[str, Any]) -> None:
    await BEHAVIOUR.activate(cart)
    with pytest.raises(ConfigError, match=r"_s|repeats"):
        cart.memory.start_timer("t", "add", **times)
    with pytest.raises(ConfigError, match=r"_s|repeats"):
        await cart.memory.set_reminder("t", "add", **times)
    assert not cart.timers
    assert not cart.reminders


@pytest.mark.parametrize("target", ["nothing", "_total", "key", print, 5])
async def test_only_commands_can_be_timed(cart: FakeActive, target: Any) -> None:
    await BEHAVIOUR.activate(cart)
    with pytest.raises(ConfigError, match="no command of Cart"):
        cart.memory.start_timer("t", target, after_s=1)


# -- callers in other languages --------------------------------------------------------------


async def post(active: FakeActive, method: str, body: bytes) -> tuple[int, Any]:
    request = {"verb": "POST", "headers": {}, "body": body}
    response = await BEHAVIOUR.run(active, Turn(Kind.CALL, method, request, 0.0))
    assert set(response) == {"status", "headers", "body"}
    content = response["body"]
    assert response["headers"] == ({"content-type": "application/json"} if content else {})
    return response["status"], json.loads(content) if content else None


async def test_commands_can_be_called_in_json(cart: FakeActive) -> None:
    assert await post(cart, "add", b'["nut", 2]') == (200, 2)
    assert await post(cart, "add", b'"bolt"') == (200, 3)
    assert await post(cart, "pay", b"") == (200, None)
    lines = [{"item": "nut", "count": 2}, {"item": "bolt", "count": 1}]
    assert await post(cart, "look", b"[]") == (200, lines)
    assert await post(cart, "say", b'[{"a": [1]}]') == (200, {"a": [1]})
    assert await turn(cart, "look") == [Line("nut", 2), Line("bolt", 1)]


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b"nut", b"[" * 100_000, b"[NaN]", b'{"a": -Infinity}', b"1e999"]
)
async def test_a_body_that_is_not_json_runs_nothing(cart: FakeActive, body: bytes) -> None:
    status, told = await post(cart, "add", body)
    assert (status, told["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
    assert cart.memory is None


async def test_errors_are_the_same_for_all_callers(cart: FakeActive) -> None:
    with pytest.raises(ValueError, match="too much"):
        await post(cart, "add", b'["nut", 101]')
    with pytest.raises(NoSuchCommand):
        await post(cart, "_total", b"")
    with pytest.raises(TypeError):
        await post(cart, "add", b"[]")
    assert await turn(cart, "total") == 0


# -- classes that cannot work ----------------------------------------------------------------


def refused_at_definition(make: Callable[[], object], *words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make()
    for word in words:
        assert word in str(raised.value)


def test_a_class_that_cannot_work_is_refused_where_it_is_defined() -> None:
    def no_default() -> None:
        class Bad(Entity):
            total: int

    def shared_default() -> None:
        class Bad(Entity):
            items: list[str] = []  # noqa: RUF012

    def own_init() -> None:
        class Bad(Entity):
            def __init__(self) -> None: ...

    def taken_by_state() -> None:
        class Bad(Entity):
            key: str = ""  # type: ignore[assignment]

    def taken_by_command() -> None:
        class Bad(Entity):
            @command
            def stop_timer(self, name: str) -> None: ...

    def taken_private() -> None:
        class Bad(Entity):
            _state: int = 0  # type: ignore[assignment, misc]

    def bad_type() -> None:
        class Bad(Entity, type="a/b"): ...

    def bad_idle() -> None:
        class Bad(Entity, idle_s=0): ...

    refused_at_definition(no_default, "total", "default")
    refused_at_definition(shared_default, "Bad", "default_factory")
    refused_at_definition(own_init, "__init__", "__post_init__")
    refused_at_definition(taken_by_state, "Bad.key")
    refused_at_definition(taken_by_command, "Bad.stop_timer")
    refused_at_definition(taken_private, "Bad._state")
    refused_at_definition(bad_type, "a/b")
    refused_at_definition(bad_idle, "idle_s")


def test_what_cannot_be_a_command_is_refused() -> None:
    def generator(self: object) -> Any:
        yield 1

    async def async_generator(self: object) -> Any:
        yield 1

    def keyword_only(self: object, *, count: int) -> None: ...

    refused: list[tuple[Any, str]] = [
        (generator, "yields"),
        (async_generator, "yields"),
        (keyword_only, "count"),
        (staticmethod(generator), "def"),
        (property(generator), "def"),
        (functools.partial(generator), "def"),
        (5, "5"),
    ]
    for function, word in refused:
        with pytest.raises(ConfigError, match=word):
            command(function)


def test_what_is_no_entity_class_cannot_be_hosted() -> None:
    class NoCommands(Entity):
        total: int = 0

    for cls, word in ((NoCommands, "no commands"), (dict, "not a subclass"), (Cart(), "Cart")):
        with pytest.raises(ConfigError, match=word):
            PythonBehaviour(cls)  # type: ignore[arg-type]


class Pair(NamedTuple):
    a: int
    b: int


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


@dataclass
class Unregistered:
    a: int = 0


@steinadler.message
class Registered(Enum):
    YES = 1


@pytest.mark.parametrize(
    ("hint", "default", "word"),
    [
        (object, object(), "object"),
        (trio.Lock | None, None, "trio"),
        (Unregistered | None, None, "@steinadler.message above Unregistered"),
        (list[Unregistered], [], "Unregistered"),
        (dict[str, Colour], {}, "Colour"),
        (Level, Level.LOW, "Level"),
        (defaultdict[str, int], {}, "defaultdict"),
        (Any, Counter(), "comes back as a dict"),
        (Pair | None, None, "Pair"),
        (Any, Pair(1, 2), "comes back as a list"),
        (complex, 1j, "complex"),
        (Callable[[], None] | None, None, "Callable"),
    ],
)
def test_state_that_would_not_come_back_as_it_was_is_refused(
    hint: Any, default: Any, word: str
) -> None:
    cls = with_state(hint, default)
    with pytest.raises(ConfigError, match=rf"Thing\b.*{word}"):
        PythonBehaviour(cls)


@pytest.mark.parametrize(
    ("hint", "default"),
    [
        (datetime | None, None),
        (datetime, datetime(2026, 1, 1, tzinfo=UTC)),
        (dict[tuple[int, ...], set[str]], {}),
        (Mapping[str, Line], {"a": Line("nut")}),
        (Registered, Registered.YES),
        (Literal["a", "b"], "a"),
        (steinadler.ProcessId | None, None),
        ("OnlyATypeCheckerKnows", 0),
        (Any, 0),
    ],
)
def test_state_that_messages_can_hold_is_taken(hint: Any, default: Any) -> None:
    PythonBehaviour(with_state(hint, default))


def with_state(hint: Any, default: Any) -> type[Entity]:
    """A class with one field of that type."""
    body = {
        "__annotations__": {"value": hint},
        "value": field(default_factory=lambda: default),
        "get": command(lambda self: self.value),
    }
    return type("Thing", (Entity,), body)


# -- classes that can ------------------------------------------------------------------------


def test_types_are_named_after_the_class_or_as_told() -> None:
    class Named(Entity, type="basket", idle_s=5.0):
        @command
        def get(self) -> None: ...

    behaviour = PythonBehaviour(Named)
    assert (behaviour.type, behaviour.idle_s) == ("basket", 5.0)
    assert (BEHAVIOUR.type, BEHAVIOUR.idle_s) == ("Cart", 3600.0)


async def test_commands_and_state_are_inherited() -> None:
    class Counted(Entity):
        count: int = 0

        @command
        def up(self) -> int:
            self.count += 1
            return self.count

        @command
        def down(self) -> int:
            self.count -= 1
            return self.count

    class Careful(Counted, type="careful"):
        floor: int = 0

        def down(self) -> int:  # no longer a command
            raise AssertionError

        @command
        def up(self) -> int:
            return super().up() + 100

    behaviour, active = PythonBehaviour(Careful), FakeActive()
    assert await turn(active, "up", of=behaviour) == 101
    assert stored(active) == {"count": 1, "floor": 0}
    with pytest.raises(NoSuchCommand):
        await turn(active, "down", of=behaviour)


async def test_an_object_made_by_hand_can_be_tested_without_a_node() -> None:
    cart = Cart(lines=[Line("nut")])
    assert cart.add("bolt") == 2
    await cart.pay()
    with pytest.raises(LocalProtocolError):
        assert cart.key
    with pytest.raises(LocalProtocolError):
        cart.start_timer("t", cart.pay, after_s=1)
    with pytest.raises(LocalProtocolError):
        cart.entity("Cart", "43")


async def test_an_entity_knows_its_key(cart: FakeActive) -> None:
    await BEHAVIOUR.activate(cart)
    assert cart.memory.key == EntityKey("Cart", "42")
