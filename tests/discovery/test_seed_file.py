"""A file of seeds is followed, whatever is done to it, and a mistake costs one line."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from proposals import proposing, until

from steinadler.discovery import Candidate, SeedFile
from steinadler.discovery.seed_file import MAX_FILE_BYTES, read_seed_list
from steinadler.errors import ConfigError
from steinadler.identity import Address, parse_address

ALICE, BOB = Address("192.0.2.7", 4370), Address("bob.example", 4371)
BOTH = "# nodes\n192.0.2.7:4370\n\n  bob.example:4371  # by name\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seeds"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="steinadler.discovery")
    return caplog


def follow(path: Path, **options: Any) -> SeedFile:
    return SeedFile(path, **{"poll_interval_s": 0.01, "interval_s": 0.01, **options})


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def replace(path: Path, text: str) -> None:
    """As a careful program does: the file is always whole."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def make_unusable(path: Path, how: str) -> None:
    path.unlink()
    match how:
        case "a pipe":
            os.mkfifo(path)
        case "too large":
            replace(path, "192.0.2.9:1\n" * (MAX_FILE_BYTES // 12 + 1))
        case "a folder":
            path.mkdir()


# -- what a file says ------------------------------------------------------------------------


def test_one_address_a_line_with_comments() -> None:
    assert read_seed_list(BOTH).addresses == (ALICE, BOB)
    assert read_seed_list("").addresses == ()
    assert read_seed_list("[2001:db8::7]:1\r\n").addresses == (Address("2001:db8::7", 1),)
    assert read_seed_list("192.0.2.7:4370\n192.0.2.7:4370").addresses == (ALICE,)


def test_bad_lines_are_named_by_number_and_the_rest_counts() -> None:
    long = "192.0.2.8:" + 5_000 * "9"  # more digits than `int` takes
    said = read_seed_list(
        f"nowhere\n192.0.2.7:4370\n:1\n#\nbob.example:99999\nbob.example:4371\n{long}"
    )
    assert said.addresses == (ALICE, BOB)
    assert [number for number, _ in said.mistakes] == [1, 3, 5, 7]
    assert "'nowhere' is not an address" in said.mistakes[0][1]


@given(st.text())
def test_every_line_is_an_address_a_mistake_or_nothing(text: str) -> None:
    said = read_seed_list(text)
    lines = [line for line in text.splitlines() if line.partition("#")[0].strip()]
    assert len(said.addresses) + len(said.mistakes) <= len(lines)
    assert bool(lines) == bool(said.addresses or said.mistakes)
    assert all(parse_address(str(address)) == address for address in said.addresses)


# -- what becomes of it ----------------------------------------------------------------------


async def test_what_is_listed_is_proposed_again_and_again(path: Path) -> None:
    write(path, BOTH)
    async with proposing(follow(path)) as proposed:
        await proposed.until(ALICE, BOB, times=5)
    assert set(proposed.seen) == {Candidate(ALICE, "seed file"), Candidate(BOB, "seed file")}


async def test_a_file_that_is_replaced_is_followed_at_once(path: Path) -> None:
    """Without waiting for a round, and also when its size and times stay the same."""
    write(path, "192.0.2.7:4370\n")
    os.utime(path, (1, 1))
    async with proposing(follow(path, interval_s=3600)) as proposed:
        await proposed.until(ALICE)
        replace(path, "192.0.2.8:4370\n")
        os.utime(path, (1, 1))
        await proposed.until(Address("192.0.2.8", 4370))
        write(path, "192.0.2.9:4370\n")
        os.utime(path, (1, 1))
        await proposed.until(Address("192.0.2.9", 4370))


async def test_a_link_that_moves_is_followed(path: Path) -> None:
    """As Kubernetes changes a file of a ConfigMap."""
    for name, address in (("one", ALICE), ("two", BOB)):
        os.mkdir(path.with_name(name))
        write(path.with_name(name) / path.name, str(address))
    data = path.with_name("data")
    os.symlink("one", data)
    os.symlink("data/seeds", path)
    async with proposing(follow(path)) as proposed:
        await proposed.until(ALICE)
        os.symlink("two", path.with_name("new"))
        os.replace(path.with_name("new"), data)
        await proposed.until(BOB)


async def test_what_is_taken_out_is_proposed_no_longer(path: Path) -> None:
    write(path, BOTH)
    async with proposing(follow(path)) as proposed:
        await proposed.until(ALICE, BOB)
        replace(path, str(BOB))
        with trio.fail_after(10):
            while ALICE in proposed.addresses():
                proposed.forget()
                await proposed.until(BOB, times=3)


async def test_a_mistake_is_told_once_and_the_rest_is_used(
    path: Path, told: pytest.LogCaptureFixture
) -> None:
    write(path, "nowhere\n192.0.2.7:4370\n")
    async with proposing(follow(path)) as proposed:
        await proposed.until(ALICE, times=5)
    assert [record.getMessage() for record in told.records] == [
        f"{path}, line 1: 'nowhere' is not an address: write HOST:PORT, as in 192.0.2.7:4370"
    ]


async def test_a_file_of_nonsense_is_a_dozen_lines_in_the_log(
    path: Path, told: pytest.LogCaptureFixture
) -> None:
    write(path, random.Random(1).randbytes(5000) + b"\n" + b"x\n" * 500)
    async with proposing(follow(path)):
        await until(lambda: "more lines" in told.text)
    assert len(told.records) == 11
    assert all(len(record.getMessage()) < 400 for record in told.records)


async def test_a_file_may_come_later(path: Path, told: pytest.LogCaptureFixture) -> None:
    async with proposing(follow(path)) as proposed:
        await until(lambda: "No such file" in told.text)
        write(path, BOTH)
        await proposed.until(ALICE)
    assert len(told.records) == 1


@pytest.mark.parametrize("how", ["gone", "a pipe", "too large", "a folder"])
async def test_a_file_that_cannot_be_used_changes_nothing(
    how: str, path: Path, told: pytest.LogCaptureFixture
) -> None:
    write(path, BOTH)
    async with proposing(follow(path)) as proposed:
        await proposed.until(ALICE)
        make_unusable(path, how)
        await until(lambda: "cannot be used" in told.text)
        proposed.forget()
        await proposed.until(ALICE, BOB, times=5)
    # Between the two steps it was gone for a moment.
    assert len(told.records) <= 2


async def test_an_empty_file_says_that_there_are_none(
    path: Path, told: pytest.LogCaptureFixture
) -> None:
    told.set_level(logging.INFO, logger="steinadler.discovery")
    write(path, BOTH)
    async with proposing(follow(path)) as proposed:
        await proposed.until(ALICE)
        replace(path, "# nobody\n")
        await until(lambda: ": 0 addresses" in told.text)
        proposed.forget()
        with trio.move_on_after(0.1) as waited:
            await proposed.until(ALICE)
        assert waited.cancelled_caught


def test_intervals_of_a_seed_file_are_lengths_of_time(path: Path) -> None:
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="poll_interval_s"):
            SeedFile(path, poll_interval_s=wrong)
        with pytest.raises(ConfigError, match=r"^interval_s"):
            SeedFile(path, interval_s=wrong)
