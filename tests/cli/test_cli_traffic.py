"""What relays tell of what they carry: rates, silence, and how it looks."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import pytest
import trio
import trio.testing
from rich.console import Console

from steinadler.cli import traffic
from steinadler.cli.relaying import Relay, Route
from steinadler.cli.traffic import telling, totals, watch


async def never() -> Any:
    raise AssertionError("nobody dials here")


def relay() -> Relay:
    return Relay([Route("web", "127.0.0.1:80", [], never)], 1)


async def test_traffic_is_told_once_a_second_while_it_changes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """An idle relay is silent; one that falls idle says so once, with rates of zero."""
    carrying, told = relay(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, carrying, told.append)
        await trio.sleep(3.5)
        assert told == []
        carrying.routes[0].figures.sent(500)
        carrying.routes[0].figures.received(20)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    rates = [
        (each["bytes_to_service"], each["bytes_to_service_per_s"], each["bytes_from_service_per_s"])
        for (each,) in (event["services"] for event in told)
    ]
    assert rates == [(500, 500.0, 20.0), (500, 0.0, 0.0)]


def every_event(tell: traffic.Tell) -> None:
    carried = relay()
    carried.routes[0].figures.connections = 3
    carried.routes[0].figures.sent(2_000_000)
    (facts,) = totals(carried)
    rates = {"bytes_to_service_per_s": 1000.0, "bytes_from_service_per_s": 0.0}
    places = [{"service": "web", "place": "127.0.0.1:80"}]
    tell({"event": "ready", "name": "expose-1", "services": places})
    tell({"event": "traffic", "services": [facts | rates]})
    logging.getLogger("steinadler.relay").warning("a fault")
    tell({"event": "draining", "name": "expose-1", "open": 2})
    tell({"event": "left", "name": "expose-1", "services": [facts]})


SAID = (
    "expose-1 is ready: web at 127.0.0.1:80",
    "expose-1 accepts nothing more; connections still open: 2",
    "expose-1 left; it carried 3 connections (0 came to nothing, 0 broke off), "
    "2.0 MB to services and 0 B from them",
)


def test_in_a_file_it_is_lines_and_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    with telling(as_json=False) as tell:
        every_event(tell)
    assert tuple(capsys.readouterr().out.splitlines()) == SAID


def test_programs_get_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with telling(as_json=True) as tell:
        every_event(tell)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["ready", "traffic", "draining", "left"]


def test_on_a_terminal_lines_stand_above_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the log too, which go to stderr."""
    screen = io.StringIO()
    monkeypatch.setattr(
        traffic,
        "console",
        lambda: Console(file=screen, force_terminal=True, highlight=False, width=200),
    )
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with telling(as_json=False) as tell:
            every_event(tell)
    finally:
        logging.getLogger().removeHandler(handler)
    shown = screen.getvalue()
    for text in (*SAID, "a fault", "FROM/s", "1.0 kB"):
        assert text in shown
