"""A switch, and clusters on its machines; skipped where the system forbids network namespaces."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from switched_machines import Switch, switched, why_not


@pytest.fixture
async def switch() -> AsyncIterator[Switch]:
    """A switch, with as many machines as the test connects to it."""
    if reason := why_not():
        pytest.skip(reason)
    async with switched() as here:
        yield here
