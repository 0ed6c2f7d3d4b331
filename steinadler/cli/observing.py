"""`members`, `whereis`, `send`, `call`: join as an observer, do the one thing, leave.

An observer has a certificate and connections, but no listening port, and nobody counts it as a
member.  It finds the nodes of this machine through the runtime folder, others at seeds, and asks
by mDNS only when neither brought anybody.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import click
import trio

from steinadler.cli.options import JSON, MODULE, Reader, Seconds, Where, as_json, joining
from steinadler.cli.output import console, pretty_json, print_json, table
from steinadler.cli.running import Failed, failing_at, run_once
from steinadler.errors import (
    DeliveryError,
    NodeDown,
    NoSuchProcess,
    NotAuthorized,
    RemoteError,
    RemoteProtocolError,
)
from steinadler.identity import ANY_NODE, ProcessId, ProcessName, parse_destination
from steinadler.membership import Member
from steinadler.node import Node, open_node
from steinadler.security import Credentials, open_home
from steinadler.security.home import DEFAULT_CLUSTER

DESTINATION = Reader("name[@node|@*]", parse_destination)

# A member that somebody else named, and that has not been heard of here, is not waited for longer.
_HEARSAY_S = 1.0


class Observer:
    """A node that observes, and the time until which it may."""

    def __init__(self, node: Node, where: Where, deadline: float, timeout_s: float) -> None:
        self.node = node
        self.deadline = deadline
        self._where = where
        self._timeout = f"{timeout_s:g} s"

    async def meet(self) -> None:
        """Wait for the first member, and until everybody whom it knows is known here."""
        cluster = self._where.cluster_name
        nobody = (
            f"no node of cluster {cluster!r} found within {self._timeout} (looked {self._where}); "
            "--log-level info tells what was tried"
        )
        with failing_at(self.deadline, lambda: nobody):
            await self.node.wait_for_members(1)
        with trio.move_on_at(min(self.deadline, trio.current_time() + _HEARSAY_S)):
            for name in await self._ask_who_is_there():
                await self.node.wait_for_member(name)

    async def _ask_who_is_there(self) -> list[str]:
        """The member list of whoever answers first."""
        names: list[str] = []

        async def ask(member: Member, scope: trio.CancelScope) -> None:
            try:
                info = await self.node.call(f"$info@{member.node.name}", None)
            except (DeliveryError, NotAuthorized):
                return  # it left just now, or tells no observer; others may still answer
            names.extend(info["members"])
            scope.cancel()

        async with trio.open_nursery() as nursery:
            for member in self.node.members():
                nursery.start_soon(ask, member, nursery.cancel_scope)
        return names

    async def meet_one_or_all(self, name: str | None) -> None:
        """Wait for the member of that name; without one, as `meet`."""
        if name is None:
            await self.meet()
            return
        with failing_at(self.deadline, lambda: self._unknown(name)):
            await self.node.wait_for_member(name)

    async def find(self, destination: ProcessName) -> list[ProcessId]:
        """The processes of that name: of one node, or of all when it names none; with "@*" the one
        that has it in the whole cluster.

        Raises `Failed` when there is none.
        """
        if destination.node == ANY_NODE:
            return [await self._find_global(destination.name)]
        await self.meet_one_or_all(destination.node)
        members = [member.node.name for member in self.node.members()]
        nodes = members if destination.node is None else [destination.node]
        found = await self._look_up(destination.name, nodes)
        if not found:
            where = "any member" if destination.node is None else repr(destination.node)
            raise Failed(f"no process is called {destination.name!r} on {where}")
        return found

    async def _find_global(self, name: str) -> ProcessId:
        await self.meet()
        with failing_at(self.deadline, lambda: self.unanswered("the cluster")):
            process = await self.node.whereis(f"{name}@{ANY_NODE}")
        if process is None:
            raise Failed(f"no process has the name {name!r} in the whole cluster")
        return process

    async def find_one(self, destination: ProcessName) -> ProcessId:
        """The one process of that name; raises `Failed` when there is none, or several."""
        match await self.find(destination):
            case [process]:
                return process
            case several:
                nodes = ", ".join(process.node.name for process in several)
                raise Failed(
                    f"several nodes have a process called {destination.name!r} ({nodes}): name "
                    f"one, as in {destination.name}@{several[0].node.name}"
                )

    async def _look_up(self, name: str, nodes: Iterable[str]) -> list[ProcessId]:
        found: dict[str, ProcessId | None] = {}
        missing = list(nodes)

        async def ask(node: str) -> None:
            try:
                found[node] = await self.node.whereis(f"{name}@{node}")
            except NodeDown:
                found[node] = None  # it has left, and its processes with it
            missing.remove(node)

        with failing_at(self.deadline, lambda: self.unanswered(", ".join(missing))):
            async with trio.open_nursery() as nursery:
                for node in tuple(missing):
                    nursery.start_soon(ask, node)
        return [process for _, process in sorted(found.items()) if process is not None]

    def unanswered(self, who: str) -> str:
        """What to say when `who` did not answer in time."""
        return f"no answer from {who} within {self._timeout}"

    def _unknown(self, name: str) -> str:
        members = ", ".join(member.node.name for member in self.node.members())
        cluster = self._where.cluster_name
        if not members:
            return (
                f"no node of cluster {cluster!r} found within {self._timeout} "
                f"(looked {self._where}); --log-level info tells what was tried"
            )
        return (
            f"node {name!r} is not a member of cluster {cluster!r} (waited {self._timeout}); "
            f"the members are: {members}"
        )


@asynccontextmanager
async def observing(where: Where, timeout_s: float) -> AsyncIterator[Observer]:
    """Join as an observer for the length of the block, which has `timeout_s` from here on."""
    deadline = trio.current_time() + timeout_s
    name, credentials = await trio.to_thread.run_sync(_introduction, where)
    async with open_node(
        name,
        seeds=where.seeds,
        sources=where.sources,
        mdns=where.mdns,
        cluster=where.cluster,
        credentials=credentials,
        observer=True,
    ) as node:
        yield Observer(node, where, deadline, timeout_s)


def _introduction(where: Where) -> tuple[str, Credentials | None]:
    """A name for this observer, and what to show when that is not the home's."""
    if where.files is not None:
        credentials = where.files.read()
        return f"{credentials.identity.name}.{secrets.token_hex(6)}", credentials
    home = open_home()
    return home.observer_name(home.cluster(where.cluster or DEFAULT_CLUSTER)), None


