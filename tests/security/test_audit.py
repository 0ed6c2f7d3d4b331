"""What is told of refusals: each one, and of a flood few lines and all of the numbers (X4)."""

from __future__ import annotations

from steinadler.security.audit import (
    ALL_BURST,
    BURST,
    MAX_PEERS,
    REFILL_S,
    SUMMARY_S,
    Audit,
    shown,
)


def test_a_few_refusals_are_a_line_each() -> None:
    audit = Audit()
    assert [audit.refused("bob", 100.0 + n) for n in range(BURST)] == [""] * BURST
    assert audit.count == BURST
    assert not audit.owes


def test_of_a_flood_every_refusal_is_counted_and_few_are_told() -> None:
    audit = Audit()
    lines = [line for n in range(100_000) if (line := audit.refused("bob", n / 1000)) is not None]
    assert len(lines) <= BURST + 100 / REFILL_S + 1
    told = len(lines) + sum(int(line.split()[1]) for line in lines if line)
    tail = int(audit.summary().split(": ")[1].split()[0])
    assert told + tail == audit.count == 100_000
    assert not audit.owes


def test_several_at_once_are_one_line() -> None:
    assert Audit().refused("bob", 0, times=64) == " (and 63 more refusals)"


def test_one_that_floods_hides_nobody_else() -> None:
    audit = Audit()
    for n in range(100_000):
        audit.refused("bob", n / 1_000_000)
    assert audit.refused("carol", 0.2) == ""


def test_names_that_change_get_no_more_lines_than_all_together_may() -> None:
    audit = Audit()
    names = [f"bob.{n}" for n in range(20 * MAX_PEERS)]
    lines = [name for n, name in enumerate(names) if audit.refused(name, n / 1000) is not None]
    assert len(lines) <= ALL_BURST + len(names) / 1000 + 1
    summary = audit.summary()
    assert "\n" not in summary
    assert len(summary) < 300
    assert audit.count == len(names)


def test_peers_that_ask_no_more_are_forgotten() -> None:
    audit = Audit()
    for n in range(10 * MAX_PEERS):  # one line each, with time in between
        assert audit.refused(f"bob.{n}", n * SUMMARY_S) == ""
    assert not audit.owes


def test_a_name_is_one_line_and_no_longer_than_needs_be() -> None:
    assert shown("a\nrefused: b") == repr("a\nrefused: b")
    assert len(shown("x" * 10_000)) < 250
