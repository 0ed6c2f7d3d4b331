"""What is encoded arrives equal and of the same type, or is refused at the sender (M5)."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import ipaddress
import math
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.errors import ConfigError, MessageTooLarge, NotEncodable, RemoteProtocolError
from steinadler.identity import NodeId, ProcessId
from steinadler.wire.codec import MAX_NESTING, Codec, MessageTypes
from steinadler.wire.values import (
    TAG_DATACLASS,
    TAG_DECIMAL_TEXT,
    TAG_ENUM,
    TAG_FROZENSET,
    TAG_NODE_ID,
    TAG_PROCESS_ID,
    TAG_TUPLE,
)

LIMIT = 1 << 20
TYPES = MessageTypes()


@TYPES.register
@dataclasses.dataclass
class Box:
    content: Any
    label: str = "none"


@TYPES.register
@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: Any
    y: Any = 0


@TYPES.register
class Colour(enum.Enum):
    RED = 1
    GREEN = "green"


@TYPES.register
class Level(enum.IntEnum):
    LOW = 1


@TYPES.register
class Mode(enum.StrEnum):
    ON = "on"


@TYPES.register
class Access(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


CODEC = Codec(TYPES, LIMIT)


def there_and_back(value: object) -> Any:
    return CODEC.decode(CODEC.encode(value))


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same type, all the way down."""
    if type(one) is not type(other):
        return False
    match one:
        case float():
            return one == other or (math.isnan(one) and math.isnan(other))
        case Decimal():
            return str(one) == str(other)
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case set() | frozenset():
            return one == other and sorted(map(shape, one)) == sorted(map(shape, other))
        case dict():
            return same(set(one), set(other)) and all(same(one[key], other[key]) for key in one)
        case Box() | Point():
            return all(
                same(getattr(one, field.name), getattr(other, field.name))
                for field in dataclasses.fields(one)
            )
    return bool(one == other)


def shape(value: Any) -> str:
    """A text that tells hashable values of different types apart, whatever their order."""
    match value:
        case frozenset():
            return f"frozenset{sorted(map(shape, value))}"
        case tuple():
            return f"({','.join(map(shape, value))})"
        case Point():
            return f"Point({shape(value.x)},{shape(value.y)})"
    return f"{type(value).__name__} {value!r}"


UTC = dt.UTC
ONE_OF_EACH: list[object] = [
    None,
    True,
    False,
    0,
    -1,
    2**64 - 1,
    2**64,
    -(2**64) - 1,
    2**500,
    0.0,
    -0.5,
    1e300,
    math.inf,
    math.nan,
    "",
    "é😀\0",
    b"",
    b"\xff\0",
    [],
    [1, [2, [3]]],
    (),
    (1, (2, (3,))),
    [(1,), [2]],
    ([1], (2,)),
    {},
    {"a": (1,), "b": [1]},
    {(1, (2,)): (3,)},
    {frozenset({1, (2,)}): {1}},
    set(),
    {1, "a", (2, (3,)), b"x", None},
    {frozenset({frozenset({1})})},
    frozenset(),
    frozenset({1, (2,), frozenset({3})}),
    [frozenset({1}), {1}],
    dt.datetime(2024, 2, 29, 12, 30, 1, 999_999, UTC),
    dt.datetime(1, 1, 1, tzinfo=UTC),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
    dt.date(2024, 2, 29),
    *map(Decimal, ("1.50", "-0", "0E+3", "1E-999", "NaN", "sNaN", "-Infinity", "9" * 4000)),
    uuid.UUID(int=5),
    ipaddress.ip_address("192.0.2.1"),
    ipaddress.ip_address("fe80::1%eth0"),
    ipaddress.ip_network("192.0.2.0/24"),
    ipaddress.ip_interface("2001:db8::1/64"),
    NodeId("alice", 7),
    ProcessId(NodeId("alice", 7), 3),
    {ProcessId(NodeId("alice", 7), 3): NodeId("bob", 1)},
    Box([Box((1, [2])), {"k": (Point(1),)}], label="outer"),
    Point((1, frozenset({2})), {"y": [(3,)]}),
    {Point((1, (2,)), Colour.RED): Box({3})},
    {Point(1), Point((2,))},
    Colour.RED,
    Colour.GREEN,
    {Colour.RED: [Colour.GREEN], Mode.ON: Level.LOW},
    (Level.LOW, Mode.ON),
    Access(0),
    Access.READ,
    [Access.READ | Access.RUN],
]


