"""What is said of this machine, of the home's files, and of certificates' dates, as tables."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from steinadler.diagnosis.findings import Finding, Level, Topic
from steinadler.diagnosis.home import (
    CertificateSource,
    FileFacts,
    HomeFacts,
    Kind,
    judge_files,
    judge_home,
)
from steinadler.diagnosis.machine import MachineFacts, in_words, judge_machine
from steinadler.diagnosis.validity import Validity, judge_authority, judge_certificate
from steinadler.security import Cluster

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ME = 1000
OK, NOTE, WARNING, PROBLEM = Level
FIT = MachineFacts("0.1.0", "3.12.1", "OpenSSL 3.0", True, (("trio", "0.30"),), 4096, NOW, None)
HOUSE = Cluster("default", "ab" * 16, "cd" * 32, NOW - DAY)
IN_ORDER = HomeFacts("/home/u", "default", ME, ("default",), HOUSE, holder="observer x")


def worst(findings: list[Finding]) -> Finding:
    return max(findings, key=lambda finding: list(Level).index(finding.level))


# -- machine -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "topic", "level", "words"),
    [
        ({}, Topic.VERSIONS, OK, "Python 3.12.1"),
        ({"has_tls_1_3": False}, Topic.TLS, PROBLEM, "no TLS 1.3"),
        ({"max_descriptors": None}, Topic.DESCRIPTORS, OK, "not limited"),
        ({"max_descriptors": 1024}, Topic.DESCRIPTORS, OK, "1,024"),
        ({"max_descriptors": 1023}, Topic.DESCRIPTORS, NOTE, "1,023"),
        ({"max_descriptors": 255}, Topic.DESCRIPTORS, WARNING, "255"),
        ({"newest": ("ca.pem", NOW + MINUTE)}, Topic.CLOCK, OK, "2026-05-01 12:00"),
        ({"newest": ("ca.pem", NOW + 4 * MINUTE)}, Topic.CLOCK, WARNING, "at least 4 minutes"),
        ({"newest": ("ca.pem", NOW + 3 * DAY)}, Topic.CLOCK, PROBLEM, "at least 3 days"),
    ],
)
def test_machine(change: dict[str, object], topic: Topic, level: Level, words: str) -> None:
    findings = judge_machine(dataclasses.replace(FIT, **change))  # type: ignore[arg-type]
    (found,) = [finding for finding in findings if finding.topic is topic]
    assert found.level is level
    assert words in found.seen
    assert bool(found.do) == (level is not OK)


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(milliseconds=3), "0.003 s"),
        (timedelta(seconds=-12.4), "12 s"),
        (timedelta(seconds=119), "119 s"),
        (2 * MINUTE, "2 minutes"),
        (47 * HOUR, "47 hours"),
        (49 * HOUR, "2 days"),
    ],
)
def test_spans_in_words(span: timedelta, words: str) -> None:
    assert in_words(span) == words


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode", "read_only", "mend"),
    [
        (Kind.SECRET, 0o600, False, None),
        (Kind.SECRET, 0o400, False, None),
        (Kind.SECRET, 0o640, False, "chmod 600"),
        (Kind.SECRET, 0o604, False, "chmod 600"),
        (Kind.SECRET, 0o444, True, "chmod 600"),  # a read-only mount can be read all the same
        (Kind.SHARED_SECRET, 0o640, False, None),
        (Kind.SHARED_SECRET, 0o660, False, "chmod 640"),
        (Kind.SHARED_SECRET, 0o644, False, "chmod 640"),
        (Kind.TRUST, 0o644, False, None),
        (Kind.TRUST, 0o664, False, "chmod 600"),
        (Kind.TRUST, 0o646, False, "chmod 600"),
        (Kind.TRUST, 0o666, True, None),
        (Kind.FOLDER, 0o700, False, None),
        (Kind.FOLDER, 0o755, False, None),
        (Kind.FOLDER, 0o775, False, "chmod 700"),
        (Kind.FOLDER, 0o1777, False, None),  # sticky: others cannot replace what is ours
        (Kind.FOLDER, 0o777, True, None),
    ],
)
def test_modes(kind: Kind, mode: int, read_only: bool, mend: str | None) -> None:
    (found,) = judge_files([FileFacts("/a/b", kind, mode, ME, read_only)], ME, ours=True)
    assert found.topic is Topic.MODES
    assert found.level is (OK if mend is None else PROBLEM)
    assert found.do == ("" if mend is None else f"{mend} '/a/b'")


@pytest.mark.parametrize(
    ("owner", "me", "ours", "level"),
    [
        (ME, ME, True, OK),
        (0, ME, True, OK),
        (7, ME, True, PROBLEM),
        (7, 0, True, NOTE),
        (7, ME, False, OK),  # what renews files of another PKI may be another user
    ],
)
def test_owners(owner: int, me: int, ours: bool, level: Level) -> None:
    findings = judge_files([FileFacts("/a", Kind.FOLDER, 0o700, owner)], me, ours=ours)
    assert worst(findings).level is level


def test_where_files_have_no_modes_nothing_is_said_of_them() -> None:
    assert judge_files([FileFacts("a", Kind.SECRET, 0o777, 0)], None, ours=True) == []


# -- dates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begins", "ends", "level", "words"),
    [
        (-DAY, 6 * DAY, OK, "good for 6 days more"),
        (-5 * DAY, 2 * DAY, OK, "good for 2 days more"),
        (-6 * DAY, DAY, WARNING, "expires in 24 hours"),
        (-7 * DAY, timedelta(0), PROBLEM, "has expired"),
        (-9 * DAY, -2 * DAY, PROBLEM, "2 days ago"),
        (10 * MINUTE, DAY, PROBLEM, "the clock here says 2026-05-01 12:00 UTC"),
        (-HOUR / 2, HOUR / 2, OK, "good for 30 minutes more"),  # SPIRE's, renewed at half
    ],
)
def test_certificates(begins: timedelta, ends: timedelta, level: Level, words: str) -> None:
    found = judge_certificate(Validity("it", NOW + begins, NOW + ends), NOW, renew="renew it")
    assert (found.topic, found.level) == (Topic.CERTIFICATE, level)
    assert words in found.seen
    assert (found.do == "renew it") == (level is not OK and "clock" not in found.seen)


@pytest.mark.parametrize(("left", "level"), [(61, OK), (59, WARNING), (0, PROBLEM)])
def test_authorities_need_longer_notice(left: int, level: Level) -> None:
    validity = Validity("it", NOW - 3000 * DAY, NOW + left * DAY)
    assert judge_authority(validity, NOW).level is level


# -- home ----------------------------------------------------------------------------------------

GOOD = Validity("a certificate", NOW - DAY, NOW + 6 * DAY)
PAST = Validity("a certificate", NOW - 8 * DAY, NOW - DAY)
KEY = FileFacts("/c/ca.key", Kind.SECRET, 0o644, ME)
UNSAFE = "/c/ca.key holds a private key and its mode is 0644; chmod 600 '/c/ca.key' mends that"
PKI = CertificateSource(Path("a.pem"), None, Path("ca.pem"), None)


@pytest.mark.parametrize(
    ("change", "topic", "level", "words"),
    [
        ({}, Topic.CLUSTER, OK, "cluster 'default' of /home/u, made"),
        ({"clusters": (), "cluster": None}, Topic.CLUSTER, WARNING, "no cluster in /home/u"),
        (
            {"wanted": "lab", "cluster": None},
            *(Topic.CLUSTER, PROBLEM, "no cluster 'lab' in /home/u/clusters; there are: default"),
        ),
        (
            {"wanted": "lab", "cluster": None, "clusters": ()},
            *(Topic.CLUSTER, PROBLEM, "nor any other"),
        ),
        ({"authorities": (PAST,)}, Topic.AUTHORITY, PROBLEM, "has expired"),
        ({"authorities": (PAST,), "failure": "no; way"}, Topic.AUTHORITY, PROBLEM, "expired"),
        ({"certificates": (PAST,)}, Topic.CERTIFICATE, PROBLEM, "has expired"),
        ({"certificates": ("x is bad; mend x",)}, Topic.CERTIFICATE, PROBLEM, "x is bad"),
        ({"failure": "ca.pem is damaged; restore it"}, Topic.CERTIFICATE, PROBLEM, "is damaged"),
        ({"files": (KEY,), "failure": UNSAFE}, Topic.MODES, PROBLEM, "has mode 0644"),
        ({"pki": PKI, "cluster": None, "holder": "node a"}, Topic.CLUSTER, OK, "for node a"),
    ],
)
def test_home(change: dict[str, object], topic: Topic, level: Level, words: str) -> None:
    """One cause is one finding, and it is the worst."""
    facts = dataclasses.replace(IN_ORDER, **change)  # type: ignore[arg-type]
    findings = judge_home(facts, NOW)
    if level is not OK:
        assert [each.level for each in findings if each.level is not OK] == [level]
    found = worst(findings) if level is not OK else findings[0]
    assert (found.topic, found.level) == (topic, level)
    assert words in found.seen
    assert bool(found.do) == (level is not OK)


def test_a_rotation_under_way_is_noted() -> None:
    facts = dataclasses.replace(IN_ORDER, authorities=(GOOD, GOOD))
    assert (
        "2 authorities are trusted"
        in worst([f for f in judge_home(facts, NOW) if f.level is NOTE]).seen
    )
