"""Where a user's clusters live on disk, and how the first one comes to be.

    <home>/clusters/<name>/                 a cluster: see `steinadler.security.cluster_folder`
    <home>/clusters.lock                    held while a cluster is made
    <home>/data/<cluster-id>/               state of nodes whose credentials are not in the home
    <home>/run/<cluster-id>/                what running nodes leave for others on this machine

Folders are made with mode 0700.  A cluster is made whole in a folder with a temporary name, put
on disk, and renamed into place, so whoever sees a cluster sees all of it, whatever died when.
Makers take turns under a lock, so that many first starts at once still make one authority and
all find the same.  Remains of a maker that was killed begin with a dot, are never taken for a
cluster, and are swept by the next maker.

In the home of an issuer, which has the cluster's key, a node may have any name and any role.  A
joined home has those that it was given by tokens, and for watching one name that stands for any
number of observers.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import platformdirs

from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import (
    NODE,
    OBSERVER,
    Address,
    check_node_name,
    check_role,
    may_call_itself,
)
from steinadler.security.authority import Authority
from steinadler.security.cluster_folder import Cluster as Cluster
from steinadler.security.cluster_folder import ClusterFolder
from steinadler.security.credentials import Credentials, utc_now
from steinadler.security.files import exclusive_lock, sync_folder
from steinadler.security.home_credentials import HomeCredentials, JoinedCredentials
from steinadler.security.joiner import Admission
from steinadler.security.peer import PeerIdentity
from steinadler.security.token_store import TokenStore

DEFAULT_CLUSTER = "default"
HOME_VARIABLE = "STEINADLER_HOME"

_CLUSTER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_UNFINISHED = ".unfinished-"


def open_home(path: str | Path | None = None) -> Home:
    """The home at `path`; else at `$STEINADLER_HOME`; else in the user's configuration folder.

    Touches nothing on disk: folders are made when something is first put into them.
    """
    if path is None:
        named = os.environ.get(HOME_VARIABLE)
        path = named or platformdirs.user_config_path("steinadler", False)
    return Home(Path(path).expanduser())


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
        if not self._folder(DEFAULT_CLUSTER).path.exists():
            with suppress(FileExistsError):
                self._make(DEFAULT_CLUSTER, self._fill_as_issuer)
        return self._read(DEFAULT_CLUSTER)

    def create_cluster(self, name: str) -> Cluster:
        """Make the cluster `name`; raise `ConfigError` when it exists or cannot be called so."""
        _check_cluster_name(name)
        try:
            self._make(name, self._fill_as_issuer)
        except FileExistsError:
            raise ConfigError(f"there is a cluster {name!r} already, in {self._clusters}") from None
        return self._read(name)

    def check_may_join(self, name: str, cluster_id: str) -> None:
        """Raise `ConfigError` when what a joiner is given for a cluster of that id could not be
        kept under that name."""
        _check_cluster_name(name)
        self._make_folder(self._clusters)
        for there in self.clusters():
            place = self._folder(there.name).path
            if there.id == cluster_id and not there.joined:
                raise ConfigError(
                    f"this home has the key of that cluster, in {place}: any node may run here, "
                    "and needs no token"
                )
            if there.id == cluster_id and there.name != name:
                raise ConfigError(
                    f"this home is in that cluster already, and calls it {there.name!r}; join with "
                    f"--cluster {there.name}"
                )
            if there.id != cluster_id and there.name == name:
                raise ConfigError(
                    f"this home has another cluster called {name!r}; join under another name, with "
                    f"--cluster NAME, or move {place} away if it is not needed"
                )

    def keep(self, name: str, admission: Admission, seeds: Iterable[Address]) -> Cluster:
        """Keep what a joiner was given, in the cluster `name`, which is made if need be.

        Raises as `check_may_join`, and `SecurityError` when it cannot be written.
        """
        cluster_id = admission.issuer.cluster_id
        self.check_may_join(name, cluster_id)

        def fill(folder: ClusterFolder) -> None:
            for each in admission.granted:
                folder.store_credentials(
                    each.identity.role, each.identity.name, each.key, [each.certificate]
                )
            folder.store_seeds(seeds)

        def fill_new(folder: ClusterFolder) -> None:
            folder.write_joined(cluster_id, admission.authorities, self._clock())
            fill(folder)

        folder = self._folder(name)
        try:
            self._make(name, fill_new)
        except FileExistsError:  # from before, or another process was faster
            self.check_may_join(name, cluster_id)
            try:
                names = [each.identity.name for each in admission.granted]
                folder.trust_anew(admission.authorities, names)
                fill(folder)
            except OSError as error:
                raise SecurityError(f"{folder.path} cannot be written: {error.strerror}") from error
        return self._read(name)

    def cluster(self, name: str) -> Cluster:
        """The cluster `name`; raises `ConfigError`, telling those there are, when it is not one."""
        known = self.names()
        if name not in known:
            there_are = f"there are: {', '.join(known)}" if known else "there is none yet"
            text = f"there is no cluster {name!r} in {self._clusters}; {there_are}"
            if name == DEFAULT_CLUSTER:
                text = (
                    f"{text}; the first node makes one (steinadler node NAME), or join one of "
                    "another machine (steinadler cluster join TOKEN)"
                )
            raise ConfigError(text)
        return self._read(name)

    def names(self) -> tuple[str, ...]:
        """What the clusters are called, sorted.  Nothing of them is read."""
        try:
            return tuple(
                sorted(
                    entry.name
                    for entry in self._clusters.iterdir()
                    if _CLUSTER_NAME.match(entry.name) and entry.is_dir()
                )
            )
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigError(f"{self._clusters} cannot be read: {error.strerror}") from error

    def clusters(self) -> tuple[Cluster, ...]:
        """All clusters, by name."""
        return tuple(self._read(name) for name in self.names())

    def credentials(self, cluster: Cluster, role: str | None, name: str) -> Credentials:
        """What to show as `role` and `name` of `cluster`.

        In an issuer's home a new key is certified, and the role None is "node"; in a joined one
        the credentials of that name are taken, and None is any role but "observer".

        Raises `ConfigError` for a name or role that nobody can have or that this home was not
        given, and `SecurityError` when the cluster's key is missing, damaged, unreadable, or
        readable by others than its owner.
        """
        check_node_name(name)
        folder = self.cluster_folder(cluster)
        if cluster.joined:
            return JoinedCredentials(
                folder, cluster.id, self._find_joined(cluster, role, name), clock=self._clock
            )
        identity = PeerIdentity(cluster.id, check_role(role or NODE), name)
        return HomeCredentials(folder, identity, clock=self._clock)

    def observer_name(self, cluster: Cluster) -> str:
        """A name for one more observer, that this home has credentials for if any can."""
        made_up = secrets.token_hex(6)
        if not cluster.joined:
            return f"observer-{made_up}"
        folder = self.cluster_folder(cluster)
        for role, name in folder.joined_as():
            if role == OBSERVER:
                return f"{name}.{made_up}"
        raise ConfigError(f"{_joined_as(folder)}: none of that is an observer")

    def _find_joined(self, cluster: Cluster, role: str | None, name: str) -> Path:
        folder = self.cluster_folder(cluster)
        for has_role, has_name in folder.joined_as():
            fits = has_role != OBSERVER if role is None else has_role == role
            if fits and may_call_itself(has_role, has_name, name):
                return folder.credentials_path(has_role, has_name)
        what = f"{'a node' if role in (None, NODE) else role} called {name!r}"
        raise ConfigError(
            f"{_joined_as(folder)}: it cannot run {what}; ask for a token where the cluster's key "
            f"is: steinadler cluster token --name {name}"
        )

    def tokens(self, cluster: Cluster) -> TokenStore:
        """The tokens of a cluster; raises `ConfigError` where its key is not."""
        folder = self.cluster_folder(cluster)
        if cluster.joined:
            raise ConfigError(
                f"{_joined_as(folder)}: tokens are made, listed and revoked where the cluster's "
                "key is"
            )
        return TokenStore(folder.path)

    def cluster_folder(self, cluster: Cluster) -> ClusterFolder:
        """The folder that holds what is kept of `cluster`, its key included."""
        return self._folder(cluster.name)

    def data_folder(self, cluster_id: str) -> Path:
        """The folder, made if need be, for the state of nodes with credentials from elsewhere."""
        folder = self.path / "data" / cluster_id
        self._make_folder(folder)
        return folder

    def runtime_folder(self, cluster_id: str) -> Path:
        """The folder, made if need be, where running nodes of a cluster leave their addresses."""
        folder = self.path / "run" / cluster_id
        self._make_folder(folder)
        return folder

    def _folder(self, name: str) -> ClusterFolder:
        return ClusterFolder(self._clusters / name)

    def _read(self, name: str) -> Cluster:
        return self._folder(name).read()

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

    def _make(self, name: str, fill: Callable[[ClusterFolder], None]) -> None:
        """Make a cluster, or raise `FileExistsError` when there is one."""
        self._make_folder(self._clusters)
        place = self._folder(name).path
        try:
            with exclusive_lock(self.path / "clusters.lock"):
                for remains in self._clusters.glob(f"{_UNFINISHED}*"):
                    shutil.rmtree(remains, ignore_errors=True)
                if place.exists():
                    raise FileExistsError(name)
                unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._clusters))
                fill(ClusterFolder(unfinished, name))
                sync_folder(unfinished)
                unfinished.rename(place)
                sync_folder(self._clusters)
        except FileExistsError:
            raise
        except OSError as error:
            raise ConfigError(f"{place} cannot be made: {error.strerror}") from error

    def _fill_as_issuer(self, folder: ClusterFolder) -> None:
        now = self._clock()
        cluster_id = uuid.uuid4().hex
        folder.write_issuer(cluster_id, Authority.create(cluster_id, now), now)


def _check_cluster_name(name: str) -> None:
    if not _CLUSTER_NAME.match(name):
        raise ConfigError(
            f"{name!r} cannot name a cluster: use 1 to 63 letters, digits, dots, dashes or "
            "underscores, with a letter or digit at both ends"
        )


def _joined_as(folder: ClusterFolder) -> str:
    given = [f"{role} {name!r}" for role, name in folder.joined_as()]
    return f"this home joined cluster {folder.name!r} as {' and '.join(given) or 'nobody'}"
