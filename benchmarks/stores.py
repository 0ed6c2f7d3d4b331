"""How many commits a second the stores of entities acknowledge, each one durable.

    python -m benchmarks.stores [--seconds S] [--folder FOLDER] [--postgres URL]

Entities commit one value of 100 bytes after the other, each waiting for its own.  One entity alone
shows what a commit costs; 256 at once, what group commit makes of it.  Beside it, in the same run,
how often the disk can be synced: SQLite cannot commit more groups than that.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.table import Table

from benchmarks.postgres_server import NotInstalled, PostgresServer
from steinadler.entity.store import Commit, Put, Store
from steinadler.entity.stores import open_store
from steinadler.identity import EntityKey

WIDTHS = (1, 256)
PAYLOAD_BYTES = 100
_WARM_UP_S = 0.3


async def measure(url: str, width: int, seconds: float) -> tuple[float, float, float, float]:
    """Commits a second; of one commit the median and 99th percentile in ms, and µs of CPU here."""
    store = open_store(url)
    await store.open()
    try:
        started = trio.current_time() + _WARM_UP_S
        waits: list[float] = []
        async with trio.open_nursery() as nursery:
            for number in range(width):
                key = EntityKey("Benchmark", str(number))
                nursery.start_soon(_commit, store, key, started, started + seconds, waits)
            await trio.sleep_until(started)
            cpu = time.process_time()
        cpu = time.process_time() - cpu
    finally:
        await store.aclose()
    waits.sort()
    rate = len(waits) / seconds
    p50, p99 = (1000 * waits[int(len(waits) * part)] for part in (0.5, 0.99))
    return rate, p50, p99, cpu / len(waits) * 1e6


async def _commit(
    store: Store, key: EntityKey, start: float, end: float, waits: list[float]
) -> None:
    epoch = (await store.activate(key, ("benchmark", 1), time.time())).epoch
    count = 0
    while (before := trio.current_time()) < end:
        # Another value each time: SQLite writes and syncs nothing for one that is there already.
        count += 1
        value = count.to_bytes(PAYLOAD_BYTES)
        await store.commit(Commit(key, epoch, (Put("state", value),)))
        if before >= start:
            waits.append(trio.current_time() - before)


def syncs_per_second(folder: Path, seconds: float) -> float:
    """How often 4 KiB can be written to a file there and synced."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        # In place, as in a log that is used again: the file's length stays.
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            os.pwrite(file.fileno(), os.urandom(4096), count % 256 * 4096)
            os.fdatasync(file.fileno())
            count += 1
    return count / seconds


@contextlib.contextmanager
def _servers(url: str | None, console: Console) -> Iterator[str | None]:
    if url is not None:
        yield url
        return
    try:
        server = PostgresServer(durable=True)
    except NotInstalled as error:
        console.print(f"without PostgreSQL: {error}")
        yield None
        return
    try:
        yield server.url()
    finally:
        server.remove()


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=3.0)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(tempfile.gettempdir()),
    show_default=True,
    help="The disk to measure SQLite on.",
)
@click.option("--postgres", metavar="URL", help="By default a server of the benchmark's own.")
def main(seconds: float, folder: Path, postgres: str | None) -> None:
    """Measure the stores of entities."""
    console = Console()
    table = Table("store", "entities", "commits /s", "p50 ms", "p99 ms", "CPU µs a commit")
    with (
        tempfile.TemporaryDirectory(prefix="steinadler-stores-", dir=folder) as made,
        _servers(postgres, console) as server,
    ):
        urls = {"SQLite": f"sqlite://{made}/entities.sqlite3", "PostgreSQL": server}
        for name, url in urls.items():
            for width in WIDTHS if url else ():
                rate, p50, p99, cpu = trio.run(measure, url, width, seconds)
                row = (f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{cpu:.0f}")
                table.add_row(name, str(width), *row)
        syncs = syncs_per_second(Path(made), min(seconds, 1.0))
    console.print(table)
    console.print(f"this disk: {syncs:,.0f} syncs a second")


if __name__ == "__main__":
    main()
