"""Networks, made as a user's home makes them."""

from __future__ import annotations

import socket
from pathlib import Path

from steinadler.config import DialSettings, WireSettings
from steinadler.identity import NODE
from steinadler.security import Credentials, Home
from steinadler.transport.tcp import TcpNetwork


def connected_sockets() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new TCP connection on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


class Machine:
    """A user's home, and networks made from it."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path)

    def credentials(self, name: str, cluster: str = "default") -> Credentials:
        known = [each.name for each in self.home.clusters()]
        made = self.home.cluster(cluster) if cluster in known else self.home.create_cluster(cluster)
        return self.home.credentials(made, NODE, name)

    def network(
        self,
        name: str,
        cluster: str = "default",
        *,
        max_handshakes: int = 64,
        handshakes_per_s: float = 50.0,
        handshake_timeout_s: float = 5.0,
    ) -> TcpNetwork:
        return TcpNetwork(
            self.credentials(name, cluster),
            DialSettings(max_handshakes=max_handshakes, handshakes_per_s=handshakes_per_s),
            WireSettings(handshake_timeout_s=handshake_timeout_s),
        )
