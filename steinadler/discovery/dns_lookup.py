"""Looking names up in DNS: A and AAAA records, and SRV records (RFC 2782).

dnspython asks, through its Trio backend: it speaks to the servers of `/etc/resolv.conf`, follows
CNAMEs, goes over to TCP when an answer was cut off, tells how long an answer is good for, and
throws away what is no answer to its question.  The system's own resolver (`getaddrinfo`) knows
neither SRV nor how long, and its thread cannot be cancelled.  dnspython is imported here and
nowhere else, since it comes with an extra: `pip install 'steinadler[dns]'`.

What was answered is kept for each question.  A question that fails (no server, no answer in time,
garbage) is answered with what was said last; a server that is out of order must not make the nodes
of a cluster forget each other.

Nothing here believes DNS: whoever answers can make a node dial addresses, a bounded number of
them, where TLS then decides (S3).
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.inet
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import trio
from dns.rdatatype import RdataType
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

from steinadler.discovery.records import usable_ips
from steinadler.errors import ConfigError
from steinadler.identity import Address

log = logging.getLogger("steinadler.discovery")

# An answer of 64 KiB has up to 4,000 addresses; so many are taken, drawn.
MAX_ADDRESSES = 512
# Targets of one service whose addresses are asked for, those of the lowest priority first.
MAX_TARGETS = 64
# Questions under way at once.
_MAX_QUESTIONS = 8
_CONNECT_S = 1.0
# To read an answer takes 2 ms a KiB, in which the node does nothing else.  So the name itself may
# have as long a one as DNS knows, and each of a service's many targets what fits a few packets.
_MOST_BYTES = 65_535
_MOST_BYTES_OF_TARGET = 2_048

_Question: TypeAlias = tuple[dns.name.Name, RdataType]


@dataclass(frozen=True, slots=True)
class Found:
    """Addresses, and for how many seconds they are good; None when that is not known."""

    addresses: tuple[Address, ...] = ()
    ttl_s: float | None = None


@dataclass(slots=True)
class _Poll:
    """One look at all that a name leads to: what was asked, how long that holds, what failed."""

    asked: set[_Question] = field(default_factory=set)
    ttls: list[float] = field(default_factory=list)
    problems: set[str] = field(default_factory=set)


class Lookups:
    """Looks one name up, again and again.

    `nameservers` are asked instead of the system's, which are read anew each time, because a
    laptop changes them.  A question takes `timeout_s` at most.  `rng` draws which addresses are
    taken of an answer that has too many.

    `problem` is what was wrong with the last look; empty when nothing was.

    Raises `ConfigError` for what cannot be a name in DNS, and for name servers that are not
    given by IP address.
    """

    def __init__(
        self, name: str, nameservers: Iterable[Address], timeout_s: float, rng: random.Random
    ) -> None:
        try:
            self._name = dns.name.from_text(name, None)
        except (dns.exception.DNSException, UnicodeError) as error:
            raise ConfigError(f"{name!r} is not a name that DNS could know: {error}") from error
        self._nameservers = [
            dns.nameserver.Do53Nameserver(server.host, server.port) for server in nameservers
        ]
        for server in self._nameservers:
            if not dns.inet.is_address(server.address):
                raise ConfigError(f"{server.address!r} is not the IP address of a name server")
        self._timeout_s = timeout_s
        self._rng = rng
        self._known: dict[_Question, tuple[A | AAAA | SRV, ...]] = {}
        self.problem = ""

    async def hosts(self, port: int) -> Found:
        """The name's own addresses, at `port`.  Never raises; failures are in the log, once."""
        poll = _Poll()
        ips = await self._addresses(poll, self._name)
        return self._found(poll, [Address(ip, port) for ip in ips])

    async def service(self) -> Found:
        """Where the service of that name is, by its SRV records.  Never raises, as `hosts`."""
        poll = _Poll()
        records = [
            record
            for record in await self._ask(poll, self._name, RdataType.SRV)
            # The root as a target says that there is no such service (RFC 2782).
            if isinstance(record, SRV) and record.port and record.target != dns.name.root
        ]
        self._rng.shuffle(records)
        records.sort(key=lambda record: record.priority)
        wanted = {record.target: record for record in records[:MAX_TARGETS]}
        found: list[Address] = []
        limit = trio.CapacityLimiter(_MAX_QUESTIONS)

        async def look_up(record: SRV) -> None:
            async with limit:
                ips = await self._addresses(poll, record.target)
            found.extend(Address(ip, record.port) for ip in ips)

        async with trio.open_nursery() as nursery:
            for record in wanted.values():
                nursery.start_soon(look_up, record)
        return self._found(poll, found)

    def _found(self, poll: _Poll, addresses: list[Address]) -> Found:
        self._known = {asked: said for asked, said in self._known.items() if asked in poll.asked}
        unique = sorted(set(addresses), key=lambda address: (address.host, address.port))
        if len(unique) > MAX_ADDRESSES:
            unique = self._rng.sample(unique, MAX_ADDRESSES)
        problem = ", ".join(sorted(poll.problems)) or ("" if unique else "it has no addresses")
        if problem and problem != self.problem:
            log.warning("DNS: looking up %s: %s", self._name, problem)
        elif self.problem and not problem:
            log.info("DNS: looking up %s works again", self._name)
        self.problem = problem
        return Found(tuple(unique), min(poll.ttls, default=None))

    async def _addresses(self, poll: _Poll, name: dns.name.Name) -> tuple[str, ...]:
        said: list[A | AAAA | SRV] = []

        async def ask(kind: RdataType) -> None:
            said.extend(await self._ask(poll, name, kind))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, RdataType.A)
            nursery.start_soon(ask, RdataType.AAAA)
        texts = [record.address for record in said if isinstance(record, A | AAAA)]
        return usable_ips(texts, most=len(texts))

    async def _ask(
        self, poll: _Poll, name: dns.name.Name, kind: RdataType
    ) -> tuple[A | AAAA | SRV, ...]:
        """The records of one kind that a name has, or had when there was an answer last."""
        question = (name, kind)
        poll.asked.add(question)
        problem = None
        try:
            answer = await _resolver(self._nameservers).resolve(
                name,
                kind,
                raise_on_no_answer=False,
                lifetime=self._timeout_s,
                search=True,
                backend=_Backend(_MOST_BYTES if name == self._name else _MOST_BYTES_OF_TARGET),
            )
            self._known[question] = tuple(answer.rrset or ())
            if answer.rrset is not None:
                poll.ttls.append(float(answer.chaining_result.minimum_ttl))
        except dns.resolver.NXDOMAIN:
            self._known[question] = ()
            problem = "there is no such name"
        except dns.resolver.LifetimeTimeout:
            problem = f"no answer within {self._timeout_s:g} s"
        except dns.resolver.NoNameservers as error:
            problem = f"the name servers failed: {_reasons(error)}"
        except (dns.exception.DNSException, OSError, ValueError) as error:
            problem = str(error) or type(error).__name__
        if problem is not None:
            log.debug("DNS: %s (%s): %s", name, kind.name, problem)
            # What SRV records name is of no interest: an answer can name ever others.
            if name == self._name:
                poll.problems.add(problem)
        return self._known.get(question, ())


