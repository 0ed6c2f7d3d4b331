"""Lifeguard, in one engine: nacks, confirmations, the buddy, and a node's doubts about itself."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from steinadler.config import MembershipSettings
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Blocked,
    Cleared,
    Connected,
    Disconnected,
    Down,
    Effect,
    Member,
    MemberState,
    Message,
    Received,
    Refused,
    Send,
    Suspected,
    Swim,
)
from steinadler.membership.messages import Ack, Gossip, Nack, Ping, PingRequest

SUSPECT = MemberState.SUSPECT
SETTINGS = MembershipSettings()
START = 50.0


def member(name: str) -> Member:
    return Member(NodeId(name, 10), (Address(name, 4370),))


ME, BOB, *OTHERS = (member(name) for name in ("me", "bob", "carol", "dave", "erin", "frank"))
CAROL = OTHERS[0]


class Bench:
    """One engine, and peers that answer its pings unless they are silent."""

    def __init__(self, *peers: Member, settings: MembershipSettings = SETTINGS) -> None:
        self.swim = Swim(ME, settings, random.Random(1))
        self.now = START
        self.swim.tick(START)
        self.silent: set[NodeId] = set()
        self.nacking = True
        # What waits in the sockets of a loop that is blocked; None while it runs.
        self.unread: list[Received] | None = None
        self.worst_score = 0
        self.sent: list[tuple[float, NodeId, Message]] = []
        self.events: list[tuple[float, Effect]] = []
        for peer in peers:
            self.tell(Connected(peer))

    def tell(self, event: Connected | Disconnected | Received | Refused) -> None:
        self._take(self.swim.handle(event, self.now))

    def gossip(self, source: Member, record: Member) -> None:
        self.tell(Received(source.node, Gossip((record,))))

    def run(self, seconds: float) -> None:
        """Tick at each deadline, as a shell that is never late does."""
        end = self.now + seconds
        while self.swim.next_deadline() <= end:
            self.now = max(self.now, self.swim.next_deadline())
            self._take(self.swim.tick(self.now))
        self.now = end

    def _answer(self, answer: Received) -> None:
        if self.unread is None:
            self.tell(answer)
        else:
            self.unread.append(answer)

    def _take(self, effects: list[Effect]) -> None:
        self.worst_score = max(self.worst_score, self.swim.health.score)
        for effect in effects:
            if not isinstance(effect, Send):
                self.events.append((self.now, effect))
                continue
            self.sent.append((self.now, effect.to, effect.message))
            if effect.to in self.silent:
                continue
            match effect.message:
                case Ping(sequence):
                    self._answer(Received(effect.to, Ack(sequence)))
                case PingRequest(sequence, target) if self.nacking:
                    answer = Nack if target in self.silent else Ack
                    self._answer(Received(effect.to, answer(sequence)))

    def at(self, kind: type) -> list[float]:
        return [when for when, event in self.events if isinstance(event, kind)]

    def messages(self, kind: type, to: Member) -> list[tuple[float, Message]]:
        return [(at, m) for at, node, m in self.sent if node == to.node and isinstance(m, kind)]


# Nacks.


def test_who_was_asked_says_in_time_that_it_has_no_answer_and_passes_a_late_one_on() -> None:
    """Lifeguard IV-A: after half of indirect_timeout_s, once; it is no verdict."""
    bench = Bench(BOB, CAROL)
    bench.silent = {CAROL.node}
    bench.tell(Received(BOB.node, PingRequest(77, CAROL.node)))
    (ping,) = [m for _, m in bench.messages(Ping, CAROL)]
    assert isinstance(ping, Ping)
    bench.run(SETTINGS.indirect_timeout_s / 2 + 0.001)
    ((at, nack),) = bench.messages(Nack, BOB)
    assert (at, nack) == (pytest.approx(START + 0.1), Nack(77, nack.updates))  # type: ignore[union-attr]
    bench.run(0.05)
    bench.tell(Received(CAROL.node, Ack(ping.sequence)))
    assert [m.sequence for _, m in bench.messages(Ack, BOB) if isinstance(m, Ack)] == [77]
    bench.run(1)
    assert len(bench.messages(Nack, BOB)) == 1


def test_who_cannot_even_try_says_so_at_once() -> None:
    """Lifeguard IV-A: no connection to the target says nothing against whoever asked."""
    bench = Bench(BOB, CAROL)
    bench.tell(Disconnected(CAROL.node, False))
    for target in (CAROL.node, NodeId("nobody", 1)):
        bench.sent.clear()
        bench.tell(Received(BOB.node, PingRequest(5, target)))
        ((at, _),) = bench.messages(Nack, BOB)
        assert at == START


@pytest.mark.parametrize("nacking", [True, False])
def test_a_node_that_hears_no_nacks_doubts_itself(nacking: bool) -> None:
    """Lifeguard IV-A: with nacks the silence is the target's; without, it is perhaps our own."""
    bench = Bench(BOB, CAROL)
    bench.silent, bench.nacking = {BOB.node}, nacking
    bench.run(1.2)
    assert bench.at(Suspected)
    assert (bench.worst_score == 0) is nacking


