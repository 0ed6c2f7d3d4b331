"""`steinadler node`: a node that lives until it is told to leave.

With `--json`, one object a line:

    {"event": "ready", "name": ..., "incarnation": ..., "addresses": [...], "cluster": ...}
    {"event": "up", "name": ..., "address": ..., "labels": {...}}
    {"event": "down", "name": ..., "reason": ...}
    {"event": "members_lost", "names": [...], "minority": ...}
    {"event": "sides_merged", "names": [...], "minority": ...}
    {"event": "name_conflict", "name": ..., "winner": ..., "loser": ...}
    {"event": "exited", "process": ..., "reason": ...}      a process of --app ended
    {"event": "left", "name": ...}                           the last line, when all went well
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, assert_never

import click
import trio

from steinadler.cli.opening import open_member
from steinadler.cli.options import (
    APP,
    LABEL,
    NODE_NAME,
    TOKEN,
    At,
    Where,
    as_json,
    authorizing,
    in_minority,
    joining,
    listening_at,
)
from steinadler.cli.output import print_json
from steinadler.cli.running import run
from steinadler.config import Config, Minority
from steinadler.entity.python import Entity
from steinadler.errors import ConfigError, SteinadlerError
from steinadler.identity import OBSERVER
from steinadler.node import (
    EventsLost,
    EventStream,
    MembersLost,
    NameConflict,
    Node,
    NodeDown,
    NodeUp,
    SidesMerged,
)
from steinadler.node.joining import join_cluster
from steinadler.process.exports import ProcessFunction
from steinadler.security import JoinToken, Policy, open_home

_DIALS_OUT = "and only dials out"


@click.command()
@click.argument("name", type=NODE_NAME)
@listening_at
@click.option(
    "--label",
    "labels",
    type=LABEL,
    multiple=True,
    metavar="KEY=VALUE",
    help="What others may choose this node by.  Repeatable.",
)
@click.option(
    "--app",
    "apps",
    type=APP,
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="An 'async def function(me)' to run as a process of that name, or an entity class to "
    "host; modules of the current folder are found.  Repeatable.",
)
@click.option(
    "--store",
    metavar="URL",
    help="Where entities' state is: sqlite:///PATH or postgresql://...  [default: a file in the "
    "cluster's folder]",
)
@click.option(
    "--join",
    "token",
    type=TOKEN,
    metavar="TOKEN",
    help="Join by a token of 'steinadler cluster token' first, unless this home did before; "
    "'-' reads it from stdin.",
)
@in_minority
@authorizing
@joining
@as_json
def node(
    name: str,
    at: At,
    labels: tuple[tuple[str, str], ...],
    apps: tuple[tuple[str, ProcessFunction | type[Entity]], ...],
    store: str | None,
    token: JoinToken | None,
    in_minority: Minority,
    role: str | None,
    policy: Policy | None,
    where: Where,
    as_json: bool,
) -> None:
    """Run a node called NAME until SIGINT (Ctrl-C) or SIGTERM, then leave cleanly.

    Tells its addresses when it is ready, and then who joins and who leaves; with --json, one
    object a line.
    """

    if token is not None and where.files is not None:
        raise click.UsageError("--join and --cert contradict each other: a token brings its own")

    async def live() -> None:
        nonlocal where
        if token is not None:
            where = replace(where, cluster=await join_for(name, token, where))
        async with open_member(
            name,
            at,
            where,
            labels=labels,
            role=role,
            policy=policy,
            store=store,
            config=Config(in_minority=in_minority),
        ) as member:
            opened = member.node
            events = opened.events()
            await member.meet_others()
            _tell(_ready(opened, where), as_json)
            async with trio.open_nursery() as nursery:
                for app_name, app in apps:
                    if isinstance(app, type):
                        opened.host(app)
                        continue
                    process = opened.spawn(app, name=app_name)
                    nursery.start_soon(_watch, opened, app_name, process, as_json)
                await _follow(events, as_json)

    if run(live) is not None:
        _tell({"event": "left", "name": name}, as_json)


async def join_for(name: str, token: JoinToken, where: Where) -> str:
    """Join by a token, unless this home can run that node already; what the cluster is called here.

    So the same command line starts it the first time and ever after.
    """
    if token.role == OBSERVER:
        raise ConfigError("the token is for an observer, and a node is a member: it takes another")
    if (known := await trio.to_thread.run_sync(_runs_already, name, token)) is not None:
        return known
    joined = await join_cluster(
        token, name=name, cluster=where.cluster, seeds=where.seeds, mdns=where.mdns
    )
    return joined.cluster


def _runs_already(name: str, token: JoinToken) -> str | None:
    home = open_home()
    for cluster in home.clusters():
        if cluster.id == token.cluster_id:
            with suppress(SteinadlerError):  # not given, or expired
                home.credentials(cluster, None, name).server_context()
                return cluster.name
    return None


def _ready(node: Node, where: Where) -> dict[str, Any]:
    return {
        "event": "ready",
        "name": node.name,
        "incarnation": node.id.incarnation,
        "addresses": [str(address) for address in node.addresses],
        "cluster": where.cluster_name,
    }


async def _follow(events: EventStream, as_json: bool) -> None:
    async for event in events:
        match event:
            case NodeUp(member):
                address = str(member.addresses[0]) if member.addresses else None
                fields = {"address": address, "labels": dict(member.labels)}
                _tell({"event": "up", "name": member.node.name, **fields}, as_json)
            case NodeDown(member, reason):
                _tell({"event": "down", "name": member.node.name, "reason": reason}, as_json)
            case MembersLost(members, minority):
                names = [member.node.name for member in members]
                _tell({"event": "members_lost", "names": names, "minority": minority}, as_json)
            case SidesMerged(members, minority):
                names = [member.node.name for member in members]
                _tell({"event": "sides_merged", "names": names, "minority": minority}, as_json)
            case NameConflict(name, winner, loser):
                fields = {"name": name, "winner": str(winner), "loser": str(loser)}
                _tell({"event": "name_conflict", **fields}, as_json)
            case EventsLost(count):
                _tell({"event": "lost", "count": count}, as_json)
            case _:
                assert_never(event)


async def _watch(node: Node, name: str, process: Any, as_json: bool) -> None:
    async with node.monitor(process) as monitor:
        down = await monitor.wait()
        _tell({"event": "exited", "process": name, "reason": down.reason}, as_json)


def _tell(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(event)
        return
    match event:
        case {"event": "ready", "name": name, "addresses": addresses, "cluster": cluster}:
            where = f"at {', '.join(addresses)}" if addresses else _DIALS_OUT
            text = f"{name} is ready in cluster {cluster!r}, {where}"
        case {"event": "up", "name": name, "address": address}:
            text = f"{name} is up, {f'at {address}' if address else _DIALS_OUT}"
        case {"event": "down", "name": name, "reason": reason}:
            text = f"{name} is down: {reason}"
        case {"event": "members_lost", "names": []}:
            text = "members went while others are lost: this side is a minority now"
        case {"event": "members_lost", "names": names, "minority": minority}:
            side = "a minority" if minority else "no minority"
            text = f"lost together: {', '.join(names)}; this side is {side}"
        case {"event": "sides_merged", "names": []}:
            text = "some of the lost are missing no more: this side is a minority no more"
        case {"event": "sides_merged", "names": names}:
            text = f"back, as they were: {', '.join(names)}"
        case {"event": "name_conflict", "name": name, "winner": winner, "loser": loser}:
            text = f"{winner} keeps the name {name!r} of the cluster, which {loser} had too"
        case {"event": "exited", "process": name, "reason": reason}:
            text = f"process {name} ended: {reason}"
        case {"event": "lost", "count": count}:
            text = f"{count} events before this one were lost"
        case _:
            text = f"{event['name']} left"
    click.echo(text)
