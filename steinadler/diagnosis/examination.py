"""The examination: everything is looked at side by side, within a time, and then judged in order.

    home ─── search ─┬─ knock ─┐
                     ├─ knock ─┼─ ask the members ─── cluster, nodes, names, neighbourhood
                     └─ knock ─┘
    machine
    network (multicast)

What is not through when the time is over is told as unfinished: a disk of a server that does not
answer, say.  Every wait can be cancelled; what is left behind are threads that wait for such a disk
or for the system's resolver, which nothing can end, and which end with the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trio

from steinadler.diagnosis.answers import Knocked, NodesFacts, judge_nodes
from steinadler.diagnosis.asking import ask_members
from steinadler.diagnosis.cluster import ClusterFacts, judge_cluster
from steinadler.diagnosis.credentials import Introduction, look_at_home
from steinadler.diagnosis.findings import Check, Diagnosis, Finding, Topic, warning
from steinadler.diagnosis.home import CertificateSource, HomeFacts, judge_home
from steinadler.diagnosis.knocking import knock
from steinadler.diagnosis.machine import MachineFacts, judge_machine, look_at_machine
from steinadler.diagnosis.multicast import look_at_network
from steinadler.diagnosis.names import Looked, NamesFacts, judge_names, look_at_host_name
from steinadler.diagnosis.neighbourhood import NeighbourhoodFacts, judge_neighbourhood
from steinadler.diagnosis.network import NetworkFacts, judge_network
from steinadler.diagnosis.outcomes import Outcome, Reached
from steinadler.diagnosis.search import Search
from steinadler.discovery import Source
from steinadler.errors import SteinadlerError
from steinadler.identity import Address
from steinadler.security import open_home

EXAMINATION_S = 15.0


@dataclass(frozen=True, slots=True)
class Subject:
    """What to examine: the ways to the cluster that a node here would be given.

    `home` None is this user's, `cluster` None the default one; `files` are a certificate of another
    PKI, for the home's.  `sources` are run, so that they are good for one examination.
    """

    home: Path | None = None
    cluster: str | None = None
    files: CertificateSource | None = None
    seeds: tuple[Address, ...] = ()
    sources: tuple[Source, ...] = ()
    mdns: bool = True

    @property
    def seeded(self) -> bool:
        """Whether nodes are to be found in other ways than by multicast."""
        return bool(self.seeds or self.sources)


async def examine(
    subject: Subject,
    *,
    within_s: float = EXAMINATION_S,
    clock: Callable[[], datetime] | None = None,
) -> Diagnosis:
    """Look at everything, and judge it; `within_s` seconds at most, as a rule three or four.

    What is wrong is found, not raised.  Cancellation leaves nothing behind but what the module's
    head names.  `clock` is for tests.
    """
    examination = _Examination(subject, clock or (lambda: datetime.now(UTC)))
    with trio.move_on_after(within_s):
        await examination.look()
    return examination.diagnosis(within_s)


class _Examination:
    """What has been seen so far; None is what is not through yet."""

    def __init__(self, subject: Subject, clock: Callable[[], datetime]) -> None:
        self._subject = subject
        self._clock = clock
        self._home = open_home(subject.home)
        self._introduction: Introduction | None = None
        self._outcomes: dict[Address, Outcome] = {}
        self._search: Search | None = None
        self._searched = False
        self._knocks = 0
        self._here: frozenset[str] = frozenset()
        self.machine: MachineFacts | None = None
        self.home: HomeFacts | None = None
        self.network: NetworkFacts | None = None
        self.host: tuple[str, Looked] | None = None
        self.cluster: ClusterFacts | None = None

    # -- looking ------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look at everything, side by side."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_at_machine)
            nursery.start_soon(self._look_at_network)
            nursery.start_soon(self._look_at_host_name)
            nursery.start_soon(self._look_at_nodes)

    async def _look_at_machine(self) -> None:
        look = partial(look_at_machine, self._home.path, self._clock())
        self.machine = await trio.to_thread.run_sync(look, abandon_on_cancel=True)

    async def _look_at_network(self) -> None:
        subject = self._subject
        self.network = await look_at_network(multicast=subject.mdns, seeded=subject.seeded)

    async def _look_at_host_name(self) -> None:
        self.host = await look_at_host_name()

    async def _look_at_nodes(self) -> None:
        subject = self._subject
        look = partial(look_at_home, self._home, subject.cluster, subject.files)
        self.home, introduction = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        self._introduction = introduction

        async def knock_at(address: Address, introduction: Introduction) -> None:
            self._knocks += 1
            # Each is another observer, so that none takes another's connection away.
            name = introduction.observer and f"{introduction.observer}.{self._knocks}"
            self._outcomes[address] = await knock(address, introduction.credentials, name)

        async with trio.open_nursery() as nursery:

            def told(address: Address) -> None:
                if introduction is not None:
                    nursery.start_soon(knock_at, address, introduction)

            identity = introduction.credentials.identity if introduction is not None else None
            cluster_id = identity.cluster_id if identity is not None else None
            self._search = Search(self._home.path, cluster_id, told)
            await self._search.run(subject.seeds, subject.sources, mdns=subject.mdns)
            self._searched = True
        self.cluster = await self._ask()

    async def _ask(self) -> ClusterFacts:
        introduction = self._introduction
        if introduction is None:
            return ClusterFacts(None, "there is nothing to show to them", "mend the home first")
        if not any(isinstance(each, Reached) for each in self._outcomes.values()):
            return ClusterFacts(None, "none answers", "see above")
        if introduction.observer is None:
            return ClusterFacts(
                None,
                f"{introduction.credentials.identity} is not an observer, and would join",
                "run this where there are credentials of an observer, to have their clocks and "
                "addresses compared",
            )
        assert self._search is not None
        here = {
            each.hint
            for each in self._search.found.proposals.values()
            if each.hint is not None and "runtime" in each.sources
        }
        try:
            return await ask_members(
                self._home.path,
                self._subject.cluster,
                introduction,
                self._outcomes,
                frozenset(here),
            )
        except SteinadlerError as error:
            return ClusterFacts(None, str(error), "run this command again; else see their logs")

    # -- judging ------------------------------------------------------------------------------

    def diagnosis(self, within_s: float) -> Diagnosis:
        """All checks, with what is unfinished told as that."""

        def check(name: str, question: str, findings: list[Finding] | None) -> Check:
            if findings is None:
                findings = [
                    warning(
                        Topic.UNFINISHED,
                        f"this was not through within {within_s:g} s",
                        "give more time (--timeout); if that does not help, a disk, a name server "
                        "or a node does not answer",
                    )
                ]
            return Check(name, question, tuple(findings))

        now = self._clock()
        return Diagnosis(
            (
                check(
                    "machine",
                    "Is this machine fit for a node?",
                    judge_machine(self.machine) if self.machine else None,
                ),
                check(
                    "home",
                    "Which cluster is this, and can a node prove that it belongs there?",
                    judge_home(self.home, now) if self.home else None,
                ),
                check(
                    "network",
                    "Is there a network, and does multicast work?",
                    judge_network(self.network) if self.network else None,
                ),
                check("names", "Do names stand for addresses?", self._judge_names()),
                check("nodes", "Who is found, and does everybody answer?", self._judge_nodes(now)),
                check(
                    "cluster",
                    "Do members agree, and can each be reached?",
                    judge_cluster(self.cluster) if self.cluster else None,
                ),
                check("neighbourhood", "Who else is about?", self._judge_neighbourhood()),
            )
        )

    def _judge_names(self) -> list[Finding] | None:
        if self.host is None or self._search is None or not self._searched:
            return None
        name, stands_for = self.host
        found = self._search.found
        return judge_names(NamesFacts(name, stands_for, found.seeds, found.problems))

    def _judge_nodes(self, now: datetime) -> list[Finding] | None:
        search, subject = self._search, self._subject
        if search is None or not self._searched:
            return None
        introduction = self._introduction
        looked = ["in the runtime folder"]
        looked += ["by mDNS"] if subject.mdns else []
        looked += [f"at the seed {seed}" for seed in subject.seeds]
        looked += [str(source) for source in subject.sources]
        return judge_nodes(
            NodesFacts(
                introduction.credentials.identity.cluster_id if introduction is not None else None,
                ", ".join(looked),
                tuple(
                    Knocked(
                        each.address,
                        tuple(each.sources),
                        self._outcomes[each.address],
                        each.hint,
                        each.given,
                    )
                    for each in search.found.proposals.values()
                    if each.address in self._outcomes
                ),
                len(search.found.left_out),
                len(search.found.proposals.keys() - self._outcomes.keys()),
                subject.mdns,
                subject.seeded,
            ),
            now,
        )

    def _judge_neighbourhood(self) -> list[Finding] | None:
        search = self._search
        if search is None or not self._searched:
            return None
        lives = [each.node for each in self._outcomes.values() if isinstance(each, Reached)]
        found = search.found
        return judge_neighbourhood(
            NeighbourhoodFacts(
                search.mark if self._introduction is not None else None,
                bool(lives),
                self._subject.mdns,
                tuple(found.strangers),
                tuple(node for node in lives if node is not None),
                tuple(sorted(found.other_versions)),
                tuple(sorted(found.malformed)),
            )
        )
