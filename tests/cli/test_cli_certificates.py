"""`--cert`, `--key`, `--ca`, `--spiffe`, as a shell gives them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import Steinadler
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.cli.root import root
from steinadler.security import Authority, PeerIdentity

CLUSTER = "0123456789abcdef" * 2


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Certificates of an authority that is in no home; each in one file with its key."""
    now = datetime.now(UTC)
    authority = Authority.create(CLUSTER, now)
    pem = serialization.Encoding.PEM
    (tmp_path / "ca.pem").write_bytes(authority.certificate.public_bytes(pem))
    for role, name in (("node", "alice"), ("sidecar", "bob"), ("observer", "ops")):
        key = ec.generate_private_key(ec.SECP256R1())
        issued = authority.issue(PeerIdentity(CLUSTER, role, name), key.public_key(), now)
        file = tmp_path / f"{name}.pem"
        file.touch(mode=0o600)
        file.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + issued.public_bytes(pem)
        )
    return tmp_path


def options(files: Path, name: str) -> list[str]:
    return ["--cert", str(files / f"{name}.pem"), "--ca", str(files / "ca.pem")]


@pytest.mark.slow
async def test_nodes_and_observers_meet_by_certificates_alone(
    steinadler: Steinadler, files: Path
) -> None:
    """No cluster is made in the home, and the runtime folder is where they find each other."""
    async with (
        steinadler.node("alice", *options(files, "alice")) as alice,
        steinadler.node("bob", *options(files, "bob")),
    ):
        event = await alice.next_event()
        assert (event["event"], event["name"]) == ("up", "bob")
        listed = await steinadler.ask("members", "--json", *options(files, "ops"))
        assert [member["name"] for member in listed.json] == ["alice", "bob"]
        assert not (steinadler.home / "clusters").exists()
        as_node = await steinadler.ask("members", *options(files, "alice"))
        as_node.failed(1, "is for node alice, and this would be observer")
        other = await steinadler.run(
            "node", "carol", "--no-mdns", "--host", "127.0.0.1", *options(files, "alice")
        )
        other.failed(1, "is for node alice, and this is called 'carol'")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--cert", "a.pem"], "takes --cert and --ca, both"),
        (["--ca", "ca.pem"], "takes --cert and --ca, both"),
        (["--key", "a.key"], "takes --cert and --ca, both"),
        (["--spiffe", "spiffe://example.org/{name}"], "takes --cert and --ca, both"),
        (["--cert", "a", "--ca", "b", "--spiffe", "spiffe://x/*"], "is no pattern of SPIFFE IDs"),
        (["--cert", "a", "--ca", "b", "--cluster", "lab"], "--cluster is one of the home"),
    ],
)
def test_options_that_make_no_sense_are_told(words: list[str], complaint: str) -> None:
    result = CliRunner().invoke(root, ["node", "alice", *words])
    assert result.exit_code == 2
    assert complaint in result.output


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "a.pem"
    result = CliRunner().invoke(root, ["node", "a", "--cert", str(missing), "--ca", str(missing)])
    assert result.exit_code == 1
    assert f"{missing} cannot be read: No such file or directory" in result.output
