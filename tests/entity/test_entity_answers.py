"""Answers on their way to another node: the numbers that the protocol says, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from steinadler.entity.answers import Status, from_peer, to_peer


@pytest.mark.parametrize(
    ("number", "status"), [*enumerate(("ANSWERED", "FAILED", "ENTITY", "MOVED"))]
)
def test_a_status_travels_as_its_number(number: int, status: str) -> None:
    travels = to_peer((Status[status], b"x"))
    assert travels == (number, b"x")
    assert type(travels[0]) is int, "an enum would have to be registered"
    assert from_peer(travels) == (Status[status], b"x")


@pytest.mark.parametrize("reply", [None, 0, (), (0,), (4, b""), (-1, b""), (0, ""), (0, b"", b"")])
def test_what_is_no_answer(reply: Any) -> None:
    assert from_peer(reply) is None