@pytest.mark.parametrize("value", ONE_OF_EACH, ids=lambda value: type(value).__name__)
def test_each_kind_arrives_equal_and_of_the_same_type(value: object) -> None:
    """M5, alone and inside everything else that can hold it."""
    assert same(there_and_back(value), value)
    for holder in ([value], (value,), {"k": value}, Box(value), Point(1, (value,))):
        assert same(there_and_back(holder), holder)
    try:
        hash(value)
    except TypeError:
        return
    for holder in ({value: 1}, {value}, frozenset({(value,)}), {Point(value): 1}):
        if not _signalling(value):
            result = there_and_back(holder)
            assert type(result) is type(holder)
            assert sorted(map(shape, result)) == sorted(map(shape, holder))


def _signalling(value: object) -> bool:
    return isinstance(value, Decimal) and value.is_snan()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.binary(max_size=8),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.dates(),
    st.datetimes(timezones=st.just(UTC)),
    st.ip_addresses(),
    st.sampled_from([Colour.RED, Level.LOW, Mode.ON, Access.READ | Access.WRITE]),
    st.builds(NodeId, st.text(st.characters(codec="utf-8"), max_size=5), st.integers(0, 2**64)),
    st.builds(ProcessId, st.just(NodeId("n", 1)), st.integers(0, 2**64)),
)
# NaN has no place among keys, and 1 == 1.0 == True would leave any one of them.
KEY_SCALARS = st.one_of(
    st.integers(2), st.text(st.characters(codec="utf-8"), max_size=5), st.binary(max_size=5)
)
KEYS = st.recursive(
    KEY_SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(KEYS, max_size=3),
        st.frozensets(KEYS, max_size=3),
        st.builds(Box, inner, st.text(st.characters(codec="utf-8"), max_size=3)),
        st.builds(Point, inner, inner),
    ),
    max_leaves=20,
)


@given(VALUES)
def test_any_message_arrives_equal_and_of_the_same_type(value: object) -> None:
    """M5."""
    assert same(there_and_back(value), value)


@given(VALUES)
def test_the_receiver_gets_its_own_copy(value: object) -> None:
    """M5: no list, dict, set or unfrozen dataclass is shared."""
    mine: set[int] = set()
    theirs: set[int] = set()
    _mutable_parts(value, mine)
    result = there_and_back(value)
    _mutable_parts(result, theirs)
    assert not mine & theirs


def _mutable_parts(value: object, found: set[int]) -> None:
    if isinstance(value, (list, dict, set, Box)):
        found.add(id(value))
    match value:
        case list() | tuple():
            children: list[object] = list(value)
        case dict():
            children = list(value.values())
        case Box() | Point():
            children = [getattr(value, field.name) for field in dataclasses.fields(value)]
        case _:
            children = []
    for child in children:
        _mutable_parts(child, found)


class Behaves(str):
    """A subclass."""


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (bytearray(b"x"), b"x"),
        (memoryview(b"xyz")[1:], b"yz"),
        (Behaves("s"), "s"),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.deque([1]), [1]),
        (Pair(1, 2), [1, 2]),
        (enum.IntEnum("Unregistered", "A").A, 1),  # type: ignore[attr-defined]
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_behaves_like_a_plain_type_arrives_as_the_plain_type(
    value: object, arrives: object
) -> None:
    assert same(there_and_back(value), arrives)


@dataclasses.dataclass
class NotRegistered:
    x: int = 1


class NotRegisteredEnum(enum.Enum):
    A = 1


class Plain:
    pass


