"""docs/pki.md: its OpenSSL commands make what its nodes run with, and renewal drops no session."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from cryptography import x509

import steinadler
from steinadler import FileCredentials, Node, open_node
from steinadler.node import NodeDown
from steinadler.security import SpiffePattern

TEXT = (Path(__file__).parents[2] / "docs" / "pki.md").read_text(encoding="utf-8")
PATTERN = "spiffe://example.org/steinadler/{role}/{name}"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    authority, nodes, check, _ = blocks("sh")
    said = run(f"{authority}\n{nodes}\n{check}", folder)
    assert said.count("alice.pem: OK") == 2
    assert "URI:spiffe://example.org/steinadler/node/alice" in said
    return folder


def credentials(folder: Path, name: str) -> FileCredentials:
    return FileCredentials(
        folder / f"{name}.pem", folder / f"{name}.key", ca=folder / "ca.pem", pattern=PATTERN
    )


@asynccontextmanager
async def opened(folder: Path, name: str, seeds: list[Any], **options: Any) -> AsyncIterator[Node]:
    async with open_node(
        name,
        credentials=credentials(folder, name.partition(".")[0]),
        home=folder / "home",
        host="127.0.0.1",
        mdns=False,
        seeds=seeds,
        **options,
    ) as node:
        yield node


async def shown_at(node: Node, folder: Path) -> x509.Certificate:
    """What a handshake with the node shows now."""
    address = node.addresses[0]
    stream = await trio.open_tcp_stream(address.host, address.port)
    context = credentials(folder, "ops").client_context()
    async with trio.SSLStream(stream, context, https_compatible=True) as tls:
        await tls.do_handshake()
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


async def count(me: steinadler.Process) -> None:
    """Says how many messages have come, if they came in order and none twice."""
    expected = 0
    async for message in me:
        match message:
            case steinadler.Call("how many"):
                message.reply(expected)
            case number:
                assert number == expected
                expected += 1


async def test_a_certificate_is_renewed_under_a_node_that_runs(made: Path) -> None:
    """M3, and the commands of the document: the session survives, no message is lost, and the next
    handshake shows the new certificate."""
    renewal = blocks("sh")[1].partition("}\n")[0] + "}\n" + blocks("sh")[3]
    with trio.fail_after(30):
        async with opened(made, "alice", []) as alice:
            seeds = [alice.addresses[0]]
            async with opened(made, "bob", seeds) as bob, trio.open_nursery() as nursery:
                alice.spawn(count, name="count")
                await bob.wait_for_member("alice")
                await bob.call("count@alice", "how many")
                sent = 0
                done = trio.Event()

                async def watch() -> None:
                    async for event in bob.events():
                        assert not isinstance(event, NodeDown)

                async def send_on() -> None:
                    nonlocal sent
                    while not done.is_set():
                        await bob.send("count@alice", sent)
                        sent += 1
                        await trio.lowlevel.checkpoint()

                nursery.start_soon(watch)
                nursery.start_soon(send_on)
                before = await shown_at(alice, made)
                await trio.to_thread.run_sync(run, renewal, made)
                after = await shown_at(alice, made)
                assert after.serial_number != before.serial_number
                assert after == x509.load_pem_x509_certificate((made / "alice.pem").read_bytes())
                assert bob.statistics().resumptions == 0
                # A cable that is pulled: the session goes on over a new connection.
                for link in bob._peering.connections.links():
                    link.drop_connection()
                at_the_cut = sent
                while bob.statistics().resumptions == 0 or sent < at_the_cut + 100:
                    await bob.call("$echo@alice", None)
                done.set()
                while await bob.call("count@alice", "how many") < sent:
                    pass
                nursery.cancel_scope.cancel()


async def test_one_observers_certificate_does_for_several_at_once(made: Path) -> None:
    """X3, with its one exception: `ops` may go by `ops.1` and `ops.2`, and by no node's name."""
    with trio.fail_after(20):
        async with opened(made, "alice", []) as alice:
            seeds = [alice.addresses[0]]
            async with (
                opened(made, "ops.1", seeds, observer=True) as one,
                opened(made, "ops.2", seeds, observer=True) as two,
                opened(made, "ops", seeds, observer=True) as three,
            ):
                for observer in (one, two, three):
                    await observer.wait_for_member("alice")
                    assert await observer.call("$echo@alice", 1) == 1
                assert alice.statistics().members == 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bob.1", {}, "is for node bob, and this is called 'bob.1'"),
        ("bob", {"observer": True}, "is for node bob, and this would be observer"),
        ("ops", {}, "is for observer ops, and this would be a member"),
        ("bob", {"role": "sidecar"}, "this would be sidecar"),
        ("bob", {"cluster": "default"}, "the credentials say which cluster it is"),
    ],
)
async def test_a_certificate_is_for_what_it_says(
    made: Path, name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(steinadler.ConfigError, match=words):
        async with opened(made, name, [], **options):
            pass


async def test_nodes_with_another_pattern_are_another_cluster(made: Path) -> None:
    """S3: one authority, two clusters."""
    other = FileCredentials(
        made / "bob.pem",
        made / "bob.key",
        ca=made / "ca.pem",
        pattern="spiffe://example.org/steinadler/node/{name}",
    )
    assert other.identity.name == "bob"
    assert other.identity.cluster_id != SpiffePattern(PATTERN).cluster_id
    with pytest.raises(steinadler.SecurityError, match="are like"):
        other.judge(ssl.PEM_cert_to_DER_cert((made / "ops.pem").read_text()))


def test_the_volume_asks_for_what_a_node_takes() -> None:
    """cert-manager's attributes: an ID that fits the pattern, and both ends."""
    (text,) = blocks("yaml")
    (volume,) = yaml.safe_load(text)["volumes"]
    asked = volume["csi"]["volumeAttributes"]
    uri = asked["csi.cert-manager.io/uri-sans"].replace("${POD_NAME}", "nodes-0")
    assert SpiffePattern(PATTERN).read(uri).name == "nodes-0"
    usages = asked["csi.cert-manager.io/key-usages"].split(",")
    assert {"digital signature", "server auth", "client auth"} == set(usages)


def test_the_patterns_of_the_table_read_the_ids_beside_them() -> None:
    rows = re.findall(r"^\|[^|]*\| `(spiffe://\S+)` \| `(spiffe://\S+)` \|$", TEXT, re.MULTILINE)
    assert len(rows) == 3
    for uri, pattern in rows:
        assert SpiffePattern(pattern).read(uri).name == "alice"
