"""Uses are counted right, whoever spends them, and nobody gets another's name."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from joined_home import join_home

from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import Address
from steinadler.security import Cluster, Home, JoinToken, TokenStore
from steinadler.security.token_store import MAX_TOKENS, JoinRefused, Refusal

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER = Cluster("default", "0123456789abcdef" * 2, "ab" * 32, NOW)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path)


def make(store: TokenStore, **options: object) -> JoinToken:
    return store.make(CLUSTER, now=NOW, **options)  # type: ignore[arg-type]


def refusal(
    store: TokenStore,
    token: JoinToken,
    name: str,
    *,
    role: str = "node",
    now: datetime = NOW,
    living: Collection[str] = (),
) -> Refusal | None:
    try:
        store.spend(token.id, role, name, now, living)
    except JoinRefused as error:
        return error.refusal
    return None


def test_a_token_is_good_once(store: TokenStore) -> None:
    token = make(store, name="bob")
    assert refusal(store, token, "bob") is None
    assert refusal(store, token, "bob") is Refusal.USED_UP
    assert [(each.state, each.names) for each in store.tokens(NOW)] == [("used up", ("bob",))]


def test_or_as_often_as_was_said(store: TokenStore) -> None:
    token = make(store, uses=3)
    outcomes = [refusal(store, token, f"n{number}") for number in range(4)]
    assert outcomes == [None, None, None, Refusal.USED_UP]


def test_it_is_for_whom_it_was_made(store: TokenStore) -> None:
    token = make(store, name="bob")
    assert refusal(store, token, "carol") is Refusal.WRONG_NAME
    assert refusal(store, token, "bob", role="observer") is Refusal.WRONG_ROLE
    assert refusal(store, token, "bob") is None, "a refusal spends nothing"


def test_a_name_is_given_once_unless_a_token_is_made_for_it(store: TokenStore) -> None:
    """X3 begins here: who has some token must not become a machine that is there."""
    token = make(store, uses=9)
    assert refusal(store, token, "bob") is None
    later = NOW + timedelta(days=20)
    other = store.make(CLUSTER, uses=9, now=later)
    assert refusal(store, other, "bob", now=later) is Refusal.NAME_TAKEN
    assert refusal(store, other, "alice", now=later, living=["alice"]) is Refusal.NAME_TAKEN
    meant = store.make(CLUSTER, name="bob", now=later)
    assert refusal(store, meant, "bob", now=later, living=["bob"]) is None


def test_revoked_is_revoked_in_all_that_read_the_file(store: TokenStore, tmp_path: Path) -> None:
    token = make(store, uses=5)
    elsewhere = TokenStore(tmp_path)
    assert refusal(elsewhere, token, "bob") is None
    store.revoke(token.id, NOW)
    assert [each.state for each in store.tokens(NOW)] == ["revoked"]
    assert refusal(elsewhere, token, "carol") is Refusal.REVOKED
    with pytest.raises(ConfigError, match=r"no token 'abc'.*cluster tokens lists"):
        store.revoke("abc", NOW)


def test_a_token_that_expired_is_gone(store: TokenStore) -> None:
    token = make(store, ttl=timedelta(minutes=1))
    late = NOW + timedelta(minutes=1)
    assert refusal(store, token, "bob", now=late) is Refusal.UNKNOWN_TOKEN
    assert store.tokens(late) == ()
    assert store.find(token.id, late) is None


def test_whether_any_is_good_is_known_at_once(store: TokenStore, tmp_path: Path) -> None:
    """What a running node looks at, while another process makes and revokes."""
    node = TokenStore(tmp_path)
    assert not node.is_open(NOW)
    make(store, ttl=timedelta(minutes=1))
    assert node.is_open(NOW)
    assert not node.is_open(NOW + timedelta(minutes=1))
    make(store, ttl=timedelta(minutes=2))
    assert node.is_open(NOW + timedelta(minutes=1))
    store.path.write_text("nonsense")
    assert not node.is_open(NOW)


def test_the_secret_is_not_kept(store: TokenStore) -> None:
    token = make(store)
    content = store.path.read_bytes()
    assert token.secret.hex().encode() not in content
    assert token.secret not in content
    assert token.public_key.hex().encode() in content
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_limits(store: TokenStore) -> None:
    for uses in (0, -1, 1001):
        with pytest.raises(ConfigError, match="1 to 1000 times"):
            make(store, uses=uses)
    for ttl in (timedelta(0), timedelta(days=31)):
        with pytest.raises(ConfigError, match="one second to 30 days"):
            make(store, ttl=ttl)
    for wrong in ({"role": "A"}, {"name": "-"}):
        with pytest.raises(ConfigError):
            make(store, **wrong)
    many = make(store, addresses=[Address("h", port) for port in range(1, 30)])
    assert len(many.addresses) == 8
    kept = json.loads(store.path.read_bytes())
    kept["tokens"] *= MAX_TOKENS
    store.path.write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match="1000 tokens"):
        make(store)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1, "tokens": [1], "names": []}', "[" * 100_000]
)
def test_a_damaged_file_is_named(store: TokenStore, content: str) -> None:
    store.path.write_text(content)
    with pytest.raises(SecurityError, match=r"tokens\.json is damaged"):
        store.tokens(NOW)
    store.path.write_text('{"format": 2}')
    with pytest.raises(SecurityError, match=r"format 2.*upgrade"):
        store.tokens(NOW)


SPENDER = """
import sys
from datetime import datetime
from pathlib import Path
from steinadler.security.token_store import JoinRefused, TokenStore
folder, id_, who = sys.argv[1:]
store, spent = TokenStore(Path(folder)), 0
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    try:
        store.spend(id_, "node", f"{who}-{number}", datetime.fromisoformat("2026-01-01T00:00Z"), ())
        spent += 1
    except JoinRefused:
        pass
print(spent)
"""


def test_processes_that_spend_at_once_spend_no_use_twice(store: TokenStore, tmp_path: Path) -> None:
    token = make(store, uses=14)
    command = [sys.executable, "-c", SPENDER, str(tmp_path), token.id, "other"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    assert other.stdin is not None
    other.stdin.write("\n")
    other.stdin.flush()
    ours = sum(refusal(store, token, f"our-{number}") is None for number in range(10))
    theirs = int(other.communicate(timeout=20)[0])
    assert ours + theirs == 14
    (record,) = store.tokens(NOW)
    assert (record.uses_left, len(set(record.names))) == (0, 14)


def test_a_joined_home_has_no_tokens_to_give(home: Home) -> None:
    other = Home(home.path.with_name("other"))
    joined = join_home(other, home)
    with pytest.raises(ConfigError, match="where the cluster's key is"):
        other.tokens(joined)
