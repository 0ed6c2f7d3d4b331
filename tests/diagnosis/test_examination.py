"""Examined: clusters that are in order, and homes, seeds and names that are broken in each way.

Everything is real but multicast, which has its own tests.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joined_home import join_home

from steinadler import FileCredentials
from steinadler.diagnosis import Diagnosis, Finding, Level, Subject, Topic, examine
from steinadler.diagnosis.home import CertificateSource
from steinadler.discovery import Dns, SeedFile
from steinadler.identity import OBSERVER, Address
from steinadler.security import Authority, Home, PeerIdentity

OK, NOTE, WARNING, PROBLEM = Level
DAY = timedelta(days=1)
CLUSTER = "0123456789abcdef" * 2


async def examined(home: Path, **ways: Any) -> Diagnosis:
    subject = Subject(**{"home": home, "mdns": False, **ways})
    with trio.fail_after(30):
        return await examine(subject, within_s=20)


def said(diagnosis: Diagnosis, topic: Topic, level: Level | None = None) -> list[str]:
    return [
        each.seen
        for each in found(diagnosis)
        if each.topic is topic and level in (None, each.level)
    ]


def found(diagnosis: Diagnosis) -> list[Finding]:
    return [finding for check in diagnosis.checks for finding in check.findings]


def problems(diagnosis: Diagnosis) -> list[Topic]:
    return [finding.topic for finding in found(diagnosis) if finding.level is PROBLEM]


@asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[Address]:
    """Something that answers so to whatever is said, or with None nothing at all."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer is None:
            await trio.sleep_forever()
        else:
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield Address("127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


# -- in order ------------------------------------------------------------------------------------


async def test_a_cluster_in_order(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    diagnosis = await examined(nodes.home, seeds=alice.addresses)
    assert diagnosis.healthy
    assert diagnosis.first is None
    assert len(said(diagnosis, Topic.DIALLED, OK)) == 2
    assert [text.split()[0] for text in said(diagnosis, Topic.MEMBER, OK)] == ["alice", "bob"]
    (clocks,) = said(diagnosis, Topic.CLOCKS, OK)
    assert "2 clocks agree" in clocks
    assert len(said(diagnosis, Topic.ADDRESSES, NOTE)) == 2  # both are on loopback alone
    assert {member.node.name for member in bob.members()} == {"alice", "bob"}


async def test_a_member_that_only_dials_is_asked_through_another(nodes: Any) -> None:
    alice = await nodes.open("alice")
    await nodes.open("carol", host=None, listen=False)
    with trio.fail_after(10):
        await alice.wait_for_member("carol")
    diagnosis = await examined(nodes.home)
    assert diagnosis.first is None
    assert [text.split()[0] for text in said(diagnosis, Topic.MEMBER, OK)] == ["alice", "carol"]
    assert said(diagnosis, Topic.ADDRESSES, OK) == ["carol listens nowhere, and only dials"]


async def test_nothing_is_made_in_a_home_that_is_not_there(tmp_path: Path) -> None:
    diagnosis = await examined(tmp_path / "home")
    assert not (tmp_path / "home").exists()
    assert diagnosis.healthy
    assert diagnosis.first is not None
    assert diagnosis.first.topic is Topic.CLUSTER


async def test_what_is_not_through_in_time_is_told(tmp_path: Path) -> None:
    diagnosis = await examine(Subject(tmp_path, mdns=False), within_s=0)
    unfinished = [
        check.name for check in diagnosis.checks if check.findings[0].topic is Topic.UNFINISHED
    ]
    assert unfinished == ["machine", "home", "names", "nodes", "cluster", "neighbourhood"]


# -- the home ------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="files have no modes here")
@pytest.mark.parametrize(
    ("path", "mode", "nobody_is_asked"),
    [
        ("clusters/default/ca.key", 0o644, True),
        ("clusters/default/ca.pem", 0o666, False),
        ("clusters/default/cluster.json", 0o660, False),
        ("clusters", 0o777, False),
    ],
)
async def test_modes_by_which_others_could_get_in(
    nodes: Any, path: str, mode: int, nobody_is_asked: bool
) -> None:
    await nodes.open("alice")
    (nodes.home / path).chmod(mode)
    diagnosis = await examined(nodes.home)
    assert problems(diagnosis) == [Topic.MODES]
    assert diagnosis.first is not None
    assert diagnosis.first.do == f"chmod {700 if mode == 0o777 else 600} '{nodes.home / path}'"
    assert bool(said(diagnosis, Topic.DIALLED, OK)) != nobody_is_asked


@pytest.mark.parametrize(
    ("path", "content", "topic", "words"),
    [
        ("ca.key", None, Topic.CERTIFICATE, "ca.key cannot be read"),
        ("ca.key", b"nonsense", Topic.CERTIFICATE, "it is not a PEM private key"),
        ("ca.pem", b"nonsense", Topic.CERTIFICATE, "holds no certificate in PEM"),
        ("cluster.json", b"{}", Topic.CERTIFICATE, "it does not describe this cluster"),
    ],
)
async def test_files_that_are_damaged(
    tmp_path: Path, path: str, content: bytes | None, topic: Topic, words: str
) -> None:
    Home(tmp_path).default_cluster()
    file = tmp_path / "clusters/default" / path
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    diagnosis = await examined(tmp_path)
    assert problems(diagnosis) == [topic]
    assert words in said(diagnosis, topic, PROBLEM)[0]


async def test_an_authority_that_has_expired(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - 3660 * DAY
    Home(tmp_path, clock=lambda: long_ago).default_cluster()
    diagnosis = await examined(tmp_path)
    assert problems(diagnosis) == [Topic.AUTHORITY]


async def test_a_clock_that_is_behind(tmp_path: Path) -> None:
    """All that has a date is of the future then; the clock is named first."""
    Home(tmp_path).default_cluster()
    subject = Subject(tmp_path, mdns=False)
    diagnosis = await examine(subject, clock=lambda: datetime.now(UTC) - DAY)
    assert diagnosis.first is not None
    assert diagnosis.first.topic is Topic.CLOCK


async def test_a_cluster_of_another_name(tmp_path: Path) -> None:
    Home(tmp_path).default_cluster()
    diagnosis = await examined(tmp_path, cluster="lab")
    assert problems(diagnosis) == [Topic.CLUSTER]
    assert "there are: default" in said(diagnosis, Topic.CLUSTER)[0]


# -- homes that joined, and files of another PKI -------------------------------------------------


def join(nodes: Any, home: Path, *given: tuple[str, str], made: datetime | None = None) -> None:
    """Make a home that has joined the cluster of the nodes, with these credentials."""
    join_home(Home(home), Home(nodes.home), *given, signed_at=made)


async def test_a_home_that_joined_asks_as_its_observer(nodes: Any, tmp_path: Path) -> None:
    alice = await nodes.open("alice")
    join(nodes, tmp_path / "joined", ("node", "bob"), (OBSERVER, "bob"))
    diagnosis = await examined(tmp_path / "joined", seeds=alice.addresses)
    assert diagnosis.healthy
    assert said(diagnosis, Topic.CLOCKS, OK)
    assert len(said(diagnosis, Topic.CERTIFICATE, OK)) == 2


async def test_a_home_that_was_given_no_observer_does_not_join(nodes: Any, tmp_path: Path) -> None:
    """It knocks as far as TLS, and nobody takes it for a member."""
    alice = await nodes.open("alice")
    join(nodes, tmp_path / "joined", ("node", "bob"))
    diagnosis = await examined(tmp_path / "joined", seeds=alice.addresses)
    assert diagnosis.healthy
    assert "lets us in" in said(diagnosis, Topic.DIALLED, OK)[0]
    assert "would join" in said(diagnosis, Topic.MEMBER, NOTE)[0]
    assert len(alice.members()) == 1


@pytest.mark.parametrize(("age", "level"), [(0, OK), (6, WARNING), (8, PROBLEM)])
async def test_credentials_that_nobody_renews(
    nodes: Any, tmp_path: Path, age: int, level: Level
) -> None:
    """Good for seven days, and renewed with a third of that left, as a rule."""
    Home(nodes.home, clock=lambda: datetime.now(UTC) - 100 * DAY).default_cluster()
    join(nodes, tmp_path / "joined", (OBSERVER, "bob"), made=datetime.now(UTC) - age * DAY)
    diagnosis = await examined(tmp_path / "joined")
    assert len(said(diagnosis, Topic.CERTIFICATE, level)) == 1
    assert problems(diagnosis) == ([Topic.CERTIFICATE] if level is PROBLEM else [])


def files_of(folder: Path, authority: Authority, role: str, begun: datetime) -> CertificateSource:
    """A certificate with its key in one file, and who signed it in another."""
    folder.mkdir()
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.certificate.public_bytes(pem))
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue(PeerIdentity(CLUSTER, role, "ops"), key.public_key(), begun)
    (folder / "ops.pem").touch(mode=0o600)
    (folder / "ops.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + issued.public_bytes(pem)
    )
    return CertificateSource(folder / "ops.pem", None, folder / "ca.pem", None)


async def test_files_of_another_pki(nodes: Any, tmp_path: Path) -> None:
    """They are judged as nodes judge them, and an observer's is asked with."""
    now = datetime.now(UTC)
    authority = Authority.create(CLUSTER, now - 100 * DAY)
    node = files_of(tmp_path / "node", authority, "node", now)
    alice = await nodes.open("ops", credentials=FileCredentials(node.cert, ca=node.ca))
    good = files_of(tmp_path / "good", authority, OBSERVER, now)
    diagnosis = await examined(nodes.home, files=good, seeds=alice.addresses)
    assert diagnosis.healthy
    assert said(diagnosis, Topic.CLOCKS, OK)
    past = files_of(tmp_path / "past", authority, OBSERVER, now - 8 * DAY)
    diagnosis = await examined(nodes.home, files=past, seeds=alice.addresses)
    assert problems(diagnosis) == [Topic.CERTIFICATE]
    assert "has expired" in said(diagnosis, Topic.CERTIFICATE, PROBLEM)[0]
    past.cert.chmod(0o666)
    diagnosis = await examined(nodes.home, files=past)
    assert problems(diagnosis) == [Topic.MODES]


# -- seeds and names -----------------------------------------------------------------------------


async def test_seeds_at_which_something_else_is(nodes: Any, tmp_path: Path) -> None:
    """Each is told in words of its own, and the node that answers beside them is found."""
    alice = await nodes.open("alice")
    theirs = await nodes.open("mallory", home=tmp_path / "theirs")
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = Address("127.0.0.1", server.getsockname()[1])
    async with (
        listening(None) as silent,
        listening(b"SSH-2.0-OpenSSH_9.2\r\n") as garbage,
        listening(b"HTTP/1.1 400 Bad Request\r\n") as web,
    ):
        seeds = (closed, silent, garbage, web, theirs.addresses[0])
        diagnosis = await examined(nodes.home, seeds=seeds)
    expected = {
        closed: "nobody listens there",
        silent: "it takes the connection, and then nothing comes",
        garbage: "something else listens there (not TLS)",
        web: "something else listens there (plain HTTP)",
        theirs.addresses[0]: "a node of another cluster: spiffe://",
    }
    told = said(diagnosis, Topic.DIALLED, PROBLEM)
    assert len(told) == len(expected)
    for address, words in expected.items():
        assert any(f"{address} (seed): {words}" in text for text in told), words
    assert str(alice.addresses[0]) in said(diagnosis, Topic.DIALLED, OK)[0]


@pytest.mark.slow
async def test_names_that_stand_for_nothing_and_files_that_are_not_there(
    tmp_path: Path,
) -> None:
    Home(tmp_path).default_cluster()
    lost = SeedFile(tmp_path / "no such file")
    wrong = tmp_path / "seeds"
    wrong.write_text("127.0.0.1:1\nnonsense\n")
    seeds = (Address("no-such-host.invalid", 4000),)
    diagnosis = await examined(tmp_path, seeds=seeds, sources=(lost, SeedFile(wrong)))
    assert "no-such-host.invalid:4000 stands for no address" in said(diagnosis, Topic.SEED_NAME)[0]
    sources = said(diagnosis, Topic.SOURCE, WARNING)
    assert any("No such file" in text for text in sources)
    assert any("line 2: 'nonsense' is not an address" in text for text in sources)
    assert problems(diagnosis) == [Topic.SEED_NAME, Topic.DIALLED]  # of the file's one address


@pytest.mark.slow
async def test_a_name_server_that_does_not_answer(tmp_path: Path) -> None:
    Home(tmp_path).default_cluster()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        server = Address(*deaf.getsockname())
        source = Dns("nodes.example.org", 4000, nameservers=[server], timeout_s=0.2)
        diagnosis = await examined(tmp_path, sources=(source,))
    assert "no answer within 0.2 s" in said(diagnosis, Topic.SOURCE, WARNING)[0]


# -- who else is about ---------------------------------------------------------------------------


async def test_nodes_of_another_cluster_of_the_same_home(nodes: Any) -> None:
    """The machine has a node, and not of the cluster that is asked for."""
    Home(nodes.home).create_cluster("lab")
    await nodes.open("alice", cluster="lab")
    Home(nodes.home).default_cluster()
    diagnosis = await examined(nodes.home)
    assert "another cluster runs on this machine" in said(diagnosis, Topic.OTHER_CLUSTERS)[0]
    assert diagnosis.healthy
    assert said(diagnosis, Topic.FOUND, WARNING)
    assert (await examined(nodes.home, cluster="lab")).first is None


async def test_an_examination_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """Multicast and all; that no thread is left is checked after every test."""
    Home(tmp_path).default_cluster()
    async with listening(None) as silent:
        with trio.move_on_after(0.3) as scope:
            await examine(Subject(tmp_path, seeds=(silent,)))
    assert scope.cancelled_caught
