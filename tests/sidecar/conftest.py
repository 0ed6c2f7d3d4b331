"""Sidecars for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from sidecar_pairs import Sidecars


@pytest.fixture
async def sidecars(nursery: trio.Nursery, nodes: Any) -> AsyncIterator[Sidecars]:
    """Sidecars that are closed when the test ends."""
    opened = Sidecars(nursery, nodes)
    yield opened
    opened.close_clients()
