"""The decisions of a supervisor, without any process: every product of rules, and a model."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steinadler import ChildSpec, ConfigError, SupervisorSpec
from steinadler.supervision.engine import (
    Answer,
    Effects,
    Finish,
    GiveUp,
    Start,
    Stop,
    Supervision,
)
from steinadler.supervision.specs import MAX_CHILDREN, Restart, Strategy, is_orderly

STRATEGIES = get_args(Strategy)
RESTARTS = get_args(Restart)
REASONS = ["normal", "shutdown", "shutdown: no more", "killed", "noconnection", "ValueError: x"]
MANY = 1_000_000


async def work(me: Any) -> None: ...


def child(id_: str, restart: str = "permanent", **options: Any) -> ChildSpec:
    return ChildSpec(id_, work, restart=restart, **options)  # type: ignore[arg-type]


class World:
    """Carries effects out at once, and keeps a list of them."""

    def __init__(self, spec: SupervisorSpec, *, in_order: bool = True) -> None:
        self.engine = Supervision(spec, in_order=in_order)
        self.log: list[str] = []
        self.answers: list[tuple[object, str | None]] = []
        self.now = 0.0
        self.stubborn: set[str] = set()
        self.broken: set[str] = set()
        self.do(self.engine.begin(0))

    def do(self, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case Start(spec):
                    self.log.append(f"start {spec.id}")
                    if spec.id in self.broken:
                        self.do(self.engine.ended(spec.id, "OSError: broken", self.now))
                    else:
                        self.do(self.engine.started(spec.id, self.now))
                case Stop(id_, kill):
                    self.log.append(f"{'kill' if kill else 'stop'} {id_}")
                    if kill or id_ not in self.stubborn:
                        self.do(self.engine.ended(id_, "shutdown", self.now))
                case Answer(ticket, _, error):
                    self.answers.append((ticket, error))
                case GiveUp(reason):
                    self.log.append("give up")
                case Finish(reason):
                    self.log.append(reason)

    def ended(self, id_: str, reason: str = "killed") -> list[str]:
        """What follows the end of a child."""
        self.log.clear()
        self.do(self.engine.ended(id_, reason, self.now))
        return self.log

    def running(self) -> list[str]:
        return [spec.id for spec, state in self.engine.children() if state == "running"]


def abc(strategy: str = "one_for_one", intensity: int = MANY, **restarts: str) -> World:
    children = [child(id_, restarts.get(id_, "permanent")) for id_ in "abc"]
    return World(SupervisorSpec(children, strategy, intensity))  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_children_start_in_order_and_end_in_the_reverse_order(strategy: str) -> None:
    world = abc(strategy)
    assert world.log == ["start a", "start b", "start c"]
    world.do(world.engine.end("shutdown", 1))
    assert world.log[3:] == ["stop c", "stop b", "stop a", "shutdown"]


@pytest.mark.parametrize(
    ("strategy", "restart", "others", "reason", "position"),
    list(itertools.product(STRATEGIES, RESTARTS, RESTARTS, REASONS, "abc")),
)
def test_who_is_restarted_and_in_which_order(
    strategy: str, restart: str, others: str, reason: str, position: str
) -> None:
    world = abc(strategy, **{**dict.fromkeys("abc", others), position: restart})
    meant = reason in ("normal", "shutdown", "shutdown: no more")
    expected: list[str] = []
    if restart == "permanent" or (restart == "transient" and not meant):
        group = {
            "one_for_one": "",
            "one_for_all": "abc",
            "rest_for_one": "abc"["abc".index(position) :],
        }
        ended = [id_ for id_ in group[strategy] if id_ != position]
        started = [
            id_ for id_ in "abc" if id_ == position or (id_ in ended and others != "temporary")
        ]
        expected = [f"stop {id_}" for id_ in reversed(ended)] + [f"start {id_}" for id_ in started]
    assert world.ended(position, reason) == expected
    forgotten = {"a", "b", "c"} - {spec.id for spec, _ in world.engine.children()}
    assert (position in forgotten) == (restart == "temporary")


@pytest.mark.parametrize("reason", REASONS)
def test_orderly_ends(reason: str) -> None:
    assert is_orderly(reason) == (reason.split(":")[0] in ("normal", "shutdown"))
    assert not is_orderly("shutdownish")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("intensity", [0, 1, 3])
def test_one_restart_more_than_the_limit_gives_up(strategy: str, intensity: int) -> None:
    world = abc(strategy, intensity)
    for _ in range(intensity):
        assert "give up" not in world.ended("b")
    log = world.ended("b")
    assert log[:-1] == ["give up", "stop c", "stop a"]
    assert log[-1].startswith("shutdown: the restart limit")
    assert "'b'" in log[-1]


def test_restarts_longer_ago_than_the_period_do_not_count() -> None:
    world = abc(intensity=1)
    for now in (0.0, 5.5, 11.0, 16.5):
        world.now = now
        assert world.ended("a") == ["start a"]
    world.now += 5
    assert "give up" in world.ended("a")


def test_an_end_without_a_fault_is_restarted_and_does_not_count() -> None:
    world = abc(intensity=0)
    for _ in range(5):
        world.do(world.engine.ended("a", "noconnection", 0, faultless=True))
    assert world.running() == ["a", "b", "c"]
    assert "give up" in world.ended("a")


def test_a_first_child_that_does_not_start_is_the_end_of_all() -> None:
    world = World(SupervisorSpec())
    world.broken = {"b"}
    world.engine = Supervision(SupervisorSpec([child("a"), child("b"), child("c")]))
    world.do(world.engine.begin(0))
    assert world.log == [
        *("start a", "start b", "give up", "stop a"),
        "shutdown: 'b' did not start: OSError: broken",
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("restart", ["permanent", "transient"])
def test_a_restart_that_fails_is_tried_again_and_counts(strategy: str, restart: str) -> None:
    world = abc(strategy, 3, b=restart)
    world.broken = {"b"}
    log = world.ended("b")
    assert log.count("start b") == 3
    assert log[-1].startswith("shutdown: the restart limit (3 in 5 s)")


def test_who_does_not_end_in_time_is_killed_once() -> None:
    spec = SupervisorSpec([child("a", shutdown=2), child("b", shutdown="kill"), child("c")])
    world = World(spec)
    world.stubborn = {"a"}
    world.now = 10
    world.do(world.engine.end("shutdown", 10))
    assert world.log[3:] == ["stop c", "kill b", "stop a"]
    assert world.engine.next_deadline() == 12
    world.do(world.engine.tick(11.9))
    assert world.log[-1] == "stop a"
    world.do(world.engine.tick(12))
    assert world.log[-2:] == ["kill a", "shutdown"]


def test_a_supervisor_below_is_given_all_the_time_it_takes() -> None:
    world = World(SupervisorSpec([child("a", type="supervisor")]))
    world.stubborn = {"a"}
    world.do(world.engine.end("shutdown", 0))
    assert world.engine.next_deadline() == math.inf


def test_a_crash_while_the_group_ends_is_part_of_that_end() -> None:
    """It neither counts nor ends anybody twice."""
    world = abc("one_for_all", 1)
    world.stubborn = {"c"}
    assert world.ended("b") == ["stop c"]
    assert world.ended("a") == []  # before it was told to end
    assert world.ended("c") == ["start a", "start b", "start c"]


def test_the_order_to_end_is_obeyed_in_the_midst_of_a_restart() -> None:
    engine = Supervision(SupervisorSpec([child("a"), child("b")], "one_for_all", 5))
    assert [type(effect) for effect in engine.begin(0)] == [Start]
    assert engine.end("told", 0) == [Stop("a", kill=False)]
    assert engine.started("a", 0) == []  # too late
    assert engine.ended("a", "shutdown", 0) == [Finish("told")]
    with pytest.raises(ConfigError, match="is ending"):
        engine.start_child(child("c"), "ticket", 0)


def test_out_of_order_nobody_waits_for_anybody() -> None:
    engine = Supervision(SupervisorSpec([child("a"), child("b")]), in_order=False)
    assert [effect.child.id for effect in engine.begin(0) if isinstance(effect, Start)] == [
        "a",
        "b",
    ]
    engine.started("b", 0)
    assert [type(effect) for effect in engine.ended("b", "killed", 0)] == [Start]
    assert [type(effect) for effect in engine.end("told", 0)] == [Stop, Stop]


def test_a_move_is_an_end_and_a_start_that_does_not_count() -> None:
    world = abc(intensity=0)
    world.log.clear()
    world.do(world.engine.move("b", 0))
    assert world.log == ["stop b", "start b"]


# -- what is asked ---------------------------------------------------------------------------


def test_terminated_stays_down_until_it_is_restarted_whatever_the_strategy_does() -> None:
    world = abc("one_for_all")
    world.do(world.engine.terminate_child("b", 1, 0))
    assert world.answers == [(1, None)]
    assert world.ended("a") == ["stop c", "start a", "start c"]
    world.do(world.engine.restart_child("b", 2, 0))
    assert world.answers[1:] == [(2, None)]
    assert world.running() == ["a", "b", "c"]


def test_terminate_is_answered_once_it_has_ended_also_when_it_was_down() -> None:
    world = abc()
    world.stubborn = {"a"}
    world.do(world.engine.terminate_child("a", 1, 0))
    world.do(world.engine.terminate_child("a", 2, 0))
    assert world.answers == []
    world.ended("a")
    world.do(world.engine.terminate_child("a", 3, 0))
    assert world.answers == [(1, None), (2, None), (3, None)]


def test_a_temporary_child_that_is_terminated_is_forgotten() -> None:
    world = abc(a="temporary")
    world.do(world.engine.terminate_child("a", 1, 0))
    with pytest.raises(ConfigError, match="no child 'a'; there are: 'b', 'c'"):
        world.engine.restart_child("a", 2, 0)


def test_start_child_adds_one_behind_the_others_and_forgets_one_that_does_not_start() -> None:
    world = abc()
    world.do(world.engine.start_child(child("d"), 1, 0))
    world.broken = {"e"}
    world.do(world.engine.start_child(child("e"), 2, 0))
    assert world.answers == [(1, None), (2, "OSError: broken")]
    assert world.running() == [*"abcd"]
    assert len(world.engine.children()) == 4
    with pytest.raises(ConfigError, match="already"):
        world.engine.start_child(child("d"), 3, 0)


def test_a_child_is_deleted_only_when_it_is_down_and_to_be() -> None:
    world = abc()
    with pytest.raises(ConfigError, match="terminate it first"):
        world.engine.delete_child("a")
    with pytest.raises(ConfigError, match="to run"):
        world.engine.restart_child("a", 1, 0)
    world.do(world.engine.terminate_child("a", 2, 0))
    world.engine.delete_child("a")
    assert world.running() == ["b", "c"]


def test_the_number_of_children_is_bounded() -> None:
    """X4: whoever may call a supervisor cannot make it grow for ever."""
    with pytest.raises(ConfigError, match="more than"):
        SupervisorSpec([child(str(n)) for n in range(MAX_CHILDREN + 1)])
    engine = Supervision(SupervisorSpec([child(str(n)) for n in range(MAX_CHILDREN)]))
    with pytest.raises(ConfigError, match="at the most"):
        engine.start_child(child("one more"), 1, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": 7},
        {"function": None},
        {"args": "abc"},
        {"restart": "always"},
        {"restart": ["permanent"]},
        {"shutdown": -1},
        {"shutdown": math.nan},
        {"shutdown": "soon"},
        {"type": "dynamic"},
        {"name": "a@b"},
    ],
    ids=str,
)
def test_a_child_that_makes_no_sense_is_a_config_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ChildSpec(**{"id": "a", "function": work, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"children": [child("a"), child("a")]},
        {"children": ["a"]},
        {"children": 5},
        {"strategy": "all_for_one"},
        {"intensity": 1.5},
        {"intensity": -1},
        {"period_s": math.nan},
        {"period_s": "5"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_supervisor_that_makes_no_sense_is_a_config_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SupervisorSpec(**wrong)


# -- the model -------------------------------------------------------------------------------


class Model(RuleBasedStateMachine):
    """Children start, end and dawdle as they like; calls come at any time.

    What is checked is said without the engine's marks: who lives, who was told to end, what each
    end asks for, and that all of it has come about once everybody has done as told.
    """

    strategy = "one_for_one"
    in_order = True

    def __init__(self) -> None:
        super().__init__()
        specs = [
            child(id_, restart)
            for id_, restart in zip("abcd", [*RESTARTS, "permanent"], strict=True)
        ]
        self.engine = Supervision(
            SupervisorSpec(specs, self.strategy, MANY),  # type: ignore[arg-type]
            in_order=self.in_order,
        )
        self.now = 0.0
        self.specs = {spec.id: spec for spec in specs}
        self.to_run = set(self.specs)
        self.proven: set[str] = set()
        self.requested: set[str] = set()  # by restart_child, which tells of a failure
        self.alive: set[str] = set()
        self.starting: set[str] = set()
        self.told: set[str] = set()
        self.asked: set[int] = set()
        self.answered: Counter[int] = Counter()
        self.finished = False
        self.ending = False
        self.do(self.engine.begin(0))

    def do(self, effects: Effects) -> None:
        for effect in effects:
            assert not self.finished
            match effect:
                case Start(spec):
                    assert spec.id not in self.alive
                    assert spec.id in self.to_run
                    assert not self.ending
                    self.alive.add(spec.id)
                    self.starting.add(spec.id)
                case Stop(id_, kill):
                    assert id_ in self.alive
                    assert kill or id_ not in self.told
                    if self.in_order and not kill:
                        # Of those to end, the last in the order of starting goes first.
                        assert not self.told
                    self.told.add(id_)
                case Answer(ticket):
                    assert isinstance(ticket, int)
                    self.answered[ticket] += 1
                case GiveUp():
                    self.ending = True
                case Finish():
                    assert not self.alive
                    self.finished = True

    def ticket(self) -> int:
        ticket = len(self.asked)
        self.asked.add(ticket)
        return ticket

    def group(self, id_: str) -> set[str]:
        order = list(self.specs)
        if self.strategy == "one_for_one":
            return set()
        return set(order) if self.strategy == "one_for_all" else set(order[order.index(id_) :])

    def end_of(self, id_: str, reason: str) -> None:
        doomed = {c.spec.id for c in self.engine._children.values() if c.doomed}
        was_starting = id_ in self.starting
        self.alive.discard(id_)
        self.starting.discard(id_)
        self.told.discard(id_)
        restart = self.specs[id_].restart
        if restart == "temporary":
            self.forget(id_)
        elif id_ not in doomed:
            if was_starting and id_ in self.requested:
                self.to_run.discard(id_)
                self.requested.discard(id_)
            elif restart == "transient" and is_orderly(reason) and not was_starting:
                self.to_run.discard(id_)
            else:
                for other in self.group(id_) & self.alive:
                    if self.specs[other].restart == "temporary":
                        self.to_run.discard(other)
        self.do(self.engine.ended(id_, reason, self.now))

    def starts_up(self, id_: str) -> None:
        self.starting.discard(id_)
        self.requested.discard(id_)
        self.proven.add(id_)
        self.do(self.engine.started(id_, self.now))

    def forget(self, id_: str) -> None:
        self.to_run.discard(id_)
        self.specs.pop(id_)

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def starts(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.starting)))
        self.starts_up(id_)

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def obeys(self, data: st.DataObject) -> None:
        self.end_of(data.draw(st.sampled_from(sorted(self.told))), "shutdown")

    @precondition(lambda self: self.alive - self.starting)
    @rule(data=st.data(), reason=st.sampled_from(REASONS))
    def ends(self, data: st.DataObject, reason: str) -> None:
        self.end_of(data.draw(st.sampled_from(sorted(self.alive - self.starting))), reason)

    @precondition(lambda self: self.starting & self.proven)
    @rule(data=st.data())
    def fails_to_start_again(self, data: st.DataObject) -> None:
        self.end_of(data.draw(st.sampled_from(sorted(self.starting & self.proven))), "OSError")

    @precondition(lambda self: not self.ending and self.specs)
    @rule(data=st.data())
    def is_terminated(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.specs)))
        self.to_run.discard(id_)
        self.requested.discard(id_)
        if self.specs[id_].restart == "temporary" and id_ not in self.alive:
            self.forget(id_)
        self.do(self.engine.terminate_child(id_, self.ticket(), self.now))

    @precondition(lambda self: not self.ending and self.specs)
    @rule(data=st.data())
    def is_restarted(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.specs)))
        if id_ in self.alive or id_ in self.to_run:
            with pytest.raises(ConfigError):
                self.engine.restart_child(id_, "never", self.now)
        elif id_ in self.proven:
            self.to_run.add(id_)
            self.requested.add(id_)
            self.do(self.engine.restart_child(id_, self.ticket(), self.now))

    @precondition(lambda self: not self.ending and self.specs)
    @rule(data=st.data())
    def is_moved(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.specs)))
        if self.specs[id_].restart != "temporary":
            self.do(self.engine.move(id_, self.now))

    @rule(seconds=st.sampled_from([1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if not self.finished:
            self.do(self.engine.tick(self.now))

    @precondition(lambda self: not self.ending)
    @rule()
    def is_told_to_end(self) -> None:
        self.ending = True
        self.do(self.engine.end("told", self.now))

    @invariant()
    def nobody_is_forgotten_or_invented(self) -> None:
        states = {spec.id: state for spec, state in self.engine.children()}
        assert {id_ for id_, state in states.items() if state != "down"} == self.alive
        if not self.ending:
            assert set(states) == set(self.specs)
        if self.in_order:
            assert Counter(states.values())["stopping"] <= 1
            assert Counter(states.values())["starting"] <= 1

    def teardown(self) -> None:
        while self.starting or self.told:
            for id_ in sorted(self.starting - self.told):
                self.starts_up(id_)
            for id_ in sorted(self.told):
                self.end_of(id_, "shutdown")
        assert self.finished == self.ending
        if not self.finished:
            assert self.alive == self.to_run
            assert self.answered == Counter(self.asked)
        assert max(self.answered.values(), default=1) == 1


def _case(strategy_: str, in_order_: bool) -> type:
    class Case(Model):
        strategy = strategy_
        in_order = in_order_

    Case.TestCase.settings = settings(max_examples=30, stateful_step_count=40)
    return Case.TestCase


TestOneForOne = _case("one_for_one", True)
TestOneForAll = _case("one_for_all", True)
TestRestForOne = _case("rest_for_one", True)
TestInNoOrder = _case("one_for_one", False)
