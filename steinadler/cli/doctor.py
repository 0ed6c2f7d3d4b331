"""`steinadler doctor`: what keeps nodes from meeting, seen from this machine, and what to do.

The exit code is 1 when there is a problem, 0 otherwise: for scripts, and for whoever brings a
machine up.  With `--json` one object:

    {"healthy": BOOL, "problems": N, "warnings": N,
     "checks": [{"check": NAME, "findings": [{"topic", "level", "seen", "do"}]}]}
"""

from __future__ import annotations

import click

from steinadler.cli.observing import briefly_joining
from steinadler.cli.options import Seconds, Where, as_json
from steinadler.cli.output import console, harmless, print_json
from steinadler.cli.running import run_once
from steinadler.diagnosis import Diagnosis, Level, Subject, examine
from steinadler.diagnosis.home import CertificateSource

_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "red"}
_WIDTH = max(map(len, Level))


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(0, min_open=True, max=86_400),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="For everything; as a rule it takes four.",
)
@briefly_joining
@as_json
def doctor(where: Where, timeout_s: float, as_json: bool) -> None:
    """Find out why nodes do not meet: looks at this machine, and says what to do.

    Give it the options that the nodes are given: it looks for the cluster as they do.  It looks at
    this machine and its clock, at the home and its certificates, at interfaces and multicast, at
    names, and at who is found where and how each address answers; it asks the members that do for
    their clocks and addresses, and tells which other clusters are about.  It mends nothing.  The
    exit code is 1 when there is a problem.

    Run it on both machines that do not meet: each sees one direction.

    With --json: an object {healthy, problems, warnings, checks: [{check, findings: [{topic, level,
    seen, do}]}]}; the level is "ok", "note", "warning" or "problem".
    """
    files = where.files
    subject = Subject(
        cluster=where.cluster,
        files=CertificateSource(files.cert, files.key, files.ca, files.pattern) if files else None,
        seeds=where.seeds,
        sources=where.sources,
        mdns=where.mdns,
    )
    made: list[Diagnosis] = []

    async def look() -> None:
        made.append(await examine(subject, within_s=timeout_s))

    run_once(look)
    (diagnosis,) = made
    if as_json:
        print_json(_facts(diagnosis))
    else:
        _tell(diagnosis)
    if not diagnosis.healthy:
        raise SystemExit(1)


def _facts(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "healthy": diagnosis.healthy,
        "problems": diagnosis.count(Level.PROBLEM),
        "warnings": diagnosis.count(Level.WARNING),
        "checks": [
            {
                "check": check.name,
                "findings": [
                    {
                        "topic": finding.topic.value,
                        "level": finding.level.value,
                        "seen": finding.seen,
                        "do": finding.do,
                    }
                    for finding in check.findings
                ],
            }
            for check in diagnosis.checks
        ],
    }


def _tell(diagnosis: Diagnosis) -> None:
    from rich.table import Table  # here, as all of rich: it takes longer to import than a call
    from rich.text import Text

    out = console()
    for check in diagnosis.checks:
        out.print(Text(f"{check.name}: {check.question}", style="bold"))
        for finding in check.findings:
            level = Text(f"  {finding.level}", style=_STYLES[finding.level])
            rows = [(level, Text(harmless(finding.seen)))]
            if finding.do:
                rows.append((Text(), Text(f"-> {harmless(finding.do)}", style="italic")))
            for row in rows:
                # A grid for each: on a terminal a long line goes on below its beginning, and
                # elsewhere none is filled up to the length of another.
                grid = Table.grid(padding=(0, 1, 0, 0))
                grid.add_column(width=_WIDTH + 2)
                grid.add_row(*row)
                out.print(grid)
        out.print()
    out.print(_summary(diagnosis))


def _summary(diagnosis: Diagnosis) -> str:
    problems, warnings = diagnosis.count(Level.PROBLEM), diagnosis.count(Level.WARNING)
    if diagnosis.first is None:
        return "Nothing was found that keeps nodes apart."
    counted = f"{_number(problems, 'problem')}, {_number(warnings, 'warning')}"
    return f"{counted}.  Begin with: {harmless(diagnosis.first.do)}."


def _number(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"
