"""One engine, told one thing at a time: what it asks for, and what it believes."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from steinadler.config import MembershipSettings
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Admission,
    Bar,
    Blocked,
    Cleared,
    Connected,
    Disconnected,
    Down,
    Effect,
    Leave,
    Member,
    MemberState,
    Message,
    NeighbourAdded,
    NeighbourRemoved,
    ObserverConnected,
    ObserverDisconnected,
    Reach,
    Received,
    Refused,
    Send,
    Suspected,
    Swim,
    Up,
    Updated,
    Usurped,
    encode,
)
from steinadler.membership import table as table_module
from steinadler.membership.messages import (
    MAX_MESSAGE_BYTES,
    Ack,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    SyncReply,
    SyncRequest,
)

ALIVE, SUSPECT, DOWN, LEFT = MemberState
SETTINGS = MembershipSettings()
START = 50.0
# Until whoever is lost is accused: a direct probe, and others.
PROBE_S = SETTINGS.direct_timeout_s + SETTINGS.indirect_timeout_s


def member(name: str, incarnation: int = 10) -> Member:
    return Member(NodeId(name, incarnation), (Address(name, 4370),))


ME, BOB, CAROL, DAVE = (member(name) for name in ("me", "bob", "carol", "dave"))


def engine(*connected: Member, observer: bool = False) -> Swim:
    swim = Swim(ME, SETTINGS, random.Random(1), observer=observer)
    swim.tick(START)
    for peer in connected:
        swim.handle(Connected(peer), START)
    return swim


def sent(effects: list[Effect], to: Member | None = None) -> list[Message]:
    sends = [effect for effect in effects if isinstance(effect, Send)]
    return [send.message for send in sends if to is None or send.to == to.node]


def events(effects: list[Effect]) -> list[Effect]:
    return [e for e in effects if not isinstance(e, Send | NeighbourAdded | NeighbourRemoved)]


def gossip(swim: Swim, source: Member, *records: Member, at: float = START) -> list[Effect]:
    return swim.handle(Received(source.node, Gossip(records)), at)


def advance(swim: Swim, until: float) -> list[Effect]:
    """Tick at each deadline, as a shell that is never late does."""
    effects: list[Effect] = []
    while swim.next_deadline() <= until:
        effects += swim.tick(swim.next_deadline())
    return effects


# Meeting and parting.


def test_a_new_connection_is_up_at_once_and_told_to_all() -> None:
    """Design 7: the newcomer is a neighbour, and the others and observers hear of it."""
    swim = engine(CAROL)
    watcher = NodeId("watcher", 1)
    swim.handle(ObserverConnected(watcher), START)
    effects = swim.handle(Connected(BOB), START)
    assert effects[:2] == [Up(BOB), NeighbourAdded(BOB)]
    assert sent(effects, CAROL) == [Gossip((BOB,))]
    assert Send(watcher, Gossip((BOB,))) in effects
    assert swim.members() == (BOB, CAROL, ME)
    swim.handle(ObserverDisconnected(watcher), START)
    assert Send(watcher, Gossip((DAVE,))) not in swim.handle(Connected(DAVE), START)


def test_a_broken_connection_is_a_failed_probe_and_a_quick_return_is_nothing() -> None:
    """S2: others are asked at once; nobody is suspected if it is back in time."""
    swim = engine(BOB, CAROL)
    effects = swim.handle(Disconnected(BOB.node, False), START)
    assert events(effects) == []
    assert [type(message) for message in sent(effects, CAROL)] == [PingRequest]
    assert events(swim.handle(Connected(BOB), START + 0.1)) == []
    assert events(swim.tick(swim.next_deadline())) == []
    assert swim.find("bob") == BOB


def test_a_broken_connection_without_a_return_is_a_suspicion_then_down() -> None:
    """S1: silence after a broken connection is bounded too."""
    swim = engine(BOB)
    swim.handle(Disconnected(BOB.node, False), START)
    effects = events(advance(swim, START + PROBE_S + 0.001))
    assert effects == [Suspected(BOB.in_state(SUSPECT, "me"))]
    effects = events(advance(swim, START + PROBE_S + 0.001 + SETTINGS.suspicion_s))
    assert effects == [Down(replace(BOB, state=DOWN), "no sign of life")]
    assert swim.reconnectable() == (replace(BOB, state=DOWN),)
    assert swim.members() == (ME,)


def refused(*others: Member) -> tuple[Swim, PingRequest]:
    """An engine whose connection to bob broke and was refused, and what it asks carol."""
    swim = engine(BOB, CAROL, *others)
    assert events(swim.handle(Refused(BOB.node), START)) == []  # still connected
    effects = swim.handle(Disconnected(BOB.node, False), START)
    (request,) = sent(effects, CAROL)
    assert isinstance(request, PingRequest)
    assert events(swim.handle(Refused(BOB.node), START)) == []
    return swim, request


DEAD = [Down(replace(BOB, state=DOWN), "connection refused")]


def test_a_refused_dial_is_down_as_soon_as_nobody_else_is_connected() -> None:
    """S1: killed; and the others are told."""
    swim, request = refused()
    effects = swim.handle(Received(CAROL.node, Nack(request.sequence)), START)
    assert events(effects) == DEAD
    assert sent(effects, CAROL) == [Gossip((DEAD[0].member,))]
    assert swim.handle(Refused(BOB.node), START) == []


def test_a_refused_dial_is_down_at_once_where_there_is_nobody_to_ask() -> None:
    swim = engine(BOB)
    swim.handle(Disconnected(BOB.node, False), START)
    assert events(swim.handle(Refused(BOB.node), START)) == DEAD
    swim, _ = refused()
    effects = swim.handle(Disconnected(CAROL.node, True), START)
    assert DEAD[0] in events(effects), "whoever was asked is gone"


def test_a_refused_dial_is_down_after_a_moment_where_the_others_are_silent() -> None:
    swim, _ = refused()
    advance(swim, START + 0.1)
    swim.handle(Refused(BOB.node), START + 0.1)  # dialled again: the clock is that of the first
    assert events(advance(swim, START + SETTINGS.direct_timeout_s - 0.001)) == []
    assert events(advance(swim, START + SETTINGS.direct_timeout_s + 0.001)) == DEAD


def test_a_refused_dial_is_no_death_while_another_reaches_it() -> None:
    """S2: a packet filter that rejects answers just like a host whose process has died."""
    swim, request = refused()
    for again in range(5):
        now = START + again / 100
        assert events(swim.handle(Received(CAROL.node, Ack(request.sequence)), now)) == []
        effects = swim.handle(Refused(BOB.node), now)
        (request,) = sent(effects, CAROL)
        assert isinstance(request, PingRequest)
        assert events(effects) == []
    assert swim.find("bob") == BOB


def nacks(effects: list[Effect]) -> list[int]:
    return [message.sequence for message in sent(effects, CAROL) if isinstance(message, Nack)]


def test_who_was_asked_says_at_once_that_its_own_connection_broke() -> None:
    """S1: or those who ask each other about a killed one would wait for the time of a probe."""
    swim = engine(BOB, CAROL)
    swim.handle(Received(CAROL.node, PingRequest(9, BOB.node)), START)
    effects = swim.handle(Disconnected(BOB.node, False), START + 0.001)
    assert nacks(effects) == [9]
    assert nacks(advance(swim, START + SETTINGS.indirect_timeout_s)) == [], "it was told"


def test_a_refused_dial_to_one_never_met_proves_nothing() -> None:
    """S2: an address that is somebody else's from here is no evidence about the node."""
    swim = engine(CAROL)
    gossip(swim, CAROL, BOB)
    assert swim.handle(Refused(BOB.node), START) == []
    assert swim.find("bob") == BOB