def cyclic_list() -> list[object]:
    cycle: list[object] = []
    cycle.append(cycle)
    return cycle


def cyclic_dict() -> dict[str, object]:
    cycle: dict[str, object] = {}
    cycle["self"] = [cycle]
    return cycle


def cyclic_box() -> Box:
    box = Box(None)
    box.content = (box,)
    return box


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "builtins.object"),
        (lambda: None, "function"),
        (len, "builtin_function"),
        (Plain(), "Plain"),
        (Plain, "builtins.type"),
        (NotRegistered(), "NotRegistered"),
        (NotRegisteredEnum.A, "NotRegisteredEnum"),
        (1j, "complex"),
        (Fraction(1, 2), "Fraction"),
        (re.compile("a"), "Pattern"),
        (dt.timedelta(1), "timedelta"),
        (dt.time(1), "datetime.time"),
        (dt.datetime(2024, 1, 1), "naive datetime"),
        (cbor2.CBORTag(25, 1), "CBORTag"),
        (cbor2.CBORSimpleValue(9), "CBORSimpleValue"),
        (iter([]), "list_iterator"),
        (..., "ellipsis"),
        (ValueError("x"), "ValueError"),
        ("\ud800", "surrogates"),
        (Decimal("9" * 5000), "digits"),
        (cyclic_list(), "cyclic"),
        (cyclic_dict(), "cyclic"),
        (cyclic_box(), "the message cannot be encoded"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_travel_is_refused_at_the_sender_by_name(value: object, told: str) -> None:
    """M5, wherever in the message it is."""
    for holder in (value, [value], (1, (value,)), {"k": value}, Box(value)):
        with pytest.raises(NotEncodable, match=re.escape(told)):
            CODEC.encode(holder)


def test_an_attribute_that_raises_makes_the_message_not_encodable() -> None:
    types = MessageTypes()

    @types.register
    @dataclasses.dataclass
    class Lazy:
        x: object

        def __getattribute__(self, name: str) -> object:
            raise OSError("the disk is gone")

    with pytest.raises(NotEncodable, match="the disk is gone"):
        Codec(types, LIMIT).encode([Lazy(1)])


def test_flag_bits_without_a_name_are_refused_at_the_sender() -> None:
    """M5: the receiver could not name them."""
    types = MessageTypes()

    @types.register
    class Bits(enum.IntFlag):
        ONE = 1

    codec = Codec(types, LIMIT)
    assert codec.decode(codec.encode(Bits.ONE)) is Bits.ONE
    with pytest.raises(NotEncodable, match="without a name"):
        codec.encode(Bits(5))


@pytest.mark.parametrize("limit", [10, 255, 256, 257, 1000])
@pytest.mark.parametrize("make", [bytes, lambda n: "x" * n, lambda n: [0] * n, lambda n: (0,) * n])
def test_a_message_of_one_byte_over_the_limit_is_too_large(
    limit: int, make: Callable[[int], object]
) -> None:
    codec = Codec(TYPES, limit)
    fits = max(n for n in range(limit + 1) if len(CODEC.encode(make(n))) <= limit)
    assert len(codec.encode(make(fits))) <= limit
    with pytest.raises(MessageTooLarge) as caught:
        codec.encode(make(fits + 1))
    assert caught.value.limit == limit
    assert caught.value.size == len(CODEC.encode(make(fits + 1))) > limit


def nested(levels: int, wrap: Callable[[object], object]) -> object:
    value: object = 1
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS: Mapping[str, Callable[[object], object]] = {
    "list": lambda v: [v],
    "tuple": lambda v: (v,),
    "dict": lambda v: {"k": v},
    "key": lambda v: (v, {(v,)} if isinstance(v, int) else 0),
    "box": Box,
    "frozenset": lambda v: frozenset({v}),
    "decimal first": lambda v: [Decimal("NaN"), {1}, v],
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_nesting_has_the_same_limit_on_both_sides(wrap: Callable[[object], object]) -> None:
    """M5: whatever encode accepts, decode accepts, up to the limit and around it."""
    outcomes = []
    for levels in range(20, MAX_NESTING + 10, 1):
        value = nested(levels, wrap)
        try:
            data = CODEC.encode(value)
        except NotEncodable as error:
            assert "nested" in str(error) or "depth" in str(error)  # noqa: PT017
            outcomes.append(False)
        else:
            CODEC.decode(data)
            outcomes.append(True)
    assert outcomes == sorted(outcomes, reverse=True)
    assert outcomes[0]
    assert not outcomes[-1]


@pytest.mark.parametrize("wrap", [WRAPS["list"], WRAPS["tuple"], WRAPS["dict"], WRAPS["box"]])
def test_absurd_nesting_is_refused_and_not_a_crash(wrap: Callable[[object], object]) -> None:
    with pytest.raises(NotEncodable):
        CODEC.encode(nested(100_000, wrap))


@given(
    st.lists(st.sampled_from(sorted(WRAPS)[:5]), min_size=50, max_size=90),
    st.integers(1, 4),
    st.binary(max_size=600),
)
def test_whatever_encode_accepts_decode_accepts(kinds: list[str], times: int, data: bytes) -> None:
    """M5, with mixed nesting and many bytes that look like containers."""
    value: object = data + bytes(range(0x80, 0xDC)) * 3
    for kind in kinds * times:
        if kind not in ("frozenset", "key"):
            value = WRAPS[kind](value)
    try:
        encoded = CODEC.encode(value)
    except NotEncodable:
        return
    CODEC.decode(encoded)


def test_wide_messages_are_not_taken_for_deep_ones() -> None:
    for value in ([[]] * 5000, bytes(range(256)) * 50, [(i,) for i in range(1000)]):
        assert same(there_and_back(value), value)


def test_fields_travel_by_name_between_versions_of_a_class() -> None:
    """A new field takes its default, one that is gone is dropped."""
    old, new = MessageTypes(), MessageTypes()

    @old.register(name="Job")
    @dataclasses.dataclass
    class OldJob:
        id: int
        gone: str = "x"

    @new.register(name="Job")
    @dataclasses.dataclass
    class NewJob:
        id: int
        added: list[int] = dataclasses.field(default_factory=lambda: [7])
        derived: int = dataclasses.field(init=False, default=0)

    from_old = Codec(new, LIMIT).decode(Codec(old, LIMIT).encode([OldJob(3)]))
    assert from_old == [NewJob(3)]
    assert from_old[0].added == [7]
    from_new = Codec(old, LIMIT).decode(Codec(new, LIMIT).encode([NewJob(4, [1])]))
    assert from_new == [OldJob(4, "x")]


def test_a_field_that_is_missing_and_has_no_default_is_refused() -> None:
    sender, receiver = MessageTypes(), MessageTypes()

    @sender.register(name="Job")
    @dataclasses.dataclass
    class Sent:
        a: int

    @receiver.register(name="Job")
    @dataclasses.dataclass
    class Expected:
        a: int
        b: int

    with pytest.raises(RemoteProtocolError, match="'b'"):
        Codec(receiver, LIMIT).decode(Codec(sender, LIMIT).encode(Sent(1)))


def test_a_class_that_the_receiver_did_not_register_is_refused() -> None:
    stranger = Codec(MessageTypes(), LIMIT)
    for value in (Box(1), Colour.RED, Access.READ):
        with pytest.raises(RemoteProtocolError, match="registered"):
            stranger.decode(CODEC.encode(value))


def test_an_enum_and_a_dataclass_are_not_taken_for_each_other() -> None:
    for tag, content in (
        (TAG_ENUM, ["Box", "content"]),
        (TAG_DATACLASS, ["Colour", {"value": 1}]),
        (TAG_ENUM, ["Colour", "BLUE"]),
        (TAG_ENUM, ["Colour", "__class__"]),
        (TAG_ENUM, ["Access", "READ|FLY"]),
        (TAG_DATACLASS, ["Box"]),
        (TAG_DATACLASS, ["Box", [1]]),
        (TAG_DATACLASS, [["Box"], {}]),
    ):
        with pytest.raises(RemoteProtocolError):
            CODEC.decode(cbor2.dumps(cbor2.CBORTag(tag, content)))


def test_what_is_registered_late_can_be_sent_at_once() -> None:
    types = MessageTypes()
    codec = Codec(types, LIMIT)
    codec.encode(1)
    late = types.register(dataclasses.make_dataclass("Late", ["x"]))
    assert codec.decode(codec.encode(late(1))) == late(1)


def test_only_dataclasses_and_enums_can_be_registered() -> None:
    with pytest.raises(ConfigError, match="Plain"):
        MessageTypes().register(Plain)


def test_two_classes_cannot_share_a_name() -> None:
    types = MessageTypes()
    types.register(Box)
    with pytest.raises(ConfigError, match="Box"):
        types.register(name="Box")(Point)
    types.register(name="Other")(Point)


def test_a_module_may_be_loaded_again() -> None:
    """The same class, as a debugger or a notebook redefines it, replaces the first."""

    def define(types: MessageTypes) -> Any:
        @types.register
        @dataclasses.dataclass
        class Again:
            x: int

        return Again

    types = MessageTypes()
    codec = Codec(types, LIMIT)
    first, second = define(types), define(types)
    assert first is not second
    assert type(codec.decode(codec.encode(second(1)))) is second
    assert type(codec.decode(codec.encode(first(1)))) is second


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (TAG_TUPLE, "ab"),
        (TAG_TUPLE, {"a": 1}),
        (TAG_TUPLE, 5),
        (TAG_FROZENSET, [1]),
        (TAG_DECIMAL_TEXT, 5),
        (TAG_DECIMAL_TEXT, "five"),
        (TAG_NODE_ID, ["alice"]),
        (TAG_NODE_ID, ["alice", -1]),
        (TAG_NODE_ID, [b"alice", 1]),
        (TAG_PROCESS_ID, ["alice", 1]),
        (TAG_PROCESS_ID, ["alice", 1, -1]),
        (TAG_PROCESS_ID, ["alice", 1, "2"]),
        (4, [0, "1"]),
        (4, [0]),
        (4, [0, 1 << 20_000]),
        (4, ["n", 1]),
        (258, 5),
        (258, {"a": 1}),
        (0, "yesterday"),
        (37, b"short"),
        (52, b"123456789"),
        (1, 0),
        (28, [1]),
        (29, 0),
        (30, [1, 0]),
        (35, "(((((a*)*)*)*)*)*"),
        (36, "MIME-Version: 1.0"),
        (5, [2**40, 1]),
        (43000, [1, 2]),
        (100, 5),
        (24, b"\x01"),
        (60000, 1),
    ],
)
def test_a_tag_with_the_wrong_content_or_that_is_not_ours_is_refused(
    tag: int, content: object
) -> None:
    """X4."""
    for data in (
        cbor2.dumps(cbor2.CBORTag(tag, content)),
        cbor2.dumps([1, cbor2.CBORTag(tag, content)]),
    ):
        with pytest.raises(RemoteProtocolError):
            CODEC.decode(data)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(10**5000),
        KeyError("k" * 10_000),
        OSError("x"),
        RecursionError(),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_class_that_refuses_its_fields_makes_the_message_refused(error: Exception) -> None:
    """X4: whatever __post_init__ raises, and however long its text, or without any."""
    types = MessageTypes()

    @types.register
    @dataclasses.dataclass
    class Picky:
        x: int

        def __post_init__(self) -> None:
            if self.x > 9:
                raise error

    codec = Codec(types, LIMIT)
    data = codec.encode(Picky(1)).replace(b"\x01", b"\x18\x63")
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(data)
    assert len(str(caught.value)) < 1000


def test_decode_ignores_what_follows_the_message() -> None:
    assert CODEC.decode(CODEC.encode((1, [2])) + b"trailing") == (1, [2])
