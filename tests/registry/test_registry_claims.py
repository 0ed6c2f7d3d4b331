"""One winner of a name, whoever let which claim pass (N2)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registries import Registries

from steinadler.errors import NameConflict
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
                own = all_.engines[node]
                claim = own.begin_claim(name, process)
                own.asks(claim)
                judge = all_.engines.get(arbiter(all_, node, name))
                refused = judge and judge.reserve(
                    name, process, claim.number, claim.version, all_.now
                )
                if not refused and all_.register(node, name, number):
                    told_yes[name].append(process)
                own.end_claim(claim)
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


class Claimers:
    """Processes that claim names as a node does: the arbiter is asked, and answers, from afar."""

    LAG_S = 0.1

    def __init__(self, all_: Registries) -> None:
        self.all_ = all_

    def later(self, event: Callable[[], None]) -> None:
        self.all_.at(self.all_.rng.uniform(0, self.LAG_S), event)

    def claim(self, process: ProcessId, name: str, takes: bool) -> None:
        """Whoever does not take a name that it may have gives its claim up."""
        own = self.all_.engines[process.node]
        judge = self.all_.engines[arbiter(self.all_, process.node, name)]
        claim = own.begin_claim(name, process)

        def ask() -> None:
            own.asks(claim)
            self.later(partial(asked, claim.version))

        def asked(version: int) -> None:
            refused = judge.reserve(name, process, claim.number, version, self.all_.now)
            self.later(partial(answered, refused))

        def answered(refused: ProcessId | None) -> None:
            if refused is None and claim.is_stale:
                ask()
                return
            own.end_claim(claim)
            if refused is None:
                with suppress(NameConflict):
                    if takes:
                        own.register(name, process.number, int(self.all_.now * 1e6))
                        self.all_.tell_news()
                        return
                self.later(lambda: judge.release(name, process, claim.number))

        ask()

    def give_back(self, process: ProcessId, name: str) -> None:
        if self.all_.engines[process.node].find(name) == process:
            self.all_.engines[process.node].unregister(name)
            self.all_.tell_news()

    def end(self, process: ProcessId) -> None:
        self.all_.engines[process.node].process_ended(process.number)
        self.all_.tell_news()


STEPS = ["take", "take", "take", "change mind", "give back", "again", "again", "end"]


@pytest.mark.parametrize("seed", range(20))
def test_no_name_is_contested_while_all_agree_on_the_members(seed: int) -> None:
    """Whatever is claimed at once, given up, given back and claimed again: one passes."""
    all_ = Registries(4, seed=seed, rings=seed % 2)
    all_.run(1.0)
    nodes = sorted(all_.engines)
    claimers = Claimers(all_)
    for _ in range(500):
        holder = all_.engines[nodes[0]].find("boss")
        step = all_.rng.choice(STEPS)
        process = ProcessId(all_.rng.choice(nodes), all_.rng.randint(1, 3))
        if step == "again" and holder is not None:
            process = holder
        match step:
            case "take" | "change mind":
                claimers.claim(process, "boss", takes=step == "take")
            case "give back":
                claimers.give_back(process, "boss")
            case "again":
                claimers.give_back(process, "boss")
                claimers.claim(process, "boss", takes=True)
            case "end":
                claimers.end(process)
        all_.run(all_.rng.choice([0.0, 0.01, 0.05, 0.2]))
    all_.run(5.0)
    assert not all_.lost
    assert all_.agree()
    claimers.claim(ProcessId(nodes[0], 4), "boss", takes=True)
    all_.run(2.0)
    (holder,) = all_.holders("boss")
    assert holder is not None  # nothing holds the name for nobody
