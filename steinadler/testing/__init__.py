"""A simulated network and cluster, for this library's tests and for yours.

    async def test_a_takeover(autojump_clock):
        async with steinadler.testing.SimulatedCluster(seed=7) as cluster:
            alice, bob = await cluster.start("alice", "bob")
            await cluster.agreed()
            with cluster.partition({"alice"}, {"bob"}):
                ...
            cluster.crash("bob")
            bob = await cluster.restart("bob")

The nodes are real ones: every line of them runs but sockets, TLS and multicast.  The network is
made of bookkeeping, time is Trio's `MockClock`, so minutes pass in milliseconds, and one seed
plays the same again, byte for byte (`SimulatedCluster` says what that takes of a test).

    cluster   `SimulatedCluster`: starts, crashes, pauses and restarts nodes
    lives     one node in a task of its own
    network   the transport's interface, on the fabric
    fabric    who is connected, what is in flight, when it arrives; reads no clock
    sockets   what a host has: the records that the fabric moves
    faults    what may happen to a packet, drawn by keyed hashes
    failing   the part of `SimulatedCluster` that lets it happen: partitions, loss, resets
    freezing  stops the tasks of one node, as SIGSTOP does
    order     makes Trio's scheduler follow the seed
    trace     what happened, and its digest
    stores    a store of entities in memory, which fails and dawdles when it is told to
"""

from steinadler.testing.cluster import SimulatedCluster
from steinadler.testing.fabric import Fabric
from steinadler.testing.faults import Delay, Fault, Hold, Packet, PacketKind, Refuse, Reset, Rule
from steinadler.testing.network import SimulatedNetwork
from steinadler.testing.stores import MemoryContents, MemoryStore
from steinadler.testing.trace import Trace, TraceEntry

__all__ = [
    "Delay",
    "Fabric",
    "Fault",
    "Hold",
    "MemoryContents",
    "MemoryStore",
    "Packet",
    "PacketKind",
    "Refuse",
    "Reset",
    "Rule",
    "SimulatedCluster",
    "SimulatedNetwork",
    "Trace",
    "TraceEntry",
]
