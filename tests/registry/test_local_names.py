"""Names: one living process each, freed with it (promise N1)."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from steinadler.errors import ConfigError, NameConflict
from steinadler.registry import LocalNames

NAMES = st.sampled_from(["a", "b", "c", "d"])
NUMBERS = st.integers(1, 4)


def test_a_name_belongs_to_one_process_n1() -> None:
    names = LocalNames()
    names.register("counter", 1)
    with pytest.raises(NameConflict, match=r"'counter' belongs to process #1"):
        names.register("counter", 2)
    assert names.find("counter") == 1


def test_registering_twice_for_the_same_process_is_fine() -> None:
    names = LocalNames()
    names.register("counter", 1)
    names.register("counter", 1)
    assert names.unregister("counter") == 1
    assert names.find("counter") is None
    names.process_ended(1)  # nothing of the second registration is left to free


@pytest.mark.parametrize("bad", ["", "a@b", "a\n", "x" * 256, "é" * 128, "\ud800"])
def test_what_cannot_be_a_name_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError):
        LocalNames().register(bad, 1)


def test_names_of_the_runtime_are_neither_given_nor_taken() -> None:
    names = LocalNames()
    names.register("$echo", 1, by_runtime=True)
    with pytest.raises(ConfigError, match="belong to the runtime"):
        names.register("$mine", 2)
    with pytest.raises(ConfigError, match="belong to the runtime"):
        names.unregister("$echo")
    assert names.find("$echo") == 1


class NamesModel(RuleBasedStateMachine):
    """Against a plain list of (name, number)."""

    def __init__(self) -> None:
        super().__init__()
        self.names = LocalNames()
        self.model: list[tuple[str, int]] = []

    def holder(self, name: str) -> int | None:
        return next((number for n, number in self.model if n == name), None)

    @rule(name=NAMES, number=NUMBERS)
    def register(self, name: str, number: int) -> None:
        holder = self.holder(name)
        if holder not in (None, number):
            with pytest.raises(NameConflict):
                self.names.register(name, number)
            return
        self.names.register(name, number)
        if holder is None:
            self.model.append((name, number))

    @rule(name=NAMES)
    def unregister(self, name: str) -> None:
        holder = self.holder(name)
        assert self.names.unregister(name) == holder
        self.model = [entry for entry in self.model if entry[0] != name]

    @rule(number=NUMBERS)
    def process_ended(self, number: int) -> None:
        self.names.process_ended(number)
        self.model = [entry for entry in self.model if entry[1] != number]

    @invariant()
    def each_name_is_its_holders(self) -> None:
        for name in ("a", "b", "c", "d"):
            assert self.names.find(name) == self.holder(name)


TestNamesModel = NamesModel.TestCase
