"""Where a user's clusters live on disk, and how the first one comes to be.

    <home>/clusters/<name>/cluster.json     name, id, fingerprint, time of creation
                           ca.pem           the authority's certificate
                           ca.key           its private key, mode 0600
    <home>/clusters.lock                    held while a cluster is made
    <home>/run/<cluster-id>/                what running nodes leave for others on this machine

Folders are made with mode 0700.  A cluster is made whole in a folder with a temporary name, put
on disk, and renamed into place, so whoever sees a cluster sees all of it, whatever died when.
Makers take turns under a lock, so that many first starts at once still make one authority and
all find the same.  Remains of a maker that was killed begin with a dot, are never taken for a
cluster, and are swept by the next maker.

Readers take no lock.  What they read is checked before it is used: a certificate must have the
fingerprint that `cluster.json` says, and a key must belong to its certificate.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import platformdirs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import check_node_name
from steinadler.security.authority import Authority, fingerprint
from steinadler.security.credentials import Credentials, utc_now
from steinadler.security.files import exclusive_lock, read_secret, sync_folder, write_new
from steinadler.security.peer import PeerIdentity, Role

DEFAULT_CLUSTER = "default"
HOME_VARIABLE = "STEINADLER_HOME"

_CLUSTER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_CLUSTER_ID = re.compile(r"[0-9a-f]{32}\Z")
_UNFINISHED = ".unfinished-"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as it stands on disk: everything about it but its key."""

    name: str
    # 32 hexadecimal digits: the trust domain of every certificate.
    id: str
    # SHA-256 of the authority's certificate, in hexadecimal.
    fingerprint: str
    created: datetime


def open_home(path: Path | None = None) -> Home:
    """The home at `path`; else at `$STEINADLER_HOME`; else in the user's configuration folder.

    Touches nothing on disk: folders are made when something is first put into them.
    """
    if path is None:
        named = os.environ.get(HOME_VARIABLE)
        path = Path(named) if named else platformdirs.user_config_path("steinadler", False)
    return Home(path.expanduser())


