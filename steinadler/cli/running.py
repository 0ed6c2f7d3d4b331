"""How commands run, end and fail.

Exit codes: 0 done; 1 it could not be done; 2 the command line makes no sense; 128 + the signal's
number (130 for Ctrl-C) when a signal ended a command that was not meant to be ended so.

Signals are taken as they come and cancel the command, so that its node says goodbye on every
way out; Python's own KeyboardInterrupt could fall into the middle of that.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import click
import trio

from steinadler.errors import SteinadlerError
from steinadler.node.failures import single_error

ENDING_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Failed(click.ClickException):
    """It could not be done: one line on stderr, exit code 1."""


def run(
    command: Callable[[], Awaitable[None]], *, on_signal: Callable[[], None] | None = None
) -> signal.Signals | None:
    """Run `command` to its end, or until a signal ends it; return that signal.

    With `on_signal`, the first signal calls that and ends nothing: the command goes in order, and
    only a second signal ends it.  Raises `Failed` for every `SteinadlerError`.
    """

    async def with_signals() -> signal.Signals | None:
        ended_by: signal.Signals | None = None

        async def watch(scope: trio.CancelScope) -> None:
            nonlocal ended_by
            told = on_signal is None
            async for number in signals:
                if not told and on_signal is not None:
                    told = True
                    on_signal()
                    continue
                ended_by = ended_by or signal.Signals(number)
                scope.cancel()

        with trio.open_signal_receiver(*ENDING_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, nursery.cancel_scope)
                await command()
                nursery.cancel_scope.cancel()
        return ended_by

    try:
        try:
            return trio.run(with_signals)
        except BaseExceptionGroup as group:
            raise single_error(group) from None
    except SteinadlerError as error:
        raise Failed(str(error)) from error


def run_once(command: Callable[[], Awaitable[None]]) -> None:
    """Run a command that ends by itself; a signal that ends it before is told by the exit code."""
    ended_by = run(command)
    if ended_by is not None:
        exit_for(ended_by)


def exit_for(number: signal.Signals) -> NoReturn:
    """End as shells expect of what a signal ended."""
    raise SystemExit(128 + number)


@contextmanager
def failing_at(deadline: float, why: Callable[[], str]) -> Iterator[None]:
    """Raise `Failed(why())` when the block is not through at `deadline` (Trio's clock)."""
    with trio.move_on_at(deadline) as scope:
        yield
    if scope.cancelled_caught:
        raise Failed(why())
