"""What docs/discovery.md says is so: the manifest, the options, the limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from steinadler.cli.options import SEED_DNS
from steinadler.discovery import Candidate, dns_lookup, dns_names, rounds, seed_file
from steinadler.identity import NODE, Address
from steinadler.security import open_home
from steinadler.transport.connections import MAX_PROPOSED
from steinadler.transport.dialling import MAX_BEHIND_A_NAME

TEXT = (Path(__file__).parents[2] / "docs" / "discovery.md").read_text(encoding="utf-8")


@pytest.fixture
def manifest() -> dict[str, Any]:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return {each["kind"]: each for each in yaml.safe_load_all(block)}


def test_the_manifest_is_whole(manifest: dict[str, Any]) -> None:
    service, pods = manifest["Service"], manifest["StatefulSet"]
    assert (service["apiVersion"], pods["apiVersion"]) == ("v1", "apps/v1")
    labels = pods["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == pods["spec"]["selector"]["matchLabels"]
    assert pods["spec"]["serviceName"] == service["metadata"]["name"]
    (container,) = pods["spec"]["template"]["spec"]["containers"]
    volumes = {each["name"] for each in pods["spec"]["template"]["spec"]["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes


def test_the_service_is_one_by_which_nodes_find_each_other(manifest: dict[str, Any]) -> None:
    service = manifest["Service"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    (container,) = manifest["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    (port,) = service["ports"]
    asked = next(arg for arg in container["args"] if arg.startswith("--seed-dns="))
    source = SEED_DNS.convert(asked.partition("=")[2], None, None)
    assert (
        str(source) == f"in DNS at _{port['name']}._tcp.{manifest['Service']['metadata']['name']}"
    )
    assert f"--port={port['port']}" in container["args"]
    assert port["port"] == container["ports"][0]["containerPort"]
    assert f"_{port['name']}._tcp" == dns_names.SERVICE


def test_a_node_can_use_the_secret_as_it_is_mounted(
    manifest: dict[str, Any], tmp_path: Path
) -> None:
    """Files behind two links, with the mode of the manifest."""
    spec = manifest["StatefulSet"]["spec"]["template"]["spec"]
    (secret,) = (each["secret"] for each in spec["volumes"] if "secret" in each)
    made = open_home(tmp_path / "made")
    cluster = made.default_cluster()
    mounted = tmp_path / "home" / "clusters" / "default"
    (mounted / "..1").mkdir(parents=True)
    (mounted / "..data").symlink_to("..1")
    for file in made.cluster_folder(cluster).path.iterdir():
        copy = mounted / "..1" / file.name
        copy.write_bytes(file.read_bytes())
        copy.chmod(secret["defaultMode"])
        (mounted / file.name).symlink_to(f"..data/{file.name}")
    home = open_home(tmp_path / "home")
    assert home.credentials(home.default_cluster(), NODE, "nodes-0").identity.name == "nodes-0"


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (r"(\d+) addresses in a round", rounds.MOST_A_ROUND),
        (r"once\s+at a\s+time, (\d+) at once", MAX_PROPOSED),
        (r"\((\d+) in one go", MAX_BEHIND_A_NAME),
        (r"larger than (\d+) KiB", seed_file.MAX_FILE_BYTES // 1024),
        (r"answer (\d+) addresses", dns_lookup.MAX_ADDRESSES),
        (r"or (\d+) targets", dns_lookup.MAX_TARGETS),
    ],
)
def test_limits_are_those_of_the_code(said: str, limit: int) -> None:
    (number,) = re.findall(said, TEXT)
    assert int(number) == limit


async def test_the_source_of_ones_own_proposes_what_its_directory_has() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    program: dict[str, Any] = {}
    exec(code.replace("trio.run(main)", ""), program)
    program["directory"].append("192.0.2.7:4370")
    send, receive = trio.open_memory_channel[Candidate](1)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(program["Directory"]().run, send.send_nowait)
            found = await receive.receive()
            nursery.cancel_scope.cancel()
    assert found == Candidate(Address("192.0.2.7", 4370), "directory")
