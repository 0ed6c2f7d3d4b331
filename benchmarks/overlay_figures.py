"""What is measured of a cluster of one size, alike for whole nodes and for engines alone.

Times are those of the simulation.  A *round* is `probe_interval_s`: a ping to each of four
neighbours, which is as often as a member gossips when nothing has happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from benchmarks.curves import Curve, Panel, svg
from steinadler.config import MembershipSettings

# What may pass until everybody knows.
ROUNDS = 12
CONNECTIONS = 16
# How much more a node may have to do in the largest cluster than in the smallest.
FLAT = 1.15
# How many times each accident befalls a cluster.
REPEATS = 3
# Over how many rounds the load of an accident is taken, or longer, until all know of it.
LOAD_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Load:
    """What a node sends in a second: the mean over all nodes, and the busiest."""

    messages: float
    most_messages: float
    bytes: float
    most_bytes: float

    @classmethod
    def between(
        cls, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], seconds: float
    ) -> Load:
        """From (messages, bytes) by name, looked at twice."""
        told = [
            ((after[name][0] - messages) / seconds, (after[name][1] - bytes_) / seconds)
            for name, (messages, bytes_) in before.items()
            if name in after
        ]
        messages, bytes_ = zip(*told, strict=True)
        return cls(
            round(fmean(messages), 2),
            round(max(messages), 2),
            round(fmean(bytes_), 1),
            round(max(bytes_), 1),
        )


@dataclass(frozen=True, slots=True)
class Accident:
    """A member came, was killed (its host refuses) or fell silent; how long until all knew."""

    seconds: float
    load: Load


@dataclass(frozen=True, slots=True)
class Figures:
    """One size.  `wrong`: how often a member was declared down that was not."""

    members: int
    connections: tuple[int, float, int]
    rest: Load
    joins: tuple[Accident, ...]
    kills: tuple[Accident, ...]
    silences: tuple[Accident, ...]
    wrong: int
    cpu_s: float

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Figures:
        """Undo `asdict`, and JSON."""
        accidents = {
            kind: tuple(Accident(a["seconds"], Load(**a["load"])) for a in told[kind])
            for kind in ("joins", "kills", "silences")
        }
        least, mean, most = told["connections"]
        rest = Load(**told["rest"])
        return cls(**{**told, "connections": (least, mean, most), "rest": rest, **accidents})


def down_bound_s(settings: MembershipSettings) -> float:
    """After this, by `membership.timing`, whoever fell silent is declared down by the first."""
    detection = settings.direct_timeout_s + settings.indirect_timeout_s + settings.suspicion_s
    return detection + 2 * settings.probe_interval_s


def latest_s(settings: MembershipSettings) -> float:
    """After this everybody is to know."""
    return down_bound_s(settings) + ROUNDS * settings.probe_interval_s


def _worst(accidents: Sequence[Accident]) -> float:
    return max(accident.seconds for accident in accidents)


def rows(figures: Sequence[Figures], settings: MembershipSettings) -> list[tuple[str, ...]]:
    """A table's body: one row for each size."""
    interval = settings.probe_interval_s
    return [
        (
            f"{each.members:,}",
            f"{_worst(each.joins) / interval:.2f}",
            f"{_worst(each.kills):.3f} s",
            f"{_worst(each.silences):.2f} s",
            f"{each.connections[0]} / {each.connections[1]:.1f} / {each.connections[2]}",
            f"{each.rest.messages:.1f} ({each.rest.most_messages:.1f})",
            f"{each.rest.bytes:,.0f} ({each.rest.most_bytes:,.0f})",
            str(each.wrong),
            f"{each.cpu_s:,.0f} s",
        )
        for each in figures
    ]


HEADINGS = (
    "members",
    "join, rounds",
    "killed to Down",
    "silent to Down",
    "connections min / mean / max",
    "messages/s of a node (busiest)",
    "bytes/s (busiest)",
    "wrongly down",
    "CPU",
)


def verdicts(figures: Sequence[Figures], settings: MembershipSettings) -> dict[str, bool]:
    """Each target, and whether it is reached."""
    first, last = figures[0].rest, figures[-1].rest
    rounds = ROUNDS * settings.probe_interval_s
    return {
        f"a join is known everywhere within {ROUNDS} rounds": all(
            _worst(each.joins) <= rounds for each in figures
        ),
        f"a kill is known everywhere within {ROUNDS} rounds": all(
            _worst(each.kills) <= rounds for each in figures
        ),
        f"silence is Down everywhere within {latest_s(settings):g} s "
        f"(the suspicion's bound and {ROUNDS} rounds)": all(
            _worst(each.silences) <= latest_s(settings) for each in figures
        ),
        f"at most {CONNECTIONS} connections of a node at rest, beyond a mesh": all(
            each.connections[2] <= CONNECTIONS
            for each in figures
            if each.members > settings.mesh_size
        ),
        f"messages and bytes of a node at rest at most {FLAT:g} times those of the smallest": (
            last.messages <= FLAT * first.messages and last.bytes <= FLAT * first.bytes
        ),
        "nobody declared down that was not": not any(each.wrong for each in figures),
    }


def as_json(
    what: str, seed: int, figures: Sequence[Figures], settings: MembershipSettings
) -> dict[str, Any]:
    return {
        "what": what,
        "seed": seed,
        "settings": asdict(settings),
        "bound_s": latest_s(settings),
        "verdicts": verdicts(figures, settings),
        "sizes": [asdict(each) for each in figures],
    }


def plot(title: str, figures: Sequence[Figures], settings: MembershipSettings) -> str:
    """The SVG."""
    interval = settings.probe_interval_s

    def curve(label: str, value: Any) -> Curve:
        return Curve(label, tuple((each.members, value(each)) for each in figures))

    def all_curves(part: str) -> tuple[Curve, ...]:
        return (
            curve("at rest", lambda each: getattr(each.rest, part)),
            curve("busiest", lambda each: getattr(each.rest, f"most_{part}")),
            curve("join", lambda each: max(getattr(a.load, part) for a in each.joins)),
            curve("silence", lambda each: max(getattr(a.load, part) for a in each.silences)),
        )

    panels = [
        Panel("Messages sent by a node, per second", all_curves("messages")),
        Panel("Bytes sent by a node, per second", all_curves("bytes")),
        Panel(
            "Rounds until all know of a join, of a kill",
            (
                curve("join", lambda each: _worst(each.joins) / interval),
                curve("kill", lambda each: _worst(each.kills) / interval),
            ),
            ROUNDS,
            f"{ROUNDS} rounds",
        ),
        Panel(
            "Seconds until silence is Down everywhere",
            (
                curve("worst", lambda each: _worst(each.silences)),
                curve("best", lambda each: min(a.seconds for a in each.silences)),
            ),
            latest_s(settings),
            f"bound of the suspicion + {ROUNDS} rounds",
        ),
        Panel(
            "Connections of a node at rest",
            (
                curve("most", lambda each: each.connections[2]),
                curve("mean", lambda each: each.connections[1]),
                curve("least", lambda each: each.connections[0]),
            ),
            CONNECTIONS,
            f"{CONNECTIONS}",
        ),
    ]
    return svg(title, "members", panels)