def test_a_nack_from_one_that_was_not_asked_counts_for_nothing() -> None:
    """X4: only from whoever was asked, only under that sequence."""
    bench = Bench(BOB, CAROL)
    bench.silent, bench.nacking = {BOB.node}, False
    for sequence in range(100):
        bench.tell(Received(CAROL.node, Nack(sequence)))
    bench.run(1.2)
    assert bench.worst_score > 0


# Confirmations.


@pytest.mark.parametrize(("confirmations", "factor"), [(0, 3), (1, 2), (2, 1.4150), (3, 1)])
def test_confirmations_shorten_a_suspicion_from_its_start(
    confirmations: int, factor: float
) -> None:
    """Lifeguard IV-B: counted from the first accusation, however late they come."""
    bench = Bench(BOB, *OTHERS)
    bench.nacking = True
    bench.gossip(CAROL, BOB.in_state(SUSPECT, "x0"))
    for number in range(confirmations):
        bench.run(0.2)
        bench.gossip(CAROL, BOB.in_state(SUSPECT, f"x{number + 1}"))
        bench.gossip(OTHERS[1], BOB.in_state(SUSPECT, "x0"))  # says nothing new
    # Silent for the engine's own probes too, whose failure would be one more confirmation.
    quiet = Bench(BOB, *OTHERS)
    quiet.gossip(CAROL, BOB.in_state(SUSPECT, *(f"x{n}" for n in range(confirmations + 1))))
    assert quiet.swim.find("bob") == bench.swim.find("bob")
    verdict = max(deadlines(quiet))
    assert verdict - START == pytest.approx(SETTINGS.suspicion_s * factor, abs=0.001)


def deadlines(bench: Bench) -> list[float]:
    return list(bench.swim._detector.deadlines())


def test_its_own_failed_probe_is_a_confirmation_and_news() -> None:
    """S1: who has heard of a suspicion and sees the same says so, and the time falls for all."""
    bench = Bench(BOB, CAROL)
    bench.silent = {BOB.node}
    bench.gossip(CAROL, BOB.in_state(SUSPECT, "carol"))
    bench.run(1.2)
    both = BOB.in_state(SUSPECT, "carol", "me")
    assert bench.swim.find("bob") == both
    assert any(both in m.updates for _, m in bench.messages(Gossip, CAROL))  # type: ignore[union-attr]
    bench.run(1.7 - 1.2 + 0.01)
    assert bench.at(Down) == [pytest.approx(START + SETTINGS.suspicion_s)]


def test_confirmations_that_nobody_could_give_are_not_waited_for() -> None:
    """S1: a node that is cut off from all others settles them as fast as the others settle it."""
    bench = Bench(BOB, *OTHERS)
    bench.silent = {peer.node for peer in (BOB, *OTHERS)}
    bench.run(3.0)
    assert len(bench.at(Down)) == 5


def test_a_new_suspicion_after_a_refutation_begins_anew() -> None:
    """SWIM 4.2: whoever refuted has the whole time again, also where the refutation went by."""
    bench = Bench(BOB)
    bench.gossip(BOB, BOB.in_state(SUSPECT, "x"))
    bench.silent = {BOB.node}
    bench.run(0.1)
    again = Member(BOB.node, BOB.addresses, (), SUSPECT, 1, ("x",))
    bench.gossip(BOB, again)
    assert max(deadlines(bench)) == pytest.approx(START + 0.1 + SETTINGS.suspicion_s)


