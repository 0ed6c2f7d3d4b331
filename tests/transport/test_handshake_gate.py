"""Room and turns for those who have not proved who they are, by address (X4)."""

from __future__ import annotations

import math
import random

import pytest

from steinadler.transport.handshake_gate import (
    MAX_KNOWN,
    PATIENCE_S,
    ROOM_FACTOR,
    HandshakeGate,
    RefusalLog,
    Visitor,
    source_of,
)

PLACES, RATE = 4, 10.0
ROOM = PLACES * (1 + ROOM_FACTOR)


def gate() -> HandshakeGate:
    return HandshakeGate(PLACES, RATE)


def waiting(gate: HandshakeGate, source: str, now: float) -> Visitor:
    visitor, victim = gate.arrived(source, now)
    assert victim is None
    gate.spoke(visitor, now)
    return visitor


def make_known(gate: HandshakeGate, source: str) -> None:
    gate.left(gate.arrived(source, 0.0)[0], proved=True)


def use_up_tokens(gate: HandshakeGate, now: float) -> None:
    for _ in range(PLACES):
        visitor = waiting(gate, "somebody", now)
        assert gate.turns(now) == ([visitor], [])
        gate.left(visitor, proved=False)
    assert gate.turns(now) == ([], [])


# -- room -------------------------------------------------------------------------------------


def test_a_flood_of_silent_connections_pushes_out_its_own_oldest() -> None:
    door = gate()
    alone, _ = door.arrived("alone", 0.0)
    flood = [door.arrived("flood", 1.0 + n)[0] for n in range(ROOM - 1)]
    assert door.is_full
    for n in range(50):
        newcomer, victim = door.arrived("flood", 100.0 + n)
        assert victim is flood.pop(0)
        flood.append(newcomer)
    one_more, victim = door.arrived("another", 200.0)
    assert victim is flood.pop(0)
    assert len(door) == ROOM
    for visitor in (alone, one_more, *flood):
        door.left(visitor, proved=False)
    assert len(door) == 0


def test_where_all_have_as_much_strangers_make_way_before_members() -> None:
    door = gate()
    make_known(door, "member")
    member, _ = door.arrived("member", 0.0)
    strangers = [door.arrived(f"stranger{n}", 1.0)[0] for n in range(ROOM - 1)]
    _, victim = door.arrived("newcomer", 2.0)
    assert victim in strangers
    door.left(member, proved=True)


def test_whoever_shakes_hands_is_the_last_to_make_way_for_room() -> None:
    door = gate()
    shaking = [waiting(door, "flood", 0.0) for _ in range(PLACES)]
    assert set(door.turns(0.0)[0]) == set(shaking)
    silent = [door.arrived("flood", 1.0)[0] for _ in range(ROOM - PLACES)]
    _, victim = door.arrived("flood", 2.0)
    assert victim is silent[0]


# -- turns ------------------------------------------------------------------------------------


def test_turns_are_given_at_the_rate_and_a_burst_after_quiet() -> None:
    door = gate()
    use_up_tokens(door, 100.0)
    served = 0
    now = 100.0
    for _ in range(ROOM):
        waiting(door, "flood", now)
    while math.isfinite(at := door.next_turn_at()):
        assert at >= now
        now = at
        for visitor in door.turns(now)[0]:
            served += 1
            door.left(visitor, proved=False)
    assert served == ROOM
    assert now - 100.0 == pytest.approx(ROOM / RATE)


