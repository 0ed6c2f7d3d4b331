"""This machine: is what a node needs of it there, and is its clock believable?

A clock that is far off is looked for first, since everything that has a date then goes wrong in
words that blame the certificates.  Two things date themselves: this package's files, which cannot
be younger than today, and the files in the home.  What other machines' clocks say is asked of
members (`asking`).
"""

from __future__ import annotations

import platform
import ssl
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import steinadler.errors
from steinadler.diagnosis.findings import Finding, Topic, note, ok, problem, warning
from steinadler.security.authority import CLOCK_SKEW

PACKAGES = ("trio", "cryptography", "cbor2", "zeroconf", "dnspython")
# A connection takes one, and so do listeners, files and whatever the program opens.
FEW_DESCRIPTORS = 1024
VERY_FEW_DESCRIPTORS = 256
# File systems and network shares round times.
_ROUNDING = timedelta(minutes=2)
_LAST_TIME_S = 253_402_300_799  # the end of the year 9999, where `datetime` ends


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """`newest` is the path and time of the youngest of the files that date the present."""

    steinadler: str
    python: str
    openssl: str
    has_tls_1_3: bool
    packages: tuple[tuple[str, str], ...]
    max_descriptors: int | None
    now: datetime
    newest: tuple[str, datetime] | None


def look_at_machine(home: Path, now: datetime) -> MachineFacts:
    """Read versions, limits and times of files; blocks on the disk."""
    return MachineFacts(
        steinadler=_version("steinadler") or "not installed",
        python=platform.python_version(),
        openssl=ssl.OPENSSL_VERSION,
        has_tls_1_3=ssl.HAS_TLSv1_3,
        packages=tuple((name, found) for name in PACKAGES if (found := _version(name))),
        max_descriptors=_max_descriptors(),
        now=now,
        newest=_newest([Path(steinadler.errors.__file__), *_dated_files(home)]),
    )


def judge_machine(facts: MachineFacts) -> list[Finding]:
    """What these come to."""
    packages = ", ".join(f"{name} {found}" for name, found in facts.packages)
    findings = [
        ok(
            Topic.VERSIONS,
            f"steinadler {facts.steinadler}, Python {facts.python}, {facts.openssl}; {packages}",
        )
    ]
    if not facts.has_tls_1_3:
        findings.append(
            problem(
                Topic.TLS,
                f"this Python's {facts.openssl} has no TLS 1.3, and nodes speak nothing else",
                "use a Python that was built with OpenSSL 1.1.1 or later",
            )
        )
    findings.append(_judge_descriptors(facts.max_descriptors))
    findings.append(_judge_clock(facts.now, facts.newest))
    return findings


def _judge_descriptors(most: int | None) -> Finding:
    if most is None:
        return ok(Topic.DESCRIPTORS, "open files are not limited")
    seen = f"{most:,} files may be open at once (ulimit -n), and every connection is one"
    do = f"raise it: ulimit -n {FEW_DESCRIPTORS * 16}, or LimitNOFILE= of the service"
    if most < VERY_FEW_DESCRIPTORS:
        return warning(Topic.DESCRIPTORS, seen, do)
    if most < FEW_DESCRIPTORS:
        return note(Topic.DESCRIPTORS, seen, do)
    return ok(Topic.DESCRIPTORS, seen)


def _judge_clock(now: datetime, newest: tuple[str, datetime] | None) -> Finding:
    if newest is not None and (behind := newest[1] - now) > _ROUNDING:
        path, when = newest
        seen = (
            f"the clock says {_minute(now)}, and {path} is of {_minute(when)}: it is behind, by at "
            f"least {in_words(behind)}, or it was ahead then"
        )
        do = "set the clock, and keep it set (chrony, systemd-timesyncd)"
        # As far as that, certificates that others have just made are good here.
        return (problem if behind > CLOCK_SKEW else warning)(Topic.CLOCK, seen, do)
    return ok(Topic.CLOCK, f"the clock says {_minute(now)} (UTC)")


def in_words(span: timedelta) -> str:
    """About how long, in the largest unit of which there are two."""
    seconds = abs(span.total_seconds())
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _minute(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _dated_files(home: Path) -> list[Path]:
    clusters = home / "clusters"
    return [*clusters.glob("*/*.json"), *clusters.glob("*/*.pem"), *clusters.glob("*/*/*.pem")]


def _newest(paths: list[Path]) -> tuple[str, datetime] | None:
    times = []
    for path in paths:
        try:
            times.append((path.stat().st_mtime, str(path)))
        except OSError:
            continue  # `home` says so
    if not times:
        return None
    changed, youngest = max(times)
    return youngest, datetime.fromtimestamp(min(changed, _LAST_TIME_S), UTC)


def _max_descriptors() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
