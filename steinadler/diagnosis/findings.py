"""What a check found: how bad it is, what was seen, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

HOW_TO_JOIN = (
    "'steinadler cluster token' where its key is, and 'steinadler cluster join TOKEN' here"
)


class Level(StrEnum):
    """How bad it is.  A problem keeps nodes apart now; a warning does so soon, or perhaps."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


class Topic(StrEnum):
    """What a finding is about: the same from version to version, for scripts."""

    # machine
    VERSIONS = "versions"
    TLS = "tls"
    DESCRIPTORS = "descriptors"
    CLOCK = "clock"
    # home
    CLUSTER = "cluster"
    MODES = "modes"
    OWNER = "owner"
    AUTHORITY = "authority"
    CERTIFICATE = "certificate"
    # network
    INTERFACES = "interfaces"
    MULTICAST = "multicast"
    MDNS_PORT = "mdns-port"
    # names
    HOST_NAME = "host-name"
    SEED_NAME = "seed-name"
    SOURCE = "source"
    # nodes
    FOUND = "found"
    DIALLED = "dialled"
    # cluster
    MEMBER = "member"
    CLOCKS = "clocks"
    ADDRESSES = "addresses"
    # neighbourhood
    OTHER_CLUSTERS = "other-clusters"
    SAME_NAME = "same-name"
    # any
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.  `do` is empty only where nothing is to be done."""

    topic: Topic
    level: Level
    seen: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; `question` is what it answers."""

    name: str
    question: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, in the order in which causes lie."""

    checks: tuple[Check, ...]

    def count(self, level: Level) -> int:
        """How many findings are as bad as that, and no worse."""
        return sum(finding.level is level for check in self.checks for finding in check.findings)

    @property
    def healthy(self) -> bool:
        """Whether nothing that was seen keeps nodes apart now."""
        return not self.count(Level.PROBLEM)

    @property
    def first(self) -> Finding | None:
        """What to begin with: the first of the worst, if anything is to be done."""
        for level in (Level.PROBLEM, Level.WARNING):
            for check in self.checks:
                for finding in check.findings:
                    if finding.level is level:
                        return finding
        return None


def ok(topic: Topic, seen: str) -> Finding:
    return Finding(topic, Level.OK, seen)


def note(topic: Topic, seen: str, do: str) -> Finding:
    return Finding(topic, Level.NOTE, seen, do)


def warning(topic: Topic, seen: str, do: str) -> Finding:
    return Finding(topic, Level.WARNING, seen, do)


def problem(topic: Topic, seen: str, do: str) -> Finding:
    return Finding(topic, Level.PROBLEM, seen, do)


def split_advice(text: str, otherwise: str) -> tuple[str, str]:
    """An error's text in two: what was wrong, and what to do.

    The library's own errors say both, the second behind the last semicolon; one that does not is
    given the advice `otherwise`.
    """
    seen, semicolon, do = text.rpartition("; ")
    return (seen, do) if semicolon else (text, otherwise)


def listed(words: Iterable[str], most: int = 5) -> str:
    """Words with commas between, the first few where there are many."""
    every = list(words)
    rest = len(every) - most
    return ", ".join(every) if rest <= 0 else f"{', '.join(every[:most])} and {rest} more"
