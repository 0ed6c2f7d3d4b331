"""`cluster revoke`, `readmit`, `revoked` and `rotate-ca`, as their users run them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import trio
from commands import Result, RunningNode, Steinadler

from steinadler.cli import root


async def next_down(node: RunningNode) -> tuple[str, str]:
    while True:
        event = await node.next_event()
        if event["event"] == "down":
            return event["name"], event["reason"]


@pytest.mark.slow
async def test_a_node_is_revoked_and_readmitted(steinadler: Steinadler) -> None:
    """Its process ends, others see "revoked", it cannot start; all of this in processes."""
    async with steinadler.node("alice") as alice, steinadler.node("bob") as bob:
        async with steinadler.node("carol") as carol:
            (await steinadler.ask("cluster", "revoke", "bobb")).failed(
                1, "no member is called 'bobb'", "alice, bob, carol", "--absent"
            )
            with trio.fail_after(30):
                done = await steinadler.ask("cluster", "revoke", "bob", "--json")
                told = done.json
                assert (told["name"], told["members"]) == ("bob", ["alice", "carol"])
                assert told["key_holder"], "it has the same home"
                assert await bob.process.wait() == 1
                with pytest.raises(AssertionError, match="it ended"):  # and took nobody for dead
                    await next_down(bob)
                for node in (alice, carol):
                    assert await next_down(node) == ("bob", "revoked")
        again = await steinadler.run("node", "bob", "--host", "127.0.0.1", "--no-mdns")
        again.failed(1, "'bob' was revoked at", "cluster readmit bob")
        listed = (await steinadler.run("cluster", "revoked", "--json")).json
        assert [(each["name"], each["readmitted"]) for each in listed] == [("bob", False)]
        (await steinadler.ask("cluster", "readmit", "carol")).failed(
            1, "'carol' is not revoked; revoked is: bob"
        )
        done = await steinadler.ask("cluster", "readmit", "bob")
        assert done.stdout == "bob may be certified anew.\n"
        async with steinadler.node("bob") as bob:
            with trio.fail_after(10):
                while (await alice.next_event())["event"] != "up":
                    pass


@pytest.mark.slow
async def test_an_authority_is_rotated_in_steps(steinadler: Steinadler) -> None:
    """Each waits for every member; nodes stay up, and see nothing of it."""

    async def shown() -> dict[str, object]:
        (facts,) = (await steinadler.run("cluster", "show", "--json")).json
        return facts

    async with steinadler.node("alice") as alice, steinadler.node("bob") as bob:
        old = (await shown())["fingerprint"]
        first = (await steinadler.ask("cluster", "rotate-ca", "--prepare", "--json")).json
        assert (first["fingerprint"], first["members"]) == (old, ["alice", "bob"])
        second = await steinadler.ask("cluster", "rotate-ca")
        new = (await shown())["fingerprint"]
        assert first["others"] == [new]
        assert f"2 members are certified by {new}" in second.stdout
        assert "are certified by the new one: 2 of 2 members" in second.stderr
        last = (await steinadler.ask("cluster", "rotate-ca", "--drop-old", "--json")).json
        assert last == {"fingerprint": new, "others": [], "members": ["alice", "bob"]}
        for node in (alice, bob):
            assert await node.stop() == 0
            events = [(await node.next_event())["event"] for _ in range(2)]
            assert events[0] == "up"
            assert events[1] in ("down", "left"), "none before it was told to leave"


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEINADLER_HOME", str(tmp_path))

    def cluster(*words: str) -> Result:
        monkeypatch.setattr("sys.argv", ["steinadler", "cluster", *words])
        with pytest.raises(SystemExit) as ended:
            root.main()
        told = capsys.readouterr()
        return Result(int(ended.value.code or 0), told.out, told.err)

    assert cluster("init", "other").code == 0
    where = ("--cluster", "other", "--no-mdns", "--timeout", "0.2")
    for words, texts in (
        (("revoke", "bob"), ("no node of cluster 'other' found within",)),
        (("revoke", "bob", "--absent"), ("found within", "This home has it written down")),
        (("rotate-ca",), ("no node of cluster 'other' found within",)),
        (("readmit", "bob"), ("found within", "This home has it written down")),
        (("readmit", "bob"), ("'bob' is not revoked; revoked is: nobody",)),
    ):
        cluster(*words, *where).failed(1, *texts)
    cluster("rotate-ca", "--prepare", "--drop-old").failed(2, "--prepare stops before")
    cluster("revoke", "bob", "--cert", "a", "--ca", "b").failed(1, "a PKI of your own")
    (listed,) = cluster("revoked", "other", "--json").json
    assert (listed["name"], listed["readmitted"]) == ("bob", True)
    # As a join makes it: without the key.
    folder = tmp_path / "clusters" / "other"
    (folder / "ca.key").unlink()
    description = json.loads((folder / "cluster.json").read_bytes())
    (folder / "cluster.json").write_text(json.dumps(description | {"kind": "joined"}))
    for words in (("revoke", "bob"), ("readmit", "bob"), ("rotate-ca",)):
        cluster(*words, *where).failed(1, "joined cluster 'other' and does not have its key")


@pytest.mark.slow
async def test_how_soon_a_revocation_is_everywhere(steinadler: Steinadler) -> None:
    """From the signature to the last "revoked", with five members in processes of their own."""
    names = ["alice", "bob", "carol", "dave", "eve"]
    async with trio.open_nursery() as nursery:
        nodes: list[RunningNode] = []

        async def run(name: str, *, task_status: trio.TaskStatus[None]) -> None:
            async with steinadler.node(name) as node:
                nodes.append(node)
                task_status.started()
                await trio.sleep_forever()

        for name in names:
            await nursery.start(run, name)
        seen: list[float] = []

        async def wait(node: RunningNode) -> None:
            assert await next_down(node) == ("bob", "revoked")
            seen.append(time.time())

        with trio.fail_after(60):
            async with trio.open_nursery() as waiting:
                for node in nodes:
                    if node.ready["name"] != "bob":
                        waiting.start_soon(wait, node)
                await steinadler.ask("cluster", "revoke", "bob")
        changed = (steinadler.home / "clusters/default/ca.pem").stat().st_mtime
        print(f"revoked everywhere after {max(seen) - changed:.3f} s")  # noqa: T201
        assert max(seen) - changed < 5
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_copy_of_a_home_says_what_it_needs(steinadler: Steinadler, tmp_path: Path) -> None:
    """A home that was copied with the old key cannot be certified by the new one by itself."""
    async with steinadler.node("alice") as alice:
        other = Steinadler(tmp_path / "copy", steinadler.folder)
        shutil.copytree(steinadler.home / "clusters", other.home / "clusters")
        async with other.node("bob", "--seed", alice.address):
            done = await steinadler.ask("cluster", "rotate-ca", "--timeout", "12")
            assert done.code == 1
            assert "missing: bob: its home has a copy of the old key" in done.stderr
            assert "run this again" in done.stderr
            places = (home / "clusters/default/ca.key" for home in (steinadler.home, other.home))
            shutil.copy(*places)
            done = await steinadler.ask("cluster", "rotate-ca", "--drop-old", "--json")
            assert done.json["members"] == ["alice", "bob"]