def test_a_goodbye_is_final() -> None:
    """D3: LEFT is for ever in that life: no gossip, no connection brings it back."""
    swim = engine(BOB, CAROL)
    left = replace(BOB, state=LEFT)
    effects = swim.handle(Disconnected(BOB.node, True), START)
    assert events(effects) == [Down(left, "left")]
    assert sent(effects, CAROL) == [Gossip((left,))]
    assert events(gossip(swim, CAROL, replace(BOB, refutation=99))) == []
    assert swim.handle(Connected(BOB), START) == []
    assert swim.admit(BOB.node, START) is Admission.STALE
    assert swim.reconnectable() == ()
    assert events(swim.handle(Connected(member("bob", 11)), START)) == [Up(member("bob", 11))]


def test_leaving_is_said_to_all_and_ends_the_engine() -> None:
    """Design 3: say goodbye, then nothing more."""
    swim = engine(BOB, CAROL)
    watcher = NodeId("watcher", 1)
    swim.handle(ObserverConnected(watcher), START)
    left = replace(ME, state=LEFT)
    effects = swim.handle(Leave(), START)
    assert effects == [Send(to, Gossip((left,))) for to in (BOB.node, CAROL.node, watcher)]
    assert swim.next_deadline() == math.inf
    assert swim.handle(Connected(DAVE), START) == []
    assert swim.tick(START + 100) == []
    assert swim.members() == (BOB, CAROL)


