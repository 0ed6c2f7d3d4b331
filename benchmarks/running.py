"""One run of one workload by one side: a server process and a client process, both fresh.

The server announces itself with one JSON line on standard output and lives until its standard
input closes.  Each side's processes form a session of their own, which is killed at the end of
the run whatever happened, so nothing outlives a benchmark that failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figures, Ready
from benchmarks.sides import Description
from benchmarks.workloads import Workload

READY_TIMEOUT_S = 90.0
# What a run may take beyond its timed part: start, warm-up, what is queued at the end.
RUN_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0


class RunFailed(RuntimeError):
    """A side did not do what it should; the text has the last line of its complaint."""


def run_once(side: Description, workload: Workload) -> Figures:
    """Run one workload by one side.  Raises `RunFailed`."""
    with tempfile.TemporaryDirectory(prefix="steinadler-bench-") as folder:
        variables = environment(Path(folder))
        command = [sys.executable, "-m", side.module]
        with started([*command, "serve", folder], variables) as server:
            arguments = [json.dumps(server.ready), workload.kind.value]
            arguments += [str(workload.seconds), str(workload.width)]
            return _client([*command, "run", *arguments], variables, workload.seconds)


def environment(folder: Path) -> dict[str, str]:
    """The environment of a run: everything that is written goes into its folder."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # HOME too: a peer that keeps something in the user's home (Ray: a token) leaves it here.
    return os.environ | {
        "PYTHONPATH": path,
        "STEINADLER_HOME": str(folder / "home"),
        "HOME": str(folder),
    }


@contextlib.contextmanager
def _session(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, start_new_session=True, close_fds=True, **options
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


class Program:
    """A program that has said, with one line of JSON, that it is ready, and what for."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self.ready: Ready = self._next_object(READY_TIMEOUT_S, "did not start")

    def ask(self, job: dict[str, Any], timeout_s: float = RUN_TIMEOUT_S) -> Figures:
        """Have it do a job, of one line of JSON as its answer.  Raises `RunFailed`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it does not answer either
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        return self._next_object(timeout_s, f"failed at {job}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        """For a program that ends by SIGTERM, and not with its standard input."""
        self._process.terminate()

    def _next_object(self, timeout_s: float, complaint: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            for line in self._process.stdout:
                if (value := _object(line)) is not None:
                    return value
        finally:
            timer.cancel()
        program = " ".join(str(part) for part in self._process.args[1:4])  # type: ignore[index]
        raise RunFailed(f"{program} {complaint}: {_last_line(self._log.read_bytes())}")


@contextlib.contextmanager
def started(command: list[str], variables: dict[str, str]) -> Iterator[Program]:
    """Run a program for the length of the block.  Raises `RunFailed` when it does not start."""
    with (
        tempfile.TemporaryDirectory(prefix="steinadler-log-") as folder,
        Path(folder, "log").open("wb") as log,
        _session(command, env=variables, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        yield Program(process, Path(log.name))


def _client(command: list[str], variables: dict[str, str], seconds: float) -> Figures:
    with _session(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            output, errors = process.communicate(timeout=RUN_TIMEOUT_S + seconds)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"the client did not end within {RUN_TIMEOUT_S:.0f} s") from None
    for line in output.splitlines():
        if (figures := _object(line)) is not None:
            return figures
    raise RunFailed(f"the client failed: {_last_line(errors + output)}")


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object that a line is, or None when it is chatter."""
    with contextlib.suppress(ValueError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return None


def _last_line(text: bytes) -> str:
    """The last line that names something: tracebacks may end in details or a bracket, and those
    of exception groups have a margin."""
    lines = [re.sub(r"^ +\| ", "", line) for line in text.decode(errors="replace").splitlines()]
    named = [line for line in lines if line[:1].isalpha()]
    return named[-1][:300] if named else "it said nothing"
