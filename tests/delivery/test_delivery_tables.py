"""Monitors, links and calls as tables: reported once, and gone by each of three ways (D1, C1)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from steinadler.delivery import LinkTable, MonitorsHeld, MonitorsOfUs, OwedCalls, PendingCalls
from steinadler.delivery.monitors import Held, Watcher
from steinadler.identity import NodeId, ProcessId, ProcessName

NODES = [NodeId("a", 1), NodeId("a", 2), NodeId("b", 1)]
ANY_NODE = st.sampled_from(NODES)
NUMBERS = st.integers(1, 3)
WHAT = ProcessName("x")


def test_a_monitor_is_not_fired_by_another_node() -> None:
    held = MonitorsHeld()
    entry = held.add(NODES[0], 1, WHAT)
    assert held.remove(entry.reference, NODES[1]) is None  # D3: a former or later life
    assert held.remove(entry.reference, NODES[0]) == entry
    assert held.remove(entry.reference, NODES[0]) is None  # D1: once


def test_an_answer_from_another_node_goes_nowhere() -> None:
    pending: PendingCalls[str] = PendingCalls()
    call = pending.add(NODES[0], "waiter")
    assert pending.remove(call, NODES[1]) is None
    assert pending.remove(call, NODES[0]) == "waiter"
    assert pending.remove(call, NODES[0]) is None


def test_call_ids_are_never_used_twice_c2() -> None:
    pending: PendingCalls[str] = PendingCalls()
    first = pending.add(NODES[0], "one")
    pending.remove(first)
    assert pending.add(NODES[0], "two") != first


class HeldModel(RuleBasedStateMachine):
    """`MonitorsHeld` against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.table = MonitorsHeld()
        self.model: list[Held] = []

    def expect(self, gone: list[Held], told: list[Held]) -> None:
        assert told == gone
        self.model = [entry for entry in self.model if entry not in gone]

    @rule(node=ANY_NODE, watcher=st.integers(0, 3))
    def add(self, node: NodeId, watcher: int) -> None:
        self.model.append(self.table.add(node, watcher, WHAT))

    @rule(data=st.data(), node=st.none() | ANY_NODE)
    def remove(self, data: st.DataObject, node: NodeId | None) -> None:
        reference = data.draw(st.integers(1, 20))
        gone = [e for e in self.model if e.reference == reference and node in (None, e.node)]
        told = self.table.remove(reference, node)
        self.expect(gone, [] if told is None else [told])

    @rule(node=ANY_NODE)
    def node_down(self, node: NodeId) -> None:
        self.expect([e for e in self.model if e.node == node], self.table.node_down(node))

    @rule(watcher=st.integers(0, 3))
    def watcher_ended(self, watcher: int) -> None:
        gone = [e for e in self.model if e.watcher == watcher]
        self.expect(gone, self.table.watcher_ended(watcher))

    @invariant()
    def as_many(self) -> None:
        assert len(self.table) == len(self.model)


class OfUsModel(RuleBasedStateMachine):
    """`MonitorsOfUs` against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.table = MonitorsOfUs()
        self.model: list[tuple[int, Watcher]] = []

    @rule(watched=NUMBERS, node=ANY_NODE, reference=st.integers(1, 6), number=st.integers(0, 2))
    def add(self, watched: int, node: NodeId, reference: int, number: int) -> None:
        taken = any((w.node, w.reference) == (node, reference) for _, w in self.model)
        watcher = Watcher(node, reference, number)
        assert self.table.add(watched, watcher) is not taken
        if not taken:
            self.model.append((watched, watcher))

    @rule(node=ANY_NODE, reference=st.integers(1, 6))
    def remove(self, node: NodeId, reference: int) -> None:
        self.table.remove(node, reference)
        self.model = [e for e in self.model if (e[1].node, e[1].reference) != (node, reference)]

    @rule(watched=NUMBERS)
    def target_ended(self, watched: int) -> None:
        told = self.table.target_ended(watched)
        assert told == [w for t, w in self.model if t == watched]
        self.model = [e for e in self.model if e[0] != watched]

    @rule(node=ANY_NODE)
    def node_down(self, node: NodeId) -> None:
        self.table.node_down(node)
        self.model = [e for e in self.model if e[1].node != node]

    @invariant()
    def as_many(self) -> None:
        assert len(self.table) == len(self.model)


class LinksModel(RuleBasedStateMachine):
    """`LinkTable` against an ordered set."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LinkTable()
        self.model: dict[tuple[int, ProcessId], None] = {}

    @rule(local=NUMBERS, node=ANY_NODE, number=NUMBERS)
    def add(self, local: int, node: NodeId, number: int) -> None:
        self.table.add(local, ProcessId(node, number))  # twice is once
        self.model[local, ProcessId(node, number)] = None

    @rule(local=NUMBERS, node=ANY_NODE, number=NUMBERS)
    def remove(self, local: int, node: NodeId, number: int) -> None:
        entry = (local, ProcessId(node, number))
        assert self.table.remove(*entry) is (entry in self.model)
        self.model.pop(entry, None)

    @rule(local=NUMBERS)
    def process_ended(self, local: int) -> None:
        gone = [entry for entry in self.model if entry[0] == local]
        assert self.table.process_ended(local) == [other for _, other in gone]
        for entry in gone:
            del self.model[entry]

    @rule(node=ANY_NODE)
    def node_down(self, node: NodeId) -> None:
        gone = [entry for entry in self.model if entry[1].node == node]
        assert self.table.node_down(node) == gone
        for entry in gone:
            del self.model[entry]


