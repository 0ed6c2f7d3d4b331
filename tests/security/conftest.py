from __future__ import annotations

from pathlib import Path

import pytest
from clocks import Clock

from steinadler.security import Cluster, Home


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path, clock: Clock) -> Home:
    return Home(tmp_path / "home", clock=clock)


@pytest.fixture
def cluster(home: Home) -> Cluster:
    return home.default_cluster()
