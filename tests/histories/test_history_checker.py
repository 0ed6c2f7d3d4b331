"""The checker of histories: a good one passes, and every rule refuses a history that breaks it.

A checker that finds nothing wrong is as good as what it would have found, so each rule is broken
here on purpose, by hand and by Hypothesis.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from checking import CERTAINLY_NOT_STORED, NOTHING_RAN, check, tally
from histories import Malformed, load, parse
from hypothesis import assume, given, settings
from hypothesis import strategies as st

# Two clients and one ledger, which moves in the middle; "c" is cut off, "d" fails, "e" is stored
# though its client was told nothing for certain.
GOOD: list[dict[str, Any]] = [
    {"event": "activate", "n": 1, "entity": "x", "epoch": 1, "owner": "alice/1"},
    {"event": "invoke", "at": 1.0, "client": "p", "entity": "x", "op": "a", "command": "add"},
    {"event": "commit", "n": 2, "entity": "x", "epoch": 1, "held": 1, "count": 1, "op": "a"},
    {"event": "ok", "at": 2.0, "client": "p", "op": "a", "result": 1},
    {"event": "invoke", "at": 3.0, "client": "q", "entity": "x", "op": "e", "command": "add"},
    {"event": "commit", "n": 3, "entity": "x", "epoch": 1, "held": 1, "count": 2, "op": "e"},
    {"event": "fault", "at": 3.1, "kind": "kill", "target": "alice"},
    {"event": "error", "at": 3.2, "client": "q", "op": "e", "error": "EntityHostFailed"},
    {"event": "activate", "n": 4, "entity": "x", "epoch": 2, "owner": "bob/1"},
    {"event": "invoke", "at": 4.0, "client": "p", "entity": "x", "op": "b", "command": "add"},
    {"event": "error", "at": 4.1, "client": "p", "op": "b", "error": "EntityUnavailable"},
    {"event": "invoke", "at": 4.2, "client": "p", "entity": "x", "op": "b", "command": "add"},
    {"event": "commit", "n": 5, "entity": "x", "epoch": 2, "held": 2, "count": 3, "op": "b"},
    {"event": "ok", "at": 5.0, "client": "p", "op": "b", "result": 3},
    {"event": "invoke", "at": 6.0, "client": "p", "entity": "x", "op": "c", "command": "add"},
    {"event": "invoke", "at": 6.0, "client": "q", "entity": "x", "op": "d", "command": "fail"},
    {"event": "error", "at": 6.5, "client": "q", "op": "d", "error": "RemoteError"},
    {"event": "stored", "entity": "x", "turns": [["a", 1], ["e", 1], ["b", 2]]},
]


def told(events: list[dict[str, Any]]) -> str:
    """What the checker says, of malformed histories too."""
    try:
        return "\n".join(map(str, check(list(parse(map(json.dumps, events))))))
    except Malformed as error:
        return f"malformed: {error}"


def edited(changes: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The good history with some lines, numbered from 1, changed."""
    return [event | changes.get(n, {}) for n, event in enumerate(GOOD, 1)]


def changed(line: int, **facts: Any) -> list[dict[str, Any]]:
    return edited({line: facts})


def stored(*turns: tuple[str, int]) -> list[dict[str, Any]]:
    """The good history, with this in the store at the end."""
    return changed(len(GOOD), turns=list(turns))


