"""`steinadler services`: which services are offered, and by whom, as members' labels say."""

from __future__ import annotations

import click

from steinadler.cli.observing import briefly_joining, observing, timeout
from steinadler.cli.options import Where, as_json
from steinadler.cli.output import console, print_json, table
from steinadler.cli.running import run_once


@click.command()
@briefly_joining
@timeout
@as_json
def services(where: Where, timeout_s: float, as_json: bool) -> None:
    """List the services that nodes of a cluster offer, and the nodes.

    What `steinadler forward` and Node.connect can be given.  With --json: a list of {name, nodes},
    by name.
    """

    async def list_them() -> None:
        async with observing(where, timeout_s) as observer:
            await observer.meet()
            offered = observer.node.services()
        listed = [
            (name, [member.node.name for member in members]) for name, members in offered.items()
        ]
        if as_json:
            print_json([{"name": name, "nodes": nodes} for name, nodes in listed])
        else:
            rows = [(name, ", ".join(nodes)) for name, nodes in listed]
            console().print(table(("SERVICE", "NODES"), rows))

    run_once(list_them)
