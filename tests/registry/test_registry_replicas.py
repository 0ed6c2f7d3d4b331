"""One node's entries, as another gets to know them: piece by piece, and after any absence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from steinadler.identity import NodeId
from steinadler.registry import replica as module
from steinadler.registry.messages import Update, decode, encode
from steinadler.registry.replica import LOG_LENGTH, Replica
from steinadler.wire.frames import MAX_PAYLOAD_BYTES

ORIGIN = NodeId("origin", 1)
NAMES = [f"name{n}" for n in range(6)]


def catch_up(behind: Replica, ahead: Replica, pieces: list[Update] | None = None) -> Replica:
    """What a node has that asks until there is no more; the messages travel as bytes."""
    for _ in range(10_000):
        if behind.version >= ahead.version:
            return behind
        update = decode(encode(ahead.since(behind.version, behind.started)))
        assert isinstance(update, Update)
        if pieces is not None:
            pieces.append(update)
        if update.base == 0:
            assert len(pieces or ()) <= 1 or behind.version == 0
            behind = Replica(ORIGIN)
            behind.started = update.latest
        for entry in update.entries:
            behind.apply(entry)
        behind.complete(update.version)
    raise AssertionError("it never ends")


def held(replica: Replica) -> tuple[object, object]:
    names = {name: (number, claimed) for name, (number, claimed, _) in replica.names.items()}
    return names, {group: set(members) for group, members in replica.groups.items()}


steps = st.lists(
    st.tuples(st.sampled_from(["name", "free", "join", "leave", "look"]), st.integers(0, 5)),
    max_size=60,
)


@given(steps)
def test_whoever_asks_has_the_same(steps: list[tuple[str, int]]) -> None:
    """N3: at whatever version it looked last, and also by way of one that itself only heard."""
    origin, near, far = Replica(ORIGIN), Replica(ORIGIN), Replica(ORIGIN)
    for step, n in steps:
        match step:
            case "name":
                origin.add_name(NAMES[n], n + 1, n * 100)
            case "free" if NAMES[n] in origin.names:
                origin.remove(NAMES[n])
            case "join":
                origin.add_to_group(NAMES[n % 2], n + 1)
            case "leave" if n + 1 in origin.groups.get(NAMES[n % 2], ()):
                origin.remove(NAMES[n % 2], n + 1)
            case "look":
                near = catch_up(near, origin)
                if n % 2:
                    far = catch_up(far, near)
    near = catch_up(near, origin)
    assert held(near) == held(origin)
    assert held(catch_up(far, near)) == held(origin)


def test_much_comes_in_pieces_each_once() -> None:
    """Each piece fits a frame, whatever the names are and however large the numbers."""
    origin = Replica(ORIGIN)
    origin.version = 2**61
    for n in range(2000):
        origin.add_name(f"{n}" + "\N{EARTH GLOBE EUROPE-AFRICA}" * (n % 50), 2**63 + n, 2**63 + n)
        origin.add_to_group(f"group{n % 7}", 2**63 + n)
    pieces: list[Update] = []
    near = catch_up(Replica(ORIGIN), origin, pieces)
    assert held(near) == held(origin)
    assert sum(len(piece.entries) for piece in pieces) == 4000
    sizes = [len(encode(piece)) for piece in pieces]
    assert max(sizes) <= MAX_PAYLOAD_BYTES
    assert sum(sizes) / len(sizes) > MAX_PAYLOAD_BYTES / 2


def test_who_was_away_for_longer_than_the_log_starts_anew_and_finishes() -> None:
    """What was removed meanwhile is gone there too, however long ago, and while it comes."""
    origin = Replica(ORIGIN)
    for n in range(1500):
        origin.add_name(f"kept{n}", n + 1, n)
    origin.add_name("gone", 9999, 0)
    near = catch_up(Replica(ORIGIN), origin)
    origin.remove("gone")
    for n in range(LOG_LENGTH + 5):
        origin.add_name("passing", n + 1, n)
        origin.remove("passing")
    pieces: list[Update] = []
    near = catch_up(near, origin, pieces)
    assert pieces[0].base == 0
    assert "gone" not in near.names
    assert held(near) == held(origin)
    far = catch_up(Replica(ORIGIN), near)
    assert held(far) == held(origin)


def test_a_name_that_comes_and_goes_takes_no_more_room() -> None:
    origin = Replica(ORIGIN)
    for n in range(10 * LOG_LENGTH):
        origin.add_name("passing", n + 1, n)
        origin.remove("passing")
    assert len(origin) == 0
    assert len(origin._added) <= module.LOG_LENGTH + 2
    assert len(origin._log) <= LOG_LENGTH


@given(steps)
def test_what_is_held_is_counted_as_it_comes_and_goes(steps: list[tuple[str, int]]) -> None:
    """Counting anew at every addition would make a hundred thousand groups take minutes."""
    replica = Replica(ORIGIN)
    for step, n in steps:
        match step:
            case "name":
                replica.add_name(NAMES[n], n + 1, n * 100)
            case "free":
                replica.remove(NAMES[n])
            case "join":
                replica.add_to_group(NAMES[n % 2], n + 1)
            case "leave":
                replica.remove(NAMES[n % 2], n + 1)
            case _:
                pass
        in_groups = sum(len(members) for members in replica.groups.values())
        assert len(replica) == len(replica.names) + in_groups
