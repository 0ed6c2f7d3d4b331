"""`steinadler expose` and `steinadler forward`: services of one machine, used from another's ports.

    program --> forward ==== a stream of the cluster, mutual TLS ==== expose --> service

Each is a node of the cluster for as long as it runs; its name is made up, because nothing hangs on
it.  With `--json`, one object a line:

    {"event": "ready", "name": ..., "services": [{"service": ..., "place": ...}]}
    {"event": "traffic", "services": [FIGURES, ...]}     once a second, while they change
    {"event": "draining", "name": ..., "open": ...}
    {"event": "left", "name": ..., "services": [FIGURES, ...]}

FIGURES are `service`, `place`, those of `steinadler.cli.relaying.Figures`, and in "traffic" the
rates `bytes_to_service_per_s` and `bytes_from_service_per_s`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import trio

from steinadler.cli.opening import open_member
from steinadler.cli.options import (
    LABEL,
    NODE_NAME,
    At,
    Seconds,
    Where,
    as_json,
    authorizing,
    joining,
    listening_at,
)
from steinadler.cli.places import Place, dial, listening, parse_place, place_of
from steinadler.cli.relaying import Relay, Route
from steinadler.cli.running import exit_for, run
from steinadler.cli.traffic import Tell, telling, totals, watch
from steinadler.errors import ConfigError
from steinadler.identity import check_node_name, check_service
from steinadler.node import Node
from steinadler.security import Policy

# How long a forward that has just opened waits to see the services, before it says so.
_FIND_S = 3.0


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the cluster: on one node, or with None on any that offers it."""

    name: str
    node: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.node or '*'}"


def _read_service(text: str) -> Service:
    name, at, node = text.partition("@")
    check_service(name)
    if not at or node == "*":
        return Service(name)
    return Service(name, check_node_name(node))


def _pairs(
    read_first: Callable[[str], Any], read_second: Callable[[str], Any]
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], list[tuple[Any, Any]]]:
    """Read arguments that come in pairs."""

    def read(
        ctx: click.Context, param: click.Parameter, words: tuple[str, ...]
    ) -> list[tuple[Any, Any]]:
        if len(words) % 2:
            raise click.UsageError(f"{words[-1]!r} is one of a pair: {param.metavar}", ctx)
        try:
            return [
                (read_first(first), read_second(second))
                for first, second in zip(words[::2], words[1::2], strict=True)
            ]
        except ConfigError as error:
            raise click.UsageError(str(error), ctx) from error

    return read


def _carrying(command: Callable[..., None]) -> Callable[..., None]:
    """The options of both commands."""
    for option in (
        click.option(
            "--drain-timeout",
            "drain_s",
            type=Seconds(0, 86400),
            default=10.0,
            metavar="SECONDS",
            help="How long open connections may take to end at SIGTERM.  [default: 10]",
        ),
        click.option(
            "--max-connections",
            type=click.IntRange(1),
            default=1000,
            metavar="N",
            help="Open at once, for each service; further ones wait.  [default: 1000]",
        ),
        click.option("--label", "labels", type=LABEL, multiple=True, metavar="KEY=VALUE"),
        listening_at,
        click.option("--name", type=NODE_NAME, help="The node's name.  [default: one made up]"),
    ):
        command = option(command)
    return as_json(authorizing(joining(command)))


@click.command()
@click.argument(
    "pairs",
    nargs=-1,
    required=True,
    metavar="NAME PLACE [NAME PLACE]...",
    callback=_pairs(check_service, parse_place),
)
@_carrying
def expose(pairs: list[tuple[str, Place]], **options: Any) -> None:
    """Offer services of this machine to the cluster, each under a NAME, until SIGINT (Ctrl-C) or
    SIGTERM; then drain and leave.

    PLACE is where a service listens: HOST:PORT, PORT on 127.0.0.1, or unix:PATH.  It is dialled
    for each connection.  A second signal ends it at once.
    """

    life = _Life("expose", **options)

    async def live() -> None:
        async with life.node() as node:
            await life.carry(
                [
                    Route(name, str(place), [node.listen(name)], partial(dial, place))
                    for name, place in pairs
                ]
            )

    life.run(live)


@click.command()
@click.argument(
    "pairs",
    nargs=-1,
    required=True,
    metavar="PLACE NAME[@NODE] [PLACE NAME[@NODE]]...",
    callback=_pairs(partial(parse_place, any_port=True), _read_service),
)
@_carrying
def forward(pairs: list[tuple[Place, Service]], **options: Any) -> None:
    """Listen on this machine, and carry each connection to the service NAME of the cluster, until
    SIGINT (Ctrl-C) or SIGTERM; then drain and leave.

    PLACE is where to listen: PORT on 127.0.0.1 (0 is any that is free), HOST:PORT, or unix:PATH.
    Without @NODE, the nodes that offer the service take turns; one that is down is passed over.  A
    second signal ends it at once.
    """

    life = _Life("forward", **options)

    async def live() -> None:
        async with AsyncExitStack() as stack:
            # Before the node opens: a mistake is told at once, and disturbs nobody.
            opened = [await stack.enter_async_context(listening(place)) for place, _ in pairs]
            node = await stack.enter_async_context(life.node())
            with trio.move_on_after(_FIND_S):
                for _, service in pairs:
                    while not _is_offered(node, service):
                        await node.wait_for_change()
            await life.carry(
                [
                    Route(
                        str(service),
                        ", ".join(str(place_of(listener, place)) for listener in listeners),
                        listeners,
                        partial(node.connect, str(service)),
                    )
                    for (place, service), listeners in zip(pairs, opened, strict=True)
                ]
            )

    life.run(live)


def _is_offered(node: Node, service: Service) -> bool:
    offering = node.services().get(service.name, ())
    return any(service.node in (None, member.node.name) for member in offering)


class _Life:
    """The life of either command, from its options to its last line."""

    def __init__(
        self,
        command: str,
        *,
        name: str | None,
        at: At,
        labels: tuple[tuple[str, str], ...],
        role: str | None,
        policy: Policy | None,
        where: Where,
        drain_s: float,
        max_connections: int,
        as_json: bool,
    ) -> None:
        self._name = name or f"{command}-{secrets.token_hex(4)}"
        self._open = partial(
            open_member, self._name, at, where, labels=labels, role=role, policy=policy
        )
        self._drain_s = drain_s
        self._max_connections = max_connections
        self._as_json = as_json
        self._leave = trio.Event()
        self._tell: Tell
        self._relay: Relay | None = None

    @asynccontextmanager
    async def node(self) -> AsyncIterator[Node]:
        """The node, once it has met whoever it may be at odds with about its name."""
        async with self._open() as member:
            await member.meet_others()
            yield member.node

    async def carry(self, routes: list[Route]) -> None:
        """Carry connections until a signal comes, and what is open then to its end."""
        relay = self._relay = Relay(routes, self._max_connections)
        services = [{"service": route.service, "place": route.place} for route in routes]
        self._tell({"event": "ready", "name": self._name, "services": services})

        def on_drain() -> None:
            self._tell({"event": "draining", "name": self._name, "open": relay.open})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, relay, self._tell)
            await relay.run(self._leave, self._drain_s, on_drain)
            nursery.cancel_scope.cancel()

    def run(self, live: Callable[[], Awaitable[None]]) -> None:
        """Run until a first signal has drained it, or a second one ended it."""
        with telling(self._as_json) as self._tell:
            ended_by = run(live, on_signal=self._leave.set)
            if self._relay is not None:
                services = totals(self._relay)
                self._tell({"event": "left", "name": self._name, "services": services})
        if ended_by is not None:
            exit_for(ended_by)
