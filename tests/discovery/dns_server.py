"""A small DNS server on loopback, over UDP and TCP, whose answers a test sets and spoils."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio

from steinadler.identity import Address

# What UDP carries without EDNS (RFC 1035 section 4.2.1).
UDP_BYTES = 512


class DnsServer:
    """Answers from `zone`; a `spoil` makes of each answer, and whether it goes over TCP,
    what is sent, None for nothing."""

    def __init__(self, udp: trio.socket.SocketType, tcp: trio.SocketListener) -> None:
        self.address = Address(*udp.getsockname())
        self.zone: dict[tuple[str, str], list[str]] = {}
        self.ttl = 300
        self.rcode = dns.rcode.NOERROR
        self.spoil: Callable[[bytes, bool], bytes | None] = lambda wire, tcp: wire
        self.asked: Counter[str] = Counter()
        self.over_tcp = 0
        self._asked = trio.Event()
        self._udp, self._tcp = udp, tcp

    def put(self, name: str, kind: str, *records: str) -> None:
        """From now on `name` has these records of this kind."""
        self.zone[name, kind] = list(records)

    async def was_asked(self, name: str, times: int = 1) -> None:
        """Wait until that name was asked for so often, from now on."""
        wanted = self.asked[name] + times
        with trio.fail_after(10):
            while self.asked[name] < wanted:
                await self._asked.wait()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_udp)
            nursery.start_soon(trio.serve_listeners, self._serve_tcp, [self._tcp])

    async def _serve_udp(self) -> None:
        while True:
            wire, sender = await self._udp.recvfrom(65535)
            answer = self._answer(wire, UDP_BYTES)
            if answer is not None:
                await self._udp.sendto(answer, sender)

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        self.over_tcp += 1
        async with stream:
            wire = await stream.receive_some(65535)
            if len(wire) <= 2:  # it changed its mind
                return
            answer = self._answer(wire[2:], 65535)
            if answer is not None:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(struct.pack("!H", len(answer)) + answer)

    def _answer(self, wire: bytes, size: int) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text(True), dns.rdatatype.to_text(question.rdtype)
        answer = dns.message.make_response(query)
        answer.set_rcode(self.rcode)
        records = self.zone.get((name, kind))
        if records:
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *records))
        elif self.rcode == dns.rcode.NOERROR and not any(name == known for known, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self.asked[name] += 1
        self._asked.set()
        self._asked = trio.Event()
        try:
            made = answer.to_wire(max_size=size)
        except dns.exception.TooBig:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
            made = answer.to_wire()
        return self.spoil(made, size > UDP_BYTES)


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    """A server for the length of the block."""
    udp, tcp = await _both_on_one_port()
    async with trio.open_nursery() as nursery:
        with udp, tcp:
            server = DnsServer(udp, trio.SocketListener(tcp))
            nursery.start_soon(server.run)
            yield server
            nursery.cancel_scope.cancel()


async def _both_on_one_port() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    while True:
        udp = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = trio.socket.socket()
        try:
            await udp.bind(("127.0.0.1", 0))
            await tcp.bind(udp.getsockname())
        except OSError:  # somebody has it for TCP
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp
