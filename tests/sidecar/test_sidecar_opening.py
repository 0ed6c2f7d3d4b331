"""A sidecar that cannot listen says so in one error, and nothing of it goes on."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from steinadler import ConfigError
from steinadler.sidecar import SidecarSettings, open_sidecar
from steinadler.testing import SimulatedCluster


async def test_a_port_in_use_is_an_error_by_itself(autojump_clock: MockClock) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, SimulatedCluster(1) as cluster:
        (alice,) = await cluster.start("alice")
        port = listener.socket.getsockname()[1]
        settings = SidecarSettings(http_host="127.0.0.1", http_port=port)
        with pytest.raises(ConfigError, match="in use"):
            async with open_sidecar(alice, settings):
                pytest.fail("it opened")
        assert await alice.call("$echo", 1) == 1
