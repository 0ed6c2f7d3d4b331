"""What the commands that change a cluster share: its home, and waiting until every member has it.

A change is signed in the home and given to the members that are there; they pass it on.  These
commands then ask every member whether it has it, and give it to those that have not, until all
have.  That a member is there, and not that it was once told, is what is waited for: one that comes
later learns it from whomever it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
import trio

from steinadler.cli.observing import Observer
from steinadler.cli.options import Where
from steinadler.cli.running import Failed
from steinadler.errors import NoSuchProcess, RemoteError, SteinadlerError
from steinadler.identity import ProcessName
from steinadler.node.trusting import SERVICE
from steinadler.security import ClusterFolder, open_home
from steinadler.security.home import DEFAULT_CLUSTER
from steinadler.security.trust import Trust

# How long one member may take to answer, and how long between two questions.
_ANSWER_S = 5.0
_AGAIN_S = 0.25

# What a member that told its state still lacks; empty for nothing.
Lacks = Callable[[Mapping[str, Any]], str]


def folder_of(where: Where) -> ClusterFolder:
    """The folder of the cluster to be changed, whose key is there.

    Raises `Failed` when it is elsewhere.
    """
    if where.files is not None:
        raise Failed(
            "this is of clusters whose authority is in a home; a PKI of your own says by its own "
            "means whom to trust: replace the bundle, or let certificates run out (docs/pki.md)"
        )
    home = open_home()
    cluster = home.cluster(where.cluster or DEFAULT_CLUSTER)
    if cluster.joined:
        raise Failed(
            f"this home joined cluster {cluster.name!r} and does not have its key: do this where "
            "the cluster was made"
        )
    return home.cluster_folder(cluster)


class Spreading:
    """Gives a change to every member, and waits until each has it."""

    def __init__(self, observer: Observer, *, tell: bool) -> None:
        """`tell`: say on stderr how far it is, whenever that changes."""
        self._observer = observer
        self._tell = tell
        self._said = ""

    async def has_the_key(self, name: str) -> bool:
        """Whether that member can sign for others, if it says so."""
        try:
            with trio.move_on_after(_ANSWER_S):
                state = await self._observer.node.call(ProcessName(SERVICE, name), "state")
                return bool(state["signs"])
        except SteinadlerError:
            pass
        return False

    async def wait(
        self, what: str, trust: Trust, lacks: Lacks, *, without: str | None = None
    ) -> list[str]:
        """Give `trust` to every member but one, and wait until none `lacks` anything.

        Returns their names; raises `Failed`, with those that are missing, at the deadline.
        """
        missing: dict[str, str] = {}
        names: list[str] = []
        with trio.move_on_at(self._observer.deadline):
            while True:
                names = [
                    member.node.name
                    for member in self._observer.node.members()
                    if member.node.name != without
                ]
                asked = dict.fromkeys(names, "no answer")
                missing = missing or asked  # until it is known better
                async with trio.open_nursery() as nursery:
                    for name in names:
                        nursery.start_soon(self._ask, name, trust, lacks, asked)
                missing = asked
                self._say(what, len(names), missing)
                if names and not missing:
                    return names
                await trio.sleep(_AGAIN_S)
        told = "; ".join(f"{name}: {why}" for name, why in sorted(missing.items()))
        raise Failed(
            f"{what}: {len(names) - len(missing)} of {len(names)} members within the time; "
            f"missing: {told or 'all, for no member is connected'}.  Nothing is lost: see to "
            "these, and run this again"
        )

    async def _ask(self, name: str, trust: Trust, lacks: Lacks, missing: dict[str, str]) -> None:
        try:
            with trio.move_on_after(_ANSWER_S):
                process = ProcessName(SERVICE, name)
                state = await self._observer.node.call(process, "state")
                if (state["version"], state["digest"]) < trust.mark:
                    await self._observer.node.call(process, ("take", trust.document))
                    state = await self._observer.node.call(process, "state")
                why = lacks(state)
                if why:
                    missing[name] = why
                else:
                    del missing[name]
        except NoSuchProcess:
            missing[name] = "it runs a version that knows nothing of this"
        except RemoteError as error:
            missing[name] = error.text
        except SteinadlerError as error:
            missing[name] = str(error)

    def _say(self, what: str, count: int, missing: Mapping[str, str]) -> None:
        text = f"{what}: {count - len(missing)} of {count} members"
        if missing:
            names = sorted(missing)
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
            text = f"{text}; missing: {shown}"
        if self._tell and text != self._said:
            self._said = text
            click.echo(text, err=True)


def has(trust: Trust) -> Lacks:
    """That a member holds this document, or a later one, on its disk where it has one."""

    def lacks(state: Mapping[str, Any]) -> str:
        if (state["version"], state["digest"]) < trust.mark:
            return f"it holds version {state['version']} of whom to trust, not {trust.version}"
        return "" if state["stored"] else "it could not store it; its log says why"

    return lacks
