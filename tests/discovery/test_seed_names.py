"""A seed that is a host name stands for everybody behind it."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from steinadler import open_node
from steinadler.identity import Address
from steinadler.security import open_home
from steinadler.transport.dialling import MAX_BEHIND_A_NAME
from steinadler.transport.network import DialError, SecureStream
from steinadler.transport.tcp import TcpNetwork


class Hosts(trio.abc.HostnameResolver):
    """Knows one name, whose addresses a test sets."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != b"nodes.test" or not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.addresses
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
async def hosts() -> Hosts:
    made = Hosts()
    trio.socket.set_custom_hostname_resolver(made)
    return made


@pytest.fixture
def two_homes(tmp_path: Path) -> tuple[Path, Path]:
    """With one cluster, so that the runtime folder brings nobody together."""
    one, other = tmp_path / "one", tmp_path / "other"
    open_home(one).default_cluster()
    shutil.copytree(one, other)
    return one, other


async def test_all_behind_a_name_are_met_and_not_only_who_answers_first(
    hosts: Hosts, two_homes: tuple[Path, Path]
) -> None:
    """Where every node has the same seed, the one that answers first may be the node itself."""
    try:
        with socket.create_server(("127.0.1.1", 0)):
            pass
    except OSError as error:
        pytest.skip(f"only one loopback address here: {error}")
    options: dict[str, Any] = {"mdns": False}
    async with open_node("bob", host="127.0.1.2", home=two_homes[0], **options) as bob:
        port = bob.addresses[0].port
        hosts.addresses = ["127.0.1.1", "127.0.1.3", "127.0.1.2"]
        async with open_node(
            "alice",
            host="127.0.1.1",
            port=port,
            home=two_homes[1],
            seeds=[f"nodes.test:{port}"],
            **options,
        ) as alice:
            with trio.fail_after(10):
                await alice.wait_for_member("bob")
                await bob.wait_for_member("alice")


async def test_a_name_that_nobody_knows_yet_is_looked_up_again(
    hosts: Hosts, two_homes: tuple[Path, Path], autojump_clock: trio.testing.MockClock
) -> None:
    """And again; it is one line in the log, and dialled once it is known."""
    dialled = trio.Event()

    async def dial(network: TcpNetwork, address: Address) -> SecureStream:
        assert address == Address("192.0.2.7", 4370)
        dialled.set()
        raise DialError("test", refused=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TcpNetwork, "dial", dial)
        async with open_node(
            "alice", host="127.0.0.1", home=two_homes[0], mdns=False, seeds=["nodes.test:4370"]
        ):
            await trio.sleep(60)
            assert not dialled.is_set()
            hosts.addresses = ["192.0.2.7"]
            with trio.fail_after(10):
                await dialled.wait()


async def test_a_name_with_very_many_addresses_is_dialled_at_a_few(
    hosts: Hosts,
    two_homes: tuple[Path, Path],
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At others in each round, so that all get their turn (X4)."""
    hosts.addresses = [f"192.0.2.{number}" for number in range(1, 101)]
    dials: list[tuple[float, Address]] = []

    async def dial(network: TcpNetwork, address: Address) -> SecureStream:
        dials.append((trio.current_time(), address))
        raise DialError("test", refused=True)

    monkeypatch.setattr(TcpNetwork, "dial", dial)
    async with open_node(
        "alice", host="127.0.0.1", home=two_homes[0], mdns=False, seeds=["nodes.test:4370"]
    ):
        await trio.sleep(180)
    per_round: dict[int, int] = {}
    for at, _ in dials:
        per_round[round(at * 10)] = per_round.get(round(at * 10), 0) + 1
    assert max(per_round.values()) == MAX_BEHIND_A_NAME
    assert {address.host for _, address in dials} == set(hosts.addresses)
