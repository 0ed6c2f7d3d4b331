"""One order of tasks for one seed.

Trio runs whoever is ready in random order, on purpose, from a generator of its own that nothing
seeds, so virtual time alone repeats nothing.  Trio has a switch that sorts the ready tasks before
it shuffles them; with it, and the generator seeded, the order is a function of the seed.  Both
are Trio's internals, which hypothesis and pytest-trio use for the same purpose; a test of this
package fails when they change.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trio._core import _run


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Let the seed decide in which order Trio runs ready tasks, for the length of the block.

    It concerns every task of the thread's Trio run.  What was before is put back at the end.
    """
    run: Any = _run  # the switch is declared final, for others
    scheduler: random.Random = run._r
    switch, state = run._ALLOW_DETERMINISTIC_SCHEDULING, scheduler.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler.seed(seed)
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = switch
        scheduler.setstate(state)
