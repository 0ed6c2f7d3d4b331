"""What relays tell while they carry: a table on a terminal, lines of JSON, or a line at the end.

Rates are the difference between two looks a second apart.  JSON has a line for each look that
differs from the one before: an idle relay is silent, and one that falls idle says so with rates
of zero.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

import click
import trio

from steinadler.cli.output import console, print_json, size, table
from steinadler.cli.relaying import Relay

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERVAL_S = 1.0

Event: TypeAlias = dict[str, Any]
Tell: TypeAlias = Callable[[Event], None]


async def watch(relay: Relay, tell: Tell) -> None:
    """Look every second, until cancelled."""
    before, looked_at = _with_rates(totals(relay), None, 1), trio.current_time()
    while True:
        await trio.sleep(INTERVAL_S)
        seconds = trio.current_time() - looked_at
        looked_at += seconds
        now = _with_rates(totals(relay), before, seconds)
        if now != before:
            tell({"event": "traffic", "services": now})
            before = now


def totals(relay: Relay) -> list[Event]:
    """What each route carried so far."""
    return [
        {"service": route.service, "place": route.place, **asdict(route.figures)}
        for route in relay.routes
    ]


def _with_rates(now: list[Event], before: list[Event] | None, seconds: float) -> list[Event]:
    for facts, former in zip(now, before or now, strict=True):
        for counter in ("bytes_to_service", "bytes_from_service"):
            facts[f"{counter}_per_s"] = (facts[counter] - former[counter]) / seconds
    return now


@contextmanager
def telling(as_json: bool) -> Iterator[Tell]:
    """How events are told for the length of the block: as stdout is, and as it was asked for."""
    if as_json:
        yield print_json
    elif console().is_terminal:
        with _screen() as tell:
            yield tell
    else:
        yield _tell_in_words


def _tell_in_words(event: Event) -> None:
    if event["event"] != "traffic":
        click.echo(_words(event))


@contextmanager
def _screen() -> Iterator[Tell]:
    from rich.live import Live  # here, as all of rich: it takes longer to import than a call

    with Live(console=console(), auto_refresh=False) as live:

        def tell(event: Event) -> None:
            if event["event"] == "traffic":
                live.update(_view(event["services"]), refresh=True)
            else:
                live.console.print(_words(event))

        # Live puts what is written to stderr above its table, if it comes through it.
        with _logging_to_stderr_of_now():
            yield tell


@contextmanager
def _logging_to_stderr_of_now() -> Iterator[None]:
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)


def _words(event: Event) -> str:
    match event:
        case {"event": "ready", "name": name, "services": services}:
            where = ", ".join(f"{each['service']} at {each['place']}" for each in services)
            return f"{name} is ready: {where}"
        case {"event": "draining", "name": name, "open": count}:
            return f"{name} accepts nothing more; connections still open: {count}"
        case {"name": name, "services": services}:
            there, back, count, failed, broken = (
                sum(each[counter] for each in services)
                for counter in (
                    *("bytes_to_service", "bytes_from_service"),
                    *("connections", "failed", "broken"),
                )
            )
            return (
                f"{name} left; it carried {count} connections ({failed} came to nothing, {broken} "
                f"broke off), {size(there)} to services and {size(back)} from them"
            )
        case _:
            raise AssertionError(event)


def _view(services: list[Event]) -> RenderableType:
    columns = ("SERVICE", "PLACE", "OPEN", "IN ALL", "FAILED", "BROKEN", "TO", "FROM", "TO/s")
    rows = [
        (
            *(facts["service"], facts["place"]),
            *(f"{facts[counter]:,}" for counter in ("open", "connections", "failed", "broken")),
            *(size(facts["bytes_to_service"]), size(facts["bytes_from_service"])),
            *(size(facts["bytes_to_service_per_s"]), size(facts["bytes_from_service_per_s"])),
        )
        for facts in services
    ]
    return table((*columns, "FROM/s"), rows, numbers_from=2)
