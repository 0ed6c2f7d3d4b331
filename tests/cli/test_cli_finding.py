"""Where a command looks for nodes, by its options."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click
import pytest
import trio
from click.testing import CliRunner
from commands import Steinadler

from steinadler.cli.options import Where, joining
from steinadler.discovery import Dns, SeedFile
from steinadler.identity import Address


def where(*words: str) -> Where:
    """What a command gets that was given these options."""
    got: list[Where] = []

    def command(where: Where) -> None:
        got.append(where)

    result = CliRunner().invoke(click.command()(joining(command)), words)
    assert result.exit_code == 0, result.output
    return got[0]


def test_nothing_said_is_the_default_cluster_by_mdns() -> None:
    found = where()
    assert found == Where(None, (), (), True)
    assert not found.told
    assert str(found) == "in the runtime folder and by mDNS"


def test_every_way_to_find_nodes_is_an_option_and_may_come_twice() -> None:
    found = where(
        *("--seed", "192.0.2.7:4370", "--seed", "[2001:db8::7]:1", "--no-mdns"),
        *("--seed-dns", "nodes.test:4370", "--seed-dns", "nodes.test"),
        *("--seed-srv", "_cluster._tcp.nodes.test", "--seed-file", "/seeds", "--cluster", "shop"),
    )
    assert (found.cluster, found.mdns, found.told) == ("shop", False, True)
    assert found.seeds == (Address("192.0.2.7", 4370), Address("2001:db8::7", 1))
    assert [type(source) for source in found.sources] == [Dns, Dns, Dns, SeedFile]
    assert str(found) == (
        "in the runtime folder, at the seeds 192.0.2.7:4370, [2001:db8::7]:1, "
        "in DNS at nodes.test:4370, in DNS at _steinadler._tcp.nodes.test, "
        "in DNS at _cluster._tcp.nodes.test and in the file /seeds"
    )


def test_dns_without_its_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "steinadler.discovery.dns_lookup", raising=False)
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    command = click.command()(joining(lambda where: None))
    result = CliRunner().invoke(command, ["--seed-srv", "nodes.test"])
    assert result.exit_code == 2
    assert "pip install 'steinadler[dns]'" in " ".join(result.output.split())


@pytest.mark.slow
async def test_nodes_meet_by_a_file_that_is_written_while_they_run(
    steinadler: Steinadler, tmp_path: Path
) -> None:
    """As two machines do: each has its own home, and the runtime folder brings nobody together."""
    assert (await steinadler.run("cluster", "init", "default")).code == 0
    elsewhere = Steinadler(tmp_path / "elsewhere", steinadler.folder)
    shutil.copytree(steinadler.home, elsewhere.home)
    seeds = steinadler.folder / "seeds"
    async with (
        steinadler.node("alice", "--seed-file", str(seeds)) as alice,
        elsewhere.node("bob") as bob,
    ):
        await trio.Path(seeds).write_text(f"not an address\n{bob.address}\n")
        with trio.fail_after(20):
            event = await alice.next_event()
        assert (event["event"], event["name"]) == ("up", "bob")