# Other lives.


def test_a_later_life_replaces_the_former() -> None:
    """D3: Down(old), then Up(new); words of the former life go nowhere."""
    swim = engine(BOB)
    later = member("bob", 11)
    effects = events(swim.handle(Connected(later), START))
    assert effects == [Down(BOB, "replaced by a new incarnation"), Up(later)]
    assert swim.handle(Connected(BOB), START) == []
    assert swim.handle(Disconnected(BOB.node, True), START) == []
    assert swim.handle(Refused(BOB.node), START) == []
    assert gossip(swim, BOB, DAVE) == []
    assert events(gossip(swim, later, replace(BOB, state=SUSPECT, refutation=5))) == []
    assert swim.members() == (later, ME)


def test_a_later_life_heard_of_is_believed_until_it_is_met() -> None:
    """D3: by gossip as by connection, once the former one is not at hand."""
    swim = engine(BOB, CAROL)
    later = member("bob", 11)
    swim.handle(Disconnected(BOB.node, False), START)
    effects = events(gossip(swim, CAROL, later))
    assert effects == [Down(BOB, "replaced by a new incarnation"), Up(later)]
    assert events(swim.handle(Connected(later), START)) == []
    assert sent(swim.handle(Received(later.node, Ping(1)), START), later) != []


def test_admission() -> None:
    """X3, D3: one life per name; which error a handshake gets."""
    swim = engine(BOB, CAROL)
    newer, older = NodeId("bob", 11), NodeId("bob", 9)
    assert swim.admit(NodeId("me", 99), START) is Admission.NAME_IN_USE
    assert swim.admit(DAVE.node, START) is Admission.ADMITTED
    assert swim.admit(BOB.node, START) is Admission.ADMITTED
    assert swim.admit(newer, START) is Admission.NAME_IN_USE
    assert swim.admit(older, START) is Admission.NAME_IN_USE
    gossip(swim, CAROL, replace(BOB, state=SUSPECT))
    assert swim.admit(newer, START) is Admission.ADMITTED
    assert swim.admit(older, START) is Admission.STALE
    gossip(swim, CAROL, replace(BOB, state=DOWN), at=START + SETTINGS.suspicion_s / 2)
    assert swim.admit(BOB.node, START) is Admission.ADMITTED
    swim.handle(Disconnected(CAROL.node, False), START)
    assert swim.admit(NodeId("carol", 11), START) is Admission.ADMITTED


def test_a_later_life_of_my_name_usurps_when_most_say_so() -> None:
    """D3: told by more than half of those at hand, and the engine is silent from then on."""
    swim = engine(BOB, CAROL, DAVE)
    later = replace(member("me", 11), addresses=(Address("192.0.2.1", 1),))
    for source in (BOB, BOB):
        assert swim.handle(Received(source.node, Gossip((later, CAROL))), START) == [Reach(later)]
    assert swim.handle(Received(CAROL.node, Ping(1, (later,))), START) == [Usurped(later.node)]
    assert swim.next_deadline() == math.inf
    assert swim.handle(Received(BOB.node, Ping(1)), START) == []


