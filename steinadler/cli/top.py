"""`steinadler top`: what every node does and holds, look after look.

An observer asks `$statistics` of each member, or of the one named, every second.  Rates are the
difference between two looks over the time between them by the answering node's own clock, so
that neither the way there nor a slow answer falsifies them.

With `--json`, one object a look:

    {"at": TIME, "nodes": [{"name", "address", "labels", "state", "problem",
                            "statistics": {...}, "connections": [{...}], "processes": [{...}],
                            "streams": [{...}]}]}

`statistics`, `connections`, `processes` and `streams` have the fields of `NodeStatistics`,
`ConnectionStatistics`, `ProcessStatistics` and `StreamStatistics`, and for each counter in
`COUNTERS` its rate as `..._per_s`: null when there was no look before.  `problem` is a text when
the node did not answer; the four are then null.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

import click
import trio

from steinadler.cli.observing import Observer, briefly_joining, facts_of, observing, timeout
from steinadler.cli.options import NODE_NAME, Where, as_json
from steinadler.cli.output import console, print_json
from steinadler.cli.running import run, run_once
from steinadler.cli.top_view import view
from steinadler.errors import NodeDown, NoSuchProcess, NotAuthorized, RemoteError
from steinadler.identity import NodeId, ProcessName
from steinadler.membership import Member

INTERVAL_S = 1.0
# Of one node in one look: the processes with most waiting, then those that took most so far; and
# the streams that carried most so far.
MOST_ASKED_FOR = 100
COUNTERS = (
    *("bytes_sent", "bytes_received", "messages_sent", "messages_received"),
    *("bytes_retransmitted", "messages_dropped", "messages_taken"),
    *("stream_bytes_sent", "stream_bytes_received"),
    *("blocked", "blocked_s"),
)

Facts: TypeAlias = dict[str, Any]
# What a node answered, or why it did not.
Answer: TypeAlias = "Facts | str"


class Looks:
    """Looks at the members, or at one of them, each compared with the one before."""

    def __init__(self, observer: Observer, name: str | None) -> None:
        self._observer = observer
        self._name = name
        self._before: dict[NodeId, Answer] = {}

    async def look(self, patience_s: float) -> Facts:
        """Ask everybody at once; whoever does not answer in time is told so."""
        members = [
            member
            for member in self._observer.node.members()
            if self._name in (None, member.node.name)
        ]
        answers: dict[NodeId, Answer] = {
            member.node: f"no answer within {patience_s:g} s" for member in members
        }
        with trio.move_on_after(patience_s):
            async with trio.open_nursery() as nursery:
                for member in members:
                    nursery.start_soon(self._ask, member.node, answers)
        before, self._before = self._before, answers
        return {
            "at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "nodes": [_told(member, answers[member.node], before) for member in members],
        }

    async def _ask(self, node: NodeId, answers: dict[NodeId, Answer]) -> None:
        request = ("statistics", MOST_ASKED_FOR)
        try:
            reply = await self._observer.node.call(ProcessName("$statistics", node.name), request)
        except NoSuchProcess:
            answers[node] = "its version tells no statistics"
        except NodeDown as error:
            answers[node] = str(error)
        except (RemoteError, NotAuthorized) as error:
            answers[node] = f"it answered: {error}"
        else:
            match reply:
                case {"clock_s": float(), "node": {}, "connections": [*_], "processes": [*_]}:
                    answers[node] = {"streams": []} | reply  # an earlier version tells of none
                case _:
                    answers[node] = "its version tells other statistics"


def _told(member: Member, answer: Answer, before: dict[NodeId, Answer]) -> Facts:
    told = facts_of(member) | {"problem": None}
    if isinstance(answer, str):
        return told | {
            "problem": answer,
            "statistics": None,
            "connections": None,
            "processes": None,
            "streams": None,
        }
    former = before.get(member.node)
    if former is None or isinstance(former, str):
        nothing: Facts = {"node": {}, "connections": [], "processes": [], "streams": []}
        former = nothing | {"clock_s": answer["clock_s"]}
    seconds = answer["clock_s"] - former["clock_s"]
    peers = {facts.get("node"): facts for facts in former["connections"]}
    processes = {facts.get("id"): facts for facts in former["processes"]}
    streams = {_stream(facts): facts for facts in former["streams"]}
    return told | {
        "statistics": with_rates(answer["node"], former["node"], seconds),
        "connections": [
            with_rates(facts, peers.get(facts.get("node"), {}), seconds)
            for facts in answer["connections"]
        ],
        "processes": [
            with_rates(facts, processes.get(facts.get("id"), {}), seconds)
            for facts in answer["processes"]
        ],
        "streams": [
            with_rates(facts, streams.get(_stream(facts), {}), seconds)
            for facts in answer["streams"]
        ],
    }


def _stream(facts: Facts) -> tuple[Any, ...]:
    """What tells one end of a stream from others of its node."""
    return tuple(map(facts.get, ("peer", "number", "opened_here")))


def with_rates(now: Facts, before: Facts, seconds: float) -> Facts:
    """`now`, and for each counter its growth per second since `before`.

    None where there is nothing to compare with, or it began anew: a lost session does.
    """
    rates: Facts = {}
    for counter in COUNTERS:
        if counter in now:
            grown = now[counter] - before[counter] if counter in before else -1
            rates[f"{counter}_per_s"] = grown / seconds if grown >= 0 and seconds > 0 else None
    return now | rates


@click.command()
@click.argument("node", required=False, type=NODE_NAME)
@click.option("--once", is_flag=True, help="Take two looks a second apart, tell the rates, end.")
@briefly_joining
@timeout
@as_json
def top(
    node: str | None,
    once: bool,
    where: Where,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Show what the nodes of a cluster do, or NODE alone, each second until Ctrl-C.

    Round-trip times, bytes and messages a second on each connection, what waits, and the busiest
    processes and streams.  When stdout is no terminal it is plain text, one look below the other;
    with --json one object a line.  --timeout is for finding the cluster, and for each node's
    answer with --once.
    """

    async def look_once(show: Callable[[Facts], None]) -> None:
        async with observing(where, timeout_s) as observer:
            await observer.meet_one_or_all(node)
            looks = Looks(observer, node)
            await looks.look(timeout_s)
            await trio.sleep(INTERVAL_S)
            seen = await looks.look(timeout_s)
        show(seen)

    async def look_on(show: Callable[[Facts], None], *, at_once: bool) -> None:
        async with observing(where, timeout_s) as observer:
            await observer.meet_one_or_all(node)
            looks = Looks(observer, node)
            next_look = trio.current_time()
            while True:
                seen = await looks.look(INTERVAL_S)
                if at_once:  # else nobody wants a look without rates
                    show(seen)
                at_once = True
                next_look = max(next_look + INTERVAL_S, trio.current_time())
                await trio.sleep_until(next_look)

    if once:
        run_once(lambda: look_once(_printer(node, as_json)))
    elif as_json or not console().is_terminal:
        run(lambda: look_on(_printer(node, as_json), at_once=False))
    else:
        from rich.live import Live  # here, as all of rich: it takes longer to import than a call

        with Live(console=console(), screen=True, auto_refresh=False) as live:
            run(lambda: look_on(lambda s: live.update(view(s, node), refresh=True), at_once=True))


def _printer(node: str | None, as_json: bool) -> Callable[[Facts], None]:
    return print_json if as_json else lambda seen: console().print(view(seen, node))
