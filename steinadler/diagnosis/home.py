"""The home, or the files of another PKI: whose cluster is this, and could a node show what it must?

What a node would do is done (`credentials`): its credentials are taken, and what came of that is
told.  Besides, two things are looked at that no node asks for: whether somebody else could replace
the files that say whom to trust, and how long certificates are good.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from pathlib import Path
from typing import assert_never

from steinadler.diagnosis.findings import (
    HOW_TO_JOIN,
    Finding,
    Level,
    Topic,
    listed,
    note,
    ok,
    problem,
    split_advice,
    warning,
)
from steinadler.diagnosis.validity import Validity, day, judge_authority, judge_certificate
from steinadler.security import Cluster, SpiffePattern
from steinadler.security.home import DEFAULT_CLUSTER, HOME_VARIABLE

_BRING = (
    "to take part in the cluster of another machine, join it before a node runs here: "
    f"{HOW_TO_JOIN}"
)
_RENEW_FILES = "have a new one issued, and put it there; what renews it has stopped"
_RENEW_JOINED = (
    "run the node while a member that has the cluster's key is up, which renews it; once it has "
    f"expired, join again: {HOW_TO_JOIN}"
)


class Kind(Enum):
    """What a file or folder is for, and so who may touch it."""

    FOLDER = auto()
    TRUST = auto()  # says whom to trust: nobody else may write it
    SECRET = auto()  # a private key: nobody else may read it
    SHARED_SECRET = auto()  # a private key that a group may read


# What of a mode is too much.
_FORBIDDEN = {
    Kind.FOLDER: 0o022,
    Kind.TRUST: 0o022,
    Kind.SECRET: 0o077,
    Kind.SHARED_SECRET: 0o037,
}
_MEND = {
    Kind.FOLDER: "700",
    Kind.TRUST: "600",
    Kind.SECRET: "600",
    Kind.SHARED_SECRET: "640",
}


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file or folder, its mode, the number of its owner, and whether nobody can write there
    because it is mounted so."""

    path: str
    kind: Kind
    mode: int
    owner: int
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class CertificateSource:
    """Files of another PKI, as `FileCredentials` takes them."""

    cert: Path
    key: Path | None
    ca: Path
    pattern: SpiffePattern | None


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """What was seen of the credentials, whichever they are.

    `cluster` is None with another PKI, and where there is none; `clusters` names all of the home.
    `certificates` are those on disk: each its dates, or what was wrong with it.  `failure` says why
    no credentials can be taken; `holder` whom they are for.
    """

    home: str
    wanted: str
    me: int | None
    clusters: tuple[str, ...] = ()
    cluster: Cluster | None = None
    pki: CertificateSource | None = None
    files: tuple[FileFacts, ...] = ()
    authorities: tuple[Validity, ...] = ()
    certificates: tuple[Validity | str, ...] = ()
    holder: str = ""
    failure: str = ""


def judge_home(facts: HomeFacts, now: datetime) -> list[Finding]:
    """What this comes to, at the time `now`."""
    if facts.pki is None and facts.wanted not in facts.clusters and not facts.failure:
        return [_judge_missing(facts)]
    findings: list[Finding] = []
    if facts.cluster is not None:
        findings.append(ok(Topic.CLUSTER, _describe(facts.cluster, facts)))
    elif facts.pki is not None and facts.holder:
        findings.append(ok(Topic.CLUSTER, f"{facts.pki.cert} is for {facts.holder}"))
    findings += judge_files(facts.files, facts.me, ours=facts.pki is None)
    findings += [judge_authority(each, now) for each in facts.authorities]
    if len(facts.authorities) > 1:
        findings.append(
            note(
                Topic.AUTHORITY,
                f"{len(facts.authorities)} authorities are trusted, as while one is replaced",
                "drop the old one when every certificate is of the new one",
            )
        )
    renew = _RENEW_FILES if facts.pki is not None else _RENEW_JOINED
    for each in facts.certificates:
        if isinstance(each, Validity):
            findings.append(judge_certificate(each, now, renew=renew))
        elif each != facts.failure:
            findings.append(problem(Topic.CERTIFICATE, *split_advice(each, renew)))
    if facts.failure and not _explained(facts, findings):
        findings.append(problem(Topic.CERTIFICATE, *split_advice(facts.failure, renew)))
    if facts.cluster is not None and not facts.cluster.joined and not facts.failure:
        seen = "ca.key is here: nodes of this home certify themselves, for seven days at a time"
        findings.append(ok(Topic.CERTIFICATE, seen))
    return findings


