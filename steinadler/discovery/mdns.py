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

Sockets are IPv4, one for each interface, loopback included: nodes on a machine without any other
interface find each other.  IPv6 addresses are announced and read, but an IPv6-only link needs
seeds: IPv6 multicast has no route on most loopback interfaces, and zeroconf reports that with a
traceback.  Interfaces are those there at the start.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Sequence

import trio
import zeroconf
from zeroconf import (
    DNSQuestionType,
    InterfaceChoice,
    IPVersion,
    ServiceBrowser,
    ServiceInfo,
    Zeroconf,
)

from steinadler.discovery import records
from steinadler.discovery.instances import Instances
from steinadler.discovery.source import Advertisement, Found, Source
from steinadler.errors import ConfigError

log = logging.getLogger("steinadler.discovery")

_ANNOUNCEMENT_GAPS_S = (0.0, 0.25, 0.5, 1.0)
# Our own announcement comes back to us through the multicast group, or there is no multicast.
_HEARD_WITHIN_S = 2.0
_OPEN_TIMEOUT_S = 3.0
# Closing says goodbye three times in 0.25 s.
_CLOSE_TIMEOUT_S = 1.0
_FALLBACK = "nodes on this machine are found through the runtime folder, others through seeds"


class Mdns(Source):
    """Announces a node on its link, and proposes the nodes of the same cluster heard there.

    With `advertisement` None it only listens, as an observer does.  `fingerprint` is the SHA-256
    of the cluster's CA certificate in hexadecimal; what is announced for another cluster or
    another protocol version, by ourselves, or not in good order, is never proposed (S3).  An
    instance that goes on being announced is proposed again every `repeat_interval_s` seconds.

    `interfaces` are IPv4 addresses of this machine to use; None is all of them, or loopback
    alone when the node listens on nothing else: other machines could not reach it.

    Raises `ConfigError` when an advertised address is not an IP address with a port, or the
    fingerprint is not one.  A machine without multicast is one warning in the log, no error.
    """

    def __init__(
        self,
        advertisement: Advertisement | None,
        fingerprint: str,
        *,
        interfaces: Sequence[str] | None = None,
        repeat_interval_s: float = 5.0,
    ) -> None:
        self._cluster = records.cluster_mark(fingerprint)
        if advertisement is not None:
            _check(advertisement, fingerprint)
        if not repeat_interval_s > 0:
            raise ConfigError(f"repeat_interval_s must be greater than zero: {repeat_interval_s!r}")
        self._advertisement = advertisement
        self._own = _service_info(advertisement) if advertisement is not None else None
        self._interfaces = list(interfaces) if interfaces is not None else None
        if interfaces is None and self._own and records.all_loopback(self._own.parsed_addresses()):
            self._interfaces = ["127.0.0.1"]
        self._repeat_interval_s = repeat_interval_s

    async def run(
        self,
        found: Found,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Announce and listen until cancelled; see `Source.run`.

        Cancellation says goodbye on the network and ends zeroconf's threads; it takes about a
        quarter of a second, and at most about a second and a half.
        """
        if self._advertisement is not None and self._own is None:
            log.warning("mDNS announces nothing: no address of this node is of use to others")
        try:
            zc = await self._open()
        except (OSError, RuntimeError, ValueError, zeroconf.Error, trio.TooSlowError) as error:
            reason = str(error) or type(error).__name__
            log.warning("mDNS does not work here (%s); %s", reason, _FALLBACK)
            task_status.started()
            return
        instances = Instances(
            zc,
            cluster=self._cluster,
            own=self._advertisement,
            own_name=self._own.name if self._own is not None else None,
            found=found,
            repeat_interval_s=self._repeat_interval_s,
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
                if self._own is not None:
                    nursery.start_soon(_announce, zc, self._own)
                    nursery.start_soon(_warn_when_unheard, instances.heard_ourselves)
                task_status.started()
        finally:
            with trio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
                await trio.to_thread.run_sync(_close, zc, browser, abandon_on_cancel=True)

    async def _open(self) -> Zeroconf:
        """Open the sockets and start zeroconf's thread, which takes some milliseconds.

        Shielded, since a constructor that nobody waits for would leave its thread behind.
        """
        given_up = threading.Event()

        def construct() -> Zeroconf:
            zc = Zeroconf(
                interfaces=self._interfaces or InterfaceChoice.All,
                ip_version=IPVersion.V4Only,
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
