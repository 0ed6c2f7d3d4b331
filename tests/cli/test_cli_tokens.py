"""`steinadler cluster token`, `tokens`, `join`, and `node --join`: as users do."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands import Steinadler

from steinadler.cli.root import root
from steinadler.discovery import RuntimeFolder
from steinadler.discovery.source import Advertisement
from steinadler.identity import Address
from steinadler.security import Home, cluster_fingerprint, parse_token
from steinadler.transport.tcp import interface_addresses


async def test_two_commands_on_the_first_machine_and_one_on_the_second(
    steinadler: Steinadler, tmp_path: Path
) -> None:
    other = Steinadler(tmp_path / "other", steinadler.folder)
    async with steinadler.node("alice") as alice:
        made = await steinadler.run("cluster", "token")
        assert made.code == 0
        assert made.stdout.count("\n") == 1, "the token alone, to be piped"
        assert "Good once, for any node" in made.stderr
        token = made.stdout.strip()
        assert parse_token(token).addresses == (Address("127.0.0.1", int(alice.address[10:])),)
        async with other.node("bob", "--join", token):
            event = await alice.next_event()
            assert (event["event"], event["name"]) == ("up", "bob")
        # The same command line again: it has joined, and the token is used up.
        async with other.node("bob", "--join", token):
            pass
    home = Home(steinadler.home)
    (record,) = home.tokens(home.default_cluster()).tokens(datetime.now(UTC))
    assert (record.state, record.names) == ("used up", ("bob",))


# -- without a node ---------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a cluster, which commands in this process use."""
    monkeypatch.setenv("STEINADLER_HOME", str(tmp_path / "home"))
    made = Home(tmp_path / "home")
    made.default_cluster()
    return made


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(root, ["cluster", *words], input=stdin)


def failure(*words: str, code: int = 1) -> str:
    result = run(*words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_a_token_tells_what_was_asked_for(home: Home) -> None:
    options = ("--ttl", "2h", "--uses", "3", "--role", "observer", "--name", "ops")
    result = run("token", *options, "--address", "db.example.org:4370", "--json")
    told = json.loads(result.stdout)
    token = parse_token(told["token"])
    assert (token.role, token.name, token.cluster_id) == (
        "observer",
        "ops",
        home.default_cluster().id,
    )
    assert token.addresses == (Address("db.example.org", 4370),)
    assert abs(token.expires - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    assert (told["id"], told["uses"], told["role"]) == (token.id, 3, "observer")
    (kept,) = json.loads(run("tokens", "--json").stdout)
    assert (kept["id"], kept["state"], kept["uses_left"]) == (token.id, "valid", 3)
    assert told["expires"] == kept["expires"]
    assert token.secret.hex() not in str(kept)


def test_no_token_is_made_by_a_key_that_others_may_read(home: Home) -> None:
    key = home.path / "clusters/default/ca.key"
    key.chmod(0o644)
    assert f"chmod 600 '{key}'" in failure("token")
    assert home.tokens(home.default_cluster()).tokens(datetime.now(UTC)) == ()


def test_it_tells_where_nodes_of_the_home_listen(home: Home) -> None:
    """Every address of the machine for those that listen on all; loopback last."""
    cluster = home.default_cluster()
    mark = cluster_fingerprint(cluster.id)
    folder = RuntimeFolder(home.runtime_folder(cluster.id), fingerprint=mark)
    with ExitStack() as nodes:
        for name, host, everywhere in (
            ("amy", "127.0.0.1", False),
            ("bob", "192.0.2.7", False),
            ("eve", "127.0.0.1", True),
        ):
            advertisement = Advertisement(name, 1, (Address(host, 4000),), mark)
            nodes.enter_context(folder.leave_address(advertisement, listening_on_all=everywhere))
        token = parse_token(run("token").stdout)
    here = [Address(str(address), 4000) for address in interface_addresses()]
    assert set(token.addresses) == {Address("192.0.2.7", 4000), Address("127.0.0.1", 4000), *here}
    assert token.addresses[-1].host == "127.0.0.1"


def test_without_a_node_it_says_what_is_missing(home: Home) -> None:
    result = run("token")
    assert result.exit_code == 0
    assert "No node of this home listens" in result.stderr
    assert parse_token(result.stdout).addresses == ()


def test_tokens_are_listed_and_revoked(home: Home) -> None:
    assert run("tokens").output == "There are no tokens.\n"
    token = parse_token(run("token").stdout)
    row = run("tokens", "--revoke", token.id).stdout.splitlines()[1].split()
    assert row[:5] == [token.id, "revoked", "node", "any", "1"]
    assert "no token 'nonsense'" in failure("tokens", "--revoke", "nonsense")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("token", "--ttl", "10"), "write 90s, 10m, 12h or 7d"),
        (("token", "--address", "here"), "not an address"),
        (("token", "--name", "-"), "cannot name a node"),
        (("join", "nonsense"), "that is no join token"),
        (("join", "steinadler1_aaaa"), "copy it whole"),
    ],
)
def test_mistakes_in_the_command_line(home: Home, words: tuple[str, ...], why: str) -> None:
    assert why in failure(*words, code=2)


def test_mistakes_that_a_token_shows(home: Home, tmp_path: Path) -> None:
    token = run("token").stdout.strip()
    assert "has the key of that cluster" in failure("join", token, "--name", "bob")
    assert "give a name, with --name NAME" in failure("join", token)
    for words, why in (
        (("token", "--uses", "0"), "1 to 1000 times"),
        (("token", "--ttl", "40d"), "30 days"),
        (("token", "--role", "No"), "is not a role"),
        (("token", "--cluster", "none"), "no cluster 'none'"),
    ):
        assert why in failure(*words)
    observer = run("token", "--role", "observer", "--name", "ops").stdout.strip()
    result = CliRunner().invoke(root, ["node", "ops", "--join", observer])
    assert (result.exit_code, "the token is for an observer" in result.output) == (1, True)
    files = ("--cert", "c", "--ca", "a")
    result = CliRunner().invoke(root, ["node", "bob", "--join", token, *files])
    assert (result.exit_code, "contradict" in result.output) == (2, True)


def test_a_token_is_read_from_stdin(home: Home) -> None:
    """Arguments of processes are there for every user of a machine to read."""
    token = run("token").stdout
    result = run("join", "-", stdin=token)
    assert "give a name, with --name NAME" in result.output