def test_those_who_are_gone_do_not_count_against_my_name() -> None:
    swim = engine(BOB, CAROL, DAVE)
    later = member("me", 11)
    assert gossip(swim, BOB, later) == [Reach(later)]
    swim.handle(Disconnected(BOB.node, False), START)
    assert Usurped(later.node) not in gossip(swim, CAROL, replace(later, state=LEFT))


def test_my_name_in_another_life_at_the_door() -> None:
    """D3: a later one usurps, an earlier one is nobody."""
    swim = engine()
    assert swim.handle(Connected(member("me", 9)), START) == []
    assert events(gossip(engine(BOB), BOB, member("me", 9))) == []
    assert swim.handle(Connected(member("me", 11)), START) == [Usurped(NodeId("me", 11))]


# Suspicion and refutation.


@pytest.mark.parametrize("state", [SUSPECT, DOWN])
def test_an_accusation_of_me_is_refuted_at_once_to_all(state: MemberState) -> None:
    """SWIM 4.2: with a higher refutation."""
    peers = [member(f"peer{number}") for number in range(6)]
    swim = engine(*peers)
    effects = gossip(swim, peers[0], replace(ME, state=state, refutation=4))
    refuted = replace(ME, refutation=5)
    assert events(effects) == []
    for peer in peers:
        assert sent(effects, peer) == [Gossip((refuted,))]
    assert refuted in swim.members()
    again = gossip(swim, peers[1], replace(ME, state=state, refutation=4))
    assert again == []  # that was answered; whoever missed it gets it with a probe
    (ack,) = sent(swim.handle(Received(peers[2].node, Ping(1)), START))
    assert isinstance(ack, Ack)
    assert refuted in ack.updates


def test_a_suspicion_told_starts_the_clock_here_and_the_accused_hears_of_it() -> None:
    """SWIM 4.2: suspicion spreads as state; it ends by refutation or by time."""
    swim = engine(BOB, CAROL)
    suspect = replace(BOB, state=SUSPECT)
    effects = gossip(swim, CAROL, suspect)
    assert events(effects) == [Suspected(suspect)]
    assert sent(effects, BOB) == [Gossip((suspect,))]
    refuted = replace(BOB, refutation=1)
    assert events(gossip(swim, BOB, refuted, at=START + 0.01)) == [Cleared(refuted)]
    assert events(gossip(swim, CAROL, suspect, at=START + 0.02)) == []


def test_a_word_from_a_suspect_buys_time_and_no_more() -> None:
    """S2: the refutation must be behind it; and it is reminded what it has to refute."""
    swim = engine(BOB)
    suspect = replace(BOB, state=SUSPECT)
    gossip(swim, BOB, suspect)
    said_at = START + 0.2
    effects = swim.handle(Received(BOB.node, Ping(7)), said_at)
    assert effects == [Send(BOB.node, Ack(7, (suspect,)))]
    assert swim.find("bob") == suspect
    assert events(advance(swim, said_at + SETTINGS.suspicion_s - 0.001)) == []
    assert len(events(advance(swim, said_at + SETTINGS.suspicion_s + 0.001))) == 1


def test_a_down_in_gossip_is_believed_and_the_node_may_return() -> None:
    """Design 7: Down, then Up of the same life by a higher refutation, not by a connection."""
    swim = engine(BOB, CAROL)
    down = replace(BOB, state=DOWN)
    swim.handle(Disconnected(BOB.node, False), START)
    assert events(gossip(swim, CAROL, down)) == [Down(down, "declared down by carol")]
    effects = swim.handle(Connected(BOB), START)
    assert effects == [Send(BOB.node, Gossip((down,)))]
    back = replace(BOB, refutation=1)
    reply = Received(BOB.node, SyncReply((back,)))
    assert events(swim.handle(reply, START)) == [Up(back)]


def test_a_down_in_a_table_is_only_a_suspicion_of_a_member() -> None:
    """A table may be older than the return; a healed partition buries nobody."""
    swim = engine(BOB, CAROL)
    request = Received(CAROL.node, SyncRequest((replace(BOB, state=DOWN),)))
    effects = swim.handle(request, START)
    suspect = replace(BOB, state=SUSPECT)
    assert events(effects) == [Suspected(suspect)]
    assert SyncReply((ME, suspect, CAROL)) in sent(effects, CAROL)


