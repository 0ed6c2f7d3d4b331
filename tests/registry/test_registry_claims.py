"""One winner of a name, whoever let which claim pass (N2)."""

from __future__ import annotations

from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st
from registries import Registries

from steinadler.identity import NodeId, ProcessId

NAMES = ["a", "b"]
steps = st.lists(
    st.tuples(
        st.sampled_from(["claim", "claim", "claim", "pass", "start", "crash", "end"]),
        st.integers(0, 3),
        st.sampled_from(NAMES),
    ),
    max_size=40,
)


def arbiter(all_: Registries, node: NodeId, name: str) -> NodeId:
    """As `node` sees it, by its own list of members."""
    return max(all_.up[node], key=lambda other: (crc32(f"{name}{other.name}".encode()), other))


@settings(max_examples=60)
@given(steps, st.integers(0, 2), st.integers(0, 2**16))
def test_one_claim_wins_while_arbiters_come_and_go(
    steps: list[tuple[str, int, str]], rings: int, seed: int
) -> None:
    """Of all that were told yes, the holder is one, and all the others were told that they lost."""
    all_ = Registries(4, seed=seed, rings=rings, lag_s=0.5)
    told_yes: dict[str, list[ProcessId]] = {name: [] for name in NAMES}
    ended: set[ProcessId] = set()
    lives = 1
    number = 0
    for step, n, name in steps:
        nodes = sorted(all_.engines)
        node = nodes[n % len(nodes)]
        match step:
            case "claim":
                number += 1
                process = ProcessId(node, number)
                judge = all_.engines.get(arbiter(all_, node, name))
                refused = judge and judge.reserve(name, process, number, all_.engines[node].version, all_.now)
                if not refused and all_.register(node, name, number):
                    told_yes[name].append(process)
            case "pass":
                all_.run((0.0, 0.02, 0.3, 3.0)[n])
            case "start":
                lives += 1
                all_.start(f"new{lives}", lives)
            case "crash" if len(nodes) > 2:
                all_.crash(node)
            case "end":
                holder = all_.engines[node].find(name)
                if holder is not None and holder.node == node:
                    all_.engines[node].process_ended(holder.number)
                    ended.add(holder)
    all_.run(15.0)
    assert all_.agree()
    lost = {(loss.name, ProcessId(node, loss.number)) for node, loss in all_.lost}
    assert len(lost) == len(all_.lost)  # each is told once
    for name in NAMES:
        (holder,) = all_.holders(name)
        alive = [p for p in told_yes[name] if p.node in all_.engines and p not in ended]
        left = [process for process in alive if (name, process) not in lost]
        assert left == ([] if holder is None else [holder])
