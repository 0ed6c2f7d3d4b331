"""`join_cluster`: a home becomes a part of a cluster whose key is elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from steinadler import ConfigError, JoinFailed, Node, join_cluster, open_node
from steinadler.identity import OBSERVER, Address
from steinadler.security import Home, JoinToken


class Issuer:
    """The home where the cluster's key is."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.cluster = self.home.default_cluster()

    def token(self, *addresses: Address, **options: object) -> JoinToken:
        tokens = self.home.tokens(self.cluster)
        fields = {"now": datetime.now(UTC), "addresses": addresses} | options
        return tokens.make(self.cluster, **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def node(home: Path, name: str, **options: object) -> AsyncIterator[Node]:
    with trio.fail_after(30):
        async with open_node(name, home=home, host="127.0.0.1", mdns=False, **options) as opened:  # type: ignore[arg-type]
            yield opened


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "issuer")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "other"


def dead() -> Address:
    """Where nobody listens: a port of the system's, which no test has."""
    return Address("127.0.0.1", 1)


async def test_after_joining_a_node_opens_and_meets_the_cluster(
    issuer: Issuer, other: Path
) -> None:
    """By the address in the token alone: without multicast, and without a seed that is given."""
    async with node(issuer.home.path, "alice") as alice:
        text = issuer.token(dead(), *alice.addresses, name="bob").encode()
        joined = await join_cluster(text, home=other, mdns=False)
        assert (joined.cluster, joined.role, joined.name) == ("default", "node", "bob")
        assert (joined.issuer, joined.cluster_id) == ("alice", issuer.cluster.id)
        async with node(other, "bob") as bob:
            await bob.wait_for_member("alice")
            assert await bob.call("$echo@alice", "hi") == "hi"
        async with node(other, "bob.1", observer=True) as watcher:
            await watcher.wait_for_member("alice")
        with pytest.raises(ConfigError, match="cluster token --name carol"):
            async with node(other, "carol"):
                pass
        seeds = Home(other).cluster_folder(Home(other).cluster("default")).seeds_path
        assert str(alice.addresses[0]) in seeds.read_text()
        assert not Home(other).cluster_folder(Home(other).cluster("default")).key_path.exists()


async def test_one_home_joins_as_several(issuer: Issuer, other: Path) -> None:
    async with node(issuer.home.path, "alice") as alice:
        token = issuer.token(*alice.addresses, uses=2)
        await join_cluster(token, name="bob", home=other, mdns=False)
        await join_cluster(token, name="carol", home=other, mdns=False)
        async with node(other, "bob") as bob, node(other, "carol"):
            await bob.wait_for_members(3)


async def test_two_homes_that_want_the_last_use_at_once(issuer: Issuer, tmp_path: Path) -> None:
    """One gets it, and the other is told; no use is spent twice, or on nobody."""
    outcomes: list[str] = []

    async def try_to_join(number: int) -> None:
        try:
            joined = await join_cluster(
                token, name=f"n{number}", home=tmp_path / str(number), mdns=False
            )
        except JoinFailed as error:
            outcomes.append(error.reason)
        else:
            outcomes.append(joined.issuer)

    # Two nodes let in, and have different files open; and each is in the token twice.
    async with node(issuer.home.path, "alice") as alice, node(issuer.home.path, "amy") as amy:
        port = alice.addresses[0].port
        twice = Address("localhost", port)
        token = issuer.token(*alice.addresses, twice, *amy.addresses, uses=2)
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(try_to_join, number)
    assert outcomes.count("used-up") == 2, outcomes
    (record,) = issuer.home.tokens(issuer.cluster).tokens(datetime.now(UTC))
    assert len(record.names) == 2


async def test_a_node_that_does_not_know_the_token_has_not_the_last_word(
    issuer: Issuer, other: Path, tmp_path: Path
) -> None:
    """Another home may hold the key too, with tokens of its own."""
    copied = tmp_path / "copied"
    shutil.copytree(issuer.home.path, copied)
    Home(copied).tokens(issuer.cluster).make(issuer.cluster, now=datetime.now(UTC))
    async with node(copied, "amy") as amy:
        token = issuer.token(*amy.addresses)
        with pytest.raises(JoinFailed, match="node amy refuses: the token is not known here"):
            await join_cluster(token, name="bob", home=other, mdns=False, patience_s=0.5)
        async with node(issuer.home.path, "alice") as alice:
            both = replace(token, addresses=(*amy.addresses, *alice.addresses))
            assert (await join_cluster(both, name="bob", home=other, mdns=False)).issuer == "alice"


