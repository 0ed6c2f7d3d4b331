"""The instances heard of over mDNS: whom to propose, whom to ask about, whom to forget.

zeroconf's browser thread leaves the *name* of an instance that changed in a bounded table and
rings a bell.  The Trio side then reads the instance's records from zeroconf's cache, which does
not block.  An instance that is not of this cluster is forgotten there and then.  Only one whose
records are missing is asked for over the network, in a worker thread, for half a second at
most, and less and less often while nobody answers.

Records are read anew at every repetition, never kept, so an address is proposed for as long as
its record lives (120 s after a node was killed) and no longer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, assert_never

import trio
import zeroconf
from zeroconf import DNSQuestionType, ServiceInfo, ServiceStateChange, Zeroconf

from steinadler.discovery import records
from steinadler.discovery.source import Advertisement, Candidate, Found
from steinadler.identity import Address

log = logging.getLogger("steinadler.discovery")

_LOOK_UP_MS = 500
_LOOK_UP_WORKERS = 2
_LONGEST_BACKOFF_S = 60.0
_MOST_DOUBLINGS = 10
# What a flood of invented instances can make us remember.
_MAX_INSTANCES = 1024
# News that the Trio side has not taken yet: as many as zeroconf's cache has room for records, so
# that a flood which fits there pushes out nobody's.
_MAX_CHANGED = 10_000
# Questions that wait for a worker; more are put off to a later repetition.
_MAX_QUESTIONS = 64


Overheard: TypeAlias = Callable[[records.Txt, tuple[Address, ...]], None]


@dataclass(slots=True)
class _Instance:
    """An instance heard of: how often it was asked for in vain, and when to ask again."""

    questions: int = 0
    ask_at: float = 0.0


class Instances:
    """What one run of `Mdns` has heard of.  All but `on_change` belongs to the Trio thread.

    `own_name` is the full name of the instance that this node announces; `heard_ourselves` is
    set when it comes back over the network.  `overheard` is told of whatever is announced, by
    whichever cluster, and of the addresses that are known then.
    """

    def __init__(
        self,
        zc: Zeroconf,
        *,
        cluster: str,
        own: Advertisement | None,
        own_name: str | None,
        found: Found,
        repeat_interval_s: float,
        overheard: Overheard | None = None,
    ) -> None:
        self.heard_ourselves = trio.Event()
        self._zc = zc
        self._cluster = cluster
        self._own = (own.node, own.incarnation) if own is not None else None
        self._own_name = own_name.lower() if own_name is not None else None
        self._found = found
        self._repeat_interval_s = repeat_interval_s
        self._overheard = overheard
        self._token = trio.lowlevel.current_trio_token()
        self._changed: dict[str, ServiceStateChange] = {}
        self._bell = trio.Event()
        self._instances: dict[str, _Instance] = {}
        self._ask, self._asked = trio.open_memory_channel[str](_MAX_QUESTIONS)

    def on_change(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        """Called on zeroconf's browser thread; the arguments' names are zeroconf's."""
        if name in self._changed or len(self._changed) < _MAX_CHANGED:
            self._changed[name] = state_change
        try:
            self._token.run_sync_soon(self._ring, idempotent=True)
        except trio.RunFinishedError:
            log.debug("mDNS: news of %r after the end", name)

    def _ring(self) -> None:
        self._bell.set()

    async def run(self) -> None:
        """Take in what changes as it does, and go through everything at each interval."""
        async with trio.open_nursery() as nursery:
            for _ in range(_LOOK_UP_WORKERS):
                nursery.start_soon(self._look_up)
            repeat_at = trio.current_time() + self._repeat_interval_s
            while True:
                with trio.move_on_at(repeat_at):
                    await self._bell.wait()
                self._bell = trio.Event()
                while self._changed:
                    # One at a time, since the browser thread may be adding to the table.
                    self._take_in(*self._changed.popitem())
                    await trio.lowlevel.checkpoint()
                if trio.current_time() >= repeat_at:
                    repeat_at = trio.current_time() + self._repeat_interval_s
                    for name in tuple(self._instances):
                        if name in self._instances:
                            self._consider(name)
                        await trio.lowlevel.checkpoint()

    def _take_in(self, name: str, change: ServiceStateChange) -> None:
        match change:
            case ServiceStateChange.Removed:
                self._instances.pop(name, None)
            case ServiceStateChange.Added | ServiceStateChange.Updated:
                if name.lower() == self._own_name:
                    self.heard_ourselves.set()
                elif name in self._instances or self._make_room():
                    self._instances.setdefault(name, _Instance())
                    self._consider(name)
            case _:
                assert_never(change)

    def _make_room(self) -> bool:
        """Whether one more can be remembered, if need be in place of one that says nothing.

        Without that, a flood of names would keep out the nodes that come after it.
        """
        if len(self._instances) >= _MAX_INSTANCES:
            silent = next((name for name, it in self._instances.items() if it.questions), None)
            if silent is None:
                log.debug("mDNS: %d instances heard of are all there is room for", _MAX_INSTANCES)
                return False
            del self._instances[silent]
        return True

    def _consider(self, name: str) -> None:
        """Propose the instance, or ask for what is missing, or forget it as none of ours."""
        try:
            info = ServiceInfo(records.SERVICE_TYPE, name)
        except zeroconf.Error as error:
            log.debug("mDNS: %r cannot name an instance: %s", name, error)
            del self._instances[name]
            return
        complete = info.load_from_cache(self._zc)
        # A node's TXT record is never empty, so an empty one has not been seen yet.
        txt = records.read_txt(info.text) if info.text else None
        if txt is not None and self._overheard is not None:
            self._overheard(txt, _addresses(info))
        match txt:
            case None:
                self._ask_for(name)
            case records.Announcement() if txt.cluster != self._cluster:
                del self._instances[name]
            case records.Announcement() if (txt.node, txt.incarnation) == self._own:
                del self._instances[name]
            case records.Announcement() if not complete:
                self._ask_for(name)
            case records.Announcement():
                self._propose(name, txt, info)
            case records.OtherVersion():
                log.debug("mDNS: %r speaks version %s", name, txt.version)
                del self._instances[name]
            case records.Malformed():
                log.debug("mDNS: ignored %r: %s", name, txt.reason)
                del self._instances[name]
            case _:
                assert_never(txt)

    def _propose(self, name: str, txt: records.Announcement, info: ServiceInfo) -> None:
        self._instances[name].questions = 0
        for address in _addresses(info):
            self._found(Candidate(address, "mdns", txt.node, txt.incarnation))

    def _ask_for(self, name: str) -> None:
        instance = self._instances[name]
        now = trio.current_time()
        if now < instance.ask_at:
            return
        pause_s = min(self._repeat_interval_s * 2**instance.questions, _LONGEST_BACKOFF_S)
        instance.ask_at = now + pause_s
        instance.questions = min(instance.questions + 1, _MOST_DOUBLINGS)
        try:
            self._ask.send_nowait(name)
        except trio.WouldBlock:
            log.debug("mDNS: too many questions at once; %r waits", name)

    async def _look_up(self) -> None:
        async for name in self._asked:
            if name not in self._instances:
                continue
            try:
                # Not abandoned on cancellation: its thread would outlive the node.
                info = await trio.to_thread.run_sync(
                    self._zc.get_service_info,
                    records.SERVICE_TYPE,
                    name,
                    _LOOK_UP_MS,
                    DNSQuestionType.QM,
                )
            except (zeroconf.Error, OSError) as error:
                log.debug("mDNS: looking up %r failed: %s", name, error)
                continue
            if info is not None and name in self._instances:
                self._consider(name)


def _addresses(info: ServiceInfo) -> tuple[Address, ...]:
    if not info.port:
        return ()
    return tuple(Address(ip, info.port) for ip in records.usable_ips(info.parsed_addresses()))