class OwedModel(RuleBasedStateMachine):
    """`OwedCalls` against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.table: OwedCalls[str] = OwedCalls()
        self.model: dict[tuple[NodeId, int], tuple[int, str]] = {}

    @rule(caller=ANY_NODE, call=st.integers(1, 6), process=NUMBERS, debt=st.text(max_size=3))
    def add(self, caller: NodeId, call: int, process: int, debt: str) -> None:
        assert self.table.add(caller, call, process, debt) is ((caller, call) not in self.model)
        self.model.setdefault((caller, call), (process, debt))

    @rule(caller=ANY_NODE, call=st.integers(1, 6))
    def settle(self, caller: NodeId, call: int) -> None:
        entry = self.model.pop((caller, call), None)
        assert self.table.settle(caller, call) == (None if entry is None else entry[1])

    @rule(process=NUMBERS)
    def process_ended(self, process: int) -> None:
        gone = {key: debt for key, (owner, debt) in self.model.items() if owner == process}
        assert self.table.process_ended(process) == list(gone.values())
        for key in gone:
            del self.model[key]

    @rule(caller=ANY_NODE)
    def node_down(self, caller: NodeId) -> None:
        gone = {key: debt for key, (_, debt) in self.model.items() if key[0] == caller}
        assert self.table.node_down(caller) == list(gone.values())
        for key in gone:
            del self.model[key]

    @invariant()
    def as_many(self) -> None:
        assert len(self.table) == len(self.model)


class PendingModel(RuleBasedStateMachine):
    """`PendingCalls` against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.table: PendingCalls[int] = PendingCalls()
        self.model: dict[int, tuple[NodeId, int]] = {}
        self.waiters = 0

    @rule(node=ANY_NODE)
    def add(self, node: NodeId) -> None:
        self.waiters += 1
        call = self.table.add(node, self.waiters)
        assert call not in self.model
        self.model[call] = (node, self.waiters)

    @rule(call=st.integers(1, 20), node=st.none() | ANY_NODE)
    def remove(self, call: int, node: NodeId | None) -> None:
        entry = self.model.get(call)
        meant = entry is not None and node in (None, entry[0])
        expected = entry[1] if meant and entry is not None else None
        assert self.table.remove(call, node) == expected
        if meant:
            del self.model[call]

    @rule(node=ANY_NODE)
    def node_down(self, node: NodeId) -> None:
        gone = {call: waiter for call, (owner, waiter) in self.model.items() if owner == node}
        assert self.table.node_down(node) == list(gone.values())
        for call in gone:
            del self.model[call]

    @invariant()
    def as_many(self) -> None:
        assert len(self.table) == len(self.model)


for _model in (HeldModel, OfUsModel, LinksModel, OwedModel, PendingModel):
    _model.TestCase.settings = settings(max_examples=20, stateful_step_count=40)

TestHeld = HeldModel.TestCase
TestOfUs = OfUsModel.TestCase
TestLinks = LinksModel.TestCase
TestOwed = OwedModel.TestCase
TestPending = PendingModel.TestCase
