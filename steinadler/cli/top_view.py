"""How `steinadler top` looks: four tables of what was seen, for 80 columns where names are short.

OUT, IN, MSG OUT and MSG IN are bytes and messages a second.  STRMS are open streams.  STALL are
channels without credit: senders wait there.  CUTS are resumptions.  RTT "cut" is a connection that
is broken, or was not made yet.

What does not fit a screen is left out, least first: all of it is in `--json`, and a node by
itself gets more room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from steinadler.cli.output import harmless, size, table

if TYPE_CHECKING:
    from rich.console import RenderableType

_MOST_CONNECTIONS = 20
_MOST = 5  # processes, and streams, of each node
_MOST_OF_ONE = 20

_TRAFFIC = ("OUT/s", "IN/s", "MSG OUT", "MSG IN")


def view(seen: dict[str, Any], only: str | None) -> RenderableType:
    """One look, for people.  `only` is the one node that was asked for."""
    from rich.console import Group

    nodes = seen["nodes"]
    count = f"{len(nodes)} {'member' if len(nodes) == 1 else 'members'}"
    if only is not None:
        count = f"node {only}" if nodes else f"node {only} is no member now"
    parts: list[RenderableType] = [f"{count}, {seen['at']}", "", _nodes(nodes)]
    parts += [harmless(f"{node['name']}: {node['problem']}") for node in nodes if node["problem"]]
    told = [node for node in nodes if node["problem"] is None]
    parts += [harmless(f"{node['name']}: {ill}") for node in told for ill in _ills(node)]
    most = _MOST if only is None else _MOST_OF_ONE
    for rows in (_connections(told), _processes(told, most), _streams(told, most)):
        if rows is not None:
            parts += ["", rows]
    return Group(*parts, "")


def _ills(node: dict[str, Any]) -> list[str]:
    """What a node tells of partitions and of itself, when not all is well."""
    facts = node["statistics"]
    ills = []
    if lost := facts.get("members_lost"):
        side = "a minority" if facts.get("in_minority") else "no minority"
        ills.append(f"{lost} {'member' if lost == 1 else 'members'} lost; this side is {side}")
    if facts.get("health_score") or _rate(facts, "blocked"):
        in_all, at_once = facts.get("blocked_s", 0), facts.get("longest_block_s", 0)
        ills.append(
            f"not well (health score {_whole(facts, 'health_score')} of 7); its loop was blocked "
            f"for {in_all:.1f} s in all, {at_once:.1f} s at once"
        )
    return ills


def _nodes(nodes: list[dict[str, Any]]) -> RenderableType:
    columns = ("NODE", "STATE", "PROCS", "CONNS", *_TRAFFIC, "QUEUED", "DROPPED")
    rows = []
    for node in nodes:
        facts = node["statistics"] or {}
        rows.append(
            (
                *(node["name"], node["state"], _whole(facts, "processes")),
                *(_whole(facts, "connections"), *_traffic(facts)),
                *(_whole(facts, "messages_queued"), _whole(facts, "messages_dropped")),
            )
        )
    return table(columns, rows, numbers_from=2)


def _connections(nodes: list[dict[str, Any]]) -> RenderableType | None:
    """Between members: what observers cost is their own doing."""
    found = [
        (node["name"], facts)
        for node in nodes
        for facts in node["connections"]
        if not facts.get("observer")
    ]
    if not found:
        return None
    if len(found) > _MOST_CONNECTIONS:
        found.sort(key=lambda pair: -(_rate(pair[1], "bytes_sent") or 0))
        del found[_MOST_CONNECTIONS:]
    columns = ("FROM", "TO", "RTT", *_TRAFFIC, "STRMS", "QUEUE", "STALL", "CUTS")
    rows = [
        (
            *(name, str(facts.get("node", "-")), _round_trip(facts), *_traffic(facts)),
            *(_whole(facts, "streams"), _whole(facts, "messages_queued")),
            *(_whole(facts, "channels_without_credit"), _whole(facts, "resumptions")),
        )
        for name, facts in found
    ]
    return table(columns, rows, numbers_from=2)


def _processes(nodes: list[dict[str, Any]], most: int) -> RenderableType | None:
    chosen = [
        facts
        for node in nodes
        for facts in sorted(filter(_is_at_work, node["processes"]), key=_busyness, reverse=True)[
            :most
        ]
    ]
    rows = [
        (
            *(str(facts.get("id", "-")), ", ".join(facts.get("names") or ()) or "-"),
            *(str(facts.get("function", "-")), _per_s(_rate(facts, "messages_taken"))),
            *(_whole(facts, "messages_waiting"), _size(facts.get("bytes_waiting"))),
            _whole(facts, "calls_owed"),
        )
        for facts in chosen
    ]
    columns = ("PROCESS", "NAME", "FUNCTION", "TAKEN/s", "WAITING", "BYTES", "CALLS OWED")
    return table(columns, rows, numbers_from=3) if rows else None


def _is_at_work(facts: dict[str, Any]) -> bool:
    """The program's own, and those built in that have something to do but answering this."""
    names = facts.get("names") or ()
    if "$statistics" in names:
        return False
    return not any(name.startswith("$") for name in names) or _busyness(facts) > (0, 0)


