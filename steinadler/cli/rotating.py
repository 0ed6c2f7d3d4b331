"""`steinadler cluster rotate-ca`: another authority in the place of the present one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
import trio

from steinadler.cli.administering import Lacks, Spreading, folder_of, has
from steinadler.cli.observing import briefly_joining, observing
from steinadler.cli.options import Seconds, Where, as_json
from steinadler.cli.output import print_json
from steinadler.cli.running import run_once
from steinadler.security.authority import fingerprint
from steinadler.security.rotation import Rotation
from steinadler.security.trust import Trust


@click.command("rotate-ca")
@click.option("--prepare", is_flag=True, help="Only have everybody trust both authorities.")
@click.option("--drop-old", is_flag=True, help="Then trust the old authority no longer.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(0, min_open=True, max=86_400),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Until all members have taken all steps.",
)
@briefly_joining
@as_json
def rotate_ca(prepare: bool, drop_old: bool, timeout_s: float, where: Where, as_json: bool) -> None:
    """Make a new authority for the cluster, and have every member certified by it.

    Three steps, each of which waits for every member: all trust both; all are certified by the new
    one; with --drop-old, nobody trusts the old one.  No session is dropped, and no message lost.
    May be interrupted at any time, and goes on when it is run again.  Done where the cluster's key
    is.  A node of another home that is away until the second step has to join anew; --prepare stops
    before it, so that those who are away can come back.

    With --json: {fingerprint, others, members}; fingerprint: of who signs; others: those that are
    trusted beside it.
    """

    if prepare and drop_old:
        raise click.UsageError("--prepare stops before what --drop-old is for")

    async def rotate() -> None:
        folder = await trio.to_thread.run_sync(folder_of, where)
        rotation = Rotation(folder)
        async with observing(where, timeout_s) as observer:
            await observer.meet()
            spreading = Spreading(observer, tell=not as_json)

            async def step(what: str, take: Callable[[], Trust], lacks: _Check) -> list[str]:
                trust = await trio.to_thread.run_sync(take)
                return await spreading.wait(what, trust, lacks(trust))

            dropping = rotation.is_dropping  # a former run's: it is brought to its end, no more
            if not dropping:
                told = await step("trust both authorities", rotation.begin, has)
            if not dropping and not prepare:
                told = await step("are certified by the new one", rotation.switch, _certified)
            if drop_old or dropping:
                told = await step("have dropped the old one", rotation.drop, has)
                await trio.to_thread.run_sync(rotation.finish)
        _tell(folder.read_trust(), told, as_json)

    run_once(rotate)


_Check = Callable[[Trust], Lacks]


def _certified(trust: Trust) -> Lacks:
    """That a member holds this, and is certified by who signs now."""
    signs, holds = fingerprint(trust.signs), has(trust)

    def lacks(state: Mapping[str, Any]) -> str:
        why = holds(state)
        if why or state["certified_by"] == signs:
            return why
        match state["kind"]:
            case "files":
                return "its certificate is from files: put one of the new authority there"
            case "issuer":
                return "its home has a copy of the old key: copy ca.key to it from this home"
            case _:
                return state["problem"] or "it has not renewed its certificate yet"

    return lacks


def _tell(trust: Trust, told: list[str], as_json: bool) -> None:
    others = [fingerprint(each) for each in trust.authorities[1:]]
    if as_json:
        print_json(
            {
                "fingerprint": fingerprint(trust.signs),
                "others": others,
                "members": told,
            }
        )
        return
    signs = fingerprint(trust.signs)
    if not others:
        click.echo(f"{len(told)} members are certified by {signs}, and trust no other.")
    elif trust.signs.not_valid_before_utc < trust.authorities[1].not_valid_before_utc:
        click.echo(
            f"{len(told)} members trust {others[0]} too.  'steinadler cluster rotate-ca', when "
            "nodes that are away have been back, has it sign."
        )
    else:
        click.echo(
            f"{len(told)} members are certified by {signs}.  The old authority is trusted still; "
            "'steinadler cluster rotate-ca --drop-old' ends that."
        )
