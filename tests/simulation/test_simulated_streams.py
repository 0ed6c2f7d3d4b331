"""Simulated streams keep the promises that real ones keep, and break as TCP does."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from conformance import PROMISES, Pair, PairFactory, Promise, fill, receive_exactly

from steinadler.errors import ConfigError
from steinadler.identity import NODE, Address
from steinadler.security.peer import PeerIdentity
from steinadler.testing import Fabric, Hold, Packet, Refuse, Reset, Rule, SimulatedNetwork
from steinadler.transport.network import DialError, SecureStream

BOB = Address("bob", 4370)


def identity(name: str, cluster: str = "0" * 32) -> PeerIdentity:
    return PeerIdentity(cluster, NODE, name)


class Wires:
    """A fabric at work, with two hosts; bob listens."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.alice = SimulatedNetwork(fabric, fabric.add_host("alice", identity("alice")))
        self.bob = SimulatedNetwork(fabric, fabric.add_host("bob", identity("bob")))
        self.accepted: list[SecureStream] = []
        self._accepted = trio.Event()

    async def accept(self, stream: SecureStream) -> None:
        self.accepted.append(stream)
        self._accepted.set()

    async def pair(self) -> Pair:
        near = await self.alice.dial(BOB)
        await self._accepted.wait()
        return near, self.accepted[0]

    def fault(self, rule: Rule) -> contextlib.AbstractContextManager[None]:
        return self.fabric.rule(rule, trio.current_time)


@contextlib.asynccontextmanager
async def wires(latency_s: tuple[float, float] = (0.001, 0.002)) -> AsyncIterator[Wires]:
    fabric = Fabric(seed=1, latency_s=latency_s, capacity_bytes=100_000)
    due = trio.Event()
    made = Wires(fabric)

    async def deliver() -> None:
        nonlocal due
        while True:
            due = trio.Event()
            with trio.move_on_at(fabric.next_due()):
                await due.wait()
            fabric.advance(trio.current_time())

    fabric.on_due = lambda: due.set()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            await nursery.start(made.bob.serve, None, 0, made.accept)
            yield made
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def pair(latency_s: tuple[float, float]) -> AsyncIterator[Pair]:
    async with wires(latency_s) as made:
        yield await made.pair()


@pytest.fixture(params=[(0.0, 0.0), (0.00001, 0.00005)], ids=["at once", "real clock"])
def make_pair(request: pytest.FixtureRequest) -> PairFactory:
    return lambda: pair(request.param)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
async def test_conformance(promise: Promise, make_pair: PairFactory) -> None:
    await promise(make_pair)


async def test_bytes_take_their_time_and_keep_their_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """M1: latency is drawn for each packet, and still none overtakes another."""
    async with wires((0.5, 1.5)) as made:
        near, far = await made.pair()
        start = trio.current_time()
        for byte in range(100):
            near.write_nowait(bytes([byte]))
        assert await receive_exactly(far, 100) == bytes(range(100))
        assert 1.4 < trio.current_time() - start <= 1.5


async def test_a_held_connection_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """M3: what a partition stalls arrives after it, within as long again."""
    async with wires() as made:
        near, far = await made.pair()
        start = trio.current_time()
        near.write_nowait(b"in flight ")
        with made.fault(lambda packet: Hold() if packet.source == "alice" else None):
            near.write_nowait(b"sent")
            assert far.write_nowait(b"the other way")
            assert await receive_exactly(near, 13) == b"the other way"
            await trio.sleep(4)
            with trio.move_on_after(1) as scope:
                await far.receive_some()
            assert scope.cancelled_caught
        assert await receive_exactly(far, 14) == b"in flight sent"
        assert 5 < trio.current_time() - start < 10.1


async def test_a_dial_into_a_partition_waits(autojump_clock: trio.testing.MockClock) -> None:
    async with wires() as made:
        with made.fault(lambda packet: Hold()):
            with trio.move_on_after(3) as scope:
                await made.alice.dial(BOB)
            assert scope.cancelled_caught
        # What came of the dial that was given up ends by itself.
        await trio.sleep(10)
        assert [await stream.receive_some() for stream in made.accepted] == [b""]


@pytest.mark.parametrize("address", [Address("bob", 1), Address("nobody", 1)], ids=str)
async def test_a_dial_to_nobody_fails(
    address: Address, autojump_clock: trio.testing.MockClock
) -> None:
    async with wires() as made:
        with pytest.raises(DialError) as caught:
            await made.alice.dial(address)
        assert caught.value.refused is (address.host == "bob")


async def test_a_refused_dial_says_so(autojump_clock: trio.testing.MockClock) -> None:
    async with wires() as made:
        near, far = await made.pair()
        with made.fault(lambda packet: Refuse()):
            with pytest.raises(DialError) as caught:
                await made.alice.dial(BOB)
            assert caught.value.refused
            near.write_nowait(b"goes on")
            assert await far.receive_some() == b"goes on"


async def test_a_reset_breaks_both_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with wires() as made:
        near, far = await made.pair()
        near.write_nowait(b"arrived")
        assert await receive_exactly(far, 7) == b"arrived"

        def reset_third(packet: Packet) -> Reset | None:
            return Reset() if packet.data == b"lost" else None

        with made.fault(reset_third):
            near.write_nowait(b"lost")
            for end in (near, far):
                with pytest.raises(trio.BrokenResourceError):
                    await end.receive_some()
                with pytest.raises(trio.BrokenResourceError):
                    end.write_nowait(b"x")


async def test_a_killed_process_says_what_it_had_said(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What a process handed to its kernel arrives; then the connection is reset; then refused."""
    async with wires() as made:
        near, far = await made.pair()
        far.write_nowait(b"last words")
        made.fabric.kill(made.fabric.hosts["bob"], trio.current_time())
        with pytest.raises(trio.BrokenResourceError):
            far.write_nowait(b"from beyond")
        assert await receive_exactly(near, 10) == b"last words"
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        with pytest.raises(DialError) as caught:
            await made.alice.dial(BOB)
        assert caught.value.refused


async def test_a_paused_host_says_nothing_until_it_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wires() as made:
        near, far = await made.pair()
        host = made.fabric.hosts["bob"]
        made.fabric.pause(host)
        far.write_nowait(b"held")
        assert fill(near) > 100_000
        with trio.move_on_after(5) as scope:
            await near.receive_some()
        assert scope.cancelled_caught
        made.fabric.resume(host, trio.current_time())
        assert await near.receive_some() == b"held"


async def test_another_cluster_gets_no_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """S3, X2: neither side's program ever sees the other."""
    async with wires() as made:
        host = made.fabric.add_host("mallory", identity("mallory", "f" * 32))
        with pytest.raises(DialError, match="another cluster") as caught:
            await SimulatedNetwork(made.fabric, host).dial(BOB)
        assert not caught.value.refused
        await trio.sleep(1)
        assert not made.accepted


async def test_a_port_is_held_by_one(autojump_clock: trio.testing.MockClock) -> None:
    async with wires() as made:
        with pytest.raises(ConfigError, match="in use"):
            await made.bob.serve(None, 4370, made.accept)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError):
        Fabric(latency_s=(0.2, 0.1))
    with pytest.raises(ConfigError):
        Fabric(capacity_bytes=0)
    fabric = Fabric()
    fabric.add_host("alice", identity("alice"))
    with pytest.raises(ConfigError, match="up already"):
        fabric.add_host("alice", identity("alice"))