class _Backend:
    """dnspython's backend for Trio, with two limits that it lacks.

    An answer has `most_bytes` at most.  And when connecting is cancelled, dnspython 2.9
    leaves the socket to the garbage collector; so nothing cancels it there, and a TCP connection to
    a name server is given one second instead.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._inner: Any = dns.asyncbackend.get_backend("trio")

    def datagram_connection_required(self) -> bool:
        return False

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int,
        source: Any,
        destination: Any,
        timeout: float = _CONNECT_S,  # noqa: ASYNC109
    ) -> Any:
        with trio.CancelScope(shield=True):
            made = await self._inner.make_socket(
                af, socktype, proto, source, destination, min(timeout, _CONNECT_S)
            )
        if socktype == socket.SOCK_STREAM:
            made.recv = partial(self._receive, made.recv)
        else:
            made.recvfrom = partial(self._receive_from, made.recvfrom)
        return made

    async def _receive(self, receive: Any, size: int, seconds: float | None) -> Any:
        if size > self._most_bytes:
            raise OSError(f"an answer of {size} bytes is too long")
        return await receive(size, seconds)

    async def _receive_from(self, receive: Any, size: int, seconds: float | None) -> Any:
        # What is cut off here cannot be read, and dnspython goes on waiting for an answer.
        return await receive(min(size, self._most_bytes), seconds)

    async def sleep(self, interval: float) -> None:
        await trio.sleep(interval)


def _resolver(nameservers: list[dns.nameserver.Do53Nameserver]) -> dns.asyncresolver.Resolver:
    if not nameservers:
        return dns.asyncresolver.Resolver()
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [*nameservers]
    return resolver


def _reasons(error: dns.resolver.NoNameservers) -> str:
    """What was wrong with their answers, without what differs from time to time."""
    reasons = {
        problem if isinstance(problem, str) else type(problem).__name__
        for _, _, _, problem, _ in error.kwargs["errors"]
    }
    return ", ".join(sorted(reasons)) or "there are none"
