"""The example that pipes a file, with a file that fits no buffer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Python, the library and what is under way; a run of a few MiB takes 60.
MOST_MIB = 90


def pipe(home: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "examples/pipe_file.py", *words],
        env={**os.environ, "STEINADLER_HOME": str(home)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_gibibyte_takes_no_more_memory_than_a_little(tmp_path: Path) -> None:
    """M1, M2, M6: it arrives whole, as its checksum tells, through bounded memory at both ends."""
    told = pipe(tmp_path / "home", "1024")
    assert "sent: 1,024 MiB (100%)" in told
    assert "received: 1,024 MiB" in told
    peaks = [int(found) for found in re.findall(r"^peak memory (\d+) MiB$", told, re.MULTILINE)]
    assert len(peaks) == 2
    assert max(peaks) < MOST_MIB, told


@pytest.mark.slow
def test_a_sender_that_fails_ends_no_file(tmp_path: Path) -> None:
    """M4: the receiver of half a file does not take it for a whole one."""
    receiver = subprocess.Popen(
        [sys.executable, "examples/pipe_file.py", "receive", str(tmp_path / "copy")],
        env={**os.environ, "STEINADLER_HOME": str(tmp_path / "home")},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    sender = subprocess.Popen(
        [sys.executable, "examples/pipe_file.py", "send", "/dev/zero"],
        env={**os.environ, "STEINADLER_HOME": str(tmp_path / "home")},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert sender.stdout is not None
        assert sender.stdout.readline().startswith("sent")
        sender.kill()
        _, said = receiver.communicate(timeout=20)
        assert receiver.returncode == 1
        assert "BrokenResourceError" in said
        assert "'pipe-sender' is down" in said
    finally:
        for process in (sender, receiver):
            process.kill()
            process.communicate()