def test_a_barred_name_is_down_and_nobody_can_bring_it_back() -> None:
    """Every life of it, whoever says so; and nothing is told of it, for others to find out."""
    swim = engine(BOB, CAROL)
    effects = swim.handle(Bar(frozenset({"bob", "dave"})), START)
    down = BOB.in_state(DOWN)
    assert events(effects) == [Down(down, "revoked")]
    assert sent(effects) == []
    assert swim.find("bob") is None
    for record in (BOB, member("bob", 11), DAVE, replace(BOB, refutation=9)):
        assert events(gossip(swim, CAROL, record)) == []
        assert swim.admit(record.node, START) is Admission.BARRED
        assert events(swim.handle(Connected(record), START)) == []
    assert [each.node.name for each in swim.members()] == ["carol", "me"]
    assert swim.reconnectable() == ()
    advance(swim, START + 60)
    assert swim.find("bob") is None


def test_a_name_that_is_barred_no_longer_may_be_a_member() -> None:
    swim = engine(CAROL)
    swim.handle(Bar(frozenset({"bob"})), START)
    swim.handle(Bar(frozenset()), START)
    assert swim.admit(BOB.node, START) is Admission.ADMITTED
    assert events(swim.handle(Connected(BOB), START)) == [Up(BOB)]


@pytest.mark.parametrize("observer", [False, True])
def test_nobody_bars_himself(observer: bool) -> None:
    """What becomes of this node is not the engine's to say."""
    swim = engine(CAROL, observer=observer)
    assert events(swim.handle(Bar(frozenset({"me"})), START)) == []
    assert swim.me.state is ALIVE


def test_changed_labels_are_an_update() -> None:
    """Members carry addresses and labels; a node changes them with a higher refutation."""
    swim = engine(BOB)
    changed = replace(BOB, labels=(("role", "gpu"),), refutation=1)
    assert events(gossip(swim, BOB, changed)) == [Updated(changed)]


# Probing.


def test_a_probe_of_a_former_life_is_dropped_with_it() -> None:
    """D3: nobody is asked about a life that is over."""
    swim = engine(BOB)
    (ping,) = sent(swim.tick(swim.next_deadline()), BOB)
    assert isinstance(ping, Ping)
    swim.handle(Connected(CAROL), START)
    swim.handle(Connected(member("bob", 11)), START)
    effects = advance(swim, START + SETTINGS.direct_timeout_s + 2 * SETTINGS.probe_interval_s)
    assert effects
    asked = [m.target for m in sent(effects) if isinstance(m, PingRequest)]
    assert BOB.node not in asked


def test_a_probe_is_relayed_and_its_answer_passed_on() -> None:
    """SWIM 4.1: under the sequence of whoever asked."""
    swim = engine(BOB, CAROL)
    effects = swim.handle(Received(BOB.node, PingRequest(77, CAROL.node)), START)
    (ping,) = sent(effects, CAROL)
    assert isinstance(ping, Ping)
    assert sent(swim.handle(Received(BOB.node, Ack(ping.sequence)), START)) == []
    (ack,) = sent(swim.handle(Received(CAROL.node, Ack(ping.sequence)), START), BOB)
    assert isinstance(ack, Ack)
    assert ack.sequence == 77
    assert sent(swim.handle(Received(CAROL.node, Ack(ping.sequence)), START)) == []
    about_me = swim.handle(Received(BOB.node, PingRequest(78, ME.node)), START)
    assert [type(message) for message in sent(about_me, BOB)] == [Ack]
    unknown = swim.handle(Received(BOB.node, PingRequest(79, DAVE.node)), START)
    assert [type(message) for message in sent(unknown, BOB)] == [Nack]


