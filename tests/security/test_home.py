"""Clusters on disk: made once, whole, private, and refused when they are not."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

import steinadler.security.home
from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import NODE
from steinadler.security import Cluster, Home, open_home
from steinadler.security.files import exclusive_lock

posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def key_of(home: Home, cluster: Cluster) -> Path:
    return home.path / "clusters" / cluster.name / "ca.key"


@pytest.mark.slow
def test_many_first_starts_at_once_make_one_cluster(tmp_path: Path) -> None:
    """Design section 6: every node of a user on a machine joins the same default cluster."""
    code = (
        "import sys, pathlib; from steinadler.security import Home\n"
        "home = Home(pathlib.Path(sys.argv[1])); print('ready', flush=True); sys.stdin.readline()\n"
        "cluster = home.default_cluster(); print(cluster.id, cluster.fingerprint)"
    )
    makers = [start_python(code, tmp_path / "home") for _ in range(8)]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("\n")
        maker.stdin.flush()
    made = {maker.communicate(timeout=20)[0] for maker in makers}
    assert [maker.returncode for maker in makers] == [0] * 8
    cluster = Home(tmp_path / "home").default_cluster()
    assert made == {f"{cluster.id} {cluster.fingerprint}\n"}


@posix_only
def test_a_process_killed_while_holding_the_lock_shuts_nobody_out(home: Home) -> None:
    """The lock goes with its holder, and is really held while the holder lives."""
    home.path.mkdir()
    lock = home.path / "clusters.lock"
    code = (
        "import sys, pathlib; from steinadler.security.files import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    )
    with start_python(code, lock) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=r"has held .*clusters\.lock for 0\.05 s"),
            exclusive_lock(lock, patience_s=0.05),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
        assert home.default_cluster().name == "default"


def test_a_maker_that_dies_half_way_leaves_no_cluster(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-made cluster is never seen, and its remains are swept by the next maker."""

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(steinadler.security.home, "sync_folder", die)
        with pytest.raises(KeyboardInterrupt):
            home.default_cluster()
    clusters = home.path / "clusters"
    assert list(clusters.glob(".unfinished-*"))
    assert home.clusters() == ()
    home.default_cluster()
    assert [folder.name for folder in clusters.iterdir()] == ["default"]


def test_the_default_cluster_is_made_once(home: Home) -> None:
    assert home.default_cluster() == home.default_cluster() == home.cluster("default")


def test_clusters_are_listed_by_name(home: Home) -> None:
    assert home.clusters() == ()
    second, first = home.create_cluster("two"), home.create_cluster("one")
    assert home.clusters() == (first, second)
    assert first.id != second.id
    assert first.fingerprint != second.fingerprint


def test_a_cluster_is_not_made_twice(home: Home) -> None:
    made = home.create_cluster("mine")
    with pytest.raises(ConfigError, match="there is a cluster 'mine' already"):
        home.create_cluster("mine")
    assert home.cluster("mine") == made


def test_an_unknown_cluster_is_answered_with_the_known_ones(home: Home) -> None:
    with pytest.raises(ConfigError, match="there is none yet"):
        home.cluster("mine")
    home.create_cluster("two")
    home.create_cluster("one")
    with pytest.raises(ConfigError, match=r"no cluster 'mine' .*there are: one, two"):
        home.cluster("mine")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", ".hidden", "a b", "x" * 64, "a\n"])
def test_a_cluster_name_cannot_leave_its_folder(home: Home, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a cluster"):
        home.create_cluster(name)
    with pytest.raises(ConfigError, match="there is no cluster"):
        home.cluster(name)
    assert not home.path.exists()


@posix_only
def test_nobody_else_may_look(home: Home, cluster: Cluster) -> None:
    """Folders are 0700 and files 0600, whatever the umask allows."""
    home.runtime_folder(cluster.id)
    for path in (home.path, *home.path.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


@posix_only
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused(home: Home, cluster: Cluster, mode: int) -> None:
    key = key_of(home, cluster)
    key.chmod(mode)
    with pytest.raises(SecurityError) as raised:
        home.credentials(cluster, NODE, "alice")
    assert f"chmod 600 '{key}'" in str(raised.value)
    assert f"{mode:04o}" in str(raised.value)
    key.chmod(0o600)
    home.credentials(cluster, NODE, "alice")


@posix_only
def test_a_key_that_cannot_be_read_is_named(home: Home, cluster: Cluster) -> None:
    key = key_of(home, cluster)
    key.chmod(0)
    user = os.geteuid()
    # The superuser may read everything, so it is somebody else for a moment.
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(SecurityError) as raised:
            home.credentials(cluster, NODE, "alice")
    finally:
        os.seteuid(user)
    assert str(key) in str(raised.value)
    assert "chmod 600" in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[" * 100_000, b"{}", b"null", b'{"format": 1, "name": "default"}'],
)
def test_a_damaged_description_is_named(home: Home, cluster: Cluster, content: bytes) -> None:
    path = home.path / "clusters/default/cluster.json"
    path.write_bytes(content)
    for read in (home.default_cluster, home.clusters, lambda: home.cluster("default")):
        with pytest.raises(SecurityError) as raised:
            read()
        assert f"{path} is damaged" in str(raised.value)


@pytest.mark.parametrize("file", ["cluster.json", "ca.pem", "ca.key"])
def test_a_missing_file_is_named(home: Home, cluster: Cluster, file: str) -> None:
    path = home.path / "clusters/default" / file
    path.unlink()
    with pytest.raises(SecurityError) as raised:
        home.credentials(home.default_cluster(), NODE, "alice")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("file", ["ca.pem", "ca.key"])
@pytest.mark.parametrize("damage", ["junk", "another cluster's"])
def test_a_damaged_or_foreign_authority_is_named(
    home: Home, cluster: Cluster, file: str, damage: str
) -> None:
    path = home.path / "clusters/default" / file
    home.create_cluster("other")
    foreign = (home.path / "clusters/other" / file).read_bytes()
    path.write_bytes(b"junk" if damage == "junk" else foreign)
    with pytest.raises(SecurityError) as raised:
        home.credentials(home.default_cluster(), NODE, "alice")
    assert f"{path} is damaged" in str(raised.value)


def test_a_later_format_asks_for_an_upgrade(home: Home, cluster: Cluster) -> None:
    path = home.path / "clusters/default/cluster.json"
    path.write_text(json.dumps({"format": 3}))
    with pytest.raises(SecurityError, match="upgrade"):
        home.default_cluster()


def test_a_home_that_cannot_be_made_says_how_to_choose_another(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="set STEINADLER_HOME"):
        Home(tmp_path / "file" / "home").default_cluster()


def test_the_runtime_folder_is_the_clusters_own(home: Home, cluster: Cluster) -> None:
    folder = home.runtime_folder(cluster.id)
    assert folder == home.runtime_folder(cluster.id) == home.path / "run" / cluster.id
    assert folder.is_dir()


def test_where_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, else STEINADLER_HOME, else the user's configuration folder."""
    monkeypatch.setenv("STEINADLER_HOME", str(tmp_path / "named"))
    assert open_home(tmp_path / "given").path == tmp_path / "given"
    assert open_home().path == tmp_path / "named"
    monkeypatch.setenv("STEINADLER_HOME", "")
    assert open_home().path == platformdirs.user_config_path("steinadler")
    assert not (tmp_path / "named").exists()
