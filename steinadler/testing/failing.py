"""How a test makes the simulated network fail: what `SimulatedCluster` does without its nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import trio

from steinadler.errors import ConfigError
from steinadler.testing import faults
from steinadler.testing.fabric import Fabric
from steinadler.testing.faults import Fault, Hold, Refuse, Rule


class NetworkFaults:
    """What can befall the packets and connections between the hosts of `fabric`."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    @contextmanager
    def rule(self, rule: Rule) -> Iterator[None]:
        """Ask `rule` about every packet for the length of the block: see `Rule`."""
        self._record("fault", "")
        with self.fabric.rule(rule, trio.current_time):
            yield
        self._record("healed", "")

    @contextmanager
    def partition(
        self, one: Collection[str], other: Collection[str], *, one_way: bool = False
    ) -> Iterator[None]:
        """Let nothing through between two sets of hosts; or, `one_way`, from `one` to `other`.

        Nobody is told: bytes stall, and dials time out.  Afterwards TCP sends again what was
        held, sooner or later: see `steinadler.testing.fabric`.
        """
        with self._between(one, other, Hold(), one_way=one_way):
            yield

    @contextmanager
    def refusing(
        self, one: Collection[str], other: Collection[str], *, one_way: bool = False
    ) -> Iterator[None]:
        """Refuse new connections between two sets of hosts; those that stand go on."""
        with self._between(one, other, Refuse(), one_way=one_way):
            yield

    @contextmanager
    def _between(
        self, one: Collection[str], other: Collection[str], fault: Fault, *, one_way: bool
    ) -> Iterator[None]:
        for name in (*one, *other):
            self._check_host(name)  # a misspelt host would be a fault that never happens
        rule = faults.between(one, other, fault)
        if not one_way:
            rule = faults.both_ways(rule, faults.between(other, one, fault))
        with self.rule(rule):
            yield

    @contextmanager
    def lossy(self, probability: float) -> Iterator[None]:
        """Lose each packet with that probability; TCP sends it again after 0.2 s and more."""
        with self.rule(faults.lossy(probability, self.fabric.draws)):
            yield

    @contextmanager
    def resetting(self, probability: float) -> Iterator[None]:
        """Let each packet break its connection with that probability."""
        with self.rule(faults.resetting(probability, self.fabric.draws)):
            yield

    @contextmanager
    def slow(self, low_s: float, high_s: float) -> Iterator[None]:
        """Let each packet take so much longer."""
        with self.rule(faults.slow(low_s, high_s, self.fabric.draws)):
            yield

    def cut(self, one: str, other: str) -> int:
        """Reset the connections that stand between two hosts, and lose what is in flight there.

        New ones can be made at once.  Returns how many there were.
        """
        self._check_host(one)
        self._check_host(other)
        self._record("cut", one, other)
        return self.fabric.cut(one, other)

    def _check_host(self, name: str) -> None:
        if name not in self.fabric.hosts:
            known = ", ".join(self.fabric.hosts) or "none"
            raise ConfigError(f"no host is called {name!r}; there are: {known}")

    def _record(self, event: str, source: str, target: str = "") -> None:
        self.fabric.trace.record(trio.current_time(), event, source, target)
