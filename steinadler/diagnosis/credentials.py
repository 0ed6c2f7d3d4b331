"""Taking the credentials of a home, or of files of another PKI, as a node would: and what was seen.

It is the library's own code that takes them, which says what is wrong with a file and how to mend
it.  They are an observer's where there can be one, and members are then asked with them.  `home`
judges the facts.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from steinadler.diagnosis.home import CertificateSource, FileFacts, HomeFacts, Kind
from steinadler.diagnosis.validity import Validity
from steinadler.errors import ConfigError, SteinadlerError
from steinadler.identity import OBSERVER
from steinadler.security import Cluster, Credentials, FileCredentials, Home
from steinadler.security.from_files import read_authorities
from steinadler.security.home import DEFAULT_CLUSTER


@dataclass(frozen=True, slots=True)
class Introduction:
    """What to show to members, and under which name to observe; None where that cannot be."""

    credentials: Credentials
    observer: str | None
    from_files: bool = False


def look_at_home(
    home: Home, name: str | None, pki: CertificateSource | None
) -> tuple[HomeFacts, Introduction | None]:
    """Read what there is, and take credentials; blocks on the disk, changes nothing."""
    me = os.geteuid() if os.name == "posix" else None
    facts = HomeFacts(str(home.path), name or DEFAULT_CLUSTER, me, pki=pki)
    if pki is not None:
        return _look_at_files(facts, pki)
    folders = [home.path, home.path / "clusters"]
    facts = replace(facts, files=_files((each, Kind.FOLDER) for each in folders))
    try:
        facts = replace(facts, clusters=home.names())
        if facts.wanted not in facts.clusters:
            return facts, None
    except SteinadlerError as error:
        return replace(facts, failure=str(error)), None
    folder = home.path / "clusters" / facts.wanted
    given = sorted((folder / "credentials").glob("*.pem"))
    kinds = [
        (folder, Kind.FOLDER),
        (folder / "cluster.json", Kind.TRUST),
        (folder / "ca.pem", Kind.TRUST),
        (folder / "ca.key", Kind.SECRET),
        (folder / "credentials", Kind.FOLDER),
        *((each, Kind.SECRET) for each in given),
    ]
    facts = replace(facts, files=(*facts.files, *_files(kinds)))
    try:
        cluster = home.cluster(facts.wanted)
        facts = replace(facts, cluster=cluster)
        kept = home.cluster_folder(cluster)
        authorities = tuple(
            Validity.of(f"an authority in {kept.trust_path}", each) for each in kept.trust()
        )
        facts = replace(facts, authorities=authorities)
        certificates: list[Validity | str] = []
        for role, holder in kept.joined_as():
            try:
                taken = home.credentials(cluster, role, holder)
                what = f"the certificate of {role} {holder}"
                certificates.append(Validity.of(what, taken.certificate))
            except SteinadlerError as error:
                certificates.append(str(error))
        facts = replace(facts, certificates=tuple(certificates))
        introduction = _introduce(home, cluster)
    except SteinadlerError as error:
        return replace(facts, failure=str(error)), None
    return replace(facts, holder=str(introduction.credentials.identity)), introduction


def _introduce(home: Home, cluster: Cluster) -> Introduction:
    try:
        name = home.observer_name(cluster)
    except ConfigError:
        # A joined home that was given no observer's: a node's must do, and it is not introduced.
        for role, holder in home.cluster_folder(cluster).joined_as():
            return Introduction(home.credentials(cluster, role, holder), None)
        raise
    return Introduction(home.credentials(cluster, OBSERVER, name), name)


def _look_at_files(
    facts: HomeFacts, pki: CertificateSource
) -> tuple[HomeFacts, Introduction | None]:
    key = pki.key or pki.cert
    kinds = {pki.cert: Kind.TRUST, pki.ca: Kind.TRUST, key: Kind.SHARED_SECRET}
    facts = replace(facts, files=_files(kinds.items()))
    try:
        authorities = read_authorities(pki.ca)
        what = f"an authority in {pki.ca}"
        facts = replace(facts, authorities=tuple(Validity.of(what, each) for each in authorities))
        credentials = FileCredentials(pki.cert, pki.key, ca=pki.ca, pattern=pki.pattern)
    except SteinadlerError as error:
        return replace(facts, failure=str(error)), None
    identity = credentials.identity
    shown = Validity.of(f"the certificate in {pki.cert}", credentials.certificate)
    observer = f"{identity.name}.{secrets.token_hex(6)}" if identity.is_observer else None
    facts = replace(facts, certificates=(shown,), holder=str(identity))
    return facts, Introduction(credentials, observer, from_files=True)


def _files(kinds: Iterable[tuple[Path, Kind]]) -> tuple[FileFacts, ...]:
    """Those that there are.  What is missing and must not be, taking credentials tells."""
    found = []
    for path, kind in kinds:
        try:
            status, volume = path.stat(), os.statvfs(path) if os.name == "posix" else None
        except OSError:
            continue
        read_only = volume is not None and bool(volume.f_flag & os.ST_RDONLY)
        mode = stat.S_IMODE(status.st_mode)
        found.append(FileFacts(str(path), kind, mode, status.st_uid, read_only))
    return tuple(found)
