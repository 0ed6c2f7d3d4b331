"""`steinadler demo`, end to end: five seconds of a cluster's life."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import trio
from commands import Steinadler


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.mark.slow
async def test_the_demo_shows_a_death_and_a_silence(
    steinadler: Steinadler, temporary: Path
) -> None:
    """S1, D1: all survivors' monitors fire after a kill and after 2 to 3 s of silence.

    E2: an entity of the killed node goes on from what it had acknowledged, on another node.
    """
    with trio.fail_after(30):
        shown = (await steinadler.run("demo", "--json")).json
    assert shown["ok"] is True
    assert shown["nodes"] == 3
    assert shown["discovered_by"] in ("mdns", "runtime folder")
    assert shown["messages"] == 2000
    assert 0 < shown["call_p50_us"] < 1e5
    assert 0 < shown["discovered_s"] < 20
    # The promises are 100 and 3000 ms; a crowded machine gets some more time in a test.
    assert 0 < shown["kill_to_down_ms"] < 1000
    assert shown["kill_to_down_ms"] < shown["kill_to_entity_call_ms"] < 3500
    assert 1500 < shown["silence_to_down_ms"] < 5000
    assert _is_empty(temporary)
    assert not steinadler.home.exists(), "the user's own home was not touched"


@pytest.mark.slow
async def test_the_demo_cleans_up_when_it_is_ended(steinadler: Steinadler, temporary: Path) -> None:
    """Also while a child is stopped: nothing of it is left, neither process nor file."""
    process = await steinadler.open("demo", stdout=subprocess.PIPE)
    assert process.stdout is not None
    with trio.fail_after(30):
        seen = b""
        # The next thing that happens is SIGSTOP, and then two seconds of silence.
        while b"new life" not in seen:
            more = await process.stdout.receive_some()
            assert more, seen
            seen += more
        children = [int(pid) for pid in _children(process.pid)]
        assert len(children) == 2
        while not any(_is_stopped(pid) for pid in children):  # noqa: ASYNC110
            await trio.sleep(0.01)  # nobody tells of a grandchild's state
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 128 + signal.SIGINT
    await process.stdout.aclose()
    assert _is_empty(temporary)
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def _is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


def _children(pid: int) -> list[str]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [child for path in lists for child in path.read_text().split()]


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
