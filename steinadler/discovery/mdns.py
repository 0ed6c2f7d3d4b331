"""mDNS: nodes on one link announce themselves and hear each other (RFC 6762, RFC 6763).

`records.py` says what is announced; this module carries it, over the zeroconf package, which
keeps an event loop in a thread of its own.  Between the two threads:

- Towards Trio, `instances.py` takes over what zeroconf's browser hears.
- Towards zeroconf, the announcement is queued with `Zeroconf.send`, which does not block.
  `Zeroconf.register_service` is not used: it blocks until its last announcement, and a
  cancellation in the middle of it would leave its thread waiting for over ten seconds.

Announcements go out at 0, 0.25, 0.75 and 1.75 s.  Two nodes that start within a second find each
other by these, without waiting for a query to be answered, which RFC 6762 section 6 delays when
the answer was multicast within the last second.  Queries ask for multicast answers: nodes on one
machine share port 5353, so a unicast answer may reach the wrong one (RFC 6762 section 15.1).

Sockets are those of `interfaces.py`, IPv4 and IPv6.  When they change, all is closed and opened
anew on those that there are then, which takes a quarter of a second and says goodbye: zeroconf's
own way to change its interfaces is younger than the oldest version that we work with.  Link-local
IPv6 addresses are neither announced nor dialled: they mean nothing without the name of the
reader's own interface, which no address of a node carries.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

import trio
import zeroconf
from zeroconf import DNSQuestionType, IPVersion, ServiceBrowser, ServiceInfo, Zeroconf

from steinadler.discovery import records
from steinadler.discovery.instances import Instances, Overheard
from steinadler.discovery.interfaces import Interfaces, interfaces_here
from steinadler.discovery.source import Advertisement, Found, Source
from steinadler.errors import ConfigError
from steinadler.identity import Address

log = logging.getLogger("steinadler.discovery")

_ANNOUNCEMENT_GAPS_S = (0.0, 0.25, 0.5, 1.0)
# Our own announcement comes back to us through the multicast group, or there is no multicast.
_HEARD_WITHIN_S = 2.0
_OPEN_TIMEOUT_S = 3.0
# How often the machine's interfaces are looked at.
_LOOK_S = 5.0
# Closing says goodbye three times in 0.25 s.
_CLOSE_TIMEOUT_S = 1.0
_FALLBACK = "nodes on this machine are found through the runtime folder, others through seeds"


class Mdns(Source):
    """Announces a node on its link, and proposes the nodes of the same cluster heard there.

    With `advertisement` None it only listens, as an observer does.  `fingerprint` is the SHA-256
    of the cluster's id in hexadecimal (`security.cluster_fingerprint`), and so stays the same when
    the authority is replaced.  What is announced for another cluster or another protocol version,
    by ourselves, or not in good order, is never proposed (S3).  An instance that goes on being
    announced is proposed again every `repeat_interval_s` seconds.

    `interfaces` are addresses of this machine to use; None is all interfaces, also those that come
    later, or loopback alone when the node listens on nothing else: other machines could not reach
    it.  With `listening_on_all`, the machine's addresses at the node's port are announced, as they
    come and go, instead of those advertised.

    `overheard` is called, on the Trio thread, for every announcement that is heard, whatever it is
    of, with the addresses that are known then; as often as it changes or is looked at again.

    Raises `ConfigError` when an advertised address is not an IP address with a port, or the
    fingerprint is not one.  A machine without multicast is one warning in the log, no error.
    """

    def __init__(
        self,
        advertisement: Advertisement | None,
        fingerprint: str,
        *,
        interfaces: Sequence[str] | None = None,
        listening_on_all: bool = False,
        repeat_interval_s: float = 5.0,
        overheard: Overheard | None = None,
    ) -> None:
        self._cluster = records.cluster_mark(fingerprint)
        if advertisement is not None:
            _check(advertisement, fingerprint)
        if not repeat_interval_s > 0:
            raise ConfigError(f"repeat_interval_s must be greater than zero: {repeat_interval_s!r}")
        self._advertisement = advertisement
        self._listening_on_all = listening_on_all
        self._fixed: Interfaces | None = None
        own = _service_info(advertisement) if advertisement is not None else None
        if interfaces is not None:
            self._fixed = Interfaces(tuple(interfaces), ())
        elif not listening_on_all and own and records.all_loopback(own.parsed_addresses()):
            self._fixed = Interfaces(("127.0.0.1",), ())
        self._repeat_interval_s = repeat_interval_s
        self._overheard = overheard

    async def run(
        self,
        found: Found,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Announce and listen until cancelled; see `Source.run`.

        Where that does not work, it is tried again when the interfaces change.  Cancellation says
        goodbye on the network and ends zeroconf's threads; it takes about a quarter of a second,
        and at most about a second and a half.
        """
        warned: str | None = None
        while True:
            here = self._interfaces()
            try:
                zc = await self._open(here)
            except (OSError, RuntimeError, ValueError, zeroconf.Error, trio.TooSlowError) as error:
                reason = str(error) or type(error).__name__
                if reason != warned:
                    log.warning("mDNS does not work here (%s); %s", reason, _FALLBACK)
                warned = reason
                task_status.started()
                await self._other_interfaces_than(here)
            else:
                await self._take_part(zc, here, found, task_status)
                log.info("mDNS: the interfaces have changed")
                warned = None
            task_status = trio.TASK_STATUS_IGNORED

    async def _take_part(
        self, zc: Zeroconf, here: Interfaces, found: Found, task_status: trio.TaskStatus[None]
    ) -> None:
        """Announce and listen on the interfaces of now, until there are others; then close."""
        own = self._announced(here)
        if self._advertisement is not None and own is None:
            log.warning("mDNS announces nothing: no address of this node is of use to others")
        instances = Instances(
            zc,
            cluster=self._cluster,
            own=self._advertisement,
            own_name=own.name if own is not None else None,
            found=found,
            repeat_interval_s=self._repeat_interval_s,
            overheard=self._overheard,
        )
        browser: ServiceBrowser | None = None
        try:
            browser = ServiceBrowser(
                zc,
                records.SERVICE_TYPE,
                handlers=[instances.on_change],
                question_type=DNSQuestionType.QM,
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(instances.run)
                if own is not None:
                    nursery.start_soon(_announce, zc, own)
                    nursery.start_soon(_warn_when_unheard, instances.heard_ourselves)
                task_status.started()
                await self._other_interfaces_than(here)
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
                await trio.to_thread.run_sync(_close, zc, browser, abandon_on_cancel=True)

    def _interfaces(self) -> Interfaces:
        if self._fixed is not None:
            return self._fixed
        try:
            return interfaces_here()
        except OSError as error:
            log.debug("mDNS: the interfaces cannot be told: %s", error)
            return Interfaces((), ())

    async def _other_interfaces_than(self, here: Interfaces) -> None:
        while True:
            await trio.sleep(_LOOK_S)
            if self._interfaces() != here:
                return

    def _announced(self, here: Interfaces) -> ServiceInfo | None:
        own = self._advertisement
        if own is not None and self._listening_on_all and own.addresses:
            port = own.addresses[0].port
            own = replace(own, addresses=tuple(Address(ip, port) for ip in here.ips))
        return _service_info(own) if own is not None else None

    async def _open(self, here: Interfaces) -> Zeroconf:
        """Open the sockets and start zeroconf's thread, which takes some milliseconds.

        Shielded, since a constructor that nobody waits for would leave its thread behind.
        """
        if not here.sockets:
            raise RuntimeError("no interface has an address")
        given_up = threading.Event()
        with_v6 = any(":" in ip for ip in here.sockets)

        def construct() -> Zeroconf:
            zc = Zeroconf(
                interfaces=list(here.sockets),
                ip_version=IPVersion.All if with_v6 else IPVersion.V4Only,
                use_asyncio=False,
            )
            if given_up.is_set():
                zc.close()
            return zc

        with trio.move_on_after(_OPEN_TIMEOUT_S, shield=True):
            return await trio.to_thread.run_sync(construct, abandon_on_cancel=True)
        given_up.set()
        raise trio.TooSlowError(f"opening the sockets took more than {_OPEN_TIMEOUT_S:g} s")


async def _announce(zc: Zeroconf, own: ServiceInfo) -> None:
    """Answer queries from now on, and say unasked that we are here (RFC 6762 section 8.3)."""
    assert zc.loop is not None
    zc.loop.call_soon_threadsafe(zc.registry.async_add, own)
    for gap_s in _ANNOUNCEMENT_GAPS_S:
        await trio.sleep(gap_s)
        zc.send(zc.generate_service_broadcast(own, None))


async def _warn_when_unheard(heard_ourselves: trio.Event) -> None:
    """Sending into a network without multicast fails silently; not hearing oneself does not."""
    with trio.move_on_after(_HEARD_WITHIN_S):
        await heard_ourselves.wait()
        return
    log.warning(
        "mDNS does not seem to work here (our own announcement did not come back within %g s); %s",
        _HEARD_WITHIN_S,
        _FALLBACK,
    )


def _close(zc: Zeroconf, browser: ServiceBrowser | None) -> None:
    try:
        if browser is not None:
            browser.cancel()
        zc.close()
    except (zeroconf.Error, OSError, RuntimeError, TimeoutError) as error:
        log.debug("mDNS: closing failed: %r", error)


def _check(advertisement: Advertisement, fingerprint: str) -> None:
    if advertisement.fingerprint.lower() != fingerprint.lower():
        raise ConfigError("the advertisement is for another cluster than the one to listen for")
    for address in advertisement.addresses:
        try:
            ipaddress.ip_address(address.host)
        except ValueError:
            raise ConfigError(
                f"{address} cannot be announced over mDNS: {address.host!r} is not an IP address"
            ) from None
        if not 0 < address.port < 65536:
            raise ConfigError(f"{address} cannot be announced: it has no port")


def _service_info(advertisement: Advertisement) -> ServiceInfo | None:
    """Our records, or None when no address is of use to others.

    An instance has one port (its SRV record): addresses with another than the first are left out.
    """
    usable = records.usable_ips(address.host for address in advertisement.addresses)
    if not usable:
        return None
    port = next(a.port for a in advertisement.addresses if records.usable_ips([a.host]))
    ips = records.usable_ips(a.host for a in advertisement.addresses if a.port == port)
    label = records.instance_label(advertisement)
    return ServiceInfo(
        records.SERVICE_TYPE,
        f"{label}.{records.SERVICE_TYPE}",
        port=port,
        properties=records.txt_properties(advertisement),
        server=f"{label}.local.",
        parsed_addresses=list(ips),
    )
