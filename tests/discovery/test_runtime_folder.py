"""Nodes on one machine find each other through files that tell the truth or are passed over."""

from __future__ import annotations

import json
import logging
import os
import platform
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steinadler.discovery import Advertisement, Candidate, RuntimeFolder
from steinadler.errors import ConfigError
from steinadler.identity import Address

FINGERPRINT = "ab" * 32
OTHER_CLUSTER = "cd" * 32
LAN = (Address("192.0.2.7", 4370), Address("fd00::7", 4370))


def advertise(
    node: str = "alice", incarnation: int = 7, fingerprint: str = FINGERPRINT
) -> Advertisement:
    return Advertisement(node, incarnation, LAN, fingerprint)


def content(**changes: Any) -> dict[str, Any]:
    """What a living node of this machine leaves; our parent's number stands for its process."""
    return {
        "name": "bob",
        "incarnation": 9,
        "pid": os.getppid(),
        "addresses": ["127.0.0.1:4371"],
        "started": 1.5,
        "cluster": FINGERPRINT,
        "host": platform.node(),
        **changes,
    }


def put(folder: Path, name: str = "bob", **changes: Any) -> Path:
    written = content(name=name, **changes)
    path = folder / f"{name}.{written['incarnation']:x}.json"
    path.write_text(json.dumps(written))
    return path


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_node_is_found_while_it_runs_and_not_after(tmp_path: Path) -> None:
    folder = RuntimeFolder(tmp_path / "run", fingerprint=FINGERPRINT)
    assert folder.read() == ()
    with folder.leave_address(advertise()):
        (entry,) = RuntimeFolder(tmp_path / "run").read()
        assert (entry.name, entry.incarnation, entry.pid) == ("alice", 7, os.getpid())
        assert entry.addresses == LAN
        assert entry.started > 1.6e9
    assert folder.read() == ()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run"
    with RuntimeFolder(path).leave_address(advertise()):
        assert [entry.name for entry in path.iterdir()] == ["alice.7.json"]
        assert stat.S_IMODE((path / "alice.7.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_node_that_listens_everywhere_leaves_loopback(tmp_path: Path) -> None:
    folder = RuntimeFolder(tmp_path)
    with folder.leave_address(advertise(), listening_on_all=True):
        (entry,) = folder.read()
    assert entry.addresses == (Address("127.0.0.1", 4370),)


def test_the_file_goes_when_the_node_fails(tmp_path: Path) -> None:
    folder = RuntimeFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), folder.leave_address(advertise()):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_later_life_keeps_its_file_when_the_former_ends(tmp_path: Path) -> None:
    """D3: what is removed on exit is one's own, not whatever bears one's name."""
    folder = RuntimeFolder(tmp_path)
    former, later = folder.leave_address(advertise()), folder.leave_address(advertise("alice", 8))
    former.__enter__()
    with later:
        former.__exit__(None, None, None)
        assert [entry.incarnation for entry in folder.read()] == [8]


def test_the_file_of_a_dead_process_is_passed_over_and_deleted(
    tmp_path: Path, dead_pid: int
) -> None:
    stale = put(tmp_path, pid=dead_pid)
    alive = put(tmp_path, "carol")
    assert [entry.name for entry in RuntimeFolder(tmp_path).read()] == ["carol"]
    assert not stale.exists()
    assert list(tmp_path.iterdir()) == [alive]


def test_a_newcomer_under_a_name_in_use_leaves_the_first_ones_file(tmp_path: Path) -> None:
    folder = RuntimeFolder(tmp_path)
    with folder.leave_address(advertise()):
        with folder.leave_address(advertise("alice", 8)):
            assert [entry.incarnation for entry in folder.read()] == [7, 8]
        assert [entry.incarnation for entry in folder.read()] == [7]


def test_another_hosts_files_are_left_alone(tmp_path: Path, dead_pid: int) -> None:
    """A home folder may be shared: a process number of another machine says nothing here."""
    path = put(tmp_path, pid=dead_pid, host="elsewhere")
    assert RuntimeFolder(tmp_path).read() == ()
    assert path.exists()


def test_other_clusters_are_passed_over(tmp_path: Path) -> None:
    """S3: two clusters on one machine never merge."""
    path = put(tmp_path, cluster=OTHER_CLUSTER)
    assert RuntimeFolder(tmp_path, fingerprint=FINGERPRINT).read() == ()
    assert path.exists()
    assert len(RuntimeFolder(tmp_path, fingerprint=OTHER_CLUSTER.upper()).read()) == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 60_000,
        json.dumps(content()).encode()[:-1],
        json.dumps(content()).encode() + b" " * 70_000,
        *(
            json.dumps(content(**change)).encode()
            for change in (
                {"name": "mallory"},
                {"name": 7},
                {"incarnation": "9"},
                {"incarnation": -1},
                {"pid": 0},
                {"pid": -1},
                {"pid": 2**40},
                {"pid": "1"},
                {"addresses": "127.0.0.1:1"},
                {"addresses": ["127.0.0.1"]},
                {"addresses": ["127.0.0.1:99999"]},
                {"addresses": [None]},
                {"started": "now"},
                {"started": 10**400},
                {"cluster": None},
                {"host": None},
            )
        ),
    ],
)
def test_damaged_files_are_passed_over_and_kept(tmp_path: Path, damage: bytes) -> None:
    """Nothing is deleted but what is surely a dead node's."""
    path = tmp_path / "bob.9.json"
    path.write_bytes(damage)
    put(tmp_path, "carol")
    assert [entry.name for entry in RuntimeFolder(tmp_path).read()] == ["carol"]
    assert path.read_bytes() == damage


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to("/dev/zero")
    (tmp_path / "..json").write_text("{}")
    (tmp_path / "notes.txt").write_text("{}")
    assert RuntimeFolder(tmp_path).read() == ()
    assert len(list(tmp_path.iterdir())) == 5


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(set(content()) - {"pid", "host"})), json_values))
def test_no_file_makes_reading_raise(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "bob.9.json"
    path.write_text(json.dumps({**content(), **changes}))
    for entry in RuntimeFolder(tmp_path).read():
        assert entry.name == "bob"
        assert all(0 < address.port < 65536 for address in entry.addresses)


def test_a_folder_that_cannot_be_written_to_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node runs, and is found in other ways."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    folder = RuntimeFolder(blocked / "run")
    with caplog.at_level(logging.WARNING, "steinadler"), folder.leave_address(advertise()):
        assert folder.read() == ()
    assert len(caplog.records) == 1


def test_a_name_that_is_no_node_name_writes_nowhere(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError),
        RuntimeFolder(tmp_path / "run").leave_address(advertise("../mallory")),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


class Watch:
    """What a source proposed, and a way to wait for it."""

    def __init__(self) -> None:
        self.seen: list[Candidate] = []
        self._more = trio.Event()

    def __call__(self, candidate: Candidate) -> None:
        self.seen.append(candidate)
        self._more.set()

    async def until(self, name: str, times: int = 1) -> None:
        with trio.fail_after(10):
            while sum(candidate.name == name for candidate in self.seen) < times:
                await self._more.wait()
                self._more = trio.Event()


async def test_as_a_source_it_proposes_what_is_there_and_what_comes(tmp_path: Path) -> None:
    """Nodes of one machine find each other at once, and a lost one can be dialled again."""
    put(tmp_path, "bob")
    watch = Watch()
    async with trio.open_nursery() as nursery:
        await nursery.start(RuntimeFolder(tmp_path, poll_interval_s=0.02).run, watch)
        await watch.until("bob")
        put(tmp_path, "carol", addresses=["127.0.0.1:1", "[::1]:2"])
        await watch.until("carol", 4)
        await watch.until("bob", 3)
        nursery.cancel_scope.cancel()
    assert set(watch.seen) == {
        Candidate(Address("127.0.0.1", 4371), "runtime", "bob", 9),
        Candidate(Address("127.0.0.1", 1), "runtime", "carol", 9),
        Candidate(Address("::1", 2), "runtime", "carol", 9),
    }


async def test_a_node_does_not_find_itself(tmp_path: Path) -> None:
    put(tmp_path, "bob")
    folder, watch = RuntimeFolder(tmp_path, poll_interval_s=0.01), Watch()
    with folder.leave_address(advertise()):
        async with trio.open_nursery() as nursery:
            await nursery.start(folder.run, watch)
            await watch.until("bob", 3)
            nursery.cancel_scope.cancel()
    assert {candidate.name for candidate in watch.seen} == {"bob"}


async def test_a_node_that_was_killed_is_no_longer_proposed(tmp_path: Path) -> None:
    """Its file lies unchanged in an unchanged folder, and yet is seen to be stale."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    )
    killed = put(tmp_path, "killed", pid=process.pid)
    put(tmp_path, "bob")
    os.utime(tmp_path, (1_000_000_000, 1_000_000_000))
    watch = Watch()
    async with trio.open_nursery() as nursery:
        await nursery.start(RuntimeFolder(tmp_path, poll_interval_s=0.01).run, watch)
        await watch.until("killed", 3)
        process.kill()
        await process.wait()
        del watch.seen[:]
        await watch.until("bob", 3)
        nursery.cancel_scope.cancel()
    assert process.stdin is not None
    await process.stdin.aclose()
    assert {candidate.name for candidate in watch.seen} == {"bob"}
    assert killed.name not in os.listdir(tmp_path)


async def test_a_quiet_folder_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "bob")
    os.utime(tmp_path, (1_000_000_000, 1_000_000_000))
    folder, watch, readings = RuntimeFolder(tmp_path, poll_interval_s=0.01), Watch(), []
    read = folder.read
    monkeypatch.setattr(folder, "read", lambda: readings.append(1) or read())
    async with trio.open_nursery() as nursery:
        await nursery.start(folder.run, watch)
        await watch.until("bob", 10)
        nursery.cancel_scope.cancel()
    assert len(readings) == 1


async def test_fifty_nodes_in_one_process_share_a_folder(tmp_path: Path) -> None:
    """No state is shared: each finds the other 49, and nothing is left behind."""
    names = [f"n{number}" for number in range(50)]
    watches: list[Watch] = []
    ready = [trio.Event() for _ in names]

    async def node(number: int) -> None:
        folder, watch = RuntimeFolder(tmp_path, poll_interval_s=0.05), Watch()
        watches.append(watch)
        with folder.leave_address(advertise(names[number], number)):
            async with trio.open_nursery() as inner:
                await inner.start(folder.run, watch)
                for other in names:
                    if other != names[number]:
                        await watch.until(other)
                ready[number].set()
                for event in ready:
                    await event.wait()
                inner.cancel_scope.cancel()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(len(names)):
                nursery.start_soon(node, number)
    assert all(len({c.name for c in watch.seen}) == 49 for watch in watches)
    assert os.listdir(tmp_path) == []


def test_a_poll_interval_is_a_length_of_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="poll_interval_s"):
        RuntimeFolder(tmp_path, poll_interval_s=0)
