"""Programs that tests of stores run in processes of their own, to kill them or to starve them.

count URL N         increments N counters at once, for ever; prints each one acknowledged
contend URL TURNS   takes one counter over and increments it, until TURNS were acknowledged
fill URL BYTES      commits to files of at most BYTES until that fails, then without a limit
"""

from __future__ import annotations

import resource
import sys

import trio

from steinadler.entity.store import Commit, Put, Store
from steinadler.entity.stores import open_store
from steinadler.errors import StaleEpoch, StoreUnavailable
from steinadler.identity import EntityKey

NOW = 1_000_000.0


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


async def take(store: Store, key: EntityKey) -> tuple[int, int]:
    """Activate a counter: its epoch, and how far it has counted."""
    activation = await store.activate(key, ("program", 1), NOW)
    return activation.epoch, int(activation.state.get("count", b"0"))


async def count(store: Store, counters: int) -> None:
    async def one(name: str) -> None:
        key = EntityKey("Counter", name)
        epoch, value = await take(store, key)
        while True:
            value += 1
            await store.commit(Commit(key, epoch, (Put("count", b"%d" % value),)))
            say(name, value)

    async with trio.open_nursery() as nursery:
        for number in range(counters):
            nursery.start_soon(one, str(number))


async def contend(store: Store, turns: int) -> None:
    key = EntityKey("Counter", "shared")
    acknowledged = stale = 0
    while acknowledged < turns:
        epoch, value = await take(store, key)
        try:
            await store.commit(Commit(key, epoch, (Put("count", b"%d" % (value + 1)),)))
            acknowledged += 1
        except StaleEpoch:
            stale += 1
    say(acknowledged, stale)


async def fill(store: Store, limit: int) -> None:
    key = EntityKey("Jar", "1")
    epoch, _ = await take(store, key)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    stored = 0
    try:
        while True:
            await store.commit(Commit(key, epoch, (Put(f"part {stored}", bytes(50_000)),)))
            stored += 1
    except StoreUnavailable as error:
        say(stored, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.commit(Commit(key, epoch, (Put("after", b""),)))
    say("recovered")


async def main(program: str, url: str, number: str) -> None:
    store = open_store(url)
    await store.open()
    try:
        await {"count": count, "contend": contend, "fill": fill}[program](store, int(number))
    finally:
        await store.aclose()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