def judge_files(files: Iterable[FileFacts], me: int | None, *, ours: bool) -> list[Finding]:
    """Who may touch them; `me` is the number of this user, None where files have no modes.

    With `ours` they are of a home, which is one user's; what renews files of another PKI may well
    be another user.
    """
    if me is None:
        return []
    files = list(files)
    judged = [_judge_mode(each) for each in files]
    if ours:
        judged += [_judge_owner(each, me) for each in files]
    findings = [each for each in judged if each is not None]
    if not findings and files:
        findings.append(ok(Topic.MODES, "files and folders are this user's alone"))
    return findings


def _judge_mode(file: FileFacts) -> Finding | None:
    sticky = file.kind is Kind.FOLDER and file.mode & stat.S_ISVTX
    excess = file.mode & _FORBIDDEN[file.kind]
    if not excess or sticky or (file.read_only and not excess & 0o044):
        return None
    seen = f"{file.path} has mode {file.mode:04o}"
    do = f"chmod {_MEND[file.kind]} '{file.path}'"
    match file.kind:
        case Kind.SECRET | Kind.SHARED_SECRET:
            may = f"{seen}, so that others may have the private key; nodes refuse it"
        case Kind.TRUST:
            may = f"{seen}, so that others may say whom this home trusts"
        case Kind.FOLDER:
            may = f"{seen}, so that others may replace what is in it, keys and authorities too"
        case _:
            assert_never(file.kind)
    return problem(Topic.MODES, may, do)


def _judge_owner(file: FileFacts, me: int) -> Finding | None:
    if file.owner in (me, 0):
        return None
    if me == 0:
        return note(
            Topic.OWNER,
            f"{file.path} is of user {file.owner}, and this command runs as root, who may read all",
            "run it as the user that runs the nodes, to see what they see",
        )
    return problem(
        Topic.OWNER,
        f"{file.path} is of user {file.owner}, who may replace it, and this is user {me}",
        f"chown it to the user that runs the nodes, or set {HOME_VARIABLE} to that user's own home",
    )


def _judge_missing(facts: HomeFacts) -> Finding:
    where = f"{facts.home}/clusters"
    if facts.clusters:
        return problem(
            Topic.CLUSTER,
            f"there is no cluster {facts.wanted!r} in {where}; there are: {listed(facts.clusters)}",
            "name one with --cluster",
        )
    if facts.wanted != DEFAULT_CLUSTER:
        return problem(
            Topic.CLUSTER,
            f"there is no cluster {facts.wanted!r} in {where}, nor any other",
            f"{_BRING}; or is {HOME_VARIABLE} another where the nodes run?",
        )
    return warning(
        Topic.CLUSTER,
        f"there is no cluster in {where} yet; the first node that starts here makes one of its "
        "own, to which no other machine belongs",
        f"{_BRING}; or is {HOME_VARIABLE} another where the nodes run?",
    )


def _describe(cluster: Cluster, facts: HomeFacts) -> str:
    how = "joined" if cluster.joined else "made"
    return (
        f"cluster {cluster.name!r} of {facts.home}, {how} at {day(cluster.created)}: id "
        f"{cluster.id}, fingerprint {cluster.fingerprint[:16]}...; other machines' "
        "`steinadler cluster show` must print the same"
    )


def _explained(facts: HomeFacts, findings: list[Finding]) -> bool:
    """Whether what else was found says why no credentials can be taken."""
    for finding in findings:
        if finding.level is not Level.PROBLEM:
            continue
        if finding.topic is Topic.AUTHORITY or finding.seen == facts.failure:
            return True
        if finding.topic is Topic.MODES and any(
            file.path in facts.failure and finding.seen.startswith(f"{file.path} ")
            for file in facts.files
        ):
            return True
    return False
