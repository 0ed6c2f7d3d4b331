"""DNS: nodes are found through names that somebody, or an orchestrator, keeps up to date.

Two kinds of records say where nodes are:

    A, AAAA   the addresses of one name; the port is the same everywhere, and given here
    SRV       (RFC 2782) hosts and ports of a service, as in _steinadler._tcp.example.org

A headless service of Kubernetes has both: `name.namespace.svc.cluster.local`, and for each port
that has a name, `_port._tcp.name.namespace.svc.cluster.local`.

A name is looked up when the source starts, and again when its records say that they are no longer
good (their TTL, five seconds at least), or after `poll_interval_s`, whichever comes first.  Between
that, what is known is proposed in rounds.  An answer that has no address at all changes nothing:
an empty zone, or a service without ready pods, is what one sees in the middle of an outage, just
when the nodes that are left must go on looking for each other.

Priorities of SRV records only matter beyond 64 targets, and weights not at all: they are for
clients that choose one server, and a node is to meet them all.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable

import trio

from steinadler.discovery.rounds import Rounds, jittered
from steinadler.discovery.source import Candidate, Found, Source
from steinadler.errors import ConfigError
from steinadler.identity import Address

SERVICE = "_steinadler._tcp"
# A record may say that it holds for no time at all.  Five seconds are Kubernetes' own default.
_SHORTEST_POLL_S = 5.0
_RETRY_S = 3.0


class Dns(Source):
    """Proposes the addresses that DNS has for `name`, and follows what becomes of them.

    With `port`, the name's own addresses (A and AAAA) are meant, at that port; without, `name` is
    that of a service and its SRV records say where and at which port it is; a name that does not
    begin with `_` has `_steinadler._tcp.` put before it.  A name that does not end in a dot is
    also tried with the search domains of `/etc/resolv.conf`.

    `poll_interval_s` is the longest time between two looks, `interval_s` that between two rounds
    of proposals (32 addresses at most, drawn where there are more), `timeout_s` how long one
    question may take.  All but the last vary by a quarter, drawn by `rng`, or one made here.
    `nameservers` are asked instead of the system's.

    A look that fails is one warning in the log; it is tried again every few seconds, for ever, and
    what was known is proposed on.  Raises `ConfigError` for a name, port or number of seconds that
    makes no sense, and when dnspython is missing: `pip install 'steinadler[dns]'`.
    """

    def __init__(
        self,
        name: str,
        port: int | None = None,
        *,
        nameservers: Iterable[Address] = (),
        rng: random.Random | None = None,
        poll_interval_s: float = 30.0,
        interval_s: float = 3.0,
        timeout_s: float = 5.0,
    ) -> None:
        try:
            from steinadler.discovery.dns_lookup import Lookups
        except ImportError as error:
            raise ConfigError(
                f"{error}; to find nodes by DNS it needs: pip install 'steinadler[dns]'"
            ) from error
        if not name or _is_ip(name):
            raise ConfigError(f"{name!r} is not a name that DNS could know; addresses are seeds")
        if port is not None and not 0 < port < 65536:
            raise ConfigError(f"{port} is not a port of {name}: use 1 to 65535")
        for setting, seconds in (("poll_interval_s", poll_interval_s), ("timeout_s", timeout_s)):
            if not seconds > 0:
                raise ConfigError(f"{setting} must be greater than zero, not {seconds!r}")
        if port is None and not name.startswith("_"):
            name = f"{SERVICE}.{name}"
        self._name = name
        self._port = port
        self._rng = rng or random.Random()
        self._poll_interval_s = poll_interval_s
        self._lookups = Lookups(name, nameservers, timeout_s, self._rng)
        self._rounds = Rounds(self._rng, interval_s)

    def __str__(self) -> str:
        where = self._name if self._port is None else f"{self._name}:{self._port}"
        return f"in DNS at {where}"

    async def run(
        self,
        found: Found,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled, which ends the questions under way; see `Source.run`."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            nursery.start_soon(self._rounds.run, found)

    async def _poll(self) -> None:
        while True:
            if self._port is None:
                answer = await self._lookups.service()
            else:
                answer = await self._lookups.hosts(self._port)
            self.problem = self._lookups.problem
            if answer.addresses:
                self._rounds.put([Candidate(address, "dns") for address in answer.addresses])
            good_for_s = _RETRY_S if answer.ttl_s is None else max(answer.ttl_s, _SHORTEST_POLL_S)
            await trio.sleep(jittered(min(good_for_s, self._poll_interval_s), self._rng))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
