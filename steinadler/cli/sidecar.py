"""`steinadler sidecar`: a node with entities behind HTTP, until it is told to leave.

With `--json`, one object a line:

    {"event": "ready", "name": ..., "http": ["127.0.0.1:3500"], "addresses": [...]}
    {"event": "program_up", "name": ..., "types": ["Cart"]}      again after each time it was down
    {"event": "draining", "name": ...}
    {"event": "left", "name": ...}
"""

from __future__ import annotations

import gc
import os
import re
import socket
from typing import TYPE_CHECKING, Any

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
    in_minority,
    joining,
    listening_at,
)
from steinadler.cli.output import print_json
from steinadler.cli.running import Failed, run
from steinadler.config import Config, EntitySettings, Minority
from steinadler.security import Policy

if TYPE_CHECKING:
    from steinadler.sidecar.app_link import AppLink

_DEFAULTS = EntitySettings()
_PORT = click.IntRange(0, 65535)
_SECONDS = Seconds(0.001, 86400)


@click.command()
@click.option("--name", type=NODE_NAME, help="The node's name.  [default: HOSTNAME-PORT]")
@click.option(
    "--app-port",
    type=click.IntRange(1, 65535),
    envvar="APP_PORT",
    help="Where the program listens.  Without, the sidecar only makes calls.  [env: APP_PORT]",
)
@click.option("--app-host", default="127.0.0.1", show_default=True, help="The program's host.")
@click.option("--app-socket", metavar="PATH", help="The program's Unix socket, for a port.")
@click.option(
    "--http-port",
    type=_PORT,
    envvar="DAPR_HTTP_PORT",
    default=3500,
    help="Where the API listens; 0 is any free port.  [default: 3500; env: DAPR_HTTP_PORT]",
)
@click.option(
    "--http-host",
    default="127.0.0.1",
    show_default=True,
    help="The API's interface.  Beyond loopback, set DAPR_API_TOKEN.",
)
@click.option("--http-socket", metavar="PATH", help="The API's Unix socket, for a port.")
@click.option(
    "--store",
    metavar="URL",
    help="sqlite:///PATH or postgresql://...  [default: entities.sqlite3 in the cluster's folder]",
)
@click.option(
    "--max-body",
    "max_body_bytes",
    type=click.IntRange(1),
    default=4 * 1024 * 1024,
    metavar="BYTES",
    help="The largest body of a request or an answer.  [default: 4 MiB]",
)
@click.option(
    "--call-timeout",
    "call_timeout_s",
    type=_SECONDS,
    default=60.0,
    metavar="SECONDS",
    help="How long callers wait that send no Steinadler-Timeout-Ms.  [default: 60]",
)
@click.option(
    "--turn-timeout",
    "turn_timeout_s",
    type=_SECONDS,
    default=_DEFAULTS.turn_timeout_s,
    metavar="SECONDS",
    help="How long the program may take for a turn.  [default: 60]",
)
@click.option(
    "--drain-timeout",
    "drain_s",
    type=_SECONDS,
    default=_DEFAULTS.drain_s,
    metavar="SECONDS",
    help="How long turns may take to end when the sidecar leaves.  [default: 10]",
)
@listening_at
@click.option("--label", "labels", type=LABEL, multiple=True, metavar="KEY=VALUE", help="As node.")
@in_minority
@authorizing
@joining
@as_json
def sidecar(
    name: str | None,
    app_port: int | None,
    app_host: str,
    app_socket: str | None,
    http_port: int,
    http_host: str,
    http_socket: str | None,
    store: str | None,
    max_body_bytes: int,
    call_timeout_s: float,
    turn_timeout_s: float,
    drain_s: float,
    at: At,
    labels: tuple[tuple[str, str], ...],
    in_minority: Minority,
    role: str | None,
    policy: Policy | None,
    where: Where,
    as_json: bool,
) -> None:
    """Run a sidecar until SIGINT (Ctrl-C) or SIGTERM, then drain and leave cleanly.

    Entities of the program at --app-port can be called from every node, and it can call theirs, by
    the Dapr actors HTTP API.  The environment variable DAPR_API_TOKEN is what callers must show,
    APP_API_TOKEN what the program is shown.  A second signal ends it at once.
    """
    try:
        from steinadler.sidecar import SidecarSettings, open_sidecar
    except ImportError as error:
        how = "pip install 'steinadler[sidecar]', or '.[sidecar]' where its sources are"
        raise Failed(f"{error}; the sidecar needs more: {how}") from None
    chosen = name or _default_name(app_port or http_port)
    leave = trio.Event()

    async def tell_of_program(link: AppLink) -> None:
        """That it is down, or was never there, the log tells."""
        while True:
            await link.wait(up=True)
            _tell({"event": "program_up", "name": chosen, "types": sorted(link.known)}, as_json)
            await link.wait(up=False)

    async def live() -> None:
        settings = SidecarSettings(
            http_host=http_host,
            http_port=http_port,
            http_socket=http_socket,
            app_host=app_host,
            app_port=None if app_socket is not None else app_port,
            app_socket=app_socket,
            api_token=os.environ.get("DAPR_API_TOKEN") or None,
            app_token=os.environ.get("APP_API_TOKEN") or None,
            max_body_bytes=max_body_bytes,
            call_timeout_s=call_timeout_s,
        )
        async with (
            open_member(
                chosen,
                at,
                where,
                labels=labels,
                role=role,
                policy=policy,
                store=store,
                config=Config(
                    entities=EntitySettings(turn_timeout_s=turn_timeout_s, drain_s=drain_s),
                    in_minority=in_minority,
                ),
            ) as member,
            open_sidecar(member.node, settings) as opened,
        ):
            await member.meet_others()
            ready = {
                "event": "ready",
                "name": chosen,
                "http": list(opened.addresses),
                "addresses": [str(address) for address in member.node.addresses],
            }
            # What was imported stays; a full collection that looks at it stops all for 25 ms.
            gc.collect()
            gc.freeze()
            _tell(ready, as_json)
            async with trio.open_nursery() as nursery:
                if opened.link is not None:
                    nursery.start_soon(tell_of_program, opened.link)
                await leave.wait()
                nursery.cancel_scope.cancel()
            _tell({"event": "draining", "name": chosen}, as_json)
            await opened.drain()

    run(live, on_signal=leave.set)
    _tell({"event": "left", "name": chosen}, as_json)


def _default_name(port: int) -> str:
    """The same at every start, because what a node owns goes by its name."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:50].strip("-.") or "sidecar"
    return f"{host}-{port}"


def _tell(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(event)
        return
    name = event["name"]
    match event["event"]:
        case "ready":
            click.echo(f"{name} is ready, and serves HTTP at {', '.join(event['http'])}")
        case "program_up":
            click.echo(f"{name}'s program is up, with {', '.join(event['types']) or 'no entities'}")
        case "draining":
            click.echo(f"{name} gives up its entities")
        case _:
            click.echo(f"{name} left")