@pytest.mark.parametrize("answered", [True, False])
def test_an_answer_through_another_ends_the_probe(answered: bool) -> None:
    """S2: only from one that was asked, only under that sequence."""
    swim = engine(BOB, CAROL)
    effects = swim.handle(Disconnected(BOB.node, False), START)
    suspicions: list[Effect] = []
    now = START
    for step in range(1, 11):
        for request in sent(effects, CAROL):
            if isinstance(request, PingRequest):
                swim.handle(Received(CAROL.node, Ack(request.sequence + 100 * (not answered))), now)
        now = START + (PROBE_S + 0.001) * step / 10
        effects = advance(swim, now)
        suspicions += events(effects)
    assert suspicions == ([] if answered else [Suspected(BOB.in_state(SUSPECT, "me"))])


def test_a_late_engine_gives_its_members_the_lost_time_and_a_round_trip() -> None:
    """S2: the lag is added to every pending verdict, once."""
    swim = engine(BOB)
    suspect = BOB.in_state(SUSPECT, "carol")
    gossip(swim, BOB, suspect)
    verdict = START + SETTINGS.suspicion_s
    due = swim.next_deadline()
    woke = due + 5.0
    assert events(swim.handle(Refused(DAVE.node), woke)) == [Blocked(5.0)]
    assert events(swim.tick(woke)) == []
    expected = verdict + 5.0 + SETTINGS.direct_timeout_s
    assert events(advance(swim, expected - 0.001)) == []
    assert [type(e) for e in events(advance(swim, expected + 0.001))] == [Down]


def test_a_member_only_heard_of_is_probed_after_a_while() -> None:
    """Nobody stays a member because nobody ever met it."""
    swim = engine(CAROL)
    gossip(swim, CAROL, BOB)

    def keep_carol(until: float) -> list[Effect]:
        effects: list[Effect] = []
        while swim.next_deadline() <= until:
            now = swim.next_deadline()
            effects += swim.tick(now)
            effects += swim.handle(Received(CAROL.node, Ack(0)), now)
        return events(effects)

    assert keep_carol(START + SETTINGS.suspicion_s) == []
    kinds = [type(effect) for effect in keep_carol(START + 6 * SETTINGS.suspicion_s)]
    assert kinds == [Suspected, Down]


# Memory and bounds.


def test_who_is_down_or_left_is_forgotten_and_stays_so() -> None:
    """D3 for `forget_s`; then others' tombstones are not taken back."""
    swim = engine(BOB, CAROL)
    swim.handle(Disconnected(BOB.node, True), START)
    swim.handle(Disconnected(CAROL.node, False), START)
    swim.handle(Refused(CAROL.node), START)
    advance(swim, START + SETTINGS.forget_s - 1)
    assert swim.find("bob") is not None
    advance(swim, START + SETTINGS.forget_s + SETTINGS.sync_interval_s + 1)
    assert swim.find("bob") is swim.find("carol") is None
    assert swim.reconnectable() == ()
    now = swim.next_deadline()
    swim.handle(Connected(DAVE), now)
    gossip(swim, DAVE, replace(BOB, state=LEFT), replace(CAROL, state=DOWN), at=now)
    assert swim.find("bob") is swim.find("carol") is None
    assert events(gossip(swim, DAVE, member("bob", 11), at=now)) == [Up(member("bob", 11))]


def test_a_newcomer_takes_in_who_is_down() -> None:
    """D3: so that it knows old news for old."""
    swim = engine(DAVE)
    assert events(gossip(swim, DAVE, replace(BOB, state=DOWN, refutation=3))) == []
    assert events(gossip(swim, DAVE, replace(BOB, state=ALIVE, refutation=3))) == []
    assert swim.members() == (DAVE, ME)


def test_strangers_are_not_believed() -> None:
    """X4: only connected members of the current life are listened to."""
    swim = engine(CAROL)
    gossip(swim, CAROL, BOB)
    watcher = NodeId("watcher", 1)
    swim.handle(ObserverConnected(watcher), START)
    for sender in (BOB.node, DAVE.node, watcher, NodeId("carol", 9)):
        for message in (Gossip((DAVE,)), Ping(1, (DAVE,)), SyncReply((DAVE,))):
            assert swim.handle(Received(sender, message), START) == []
    reply = swim.handle(Received(watcher, SyncRequest((DAVE,))), START)
    assert reply == [Send(watcher, SyncReply((ME, CAROL, BOB)))]


