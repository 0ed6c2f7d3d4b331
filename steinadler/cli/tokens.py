"""`steinadler cluster token`, `tokens` and `join`: how a machine gets in.

A token is made where the cluster's key is, and goes to stdout alone, so that it can be piped to
where it is needed; what people want to know of it goes to stderr.  Making, listing and revoking
need no node: what is kept of tokens is in the home, where running nodes look.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import click

from steinadler.cli.options import ADDRESS, DURATION, NODE_NAME, TOKEN, as_json, set_up_logging
from steinadler.cli.output import console, print_json, table
from steinadler.cli.running import Failed, run_once
from steinadler.discovery import RuntimeFolder
from steinadler.errors import SteinadlerError
from steinadler.identity import NODE, Address
from steinadler.node.joining import Joined, join_cluster
from steinadler.security import (
    Cluster,
    Home,
    JoinToken,
    TokenRecord,
    cluster_fingerprint,
    open_home,
)
from steinadler.security.home import DEFAULT_CLUSTER
from steinadler.transport.tcp import reachable_at

_T = TypeVar("_T")

_cluster = click.option(
    "--cluster",
    default=DEFAULT_CLUSTER,
    show_default=True,
    metavar="NAME",
    help="Which cluster of the home.",
)


@click.command()
@click.option(
    "--ttl",
    type=DURATION,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How long it is good for, as in 90s, 10m, 12h or 7d.",
)
@click.option("--uses", default=1, show_default=True, help="How many machines may join by it.")
@click.option(
    "--role",
    default=NODE,
    show_default=True,
    help="What they become: node, observer, or another role of the cluster's.",
)
@click.option(
    "--name",
    type=NODE_NAME,
    help="As whom.  [default: the joiner chooses a name that is free]",
)
@click.option(
    "--address",
    "addresses",
    type=ADDRESS,
    multiple=True,
    metavar="HOST:PORT",
    help="Where a node of this home is reached, before the addresses found here.  Repeatable.",
)
@_cluster
@as_json
def token(
    ttl: timedelta,
    uses: int,
    role: str,
    name: str | None,
    addresses: tuple[Address, ...],
    cluster: str,
    as_json: bool,
) -> None:
    """Make a token by which another machine can join, and print it.

    Whoever has it can join: treat it as a password.  A node of this home must run while it is used.
    With --json: an object {token, id, cluster, role, name, uses, expires, addresses}.
    """
    home, known = _find(cluster)
    found = dict.fromkeys((*addresses, *_listening(home, known)))
    if not known.joined:
        _told(home.cluster_folder(known).authority)  # or nobody could be let in by it
    made = _told(
        lambda: home.tokens(known).make(
            known,
            role=role,
            name=name,
            uses=uses,
            ttl=ttl,
            addresses=found,
            now=datetime.now(UTC),
        )
    )
    if as_json:
        print_json(
            {
                "token": made.encode(),
                "id": made.id,
                "cluster": known.name,
                "role": made.role,
                "name": made.name,
                "uses": uses,
                "expires": made.expires,
                "addresses": [str(address) for address in made.addresses],
            }
        )
        return
    _explain(made, uses)
    click.echo(made.encode())


@click.command()
@click.option(
    "--revoke",
    "revoked",
    multiple=True,
    metavar="ID",
    help="Let nobody in any more by this token, before they are listed.  Repeatable.",
)
@_cluster
@as_json
def tokens(revoked: tuple[str, ...], cluster: str, as_json: bool) -> None:
    """List the tokens that have not expired.

    Who joined by a token that is revoked stays.  With --json: a list of {id, state, role, name,
    uses_left, names, created, expires}; state is "valid", "used up" or "revoked", and names are of
    those that joined.
    """
    home, known = _find(cluster)
    store = _told(lambda: home.tokens(known))
    for each in revoked:
        _told(lambda: store.revoke(each, datetime.now(UTC)))  # noqa: B023  # called at once
    records = _told(lambda: store.tokens(datetime.now(UTC)))
    if as_json:
        print_json([_facts(record) for record in records])
        return
    if not records:
        click.echo("There are no tokens.")
        return
    rows = [
        (
            record.id,
            record.state,
            record.role,
            record.name or "any",
            str(record.uses_left),
            f"{record.expires:%Y-%m-%d %H:%M:%S}Z",
            ", ".join(record.names),
        )
        for record in records
    ]
    columns = ("TOKEN", "STATE", "ROLE", "NAME", "USES LEFT", "EXPIRES", "JOINED")
    console().print(table(columns, rows))


@click.command()
@click.argument("token", type=TOKEN)
@click.option("--name", type=NODE_NAME, help="As whom, when the token leaves that open.")
@click.option(
    "--cluster", metavar="NAME", help="What to call the cluster here.  [default: as there]"
)
@click.option(
    "--seed",
    "seeds",
    type=ADDRESS,
    multiple=True,
    metavar="HOST:PORT",
    help="A node to ask, beside those in the token.  Repeatable.",
)
@click.option(
    "--no-mdns",
    "mdns",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Use no multicast: only the addresses in the token, and seeds.",
)
@as_json
def join(
    token: JoinToken,
    name: str | None,
    cluster: str | None,
    seeds: tuple[Address, ...],
    mdns: bool,
    as_json: bool,
) -> None:
    """Join a cluster by TOKEN, which `steinadler cluster token` printed where its key is.

    TOKEN is "-" to read it from stdin.  Afterwards `steinadler node NAME` runs here.  With --json:
    an object {cluster, cluster_id, role, name, issuer}.
    """
    set_up_logging("warning")

    async def command() -> None:
        joined = await join_cluster(token, name=name, cluster=cluster, seeds=seeds, mdns=mdns)
        if as_json:
            print_json(joined)
        else:
            click.echo(f"{told(joined)} {_next_step(joined)}")

    run_once(command)


def told(joined: Joined) -> str:
    """What joining came to, for people."""
    return (
        f"Joined cluster {joined.cluster!r} as {joined.role} {joined.name}, let in by "
        f"{joined.issuer}."
    )


def _next_step(joined: Joined) -> str:
    where = "" if joined.cluster == DEFAULT_CLUSTER else f" --cluster {joined.cluster}"
    if joined.role == "observer":
        return f"Look at it: steinadler members{where}"
    return f"Run it: steinadler node {joined.name}{where}"


def _find(name: str) -> tuple[Home, Cluster]:
    home = open_home()
    return home, _told(lambda: home.cluster(name))


def _told(ask: Callable[[], _T]) -> _T:
    try:
        return ask()
    except SteinadlerError as error:
        raise Failed(str(error)) from error


def _listening(home: Home, cluster: Cluster) -> list[Address]:
    """Where nodes of this home are reached from elsewhere, and last where from this machine."""
    folder = _told(lambda: home.runtime_folder(cluster.id))
    entries = RuntimeFolder(folder, fingerprint=cluster_fingerprint(cluster.id)).read()
    found: list[Address] = []
    for entry in entries:
        if entry.everywhere:
            found.extend(reachable_at(entry.addresses[0].port))
        else:
            found.extend(entry.addresses)
    return sorted(found, key=_is_loopback)


def _is_loopback(address: Address) -> bool:
    return address.host.startswith("127.") or address.host in ("::1", "localhost")


def _explain(made: JoinToken, uses: int) -> None:
    """To people, beside the token."""
    whom = f"{made.role} {made.name}" if made.name else f"any {made.role}"
    times = "once" if uses == 1 else f"{uses} times"
    click.echo(
        f"Good {times}, for {whom}, until {made.expires:%Y-%m-%d %H:%M:%S}Z.  On the other machine:"
        f" steinadler node {made.name or 'NAME'} --join TOKEN",
        err=True,
    )
    if not made.addresses:
        click.echo(
            "No node of this home listens: start one before the token is used, and have it found "
            "by mDNS, or make the token again then.",
            err=True,
        )
    elif all(map(_is_loopback, made.addresses)):
        click.echo(
            "Nodes of this home listen on loopback alone: only this machine can join.", err=True
        )


def _facts(record: TokenRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "state": record.state,
        "role": record.role,
        "name": record.name,
        "uses_left": record.uses_left,
        "names": list(record.names),
        "created": record.created,
        "expires": record.expires,
    }