def test_the_suspect_is_told_first_with_whatever_is_sent_to_it() -> None:
    """Lifeguard IV-C: the buddy; a probe carries what the probed one has to refute, before all."""
    bench = Bench(BOB, *OTHERS)
    suspicion = BOB.in_state(SUSPECT, "x")
    bench.gossip(CAROL, suspicion)
    for number in range(20):
        bench.gossip(CAROL, member(f"news{number}"))
    bench.run(1.0)
    pings = [message for _, message in bench.messages(Ping, BOB)]
    assert pings
    for ping in pings:
        assert isinstance(ping, Ping)
        assert ping.updates[0] == suspicion
    bench.gossip(BOB, Member(BOB.node, BOB.addresses, refutation=1))
    assert bench.at(Cleared)


# Its own health.


def test_an_accused_node_doubts_itself() -> None:
    """Lifeguard IV-A: others heard nothing of it, so it may hear nothing of others."""
    bench = Bench(BOB)
    bench.gossip(BOB, ME.in_state(SUSPECT, "bob"))
    assert bench.swim.health.score == 1


@pytest.mark.parametrize("woken_by", ["a message", "the clock"])
def test_a_blocked_loop_accuses_nobody_says_so_and_is_patient_for_a_while(woken_by: str) -> None:
    """S2: its probes had answers that it could not read; it tells how long it was away, once."""
    bench = Bench(BOB, *OTHERS)
    bench.unread = []
    bench.run(0.35)
    bench.now = bench.swim.next_deadline() + 4.2
    unread, bench.unread = bench.unread, None
    assert unread
    if woken_by == "the clock":
        bench.run(0.1)
    for answer in unread:
        bench.tell(answer)
    bench.run(0.1)
    assert [event for _, event in bench.events if isinstance(event, Blocked)] == [
        Blocked(pytest.approx(4.2))
    ]
    assert bench.worst_score == 7
    health = bench.swim.health
    assert health.blocked == 1
    assert health.blocked_s == health.longest_block_s == pytest.approx(4.2)
    bench.run(5)
    assert not bench.at(Suspected)
    assert bench.swim.health.score == 0


def test_an_ill_node_still_notices_that_it_is_blocked() -> None:
    """S2: its probes rest for seconds, its watch on its own lateness does not."""
    bench = Bench(BOB)
    bench.now = bench.swim.next_deadline() + 3.0
    bench.run(0)
    assert bench.swim.health.score == 7
    for _ in range(20):
        assert bench.swim.next_deadline() - bench.now <= SETTINGS.probe_interval_s + 1e-9
        bench.run(SETTINGS.probe_interval_s)


@pytest.mark.parametrize("late", [0.02, 0.2])
def test_jitter_is_no_illness(late: float) -> None:
    """S1: a busy machine does not make its nodes slow to notice."""
    bench = Bench(BOB, CAROL)
    for _ in range(20):
        bench.now = bench.swim.next_deadline() + late
        bench.run(0)
    assert bench.swim.health == type(bench.swim.health)(0, 0, 0.0, 0.0)


def test_an_ill_nodes_probes_are_fewer_and_more_patient() -> None:
    """Lifeguard IV-A: interval and timeouts times the score and one."""

    def pings_in(seconds: float, prepare: Callable[[Bench], None]) -> int:
        bench = Bench(BOB, CAROL)
        prepare(bench)
        bench.sent.clear()
        bench.run(seconds)
        return len(bench.messages(Ping, BOB)) + len(bench.messages(Ping, CAROL))

    def make_ill(bench: Bench) -> None:
        for refutation in range(7):
            accused = Member(ME.node, ME.addresses, (), SUSPECT, refutation, ("bob",))
            bench.gossip(BOB, accused)
        assert bench.swim.health.score == 7

    assert pings_in(1.0, lambda bench: None) == 4
    assert pings_in(1.0, make_ill) <= 1


def test_plain_swim_neither_waits_nor_doubts() -> None:
    """The benchmark's switch: as SWIM is without Lifeguard."""
    bench = Bench(BOB, *OTHERS, settings=MembershipSettings(local_health=False))
    bench.gossip(CAROL, BOB.in_state(SUSPECT, "carol"))
    assert max(deadlines(bench)) == pytest.approx(START + SETTINGS.suspicion_s)
    bench.now = bench.swim.next_deadline() + 4.2
    bench.run(0)
    assert not bench.at(Blocked)
    assert bench.at(Down)
