"""One winner of a name, whoever let which claim pass (N2)."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from zlib import crc32

import pytest
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
    AGAIN_S = 0.3

    def __init__(self, all_: Registries) -> None:
        self.all_ = all_

    def later(self, event: Callable[[], None]) -> None:
        self.all_.at(self.all_.rng.uniform(0, self.LAG_S), event)

    def claim(self, process: ProcessId, name: str, takes: bool) -> None:
        """Whoever does not take a name that it may have gives its claim up."""
        all_, node = self.all_, process.node
        own = all_.engines[node]
        claim = own.begin_claim(name, process)
        held_by: set[NodeId] = set()

        def while_it_lives(event: Callable[[], None]) -> Callable[[], None]:
            return lambda: event() if all_.engines.get(node) is own else None

        def ask() -> None:
            own.asks(claim)
            self.later(while_it_lives(partial(asked, arbiter(all_, node, name), claim.version)))

        def asked(judge: NodeId, version: int) -> None:
            if not all_.reachable(node, judge):
                all_.at(self.AGAIN_S, while_it_lives(ask))
                return
            held_by.add(judge)
            refused = all_.engines[judge].reserve(name, process, claim.number, version, all_.now)
            self.later(while_it_lives(partial(answered, judge, refused)))

        def answered(judge: NodeId, refused: ProcessId | None) -> None:
            if refused is None and (claim.is_stale or judge != arbiter(all_, node, name)):
                ask()
                return
            own.end_claim(claim)
            if refused is None and takes and all_.register(node, name, process.number):
                all_.tell_news()
            else:
                for each in held_by:
                    self.later(partial(release, each))

        def release(judge: NodeId) -> None:
            if all_.reachable(node, judge):
                all_.engines[judge].release(name, process, claim.number)

        ask()

    def give_back(self, process: ProcessId, name: str) -> None:
        if (process.node, process.number) in self.all_.having(name):
            self.all_.engines[process.node].unregister(name)
            self.all_.tell_news()

    def act(self, step: str, process: ProcessId, name: str) -> None:
        match step:
            case "take" | "change mind":
                self.claim(process, name, takes=step == "take")
            case "give back":
                self.give_back(process, name)
            case "again":
                holder = self.all_.engines[process.node].find(name)
                if holder is not None and holder.node in self.all_.engines:
                    self.give_back(holder, name)
                    self.claim(holder, name, takes=True)
            case "end":
                self.all_.engines[process.node].process_ended(process.number)
                self.all_.tell_news()


ACTS = ("take", "change mind", "give back", "again", "end")
ACT_WEIGHTS = (10, 3, 4, 6, 3)
PAUSES_S = (0.0, 0.01, 0.05, 0.2)


def act(claimers: Claimers) -> None:
    """Some process does something."""
    all_ = claimers.all_
    (step,) = all_.rng.choices(ACTS, ACT_WEIGHTS)
    process = ProcessId(all_.rng.choice(sorted(all_.engines)), all_.rng.randint(1, 3))
    claimers.act(step, process, "boss")
    all_.run(all_.rng.choice(PAUSES_S))


def is_to_be_had(claimers: Claimers) -> bool:
    """Whether somebody has the name now, after a claim: it is held for nobody who does not come."""
    node = min(claimers.all_.engines)
    claimers.claim(ProcessId(node, 9), "boss", takes=True)
    claimers.all_.run(3.0)
    (holder,) = claimers.all_.holders("boss")
    return holder is not None


@pytest.mark.parametrize("seed", range(20))
def test_no_process_loses_its_name_while_all_agree_on_the_members(seed: int) -> None:
    """Whatever is claimed at once, given up, given back and claimed again: one passes."""
    all_ = Registries(4, seed=seed, rings=seed % 2)
    all_.run(1.0)
    claimers = Claimers(all_)
    for _ in range(500):
        act(claimers)
    all_.run(5.0)
    assert not all_.lost
    assert all_.agree()
    assert is_to_be_had(claimers)


@pytest.mark.parametrize("seed", range(20))
def test_in_the_end_one_process_has_the_name_and_all_know_it(seed: int) -> None:
    """While names go round members come and go, halves part and meet, and messages are lost."""
    rng = random.Random(seed)
    all_ = Registries(
        rng.randint(3, 8), seed=seed, rings=rng.randint(0, 2), lag_s=rng.choice((0.0, 0.3, 1.0))
    )
    all_.run(1.0)
    claimers = Claimers(all_)
    for life in range(2, 42):
        for _ in range(rng.randint(1, 12)):
            act(claimers)
        nodes = sorted(all_.engines)
        match rng.choice(("crash", "start", "split", "heal", "heal", "loss")):
            case "crash" if len(nodes) > 2:
                all_.crash(rng.choice(nodes))
            case "start" if len(nodes) < 9:
                all_.start(f"new{life}", life)
            case "split":
                half = set(rng.sample(nodes, len(nodes) // 2))
                all_.split(half, {*nodes} - half)
            case "heal":
                all_.heal()
            case "loss":
                all_.loss = rng.choice((0.0, 0.2, 0.5))
        all_.run(rng.choice((0.0, 0.2, 1.0)))
    all_.loss = 0.0
    all_.heal()
    all_.run(20.0)
    assert all_.agree()
    held = {ProcessId(node, number) for node, number in all_.having("boss")}
    assert all_.holders("boss") == (held or {None})
    assert is_to_be_had(claimers)
