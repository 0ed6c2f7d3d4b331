"""Finding whoever is about, as a node would: the runtime folder, mDNS, seeds, other sources.

Every address is told as soon as it is proposed, once, so that knocking need not wait until the
looking is over.  What a node passes over is kept here: announcements of other clusters, entries of
other clusters in the home, names that stand for nothing, and what sources say of themselves.

mDNS is listened to for `LISTEN_S`: a question goes out when that begins, and again a second later.
A source of another kind has as long to name its first addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from steinadler.diagnosis.answers import SEED
from steinadler.diagnosis.names import Looked, look_up_name
from steinadler.diagnosis.neighbourhood import Stranger
from steinadler.discovery import Candidate, Mdns, RuntimeEntry, RuntimeFolder, Source
from steinadler.discovery.records import CLUSTER_HEX, Announcement, Malformed, OtherVersion, Txt
from steinadler.identity import Address
from steinadler.security.peer import cluster_fingerprint

LISTEN_S = 3.0
# How long after its first address a source is listened to for more.
_SETTLE_S = 0.2
MAX_ADDRESSES = 64
_MAX_OVERHEARD = 1024


@dataclass(slots=True)
class Proposal:
    """An address, and who proposed it."""

    address: Address
    sources: list[str] = field(default_factory=list)
    hint: str | None = None
    given: str = ""


@dataclass(slots=True)
class Sightings:
    """All that the search has come across so far."""

    proposals: dict[Address, Proposal] = field(default_factory=dict)
    # Beyond `MAX_ADDRESSES`.
    left_out: set[Address] = field(default_factory=set)
    strangers: dict[Stranger, None] = field(default_factory=dict)
    other_versions: set[str] = field(default_factory=set)
    malformed: set[str] = field(default_factory=set)
    seeds: dict[str, Looked] = field(default_factory=dict)  # those that are names
    problems: dict[str, str] = field(default_factory=dict)


class Search:
    """One look around for a cluster; with `cluster_id` None for nobody in particular.

    `told` is called with each address, the first `MAX_ADDRESSES` of them.
    """

    def __init__(self, home: Path, cluster_id: str | None, told: Callable[[Address], None]) -> None:
        self.found = Sightings()
        self._home = home
        self._cluster_id = cluster_id
        # A mark that no cluster has, for the lack of one.
        fingerprint = cluster_fingerprint(cluster_id) if cluster_id is not None else "0" * 64
        self._fingerprint = fingerprint
        self.mark = fingerprint[:CLUSTER_HEX]
        self._told = told

    async def run(self, seeds: Iterable[Address], sources: Iterable[Source], *, mdns: bool) -> None:
        """Look everywhere at once; returns within `LISTEN_S`, and the second that mDNS may take
        to close."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_runtime_folders)
            for seed in seeds:
                nursery.start_soon(self._look_up, seed, SEED)
            for source in sources:
                nursery.start_soon(self._ask, source, nursery)
            if mdns:
                nursery.start_soon(self._listen)

    def _propose(
        self, address: Address, source: str, hint: str | None = None, given: str = ""
    ) -> None:
        known = self.found.proposals.get(address)
        if known is None:
            if len(self.found.proposals) >= MAX_ADDRESSES:
                self.found.left_out.add(address)
                return
            known = self.found.proposals[address] = Proposal(address)
            self._told(address)
        if source not in known.sources:
            known.sources.append(source)
        known.hint = known.hint or hint
        known.given = known.given or given

    async def _look_up(self, address: Address, source: str) -> None:
        behind = await look_up_name(address)
        if isinstance(behind, str):
            self.found.seeds[str(address)] = behind
            return
        given = str(address) if behind != (address,) else ""
        if given:
            self.found.seeds[given] = behind
        for each in behind:
            self._propose(each, source, given=given)

    async def _ask(self, source: Source, nursery: trio.Nursery) -> None:
        first = trio.Event()
        named: set[Address] = set()

        def found(candidate: Candidate) -> None:
            first.set()
            if candidate.address in named:
                return
            if len(named) >= MAX_ADDRESSES:  # whoever wrote them must not matter
                self.found.left_out.add(candidate.address)
                return
            named.add(candidate.address)
            nursery.start_soon(self._look_up, candidate.address, candidate.source)

        with trio.move_on_after(LISTEN_S):
            async with trio.open_nursery() as running:
                running.start_soon(source.run, found)
                await first.wait()
                await trio.sleep(_SETTLE_S)
                running.cancel_scope.cancel()
        problem = source.problem or ("" if first.is_set() else "it named no address")
        if problem:
            self.found.problems[str(source)] = problem

    async def _listen(self) -> None:
        def found(candidate: Candidate) -> None:
            self._propose(candidate.address, candidate.source, candidate.name)

        with trio.move_on_after(LISTEN_S):
            await Mdns(None, self._fingerprint, overheard=self._overhear).run(found)

    def _overhear(self, txt: Txt, addresses: tuple[Address, ...]) -> None:
        if len(self.found.strangers) >= _MAX_OVERHEARD:
            return
        match txt:
            case Announcement() if txt.cluster != self.mark:
                where = str(addresses[0]) if addresses else "at no address"
                self.found.strangers[Stranger(txt.cluster, txt.node, where)] = None
            case OtherVersion(version) if len(self.found.other_versions) < _MAX_OVERHEARD:
                self.found.other_versions.add(version)
            case Malformed(reason) if len(self.found.malformed) < _MAX_OVERHEARD:
                self.found.malformed.add(reason)
            case _:
                pass

    async def _read_runtime_folders(self) -> None:
        read = await trio.to_thread.run_sync(_read_all, self._home / "run", abandon_on_cancel=True)
        for cluster_id, folder in read.items():
            for entry in folder:
                for address in entry.addresses:
                    if cluster_id == self._cluster_id:
                        self._propose(address, "runtime", entry.name)
                    else:
                        mark = cluster_fingerprint(cluster_id)[:CLUSTER_HEX]
                        stranger = Stranger(mark, entry.name, str(address), here=True)
                        self.found.strangers[stranger] = None


def _read_all(run: Path) -> dict[str, tuple[RuntimeEntry, ...]]:
    """The nodes of this user on this machine, by the id of their cluster."""
    try:
        folders = [each for each in run.iterdir() if each.is_dir()]
    except OSError:
        return {}
    return {
        each.name: RuntimeFolder(each, fingerprint=cluster_fingerprint(each.name)).read()
        for each in folders
    }