def test_the_table_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """X4: names heard of are bounded."""
    monkeypatch.setattr("steinadler.membership.beliefs.MAX_ENTRIES", 3)
    assert table_module.MAX_ENTRIES > 3
    swim = engine(BOB, CAROL)
    gossip(swim, BOB, *(member(f"x{number}") for number in range(9)))
    assert len(swim.members()) == 4


def test_every_message_fits_a_frame() -> None:
    """A large table is sent in parts, the news of it too."""
    swim = engine(CAROL)
    watcher = NodeId("watcher", 1)
    swim.handle(ObserverConnected(watcher), START)
    many = tuple(replace(member(f"x{n}"), labels=(("l", "v" * 900),)) for n in range(60))
    effects = gossip(swim, CAROL, *many)
    effects += swim.handle(Connected(BOB), START)
    effects += swim.handle(Received(BOB.node, SyncRequest(())), START)
    effects += advance(swim, START + 1)
    assert all(len(encode(message)) <= MAX_MESSAGE_BYTES for message in sent(effects))
    parts = [m.members for m in sent(effects, BOB) if isinstance(m, SyncReply | SyncRequest)]
    assert {record for part in parts for record in part} >= set(many)
    told = [m.updates for m in sent(effects, Member(watcher)) if isinstance(m, Gossip)]
    assert {record for part in told for record in part} >= set(many)


# Observers.


def test_an_observer_asks_listens_and_says_nothing_else() -> None:
    """The command line's engine: no probes, no gossip, no answers."""
    swim = engine(observer=True)
    effects = swim.handle(Connected(BOB), START)
    assert effects == [Up(BOB), Send(BOB.node, SyncRequest(())), NeighbourAdded(BOB)]
    effects = swim.handle(Received(BOB.node, SyncReply((BOB, CAROL))), START)
    assert effects == [Up(CAROL), NeighbourAdded(CAROL)]
    for message in (Ping(1), PingRequest(2, BOB.node), SyncRequest(())):
        assert swim.handle(Received(BOB.node, message), START) == []
    assert advance(swim, START + 20) == []
    assert swim.members() == (BOB, CAROL)
    assert swim.handle(Leave(), START + 20) == []


def test_an_observer_judges_its_own_connections() -> None:
    """It has no others to ask: refused, or away for `suspicion_s`, is down; back is up."""
    swim = engine(BOB, CAROL, observer=True)
    for peer in (BOB, CAROL):
        assert swim.handle(Disconnected(peer.node, False), START) == []
    assert events(swim.handle(Refused(BOB.node), START)) == [
        Down(replace(BOB, state=DOWN), "connection refused")
    ]
    assert advance(swim, START + SETTINGS.suspicion_s - 0.001) == []
    assert advance(swim, START + SETTINGS.suspicion_s + 0.001) == [
        Down(replace(CAROL, state=DOWN), "connection lost")
    ]
    assert advance(swim, START + 2) == []
    assert events(swim.handle(Connected(CAROL), START + 2)) == [Up(CAROL)]
    swim.handle(Disconnected(CAROL.node, False), START + 2)
    assert advance(swim, START + 3) == []
    assert events(swim.handle(Connected(CAROL), START + 3)) == []
    assert events(advance(swim, START + 9)) == []


def test_an_observer_with_a_nodes_name_sees_that_node() -> None:
    """An observer is not a member, so nothing about its name is about itself."""
    swim = engine(observer=True)
    namesake = member("me", 3)
    assert swim.admit(namesake.node, START) is Admission.ADMITTED
    assert events(swim.handle(Connected(namesake), START)) == [Up(namesake)]
    assert swim.find("me") == namesake


def test_where_it_listens_may_be_told_after_the_first_peer_came() -> None:
    """A port is open before the engine knows it: whoever connects in between is kept."""
    swim = engine()
    swim.handle(Connected(BOB), START)
    swim.listen_at((Address("192.0.2.9", 4370),))
    addresses = {member.node.name: member.addresses for member in swim.members()}
    assert addresses[ME.node.name] == (Address("192.0.2.9", 4370),)
    assert BOB.node.name in addresses