class Home:
    """The clusters that this user of this machine can take part in.

    Every method may raise `ConfigError` when a folder cannot be made or read, and
    `SecurityError`, naming the file, when what is on disk is damaged or unsafe.
    """

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.path = path
        self._clusters = path / "clusters"
        self._clock = clock

    def default_cluster(self) -> Cluster:
        """The cluster named "default", made at the first call on this machine.

        Any number of processes may make that first call at once: one makes the cluster, all
        return the same.  Raises `ConfigError` when another process has been making it for 10 s.
        """
        if not self._folder(DEFAULT_CLUSTER).exists():
            with suppress(FileExistsError):
                self._make(DEFAULT_CLUSTER)
        return self._read(DEFAULT_CLUSTER)

    def create_cluster(self, name: str) -> Cluster:
        """Make the cluster `name`; raise `ConfigError` when it exists or cannot be called so."""
        if not _CLUSTER_NAME.match(name):
            raise ConfigError(
                f"{name!r} cannot name a cluster: use 1 to 63 letters, digits, dots, dashes or "
                "underscores, with a letter or digit at both ends"
            )
        try:
            self._make(name)
        except FileExistsError:
            raise ConfigError(f"there is a cluster {name!r} already, in {self._clusters}") from None
        return self._read(name)

    def cluster(self, name: str) -> Cluster:
        """The cluster `name`; raises `ConfigError`, telling those there are, when it is not one."""
        known = self._names()
        if name not in known:
            there_are = f"there are: {', '.join(known)}" if known else "there is none yet"
            text = f"there is no cluster {name!r} in {self._clusters}; {there_are}"
            if name == DEFAULT_CLUSTER:
                text = f"{text}; the first node makes it: steinadler node NAME"
            raise ConfigError(text)
        return self._read(name)

    def clusters(self) -> tuple[Cluster, ...]:
        """All clusters, by name."""
        return tuple(self._read(name) for name in self._names())

    def credentials(self, cluster: Cluster, role: Role, name: str) -> Credentials:
        """A new key, certified as `role` and `name` of `cluster`.

        Raises `ConfigError` for a name that no node can have, and `SecurityError` when the
        cluster's key is missing, damaged, unreadable, or readable by others than its owner.
        """
        identity = PeerIdentity(cluster.id, role, check_node_name(name))
        return Credentials(self._authority(cluster), identity, clock=self._clock)

    def cluster_folder(self, cluster: Cluster) -> Path:
        """The folder that holds what is kept of `cluster`, its key included."""
        return self._folder(cluster.name)

    def runtime_folder(self, cluster: Cluster) -> Path:
        """The folder, made if need be, where running nodes of `cluster` leave their addresses."""
        folder = self.path / "run" / cluster.id
        self._make_folder(folder)
        return folder

    def _folder(self, name: str) -> Path:
        return self._clusters / name

    def _names(self) -> list[str]:
        try:
            return sorted(
                entry.name
                for entry in self._clusters.iterdir()
                if _CLUSTER_NAME.match(entry.name) and entry.is_dir()
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self._clusters} cannot be read: {error.strerror}") from error

    def _make_folder(self, folder: Path) -> None:
        # One by one: mkdir(parents=True) gives the mode to the last alone.
        steps = [folder]
        while steps[-1] != self.path:
            steps.append(steps[-1].parent)
        try:
            for step in reversed(steps):
                step.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{error.filename} cannot be made: {error.strerror}; "
                f"set {HOME_VARIABLE} to a folder that can be written"
            ) from error

    def _make(self, name: str) -> None:
        """Make a cluster, or raise `FileExistsError` when there is one."""
        self._make_folder(self._clusters)
        try:
            with exclusive_lock(self.path / "clusters.lock"):
                for remains in self._clusters.glob(f"{_UNFINISHED}*"):
                    shutil.rmtree(remains, ignore_errors=True)
                if self._folder(name).exists():
                    raise FileExistsError(name)
                unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._clusters))
                self._write(unfinished, name)
                sync_folder(unfinished)
                unfinished.rename(self._folder(name))
                sync_folder(self._clusters)
        except FileExistsError:
            raise
        except OSError as error:
            raise ConfigError(f"{self._folder(name)} cannot be made: {error.strerror}") from error

    def _write(self, folder: Path, name: str) -> None:
        now = self._clock()
        cluster_id = uuid.uuid4().hex
        authority = Authority.create(cluster_id, now)
        write_new(
            folder / "ca.key",
            authority.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
        write_new(folder / "ca.pem", authority.certificate.public_bytes(serialization.Encoding.PEM))
        description = {
            "format": _FORMAT,
            "name": name,
            "id": cluster_id,
            "fingerprint": authority.fingerprint,
            "created": now.isoformat(),
        }
        write_new(folder / "cluster.json", json.dumps(description, indent=2).encode() + b"\n")

    def _read(self, name: str) -> Cluster:
        path = self._folder(name) / "cluster.json"
        try:
            match json.loads(_read(path)):
                case {
                    "format": 1,
                    "name": str(told),
                    "id": str(cluster_id),
                    "fingerprint": str(digest),
                    "created": str(created),
                } if told == name and _CLUSTER_ID.match(cluster_id):
                    cluster = Cluster(name, cluster_id, digest, datetime.fromisoformat(created))
                case {"format": int(number)} if number > _FORMAT:
                    raise SecurityError(
                        f"{path} is of format {number}, and this version knows {_FORMAT}; upgrade"
                    )
                case _:
                    raise _damaged(path, "it does not describe this cluster")
        except (ValueError, RecursionError) as error:
            raise _damaged(path, str(error)) from error
        self._certificate(cluster)
        return cluster

    def _certificate(self, cluster: Cluster) -> x509.Certificate:
        path = self._folder(cluster.name) / "ca.pem"
        try:
            certificate = x509.load_pem_x509_certificate(_read(path))
        except ValueError as error:
            raise _damaged(path, "it is not a PEM certificate") from error
        if fingerprint(certificate) != cluster.fingerprint:
            raise _damaged(path, "its fingerprint is not the one in cluster.json")
        return certificate

    def _authority(self, cluster: Cluster) -> Authority:
        path = self._folder(cluster.name) / "ca.key"
        pem = read_secret(path)
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _damaged(path, "it is not a PEM private key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _damaged(path, "it is not an elliptic-curve key")
        try:
            return Authority(self._certificate(cluster), key)
        except ValueError as error:
            raise _damaged(path, str(error)) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise _damaged(path, "it is missing") from error
    except OSError as error:
        raise SecurityError(f"{path} cannot be read: {error.strerror}") from error


def _damaged(path: Path, what: str) -> SecurityError:
    return SecurityError(
        f"{path} is damaged: {what}; restore it from a copy, or move its folder away"
    )
