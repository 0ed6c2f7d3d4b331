"""The real network: TCP, and nothing on it that is not TLS.

One port serves everything.  Before any other code sees a connection it waits for its turn, which
addresses get one after the other (`handshake_gate`), and must within `handshake_timeout_s` have
finished a TLS handshake that shows a certificate of this cluster.  Whoever fails is a line in the
log (`welcoming`), and nothing else; so port scanners, browsers, stalled clients, nodes of another
cluster, and floods of all of them cost a bounded amount of memory and time (promises X2, X4).

Dialling a member by a name tries the name's addresses as RFC 8305 says (`trio.open_tcp_stream`),
so one dead address family does not eat the caller's time.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

import ifaddr
import trio

from steinadler.config import DialSettings, WireSettings
from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import Address
from steinadler.security.credentials import Credentials
from steinadler.transport.carrier import Carrier, SocketCarrier, Via, address_of
from steinadler.transport.enrolling import Reception
from steinadler.transport.handshake_gate import HandshakeGate
from steinadler.transport.network import DialError, Network, SecureStream
from steinadler.transport.tls import AnotherProtocol, TlsStream, explain, handshake
from steinadler.transport.welcoming import Welcome

_BACKLOG = 1024
_REFUSED = {errno.ECONNREFUSED, errno.ECONNRESET}
# This machine cannot even try: no evidence either way when another address was refused.
_UNTRIED = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENETUNREACH}
# Documentation addresses (RFC 5737, RFC 3849): routed like any other, and nobody's.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}

_log = logging.getLogger("steinadler.transport")


class TcpNetwork(Network):
    """A `Network` on this machine's sockets.

    Where the credentials say that the cluster's key is at hand, joiners are let in
    (`steinadler.transport.enrolling`); `living` returns the names of members then.
    """

    def __init__(
        self,
        credentials: Credentials,
        settings: DialSettings,
        wire: WireSettings,
        *,
        living: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.identity = credentials.identity
        registrar = credentials.registrar
        self._reception = None if registrar is None else Reception(registrar, living)
        self.credentials: Credentials = credentials
        self._door = Welcome(
            HandshakeGate(settings.max_handshakes, settings.handshakes_per_s),
            wire.handshake_timeout_s,
            self._receive,
        )
        self._idle_poll_s = wire.idle_poll_s

    async def serve(
        self,
        host: str | None,
        port: int,
        handler: Callable[[SecureStream], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        listeners = await _listen(host, port)
        try:
            task_status.started(_reachable_at(host, listeners))
            await self._door.serve(listeners, handler)
        finally:
            for listener in listeners:
                listener.close()

    async def welcome(
        self, carrier: Carrier, handler: Callable[[SecureStream], Awaitable[None]]
    ) -> None:
        await self._door.welcome(carrier, handler)

    async def _receive(self, carrier: Carrier, remote: Address | Via) -> TlsStream | None:
        """Authenticate a peer; or serve a joiner to its end, and return None."""
        if (
            self._reception is not None
            and isinstance(carrier, SocketCarrier)  # not through a member
            and isinstance(remote, Address)
            and await self._reception.is_joiner(carrier, remote)
        ):
            joined = await self._reception.serve(carrier, remote)
            _log.info("%s, from %s", joined, remote)
            return None
        return await self._secure(carrier, server_side=True)

    async def _secure(self, carrier: Carrier, *, server_side: bool) -> TlsStream:
        credentials = self.credentials
        context = credentials.server_context() if server_side else credentials.client_context()
        stream = await handshake(carrier, context, server_side=server_side, judge=credentials.judge)
        if isinstance(carrier, SocketCarrier):
            carrier.poll_when_idle(self._idle_poll_s)
        return stream

    async def look_up(self, address: Address) -> tuple[Address, ...]:
        return await look_up(address)

    async def dial(self, address: Address) -> SecureStream:
        return await self._dial_over(await connect(address), address)

    async def dial_over(self, carrier: Carrier) -> SecureStream:
        return await self._dial_over(carrier, carrier.remote)

    async def _dial_over(self, carrier: Carrier, remote: Address | Via) -> SecureStream:
        try:
            return await self._secure(carrier, server_side=False)
        except SecurityError as error:
            somebody_else = isinstance(error, AnotherProtocol)
            raise DialError(f"{remote}: {error}", refused=somebody_else) from error
        except trio.BrokenResourceError as error:
            # Something accepted it.  A reset here is the end of a connection like any other: the
            # path's doing, or a kernel's that cleans up after a process, and then the next dial
            # is refused.
            raise DialError(f"{remote}: {error}", refused=False) from error


async def look_up(address: Address) -> tuple[Address, ...]:
    """What an address stands for: see `Network.look_up`."""
    with suppress(ValueError):
        ipaddress.ip_address(address.host)
        return (address,)
    with _connecting(address):
        found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    # A dict, because a name may be listed twice for one address.
    return tuple(dict.fromkeys(address_of(sockaddr) for *_, sockaddr in found))


async def connect(address: Address) -> SocketCarrier:
    """A TCP connection; raises `DialError`.  Waits without limit: the caller bounds it."""
    with _connecting(address):
        connected = await trio.open_tcp_stream(address.host, address.port)
    return SocketCarrier(socket.socket(fileno=connected.socket.detach()))


@contextmanager
def _connecting(address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unconnected(address, error) from error
    except (ValueError, OverflowError) as error:
        # An address told by a peer may be nonsense: no host name, no port.
        raise DialError(f"{address} is not an address: {error}", refused=False) from error


def _unconnected(address: Address, error: OSError) -> DialError:
    attempts: Iterable[BaseException] = (
        error.__cause__.exceptions if isinstance(error.__cause__, BaseExceptionGroup) else (error,)
    )
    errors = [attempt for attempt in attempts if isinstance(attempt, OSError)]
    numbers = {attempt.errno for attempt in errors}
    # Trio puts the address into each text; the bare words say it once.
    words = {
        os.strerror(attempt.errno)
        if attempt.errno is not None and not isinstance(attempt, socket.gaierror)
        else explain(attempt)
        for attempt in errors
    }
    refused = bool(numbers & _REFUSED) and numbers <= _REFUSED | _UNTRIED
    return DialError(f"{address}: {', '.join(sorted(words))}", refused=refused)


async def _listen(host: str | None, port: int) -> list[socket.socket]:
    """Bind every address that `host` stands for, to one port."""
    if not 0 <= port < 65536:
        raise ConfigError(f"{port} is not a port: use 1 to 65535, or 0 for any that is free")
    listeners: list[socket.socket] = []
    skipped: OSError | None = None
    try:
        for family, bindable in await _bindable(host, port):
            try:
                listener = socket.create_server(
                    (bindable, listeners[0].getsockname()[1] if listeners else port),
                    family=family,
                    backlog=_BACKLOG,
                    dualstack_ipv6=host is None and family == socket.AF_INET6,
                )
            except OSError as error:
                # A name may stand for an address family that this machine does not have.
                if error.errno not in _UNTRIED:
                    raise
                skipped = error
                continue
            listener.setblocking(False)
            listeners.append(listener)
        if skipped is not None and not listeners:
            raise skipped
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise _cannot_listen(host, port, error) from error
    return listeners


async def _bindable(host: str | None, port: int) -> list[tuple[socket.AddressFamily, str]]:
    if host is None:
        # One socket for both versions, where the system can: two could not share a free port.
        dual = socket.has_dualstack_ipv6()
        return [(socket.AF_INET6, "::") if dual else (socket.AF_INET, "0.0.0.0")]
    try:
        found = await trio.socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, ValueError) as error:
        raise ConfigError(f"{host!r} is not the name or address of a host: {error}") from error
    # A dict, because a name may be listed twice for one address.
    return list(dict.fromkeys((family, str(sockaddr[0])) for family, _, _, _, sockaddr in found))


def _cannot_listen(host: str | None, port: int, error: OSError) -> ConfigError:
    where = "" if host is None else f" of {host}"
    match error.errno:
        case errno.EADDRINUSE:
            return ConfigError(
                f"port {port}{where} is in use; "
                "stop what uses it, or choose another (0 takes any that is free)"
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return ConfigError(f"{host!r} is not an address of this machine")
        case errno.EACCES | errno.EPERM:
            return ConfigError(f"this user may not listen on port {port}{where}")
        case _:
            return ConfigError(f"cannot listen on port {port}{where}: {explain(error)}")


def _reachable_at(host: str | None, listeners: list[socket.socket]) -> tuple[Address, ...]:
    """Where peers may reach the listeners, the likeliest first."""
    bound = [listener.getsockname() for listener in listeners]
    port: int = bound[0][1]
    addresses = [ipaddress.ip_address(sockaddr[0]) for sockaddr in bound]
    versions = {address.version for address in addresses if address.is_unspecified}
    if host is not None and not versions:
        return (Address(host, port),)
    if host is None:
        versions.add(4)
    hosts = [str(address) for address in interface_addresses() if address.version in versions]
    return tuple(Address(each, port) for each in hosts or ["127.0.0.1" if 4 in versions else "::1"])


def reachable_at(port: int) -> tuple[Address, ...]:
    """Where others may reach what listens on every interface of this machine, as
    `interface_addresses`."""
    return tuple(Address(str(address), port) for address in interface_addresses())


def interface_addresses() -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """This machine's addresses that others may reach, the likeliest first."""
    sources = {_source_of_default_route(family) for family in _ELSEWHERE}
    found = {
        ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    }
    usable = [
        address
        for address in found
        # An IPv6 link-local address means nothing without the name of the reader's own interface.
        if not address.is_loopback and not (address.version == 6 and address.is_link_local)
    ]
    return sorted(
        usable,
        key=lambda a: (str(a) not in sources, a.is_link_local, a.version, int(a)),
    )


def _source_of_default_route(family: socket.AddressFamily) -> str | None:
    # Connecting a datagram socket only asks the routing table; nothing is sent.  The interface
    # it names is the one that others use, and not, say, a bridge of virtual machines.
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None
