"""Multicast between machines: nodes of a cluster find each other, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from running_members import Members, meet
from switched_machines import Switch

pytestmark = pytest.mark.slow


async def test_s3_nodes_find_their_own_cluster_by_multicast_and_no_other(
    switch: Switch, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Two clusters share a network and names.  Those of the other one are not even dialled; one
    that is, by a seed that is not ours, refuses."""
    ours, theirs = Members(nursery, tmp_path, "ours"), Members(nursery, tmp_path, "theirs")
    our_machines = [await switch.machine(n) for n in ("alice", "bob", "carol", "dave", "erin")]
    their_machines = [await switch.machine(name) for name in ("alice", "bob")]
    our_nodes = await ours.start_all(our_machines, mdns=True)
    started = trio.current_time()
    await meet(*our_nodes)
    print(f"five met {trio.current_time() - started:.1f} s after all were open")  # noqa: T201
    their_nodes = await theirs.start_all(their_machines, mdns=True)
    await meet(*their_nodes)
    assert {node.complaints() for node in (*our_nodes, *their_nodes)} == {""}

    zoe = await theirs.start(await switch.machine("zoe"), mdns=True, seeds=our_machines[:1])
    their_nodes.append(zoe)
    await meet(*their_nodes)
    with trio.fail_after(10):
        for node in (zoe, our_nodes[0]):
            while "CA" not in node.complaints():  # noqa: ASYNC110
                await trio.sleep(0.05)
    assert "certificate not signed by this cluster's CA" in zoe.complaints()
    for nodes in (our_nodes, their_nodes):
        lives = {tuple(await node.ask("members")) for node in nodes}
        assert len(lives) == 1
        for node in nodes:
            assert len(node.told("up")) == len(nodes) - 1
            assert node.told("down") == []
