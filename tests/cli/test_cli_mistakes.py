"""Mistakes on the command line: one line that says what is wrong, and an exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import trio
from commands import Result, Steinadler

import steinadler as library
from steinadler.cli import root
from steinadler.wire.as_json import to_json


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("call", "x@a", '{"a": [1}'), ["is not JSON", "line 1, column 9"]),
        (("send", "x@a", "hello"), ["'hello' is not JSON", "column 1"]),
        (("send", "x@a", "[" * 100_000), ["cannot be read as JSON"]),
        (("send", "x@a", "9" * 5000), ["cannot be read as JSON"]),
        (("call", "x@a@b", "1"), ["'a@b' cannot name a node"]),
        (("call", "", "1"), ["cannot name a process"]),
        (("call", "x@a"), ["Missing argument 'JSON'"]),
        (("members", "--seed", "nowhere"), ["'nowhere' is not an address"]),
        (("members", "--seed-dns", "a..b"), ["'_steinadler._tcp.a..b' is not a name"]),
        (("members", "--seed-dns", "192.0.2.7:4370"), ["'192.0.2.7' is not a name", "are seeds"]),
        (("node", "a", "--seed-dns", "nodes.test:0"), ["'nodes.test:0' is not an address"]),
        (("top", "--seed-srv", "x" * 64), ["is not a name that DNS could know"]),
        (("members", "--timeout", "0"), ["--timeout"]),
        (("members", "--timeout", "nan"), ["--timeout", "no number of seconds"]),
        (("node", "not a name"), ["cannot name a node"]),
        (("top", "not a name"), ["cannot name a node"]),
        (("top", "a", "b"), ["unexpected extra argument"]),
        (("node", "a", "--label", "gpu"), ["'gpu' is not a label"]),
        (("node", "a", "--port", "70000"), ["--port"]),
        (("node", "a", "--no-listen", "--port", "4370"), ["--no-listen", "contradict"]),
        (("node", "a", "--app", "json"), ["is not MODULE:FUNCTION"]),
        (("node", "a", "--app", "no_such_module:f"), ["'no_such_module' cannot be imported"]),
        (("node", "a", "--app", "json:nothing"), ["has nothing called 'nothing'"]),
        (("node", "a", "--app", "json:loads"), ["must be an 'async def'"]),
        (("node", "a", "--role", "Gate Way"), ["'Gate Way' is not a role"]),
        (("node", "a", "--role", "observer"), ["'observer' is no member"]),
        (("node", "a", "--policy", "no-such.toml"), ["no-such.toml cannot be read"]),
        (("sidecar", "--policy", "/dev/null/x"), ["/dev/null/x cannot be read"]),
        (("expose", "web", "80", "--policy", "no-such.toml"), ["no-such.toml cannot be read"]),
        (("demo", "--nodes", "2"), ["3<=x<=16"]),
        (("demo", "--nodes", "17"), ["3<=x<=16"]),
        (("bogus",), ["No such command 'bogus'"]),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line_and_2(
    words: tuple[str, ...],
    said: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["steinadler", *words])
    with pytest.raises(SystemExit) as ended:
        root.main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert "--help" in told.err
    for text in said:
        assert text in told.err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr("sys.argv", ["steinadler", "cluster", "show"])
    monkeypatch.setattr("steinadler.cli.cluster.open_home", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        root.main()


@pytest.mark.parametrize(
    "words",
    [
        ("members",),
        *(
            pytest.param(words, marks=pytest.mark.slow)
            for words in (("whereis", "x"), ("call", "x@bob", "1"), ("top", "--once"))
        ),
    ],
)
async def test_who_only_looks_makes_no_cluster(
    steinadler: Steinadler, words: tuple[str, ...]
) -> None:
    """In an empty home there is nobody to find: it says how to begin, and leaves it empty."""
    result = await steinadler.ask(*words)
    result.failed(1, "there is no cluster 'default'", "steinadler node NAME")
    assert not steinadler.home.exists()


@pytest.mark.slow
async def test_nobody_there_tells_where_was_looked(steinadler: Steinadler) -> None:
    await steinadler.run("cluster", "init", "default")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        seed = f"127.0.0.1:{taken.getsockname()[1]}"
        result = await steinadler.ask("members", "--timeout", "0.5", "--seed", seed)
        result.failed(
            1,
            "no node of cluster 'default' found within 0.5 s",
            f"looked in the runtime folder and at the seeds {seed}",
        )
        result = await steinadler.ask("call", "x@bob", "1", "--timeout", "0.5")
        result.failed(1, "no node of cluster 'default' found")


@pytest.mark.slow
async def test_what_a_node_cannot_open_with_is_one_line(steinadler: Steinadler) -> None:
    """A port in use, an address of another machine, an unknown cluster, keys that others read."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = ("node", "a", "--host", "127.0.0.1", "--no-mdns", "--port", port)
        (await steinadler.run(*words)).failed(1, f"port {port} of 127.0.0.1 is in use")
    (await steinadler.run("node", "a", "--host", "192.0.2.99")).failed(1, "192.0.2.99")
    (await steinadler.ask("members", "--cluster", "nope")).failed(1, "no cluster 'nope'", "default")
    key = steinadler.home / "clusters" / "default" / "ca.key"
    key.chmod(0o644)
    (await steinadler.ask("members")).failed(1, str(key), "chmod 600")
    (await steinadler.run("node", "a", "--no-mdns")).failed(1, str(key), "0644")
    key.write_text("nonsense")
    key.chmod(0o600)
    (await steinadler.ask("members")).failed(1, str(key), "not a PEM private key")


def test_clusters_are_made_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEINADLER_HOME", str(tmp_path))

    def cluster(*words: str) -> Result:
        monkeypatch.setattr("sys.argv", ["steinadler", "cluster", *words])
        with pytest.raises(SystemExit) as ended:
            root.main()
        told = capsys.readouterr()
        return Result(int(ended.value.code or 0), told.out, told.err)

    assert cluster("show", "--json").json == []
    made = cluster("init", "lab", "--json").json
    folder = tmp_path / "clusters" / "lab"
    assert (made["name"], made["folder"]) == ("lab", str(folder))
    assert folder.is_dir()
    assert cluster("show", "--json").json == [made]
    assert cluster("show", "lab", "--json").json == made
    assert made["fingerprint"] in cluster("show").stdout
    cluster("init", "lab").failed(1, "there is a cluster 'lab' already")
    cluster("init", "a b").failed(1, "cannot name a cluster")
    cluster("show", "x").failed(1, "no cluster 'x'", "lab")


async def test_the_version_is_told(steinadler: Steinadler) -> None:
    result = await steinadler.run("--version")
    assert (result.code, result.stdout) == (0, f"steinadler {version('steinadler')}\n")


async def test_a_reader_that_has_seen_enough_is_no_error_of_ours(steinadler: Steinadler) -> None:
    """`steinadler cluster show | head -0`"""
    reader, writer = os.pipe()
    os.close(reader)
    process = await steinadler.open("cluster", "show", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert process.stderr is not None
    with trio.fail_after(10):
        told = b"".join([part async for part in process.stderr])
        assert await process.wait() == 1
    await process.stderr.aclose()
    assert told == b""


def test_json_says_no_more_than_json_can() -> None:
    """What is printed can be read by any JSON reader, whatever the reply held."""
    reply = {("a", 1): float("inf"), b"k": {1.5, "x"}, library.NodeId("bob", 7): [2**100]}
    assert json.loads(to_json(reply)) == {
        '["a", 1]': "inf",
        '"aw=="': ["x", 1.5],
        '"bob"': [2**100],
    }