def _busyness(facts: dict[str, Any]) -> tuple[float, int]:
    return _rate(facts, "messages_taken") or 0, facts.get("messages_waiting") or 0


def _streams(nodes: list[dict[str, Any]], most: int) -> RenderableType | None:
    """Those that carry something, as their openers see them where these tell."""
    telling = {node["name"] for node in nodes}
    rows = []
    for node in nodes:
        chosen = [
            facts
            for facts in node["streams"]
            if any(_flow(facts)) and (facts.get("opened_here") or _name(facts) not in telling)
        ]
        chosen.sort(key=_flow, reverse=True)
        rows += [
            (
                *(node["name"], _name(facts), f"#{facts.get('number', '-')}"),
                facts.get("service") or "(objects)",
                *(_size(_rate(facts, "bytes_sent")), _size(_rate(facts, "bytes_received"))),
                _size(facts.get("bytes_waiting")),
            )
            for facts in chosen[:most]
        ]
    columns = ("NODE", "PEER", "STREAM", "SERVICE", "OUT/s", "IN/s", "WAITING")
    return table(columns, rows, numbers_from=4) if rows else None


def _name(facts: dict[str, Any]) -> str:
    return str(getattr(facts.get("peer"), "name", "-"))


def _flow(facts: dict[str, Any]) -> tuple[float, int]:
    """How much a stream carries, and how much its reader leaves lying."""
    carried = (_rate(facts, "bytes_sent") or 0) + (_rate(facts, "bytes_received") or 0)
    return carried, facts.get("bytes_waiting") or 0


def _traffic(facts: dict[str, Any]) -> tuple[str, ...]:
    return (
        *(_size(_rate(facts, "bytes_sent")), _size(_rate(facts, "bytes_received"))),
        *(_per_s(_rate(facts, "messages_sent")), _per_s(_rate(facts, "messages_received"))),
    )


def _round_trip(facts: dict[str, Any]) -> str:
    if not facts.get("connected"):
        return "cut"
    seconds = facts.get("round_trip_s")
    return "-" if seconds is None else f"{seconds * 1000:.2f} ms"


def _rate(facts: dict[str, Any], counter: str) -> float | None:
    rate: float | None = facts.get(f"{counter}_per_s")
    return rate


def _or_dash(write: Callable[[float], str], value: float | None) -> str:
    return "-" if value is None else write(value)


def _per_s(value: float | None) -> str:
    return _or_dash(lambda number: f"{number:,.0f}", value)


def _whole(facts: dict[str, Any], key: str) -> str:
    return _or_dash(lambda number: f"{number:,}", facts.get(key))


def _size(value: float | None) -> str:
    return _or_dash(size, value)