def with_more(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [*GOOD, *events]


def test_a_good_history_passes_and_is_counted() -> None:
    assert told(GOOD) == ""
    counts = tally(list(parse(map(json.dumps, GOOD))))
    assert {name: counts[name] for name in ("operations", "acknowledged", "failed", "unknown")} == {
        "operations": 5,
        "acknowledged": 2,
        "failed": 1,
        "unknown": 2,
    }
    assert counts["activations"] == 2
    assert counts["moves"] == counts["fault kill"] == 1


COMMIT_D = {"event": "commit", "n": 6, "entity": "x", "epoch": 2, "held": 2, "count": 4, "op": "d"}
COMMIT_A = {"event": "commit", "n": 6, "entity": "x", "epoch": 2, "held": 2, "count": 4, "op": "a"}
ALL = (("a", 1), ("e", 1), ("b", 2))


@pytest.mark.parametrize(
    ("rule", "names", "events"),
    [
        # E1
        ("E1 one owner", ["line:1 gave alice/1", "line:9"], changed(9, epoch=1)),
        ("E1 one owner", ["bob/1 epoch 2", "line:1"], changed(1, epoch=7)),
        ("E1 epochs", ["line:13", "under epoch 0", "line:6"], changed(13, epoch=0)),
        ("E1 fence", ["line:13", "epoch 1", "line:9"], changed(13, epoch=1)),
        ("E1 fence", ["line:13", "holding 3"], changed(13, held=3)),
        ("E1 fence", ["line:2", "given out is none"], GOOD[1:]),
        ("E1 chain", ["line:13", "as turn 2", "line:6"], changed(13, count=2)),
        ("E1 chain", ["line:13", "as turn 4"], changed(13, count=4)),
        ("E1 chain", ["turn 2", "'e'"], stored(("a", 1), ("z", 1), ("b", 2))),
        ("E1 chain", ["turn 2", "'e', 1", "'e', 2"], stored(("a", 1), ("e", 2), ("b", 2))),
        ("E1 chain", ["turn 3", "3 were committed, 2 are stored"], stored(("a", 1), ("e", 1))),
        ("E1 results", ["line:14", "turn 2", "it is turn 3"], changed(14, result=2)),
        (
            "E1 order",
            ["e, invoked at line:5, is turn 2", "b, turn 3", "line:14"],
            edited({5: {"at": 5.5}, 8: {"at": 5.6}}),
        ),
        # E2
        ("E2 stored", ["b was acknowledged at line:14"], stored(("a", 1), ("e", 1))),
        ("E2 stored", ["a was acknowledged at line:4"], GOOD[:-1]),
        ("E2 early", ["line:4", "line:3"], changed(3, at=2.5)),
        # E3
        ("E3 once", ["a, invoked at line:2", "2 times"], [*stored(*ALL, ("a", 2)), COMMIT_A]),
        ("E3 once", ["a, invoked at line:2", "line:3, line:19"], with_more(COMMIT_A)),
        (
            "E3 not run",
            ["d failed with RemoteError at line:17"],
            [*stored(*ALL, ("d", 2)), COMMIT_D],
        ),
        ("E3 not run", ["e failed with StaleEpoch at line:8"], changed(8, error="StaleEpoch")),
        ("E3 invented", ["z is stored"], stored(*ALL, ("z", 2))),
        ("E3 early", ["line:3", "line:2"], changed(3, at=0.5)),
    ],
)
def test_each_rule_refuses_what_breaks_it(
    rule: str, names: list[str], events: list[dict[str, Any]]
) -> None:
    """The line names the rule and the events."""
    lines = [line for line in told(events).splitlines() if line.startswith(f"{rule}: entity x: ")]
    assert any(all(name in line for name in names) for line in lines), told(events)


@pytest.mark.parametrize(
    ("words", "events"),
    [
        ("line:15: a is invoked again", changed(15, op="a")),
        ("line:18: e is invoked again, after line:5", [*GOOD[:-1], {**GOOD[4], "at": 9.0}]),
        ("line:12: b is invoked again", changed(12, entity="y")),
        ("line:4: q ends, and was not invoked before", changed(4, op="q")),
        ("line:13: b ended already, at line:11", [e for n, e in enumerate(GOOD) if n != 11]),
        ("line:4: a was invoked by p", changed(4, client="q")),
        ("line:4: a ends, and was not invoked before", changed(4, at=0.5)),
        ("line:19: x is stored twice", with_more(GOOD[-1])),
        ("line:4: result is '1'", changed(4, result="1")),
        ("line:4: result is True", changed(4, result=True)),
        ("line:4: at is None", changed(4, at=None)),
        ("line:7: not an event", changed(7, event="quake")),
        ("line:7: not an event", changed(7, why="?")),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(words: str, events: list[dict[str, Any]]) -> None:
    """Nothing is said about the library by a history in which a client broke E3 itself."""
    assert told(events).startswith("malformed: "), told(events)
    assert words in told(events)


def test_what_clients_take_for_certain_is_what_the_errors_promise() -> None:
    """The checker's own list, against the table in docs/entities.md."""
    guide = (Path(__file__).parents[2] / "docs" / "entities.md").read_text()
    rows = [line for line in guide.splitlines() if line.startswith("| ") and line.count("|") == 4]
    certain, unknown = set[str](), set[str]()
    for row in rows:
        _, _, error, answer, _ = (cell.strip() for cell in row.split("|"))
        known = answer.startswith(("no", "yes; the state is as before", "its write was refused"))
        if "perhaps" in answer or known:
            names = {
                name
                for name in (word.strip(" `:") for word in error.split("`"))
                if name[:1].isupper()
            }
            (certain if known else unknown).update(names)
    assert certain == CERTAINLY_NOT_STORED
    assert unknown == {"EntityHostFailed", "EntityTimedOut", "StoreUnavailable"}
    assert NOTHING_RAN < CERTAINLY_NOT_STORED


def test_half_a_line_of_one_that_was_killed_is_left_out(tmp_path: Path) -> None:
    """Files are put together by their clock, whichever is read first."""
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    mine = [event for event in GOOD if event.get("client") == "p"]
    one.write_text("".join(f"{json.dumps(event)}\n" for event in GOOD if event not in mine))
    other.write_text("".join(f"{json.dumps(event)}\n" for event in mine) + '{"event":"ok","at"')
    for paths in ([one, other], [other, one]):
        assert check(load(paths)) == []
    one.write_text('{"event":"ok","at"\n')
    with pytest.raises(Malformed, match=r"^one\.jsonl:1: not an event"):
        load([one])


# -- at random -------------------------------------------------------------------------------------


def a_history(draw: random.Random) -> list[dict[str, Any]]:
    """A good history: some clients, two ledgers, and a store that does as it should."""
    at, n = 0.0, 0
    turns: dict[str, list[tuple[str, int]]] = {"x": [], "y": []}
    epochs: dict[str, int] = dict.fromkeys(turns, 0)
    events: list[dict[str, Any]] = []

    def write(event: str, **facts: Any) -> None:
        events.append({"event": event, **facts})

    def activate(entity: str) -> None:
        nonlocal n
        n += 1
        epochs[entity] += 1
        owner = draw.choice(("alice/1", "bob/1"))
        write("activate", n=n, entity=entity, epoch=epochs[entity], owner=owner)

    for entity in turns:
        activate(entity)
    open_: list[tuple[str, str, str]] = []
    for number in range(draw.randint(4, 30)):
        at += draw.random() + 0.001
        client, entity, op = f"c{number % 4}", draw.choice("xy"), f"o{number}"
        write("invoke", at=at, client=client, entity=entity, op=op, command="add")
        open_.append((client, entity, op))
        while open_ and draw.random() < 0.6:
            at += draw.random() + 0.001
            client, entity, op = open_.pop(draw.randrange(len(open_)))
            fate = draw.choice(("ok", "ok", "ok", "late", "lost", "no"))
            if fate in ("ok", "late", "lost"):
                if draw.random() < 0.2:
                    activate(entity)
                n += 1
                epoch = epochs[entity]
                turns[entity].append((op, epoch))
                count = len(turns[entity])
                facts = {"epoch": epoch, "held": epoch, "count": count, "op": op}
                write("commit", n=n, entity=entity, **facts, at=at)
            at += 0.001
            if fate == "ok":
                write("ok", at=at, client=client, op=op, result=len(turns[entity]))
            elif fate != "lost":
                error = "EntityTimedOut" if fate == "late" else "EntityUnavailable"
                write("error", at=at, client=client, op=op, error=error)
    for entity, stands in turns.items():
        write("stored", entity=entity, turns=stands)
    return events


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_good_histories_pass(draw: random.Random) -> None:
    assert told(a_history(draw)) == ""


def swapped(events: list[dict[str, Any]], some: list[dict[str, Any]], fact: str) -> None:
    """Exchange a fact of the first two of them."""
    assume(len(some) > 1)
    one, other = (events.index(event) for event in some[:2])
    events[one], events[other] = (
        some[0] | {fact: some[1][fact]},
        some[1] | {fact: some[0][fact]},
    )


MUTATIONS = (
    *("drop-commit", "double-commit", "swap-commits", "raise-epoch"),
    *("drop-turn", "double-turn", "swap-turns", "drop-stored"),
    *("drop-activation", "double-activation"),
    *("drop-invoke", "double-invoke", "double-end", "end-before-invoke", "deny-ok", "swap-results"),
)


@settings(max_examples=100)
@given(st.randoms(use_true_random=False), st.sampled_from(["x", "y"]), st.data())
def test_a_mutated_history_is_refused(
    draw: random.Random, entity: str, data: st.DataObject
) -> None:
    """One event dropped, doubled or moved: unless nobody could know, it is noticed."""
    events = a_history(draw)
    ops = {e["op"] for e in events if e["event"] == "invoke" and e["entity"] == entity}
    of = [e for e in events if e.get("entity") == entity or e.get("op") in ops]
    commits = [e for e in of if e["event"] == "commit"]
    answered = [e for e in of if e["event"] == "ok"]
    ended = [e for e in of if e["event"] in ("ok", "error")]
    final = next(e for e in of if e["event"] == "stored")
    assume(commits)
    last = max(e["n"] for e in events if "n" in e) + 1

    def one_of(some: list[dict[str, Any]]) -> dict[str, Any]:
        assume(some)
        return data.draw(st.sampled_from(some))

    mutation = data.draw(st.sampled_from(MUTATIONS))
    turns = list(final["turns"])
    place = data.draw(st.integers(0, len(turns) - 1))
    match mutation:
        case "drop-commit":
            events.remove(one_of(commits))
        case "double-commit":
            events.append(one_of(commits) | {"n": last})
        case "swap-commits":
            swapped(events, commits, "n")
        case "drop-turn":
            del turns[place]
        case "double-turn":
            turns.insert(place, turns[place])
        case "swap-turns":
            assume(place)
            turns[place - 1], turns[place] = turns[place], turns[place - 1]
        case "drop-activation":
            used = {commit["epoch"] for commit in commits}
            events.remove(
                one_of([e for e in of if e["event"] == "activate" and e["epoch"] in used])
            )
        case "double-activation":
            events.append(one_of([e for e in of if e["event"] == "activate"]) | {"n": last})
        case "drop-invoke":
            told_of = {e["op"] for e in (*commits, *ended)}
            events.remove(one_of([e for e in of if e["event"] == "invoke" and e["op"] in told_of]))
        case "double-invoke":
            events.append(one_of(answered) | {"event": "invoke"})
            events[-1] = {**events[-1], "entity": entity, "command": "add"}
            del events[-1]["result"]
        case "double-end":
            events.append(one_of(ended))
        case "swap-results":
            swapped(events, answered, "result")
        case "end-before-invoke":
            end = one_of(ended)
            events[events.index(end)] = end | {"at": -1.0}
        case "deny-ok":
            end = one_of(answered)
            denied = {"event": "error", "error": "EntityUnavailable"}
            events[events.index(end)] = {k: v for k, v in end.items() if k != "result"} | denied
        case "drop-stored":
            events.remove(final)
        case "raise-epoch":
            commit = one_of(commits)
            events[events.index(commit)] = commit | {"epoch": commit["epoch"] + 1}
    if final in events:
        events[events.index(final)] = final | {"turns": turns}
    assert told(events) != "", mutation