async def test_somebody_else_is_told_nothing_and_is_not_the_end(
    issuer: Issuer, other: Path, tmp_path: Path
) -> None:
    stranger = Issuer(tmp_path / "stranger")
    stranger.token()
    async with node(stranger.home.path, "alice") as impostor:
        token = issuer.token(*impostor.addresses)
        with pytest.raises(JoinFailed, match=r"somebody else answers.*nothing was sent") as raised:
            await join_cluster(token, name="bob", home=other, mdns=False, patience_s=0.5)
        assert raised.value.reason == "impostor"
        async with node(issuer.home.path, "alice") as alice:
            joined = await join_cluster(
                token, name="bob", home=other, mdns=False, seeds=alice.addresses
            )
            assert joined.cluster_id == issuer.cluster.id


async def test_nobody_there_is_told_with_what_was_tried(issuer: Issuer, other: Path) -> None:
    token = issuer.token(dead(), ttl=timedelta(seconds=1), now=datetime.now(UTC) - timedelta(60))
    with pytest.raises(JoinFailed, match=r"127\.0\.0\.1:1: Connection refused") as raised:
        await join_cluster(issuer.token(dead()), name="bob", home=other, mdns=False, patience_s=0.3)
    assert raised.value.reason == "unreachable"
    with pytest.raises(JoinFailed, match="the token has expired") as raised:
        await join_cluster(token, name="bob", home=other, mdns=False)
    assert raised.value.reason == "expired"
    assert not other.joinpath("clusters/default").exists()


async def test_a_node_that_starts_late_still_lets_in(issuer: Issuer, other: Path) -> None:
    """And a token that was made before it did."""
    async with node(issuer.home.path, "alice") as alice:
        address = alice.addresses[0]
    token = issuer.token(address)
    async with trio.open_nursery() as nursery:

        async def join() -> None:
            await join_cluster(token, name="bob", home=other, mdns=False)
            nursery.cancel_scope.cancel()

        nursery.start_soon(join)
        await trio.sleep(0.2)
        async with open_node(
            "alice", home=issuer.home.path, host="127.0.0.1", port=address.port, mdns=False
        ):
            await trio.sleep_forever()


async def test_a_home_that_cannot_keep_it_says_so_before_anything_is_sent(
    issuer: Issuer, tmp_path: Path
) -> None:
    token = issuer.token()
    with pytest.raises(ConfigError, match="has the key of that cluster"):
        await join_cluster(token, name="bob", home=issuer.home.path)
    taken = Home(tmp_path / "taken")
    taken.default_cluster()
    with pytest.raises(ConfigError, match=r"another cluster called 'default'.*--cluster NAME"):
        await join_cluster(token, name="bob", home=taken.path)
    with pytest.raises(ConfigError, match="--name NAME"):
        await join_cluster(token, home=taken.path, cluster="theirs")
    with pytest.raises(ConfigError, match="cannot name a cluster"):
        await join_cluster(token, name="bob", home=taken.path, cluster="../x")
    with pytest.raises(ConfigError, match="for node bob, and not for carol"):
        await join_cluster(issuer.token(name="bob"), name="carol", home=taken.path)


async def test_a_cluster_may_be_called_otherwise_here(issuer: Issuer, tmp_path: Path) -> None:
    taken = Home(tmp_path / "taken")
    taken.default_cluster()
    async with node(issuer.home.path, "alice") as alice:
        token = issuer.token(*alice.addresses, uses=2)
        joined = await join_cluster(
            token, name="bob", home=taken.path, cluster="theirs", mdns=False
        )
        assert joined.cluster == "theirs"
        again = await join_cluster(token, name="carol", home=taken.path, mdns=False)
        assert again.cluster == "theirs", "it is known by its id"
        with pytest.raises(ConfigError, match="calls it 'theirs'"):
            await join_cluster(token, name="dave", home=taken.path, cluster="mine")
        async with node(taken.path, "bob", cluster="theirs") as bob:
            await bob.wait_for_member("alice")


async def test_an_observer_joins_and_looks(issuer: Issuer, other: Path) -> None:
    async with node(issuer.home.path, "alice") as alice:
        token = issuer.token(*alice.addresses, role=OBSERVER)
        assert (await join_cluster(token, name="ops", home=other, mdns=False)).role == OBSERVER
        async with node(other, "ops.1", observer=True) as ops:
            await ops.wait_for_member("alice")
        with pytest.raises(ConfigError, match="as observer 'ops': it cannot run a node"):
            async with node(other, "ops"):
                pass


async def test_cancelled_it_leaves_nothing_behind(issuer: Issuer, other: Path) -> None:
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.2) as scope:
            await join_cluster(issuer.token(dead()), name="bob", home=other)
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
    assert not other.joinpath("clusters/default").exists()