def briefly_joining(command: Any) -> Any:
    """The options of every command here: what goes wrong is to be told in one line."""
    return joining(command, log_level="error")


def timeout(command: Any) -> Any:
    """`--timeout`, of every command here."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=Seconds(0, min_open=True, max=86_400),
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help="For finding the cluster and doing the one thing, in all.",
    )(command)


@click.command()
@briefly_joining
@timeout
@as_json
def members(where: Where, timeout_s: float, as_json: bool) -> None:
    """List the nodes of a cluster.

    With --json: a list of {name, address, labels, state}, by name; the state is "alive" or
    "suspect", and a suspect still counts as a member.
    """

    async def list_them() -> None:
        async with observing(where, timeout_s) as observer:
            await observer.meet()
            listed = [facts_of(member) for member in observer.node.members()]
        if as_json:
            print_json(listed)
        else:
            _print_table(listed)

    run_once(list_them)


def facts_of(member: Member) -> dict[str, Any]:
    """A member, as JSON has it."""
    return {
        "name": member.node.name,
        "address": str(member.addresses[0]) if member.addresses else None,
        "labels": dict(member.labels),
        "state": member.state.name.lower(),
    }


def _print_table(listed: list[dict[str, Any]]) -> None:
    rows = []
    for facts in listed:
        labels = " ".join(f"{key}={value}" for key, value in facts["labels"].items())
        rows.append((facts["name"], facts["address"] or "-", facts["state"], labels))
    console().print(table(("NAME", "ADDRESS", "STATE", "LABELS"), rows))


@click.command()
@click.argument("name", type=DESTINATION)
@briefly_joining
@timeout
@as_json
def whereis(
    name: ProcessName,
    where: Where,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Tell which process is called NAME: on one node as NAME@NODE, on all as NAME alone.

    With --json: {name, node, process} for NAME@NODE, and for NAME alone a list of such, one for
    each node that has one, by node.  Fails when there is none.
    """

    async def look() -> None:
        async with observing(where, timeout_s) as observer:
            found = await observer.find(name)
        if as_json:
            places = [_place(name, process) for process in found]
            print_json(places if name.node is None else places[0])
            return
        for process in found:
            click.echo(f"{name.name} is {process}")

    run_once(look)


