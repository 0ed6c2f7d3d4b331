"""One run of one workload by one side: a server process and a client process, both fresh.

The server announces itself with one JSON line on standard output and lives until its standard
input closes.  Each side's processes form a session of their own, which is killed at the end of
the run whatever happened, so nothing outlives a benchmark that failed.
"""

from __future__ import annotations

import contextlib
import json
import os
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
        environment = _environment(Path(folder))
        command = [sys.executable, "-m", side.module]
        with _server([*command, "serve", folder], environment, Path(folder)) as ready:
            arguments = [json.dumps(ready), workload.kind.value]
            arguments += [str(workload.seconds), str(workload.width)]
            return _client([*command, "run", *arguments], environment, workload.seconds)


def _environment(folder: Path) -> dict[str, str]:
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


@contextlib.contextmanager
def _server(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[Ready]:
    errors = folder / "server.log"
    with (
        errors.open("wb") as log,
        _session(command, env=environment, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        yield _wait_until_ready(process, errors)


def _wait_until_ready(process: subprocess.Popen[bytes], errors: Path) -> Ready:
    """Wait for the line that announces the server."""
    assert process.stdout is not None
    timer = _alarm(process, READY_TIMEOUT_S)
    try:
        for line in process.stdout:
            if (ready := _object(line)) is not None:
                return ready
    finally:
        timer.cancel()
    raise RunFailed(f"the server did not start: {_last_line(errors.read_bytes())}")


def _alarm(process: subprocess.Popen[bytes], seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer


def _client(command: list[str], environment: dict[str, str], seconds: float) -> Figures:
    with _session(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
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
    """The last line that names something: tracebacks may end in details or a bracket."""
    lines = [line for line in text.decode(errors="replace").splitlines() if line[:1].isalpha()]
    return lines[-1][:300] if lines else "it said nothing"
