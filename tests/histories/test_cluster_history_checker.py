"""The checker of nodes' histories: a good one passes, and every rule refuses what breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cluster_checking import check, tally
from cluster_events import KINDS
from histories import Malformed, parse

Line = dict[str, Any]


def line(event: str, at: float, **facts: Any) -> Line:
    return {"event": event, "at": at, **facts}


def view(node: str, phase: int, members: list[str], **facts: Any) -> Line:
    known = {"names": [], "groups": [], **facts}
    return line("view", 19.0 + phase, node=node, phase=phase, members=members, **known)


A, B, B2 = "a/1", "b/1", "b/2"
ALICE, ANNE = "a/1#8", "a/1#9"  # a's inbox, and a worker
BOB, BEN, NEW_BOB = "b/1#8", "b/1#9", "b/2#8"
BOTH = [A, B2]
GROUPS = {"groups": [["g", [ANNE]]], "names": [["red", ANNE]]}
LOST_RED = "NameConflict: the name 'red' belongs to #9@a"
# Two nodes meet, take names, are parted, and meet again, when "red" has two holders; then b is
# killed, and comes back.
GOOD: list[Line] = [
    line("start", 0.0, node=A),
    line("start", 0.0, node=B),
    *(
        line("spawned", 0.0, process=process, traps=process != ALICE)
        for process in (ALICE, ANNE, BOB, BEN)
    ),
    line("up", 0.1, node=A, member=B),
    line("up", 0.1, node=B, member=A),
    # Messages and calls.
    line("sent", 1.0, process=ANNE, to=BOB, number=1),
    line("sent", 1.0, process=ANNE, to=BOB, number=2),
    line("received", 1.1, process=BOB, sender=ANNE, to=BOB, number=1),
    line("received", 1.1, process=BOB, sender=ANNE, to=BOB, number=2),
    line("sent", 1.0, process=BEN, to="inbox@a", number=1),
    line("received", 1.1, process=ALICE, sender=BEN, to="inbox@a", number=1),
    line("asked", 1.0, process=ANNE, op="c1", to="inbox@b"),
    line("served", 1.1, process=BOB, op="c1"),
    line("answered", 1.2, process=ANNE, op="c1", by=BOB),
    # A name within one side, and what all are refused that want it too.
    line("claim", 1.0, process=BEN, op="n1", name="blue"),
    line("granted", 1.1, op="n1"),
    line("claim", 1.3, process=ANNE, op="n2", name="blue"),
    line("refused", 1.4, op="n2", error="NameConflict"),
    line("released", 1.5, process=BEN, name="blue"),
    line("joined", 1.0, process=ANNE, group="g"),
    line("joined", 1.0, process=BEN, group="g"),
    # Monitors: one that fires when the nodes are parted, and one that waits until then in vain.
    line("watch", 1.0, process=ANNE, reference=1, target="inbox@b"),
    line("watch", 1.0, process=ANNE, reference=2, target=BEN),
    line("unwatch", 1.5, process=ANNE, reference=2),
    line("fault", 2.0, kind="partition", target="a"),
    line("down", 5.0, node=A, member=B, reason="silent"),
    line("fired", 5.0, process=ANNE, reference=1, target="inbox@b", reason="noconnection"),
    line("down", 5.0, node=B, member=A, reason="silent"),
    line("claim", 5.1, process=ANNE, op="n3", name="red"),
    line("granted", 5.2, op="n3"),
    line("claim", 5.3, process=BEN, op="n4", name="red"),
    line("granted", 5.4, op="n4"),
    line("fault", 6.0, kind="heal", target="partition a"),
    line("up", 6.5, node=A, member=B),
    line("up", 6.5, node=B, member=A),
    line("conflict", 6.6, node=B, name="red", winner=ANNE, loser=BEN),
    line("told", 6.6, process=BEN, reason=LOST_RED),
    line("conflict", 6.6, node=A, name="red", winner=ANNE, loser=BEN),
    line("watch", 7.0, process=ANNE, reference=3, target=BEN),
    line("fault", 8.0, kind="crash", target="b"),
    line("end", 8.0, node=B),
    line("down", 8.1, node=A, member=B, reason="refused"),
    line("fired", 8.1, process=ANNE, reference=3, target=BEN, reason="noconnection"),
    line("asked", 8.2, process=ANNE, op="c2", to=BOB),
    line("failed", 8.2, process=ANNE, op="c2", error="NodeDown"),
    line("start", 9.0, node=B2),
    line("spawned", 9.0, process=NEW_BOB, traps=True),
    line("fault", 9.0, kind="heal", target="crash b"),
    # In the moment in which its node comes to be known.
    line("asked", 9.1, process=ANNE, op="c3", to=NEW_BOB),
    line("failed", 9.1, process=ANNE, op="c3", error="NodeDown"),
    line("up", 9.1, node=A, member=B2),
    line("up", 9.1, node=B2, member=A),
    line("healed", 9.1),
    line("agreed", 9.2),
    line("watch", 9.2, process=NEW_BOB, reference=1, target=ANNE),
    line("watch", 9.2, process=ANNE, reference=4, target=NEW_BOB),
    line("unwatch", 9.3, process=ANNE, reference=4),
    view(A, 1, BOTH, **GROUPS),
    view(B2, 1, BOTH, **GROUPS),
    line("ended", 20.5, process=ANNE, reason="normal"),
    line("fired", 20.6, process=NEW_BOB, reference=1, target=ANNE, reason="normal"),
    view(A, 2, BOTH),
    view(B2, 2, BOTH),
]  # fmt: skip


def told(events: list[Line]) -> str:
    """What the checker says, of malformed histories too."""
    try:
        return "\n".join(map(str, check(list(parse(map(json.dumps, events), kinds=KINDS)))))
    except Malformed as error:
        return f"malformed: {error}"


def find(event: str, **facts: Any) -> int:
    """Where the first event stands that has these facts."""
    return next(
        n for n, each in enumerate(GOOD) if each["event"] == event and facts.items() <= each.items()
    )


Change = Callable[[list[Line]], None]


def without(event: str, **facts: Any) -> Change:
    def change(events: list[Line]) -> None:
        del events[find(event, **facts)]

    return change


def but(changed: Line, event: str, **facts: Any) -> Change:
    """With one event changed."""

    def change(events: list[Line]) -> None:
        events[find(event, **facts)] |= changed

    return change


def also(*more: Line) -> Change:
    return lambda events: events.extend(more)


def both(*changes: Change) -> Change:
    def change(events: list[Line]) -> None:
        for each in changes:
            each(events)

    return change


def test_a_good_history_passes_and_is_counted() -> None:
    assert told(GOOD) == ""
    counts = tally(list(parse(map(json.dumps, GOOD), kinds=KINDS)))
    assert counts["sent"] == counts["received"] == 3
    assert counts["monitor fired noconnection"] == 2
    assert counts["agreed within  1 s of healing"] == 1
    assert counts["fault partition"] == counts["fault crash"] == 1


def send(at: float, **facts: Any) -> Line:
    return line("sent", at, **{"process": ANNE, "to": BOB, "number": 9, **facts})


def receive(at: float, **facts: Any) -> Line:
    return line("received", at, **{"process": BOB, "sender": ANNE, "to": BOB, "number": 9, **facts})


QUIET = line("down", 19.5, node=A, member=B2, reason="?"), line("up", 19.5, node=A, member=B2)


@pytest.mark.parametrize(
    ("rule", "names", "change"),
    [
        # Agreement
        ("S views", "b/2 was not asked in phase 1", without("view", node=B2, phase=1)),
        ("S members", "a/1 lacks {'b/2'} and has", but({"members": [A, B]}, "view", phase=1)),
        ("S2 cause", "b/2 is down for a/1", also(*QUIET)),
        ("N2 agreed", "a/1 says that red is None's", but({"names": []}, "view", phase=1)),
        ("N2 agreed", "red is b/1#9's", but({"names": [["red", BEN]]}, "view", phase=1)),
        ("N2 agreed", "blue is b/1#9's", but({"names": [["blue", BEN]]}, "view", phase=2)),
        ("N3 groups", "lacks {'a/1#9'} and has set()", but({"groups": []}, "view", phase=1)),
        ("N3 groups", "and has {'b/1#9'}", but({"groups": [["g", [BEN]]]}, "view", phase=2)),
        # Names
        (
            "N2 one winner",
            "red is held by a/1#9",
            also(
                line("spawned", 9.1, process="b/2#9", traps=True),
                line("claim", 9.2, process="b/2#9", op="n5", name="red"),
                line("granted", 9.3, op="n5"),
            ),
        ),
        ("N2 told", "b/1#9 was not told that it lost red", without("told")),
        (
            "N2 told",
            "b/1#9 had lost nothing",
            also(line("told", 6.7, process=BEN, reason=LOST_RED)),
        ),
        (
            "N2 oldest",
            "a/1#9 asked after b/1#9 had it",
            both(but({"at": 5.5}, "claim", op="n3"), but({"at": 5.6}, "granted", op="n3")),
        ),
        ("N2 no answer", "n5 was never", also(line("claim", 7, process=ANNE, op="n5", name="x"))),
        ("N2 error", "n2 failed with RemoteError", but({"error": "RemoteError"}, "refused")),
        ("N2 error", "a/1#9 lives", but({"error": "NoSuchProcess"}, "refused")),
        ("N2 for nothing", "nobody else wanted x", but({"name": "x"}, "claim", op="n2")),
        (
            "N2 one side",
            "blue was granted to a/1#9",
            both(
                without("refused"),
                also(line("granted", 1.4, op="n2")),
                also(line("released", 1.6, process=ANNE, name="blue")),
            ),
        ),
        # Monitors
        ("D1 invented", "nobody watches with 1", without("watch", reference=1)),
        ("D1 once", "fired at", also({**GOOD[find("fired", reference=1)], "at": 5.1})),
        ("D3 wrong life", "b/2#9 is not b/1#9", but({"target": "b/2#9"}, "fired", reference=3)),
        ("D1 cause", "inbox@b: noconnection", but({"at": 4.9}, "fired", reference=1)),
        ("D1 cause", "b/1#9: noproc", but({"reason": "noproc", "at": 7.5}, "fired", reference=3)),
        ("D1 cause", "a/1#9: killed", but({"reason": "killed"}, "fired", target=ANNE)),
        ("D1 cause", "a/1#9: normal", but({"at": 20.4}, "fired", target=ANNE)),
        ("D1 fired", "the monitor of inbox@b did not fire", without("fired", reference=1)),
        ("D1 fired", "the monitor of b/1#9 did not fire", without("fired", reference=3)),
        ("D1 fired", "the monitor of a/1#9 did not fire", without("fired", target=ANNE)),
        ("D1 reason", "ended with KeyError", but({"reason": "KeyError"}, "ended")),
        # Messages
        ("M1 order", "received 1 of a/1#9 after 2", but({"at": 1.2}, "received", number=1)),
        ("M2 once", "received 1 of a/1#9 again", also({**GOOD[find("received")], "at": 1.3})),
        ("M2 invented", "which was not sent", without("sent", number=1)),
        ("M2 invented", "was sent to a/1#8", but({"to": ALICE}, "sent", number=1)),
        (
            "M3 lost",
            "a/1#8 did not receive 9",
            also(send(9.2, process=NEW_BOB, to=ALICE)),
        ),
        ("M3 lost", "b/2#8 did not receive 9", also(send(9.2, to="inbox@b"))),
        ("M3 lost", "a/1#8 did not receive 9", also(send(3.0, to=ALICE))),
        ("D3 wrong life", "b/2#8 received 9", also(send(7.9), receive(9.5, process=NEW_BOB))),
        (
            "D3 wrong life",
            "which is for red@*",
            also(send(1.0, to="red@*"), receive(1.1, to="red@*")),
        ),
        (
            "D3 late",
            "received 9 of b/1#9, whose node is no member",
            also(
                send(7.9, process=BEN, to=ALICE),
                receive(9.5, process=ALICE, sender=BEN, to=ALICE),
            ),
        ),
        # Calls
        ("C1 one end", "the ends of c1: none", without("answered")),
        (
            "C1 one end",
            "the ends of c1: line",
            also(line("failed", 1.3, process=ANNE, op="c1", error="gave up")),
        ),
        ("C1 cause", "c2 failed with NodeDown", but({"to": ALICE}, "asked", op="c2")),
        ("C1 cause", "c2 failed with NoSuchProcess", both(
            but({"to": ALICE}, "asked", op="c2"), but({"error": "NoSuchProcess"}, "failed"))),
        ("C1 cause", "c2 failed with ValueError", but({"error": "ValueError"}, "failed")),
        ("C2 other", "b/1#9 got the answer to c1", but({"process": BEN}, "answered")),
        ("C3 once", "c1 was served at", also(line("served", 1.15, process=BOB, op="c1"))),
        ("D3 wrong life", "a/1#8 served c1", but({"process": ALICE}, "served")),
        ("D3 wrong life", "b/1#9 answered c1 unasked", but({"by": BEN}, "answered")),
    ],
)  # fmt: skip
def test_each_rule_refuses_what_breaks_it(rule: str, names: str, change: Change) -> None:
    """The line names the rule, and whom it concerns."""
    events = [dict(event) for event in GOOD]
    change(events)
    lines = [text for text in told(events).splitlines() if text.startswith(f"{rule}: ")]
    assert any(names in text for text in lines), told(events)


@pytest.mark.parametrize(
    "change",
    [
        # What was sent to a node that is then reported down may be lost, by either's report.
        also(send(4.9)),
        also(send(4.9, process=BEN, to=ALICE)),
        # A monitor of a process that lives on, or whose watcher ended, need not fire.
        also(line("watch", 9.2, process=ANNE, reference=5, target=NEW_BOB)),
        also(line("watch", 7.0, process=BEN, reference=5, target="inbox@a")),
        # Of one that was not there, it fires at once.
        also(
            line("watch", 9.5, process=ANNE, reference=5, target=BOB),
            line("fired", 9.5, process=ANNE, reference=5, target=BOB, reason="noconnection"),
        ),
        # Somebody may be told of a name's loss by its end.
        both(
            without("told"),
            also(line("ended", 6.6, process=BEN, reason=LOST_RED)),
        ),
        # Asking for what it has gives a process nothing more to lose.
        also(line("claim", 5.5, process=BEN, op="n5", name="red"), line("granted", 5.6, op="n5")),
        # A member that comes or goes stands between two claims.
        both(
            without("refused"),
            also(
                line("down", 1.2, node=A, member=B, reason="?"),
                line("up", 1.2, node=A, member=B),
                line("fault", 0.5, kind="cuts", target="a b"),
                line("granted", 1.4, op="n2"),
                line("released", 1.6, process=ANNE, name="blue"),
                line("fired", 1.2, process=ANNE, reference=2, target=BEN, reason="noconnection"),
            ),
            but({"at": 1.2}, "fired", reference=1),
        ),
    ],
)  # fmt: skip
def test_what_a_promise_does_not_say_is_not_demanded(change: Change) -> None:
    events = [dict(event) for event in GOOD]
    change(events)
    assert told(events) == ""


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("nothing was said about b/1", without("up", node=A, member=B)),
        ("nothing was said about n1", without("claim", op="n1")),
        ("nothing was said about blue", without("granted", op="n1")),
        ("nothing was said about a/1#9", without("spawned", process=ANNE)),
        ("nothing was said about partition a", without("fault", kind="partition")),
        ("number is '1'", but({"number": "1"}, "sent")),
        ("not an event", but({"event": "quake"}, "healed")),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(words: str, change: Change) -> None:
    events = [dict(event) for event in GOOD]
    change(events)
    assert told(events).startswith("malformed: line:"), told(events)
    assert words in told(events)