def test_addresses_take_turns_whatever_one_of_them_has_waiting() -> None:
    door = gate()
    use_up_tokens(door, 0.0)
    for _ in range(ROOM // 2):
        waiting(door, "flood", 0.0)
    other = [waiting(door, "other", 0.0) for _ in range(2)]
    order = []
    now = 0.0
    for _ in range(4):
        now = door.next_turn_at() + 1e-9
        [visitor], _ = door.turns(now)
        order.append(visitor.source)
        door.left(visitor, proved=False)
    assert order == ["flood", "other", "flood", "other"]
    assert all(visitor not in door._shaking for visitor in other)


def test_members_have_every_second_turn_among_a_thousand_that_flood() -> None:
    door = gate()
    make_known(door, "member")
    use_up_tokens(door, 0.0)
    for n in range(ROOM - 2):
        waiting(door, f"flood{n}", 0.0)
    members = {waiting(door, "member", 0.0), waiting(door, "member", 0.1)}
    turns = []
    now = 0.1
    for _ in range(4):
        now = door.next_turn_at() + 1e-9
        [visitor], _ = door.turns(now)
        turns.append(visitor)
        door.left(visitor, proved=visitor in members)
    assert members == set(turns[:1] + turns[2:3]) or members == set(turns[1:2] + turns[3:4])


def test_the_latest_of_one_address_goes_first() -> None:
    door = gate()
    use_up_tokens(door, 0.0)
    _, late = waiting(door, "one", 0.0), waiting(door, "one", 1e-6)
    assert door.turns(1 / RATE + 1e-6)[0] == [late]


def test_slow_handshakes_make_way_after_a_while_and_only_when_somebody_waits() -> None:
    door = gate()
    slow = [waiting(door, "slow", 0.0) for _ in range(PLACES)]
    door.turns(0.0)
    assert door.turns(0.4) == ([], [])
    assert door.next_turn_at() == math.inf
    newcomer = waiting(door, "newcomer", 0.5)
    assert door.turns(0.5) == ([], [])
    assert door.next_turn_at() == PATIENCE_S
    granted, victims = door.turns(PATIENCE_S)
    assert granted == [newcomer]
    assert len(victims) == 1
    assert victims[0] in slow


def test_addresses_of_members_are_remembered_up_to_a_number() -> None:
    door = gate()
    for n in range(2 * MAX_KNOWN):
        make_known(door, f"member{n}")
    assert len(door._known) == MAX_KNOWN
    assert f"member{2 * MAX_KNOWN - 1}" in door._known


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_nobody_is_counted_twice_or_forgotten(seed: int) -> None:
    rng = random.Random(seed)
    door = HandshakeGate(rng.randint(1, 5), rng.choice([0.5, 10, 1000]))
    here: list[Visitor] = []
    silent: list[Visitor] = []
    now = 0.0
    for _ in range(400):
        now += rng.choice([0, 0.001, 0.1, 2])
        match rng.randrange(4):
            case 0 | 1:
                visitor, victim = door.arrived(f"s{rng.randrange(4)}", now)
                here.append(visitor)
                silent.append(visitor)
                gone = [victim] if victim else []
            case 2 if silent:
                door.spoke(silent.pop(rng.randrange(len(silent))), now)
                granted, gone = door.turns(now)
                assert len(door._shaking) <= door._places
                assert set(granted) <= set(here)
            case _:
                gone = []
                if here:
                    leaving = here.pop(rng.randrange(len(here)))
                    door.left(leaving, proved=rng.random() < 0.3)
                    gone = [leaving] if leaving in silent else []
        here = [visitor for visitor in here if visitor not in gone]
        silent = [visitor for visitor in silent if visitor not in gone]
        assert len(door) == len(here) <= door._room
        assert {v for held in door._visitors.values() for v in held} == set(here)
        lanes = [v for lane in door._waiting for of in lane.values() for v in of]
        assert len(lanes) == len(set(lanes))
        assert set(lanes) == set(here) - set(silent) - set(door._shaking)


# -- addresses and the log --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_an_address_is_one_of_ipv4_or_a_network_of_ipv6(host: str, source: str) -> None:
    assert source_of(host) == source


def test_a_flood_of_refusals_is_some_lines_that_say_how_many_there_were() -> None:
    log = RefusalLog()
    assert [log.tell(5.0) for _ in range(RefusalLog.BURST)] == [0] * RefusalLog.BURST
    told = [log.tell(5.0 + n / 100) for n in range(1000)]
    lines = [each for each in told if each is not None]
    assert len(lines) == 9
    assert sum(lines) + len(lines) == pytest.approx(1000, abs=100)
    assert log.tell(1000.0) is not None
    assert log.tell(1000.0) == 0