def _place(name: ProcessName, process: ProcessId) -> dict[str, str]:
    return {"name": name.name, "node": process.node.name, "process": str(process)}


@click.command()
@click.argument("destination", type=DESTINATION, metavar="DEST")
@click.argument("message", type=JSON, metavar="JSON")
@briefly_joining
@timeout
@as_json
def send(
    destination: ProcessName,
    message: Any,
    where: Where,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Send a message to the process DEST: NAME@NODE, or NAME where one node alone has it.

    JSON's arrays arrive as lists, which patterns such as ("add", n) match as they match tuples:
    steinadler send counter@bob '["add", 2]'.  Fails when there is no such process.  With --json
    it prints who got it, as whereis does.
    """

    async def deliver() -> None:
        async with observing(where, timeout_s) as observer:
            process = await observer.find_one(destination)
            with failing_at(observer.deadline, lambda: observer.unanswered(str(destination))):
                await observer.node.send(process, message)
        if as_json:
            print_json(_place(destination, process))
        else:
            click.echo(f"sent to {destination.name}, which is {process}")

    run_once(deliver)


@click.command()
@click.argument("destination", type=DESTINATION, metavar="DEST")
@click.argument("request", type=JSON, metavar="JSON")
@click.option(
    "--import",
    "modules",
    type=MODULE,
    multiple=True,
    metavar="MODULE",
    help="Where the classes of the reply are registered with @steinadler.message.  Repeatable.",
)
@briefly_joining
@timeout
@as_json
def call(
    destination: ProcessName,
    request: Any,
    modules: tuple[Any, ...],
    where: Where,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Call the process DEST and print its reply: NAME@NODE, or NAME where one node alone has it.

    JSON's arrays arrive as lists, which patterns such as ("add", n) match as they match tuples:
    steinadler call counter@bob '["add", 2]'.  Every node has the processes $echo and $info:
    steinadler call '$info@bob' null.

    The reply is printed as JSON, with --json on one line.  What JSON lacks: tuples and sets are
    arrays, dataclasses objects of their fields, enums the name of the member, bytes base64, dates
    and times ISO 8601, process ids "#7@bob"; Decimal, UUID, NaN and the infinities are texts.
    """

    async def ask() -> None:
        async with observing(where, timeout_s) as observer:
            process = await observer.find_one(destination)
            with failing_at(observer.deadline, lambda: observer.unanswered(str(destination))):
                try:
                    reply = await observer.node.call(process, request)
                except NoSuchProcess as error:  # it ended since it was found
                    raise Failed(f"{destination} has just ended") from error
                except RemoteError as error:
                    if error.type_name == RemoteProtocolError.__name__ and not modules:
                        hint = "--import MODULE names where the classes of the reply are registered"
                        raise Failed(f"{error} ({hint})") from error
                    raise
        if as_json:
            print_json(reply)
        else:
            click.echo(pretty_json(reply))

    run_once(ask)
