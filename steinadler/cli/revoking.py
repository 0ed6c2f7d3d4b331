"""`steinadler cluster revoke`, `readmit` and `revoked`: who may take part no longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import trio

from steinadler.cli.administering import Spreading, folder_of, has
from steinadler.cli.observing import briefly_joining, observing
from steinadler.cli.options import NODE_NAME, Seconds, Where, as_json
from steinadler.cli.output import console, print_json, table
from steinadler.cli.running import Failed, run_once
from steinadler.errors import SteinadlerError
from steinadler.security import ClusterFolder, open_home
from steinadler.security.authority import Authority
from steinadler.security.credentials import utc_now
from steinadler.security.home import DEFAULT_CLUSTER
from steinadler.security.revocation import Revocation, Revocations
from steinadler.security.trust import Trust

# How long the revoked node may take to be gone, once everybody has it.
_GONE_S = 5.0


def _patience(command: Any) -> Any:
    return click.option(
        "--timeout",
        "timeout_s",
        type=Seconds(0, min_open=True, max=86_400),
        default=15.0,
        show_default=True,
        metavar="SECONDS",
        help="For finding the members, and until all of them have it.",
    )(command)


@click.command()
@click.argument("node", type=NODE_NAME)
@click.option("--absent", is_flag=True, help="NODE is no member now; revoke it all the same.")
@briefly_joining
@_patience
@as_json
def revoke(node: str, absent: bool, where: Where, timeout_s: float, as_json: bool) -> None:
    """Shut the node NODE out: no member takes its connections, and it gets no certificate.

    Every certificate of that name is void, whatever its role, until 'readmit', and those of before
    for ever.  Done where the cluster's key is.  Waits until every member has it.

    With --json: {name, at, members, key_holder}.  key_holder: it has the cluster's key, and can
    certify itself under another name; 'cluster rotate-ca' ends that.
    """

    def change(revoked: Revocations) -> Revocations:
        return revoked.revoke(node, utc_now())

    async def shut_out() -> None:
        folder = await trio.to_thread.run_sync(folder_of, where)
        async with observing(where, timeout_s) as observer:
            spreading = Spreading(observer, tell=not as_json)
            known = await _meet(observer.meet, folder, change if absent else None)
            members = {member.node.name for member in observer.node.members()}
            barred = (await trio.to_thread.run_sync(folder.read_trust)).revoked.barred
            if not absent and node not in members | barred:
                raise Failed(
                    f"no member is called {node!r}; the members are: {', '.join(sorted(members))}; "
                    "for a node that is away, say --absent"
                )
            holder = node in members and await spreading.has_the_key(node)
            trust = known or await trio.to_thread.run_sync(_change, folder, change)
            assert trust is not None
            told = await spreading.wait(f"revoking {node}", trust, has(trust), without=node)
            with trio.move_on_after(_GONE_S):
                while any(member.node.name == node for member in observer.node.members()):
                    await observer.node.wait_for_change()
            _tell(trust, node, told, holder, as_json)

    run_once(shut_out)


@click.command()
@click.argument("node", type=NODE_NAME)
@briefly_joining
@_patience
@as_json
def readmit(node: str, where: Where, timeout_s: float, as_json: bool) -> None:
    """Let the name NODE, which was revoked, be certified anew.

    What was certified before stays void: a node of a home with the cluster's key is certified when
    it starts, one of another home needs a new token.  With --json: {name, members}.
    """

    def change(revoked: Revocations) -> Revocations:
        return revoked.readmit(node)

    async def let_in() -> None:
        folder = await trio.to_thread.run_sync(folder_of, where)
        try:
            change((await trio.to_thread.run_sync(folder.read_trust)).revoked)
        except SteinadlerError as error:
            raise Failed(str(error)) from error
        async with observing(where, timeout_s) as observer:
            trust = await _meet(observer.meet, folder, change)
            assert trust is not None
            spreading = Spreading(observer, tell=not as_json)
            told = await spreading.wait(f"readmitting {node}", trust, has(trust))
        if as_json:
            print_json({"name": node, "members": told})
        else:
            click.echo(f"{node} may be certified anew.")

    run_once(let_in)


@click.command()
@click.argument("name", required=False)
@as_json
def revoked(name: str | None, as_json: bool) -> None:
    """List the names that were revoked in the cluster NAME, by default "default".

    As this home knows it.  With --json: a list of {name, at, readmitted}.
    """
    home = open_home()
    try:
        folder = home.cluster_folder(home.cluster(name or DEFAULT_CLUSTER))
        entries = folder.read_trust().revoked
    except SteinadlerError as error:
        raise Failed(str(error)) from error
    if as_json:
        print_json([_facts(entry) for entry in entries])
    elif not entries:
        click.echo("Nobody is revoked.")
    else:
        rows = [
            (entry.name, f"{entry.at:%Y-%m-%d %H:%M:%S} UTC", "" if entry.barred else "readmitted")
            for entry in entries
        ]
        console().print(table(("NAME", "REVOKED AT", ""), rows))


async def _meet(
    meet: Callable[[], Any],
    folder: ClusterFolder,
    change: Callable[[Revocations], Revocations] | None,
) -> Trust | None:
    """Meet the members, having made `change` first if there is one.

    With it the home has it also when nobody is found.
    """
    made = None if change is None else await trio.to_thread.run_sync(_change, folder, change)
    try:
        await meet()
    except Failed as error:
        if made is None:
            raise
        raise Failed(
            f"{error.message}.  This home has it written down: its nodes tell the others when "
            "they start; run this again to see that all have it"
        ) from error
    return made


def _change(folder: ClusterFolder, change: Callable[[Revocations], Revocations]) -> Trust:
    def signed(held: Trust, signers: list[Authority]) -> Trust:
        revoked = change(held.revoked)
        return held if revoked == held.revoked else held.successor(signers, revoked=revoked)

    return folder.change_trust(signed)


def _facts(entry: Revocation) -> dict[str, object]:
    return {"name": entry.name, "at": entry.at, "readmitted": not entry.barred}


def _tell(trust: Trust, node: str, told: list[str], holder: bool, as_json: bool) -> None:
    entry = trust.revoked.find(node)
    assert entry is not None
    if as_json:
        print_json({"name": node, "at": entry.at, "members": told, "key_holder": holder})
        return
    click.echo(f"{node} is revoked, as of {entry.at:%Y-%m-%d %H:%M:%S} UTC.")
    if holder:
        click.echo(
            f"{node} has the cluster's key, and can certify itself under another name: "
            "'steinadler cluster rotate-ca --drop-old' ends that.",
            err=True,
        )
