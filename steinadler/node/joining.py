"""`join_cluster`: makes this user's home a part of a cluster whose key is on another machine.

Nodes that may let the joiner in are looked for where the token says, at seeds, and by mDNS when
these bring nothing at once.  All are met at the same time, but asked one after the other: two that
were asked at once would spend two uses.  An address that cannot be reached, or where nobody is let
in at this moment, is tried again until the time is over.  A node of the cluster that says no has
the last word, unless it does not know the token: tokens are kept in the home where they were made,
and another with the same key may know it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import trio

from steinadler.discovery import Mdns
from steinadler.errors import ConfigError, JoinFailed, JoinFailure, SecurityError
from steinadler.identity import Address, check_node_name, parse_address
from steinadler.security import Admission, Home, Joiner, JoinToken, cluster_fingerprint, open_home
from steinadler.security.authority import CLOCK_SKEW
from steinadler.security.credentials import utc_now
from steinadler.security.token import parse_token
from steinadler.security.token_store import Refusal
from steinadler.transport.enrolling import meet
from steinadler.transport.network import DialError
from steinadler.transport.tcp import connect

PATIENCE_S = 10.0
# The token's addresses are given so much of a start before multicast.
_HEAD_START_S = 0.5
_AGAIN_AFTER_S = 0.5
_DIAL_S = 3.0
# It may have to wait for its turn to change the file of tokens.
_ANSWER_S = 5.0
# Where these are the answer, another node may have another; the same one has not.
_FINAL_THERE = {JoinFailure.IMPOSTOR, Refusal.UNKNOWN_TOKEN.value}


@dataclass(frozen=True, slots=True)
class Joined:
    """As whom this home joined, what it calls the cluster, and which node let it in."""

    cluster: str
    cluster_id: str
    role: str
    name: str
    issuer: str


async def join_cluster(
    token: str | JoinToken,
    *,
    name: str | None = None,
    cluster: str | None = None,
    home: str | Path | None = None,
    seeds: Iterable[str | Address] = (),
    mdns: bool = True,
    patience_s: float = PATIENCE_S,
) -> Joined:
    """Join a cluster by a token that `steinadler cluster token` printed where its key is.

    `name`: as whom, when the token leaves that open.  `cluster`: what to call the cluster in
    `home`; by default as the token does.  `seeds`: addresses to ask beside those in the token.
    Afterwards `open_node(name)` opens a node of the cluster (with `cluster=` unless it is called
    "default"), and its seeds are the addresses that the token had.

    Raises `ConfigError` for what is no token, a name that it is not for, and a home that cannot
    keep what it would be given, before anything is sent; `JoinFailed` when no node lets it in
    within `patience_s` seconds; `SecurityError` when what was given cannot be written.  Cancelled,
    it may have spent a use of the token.
    """
    read = parse_token(token) if isinstance(token, str) else token
    who = name_for(read, name)
    addresses = [seed if isinstance(seed, Address) else parse_address(seed) for seed in seeds]
    opened = open_home(home)
    called = await trio.to_thread.run_sync(_prepare, opened, read, cluster)
    if utc_now() - read.expires > CLOCK_SKEW:
        raise JoinFailed(
            JoinFailure.EXPIRED,
            f"the token has expired, at {read.expires}: make a new one where the cluster's key is, "
            "with steinadler cluster token (or is this machine's clock wrong?)",
        )
    search = _Search(Joiner(read, who), [*read.addresses, *addresses], mdns)
    address, admission = await search.run(patience_s)
    known = tuple(dict.fromkeys((address, *read.addresses, *addresses)))
    kept = await trio.to_thread.run_sync(opened.keep, called, admission, known)
    return Joined(kept.name, kept.id, read.role, who, admission.issuer.name)


def name_for(token: JoinToken, name: str | None) -> str:
    """As whom a token lets in who asks for `name`; raises `ConfigError` when it does not."""
    if name is not None:
        check_node_name(name)
    if token.name is None and name is None:
        raise ConfigError("the token leaves open as whom to join: give a name, with --name NAME")
    if token.name is not None and name not in (None, token.name):
        raise ConfigError(
            f"the token is for {token.role} {token.name}, and not for {name}: join as "
            f"{token.name}, or have one made with --name {name}"
        )
    return name or token.name or ""


def _prepare(home: Home, token: JoinToken, cluster: str | None) -> str:
    """What the cluster is to be called here."""
    if cluster is None:
        here = [each.name for each in home.clusters() if each.id == token.cluster_id]
        cluster = here[0] if here else token.cluster_name
    home.check_may_join(cluster, token.cluster_id)
    return cluster


class _Search:
    """Looks for a node that lets the joiner in."""

    def __init__(self, joiner: Joiner, addresses: Iterable[Address], mdns: bool) -> None:
        self._joiner = joiner
        self._addresses = tuple(addresses)
        self._mdns = mdns
        # What became of it last, for each address.
        self._tried: dict[Address, str] = {}
        # Where somebody answered, `JoinFailed.reason`.
        self._said: dict[Address, str] = {}
        self._turn = trio.Lock()
        self._outcome: tuple[Address, Admission] | JoinFailed | None = None

    async def run(self, patience_s: float) -> tuple[Address, Admission]:
        with trio.move_on_after(patience_s):
            async with trio.open_nursery() as nursery:

                def found(address: Address) -> None:
                    if address not in self._tried:
                        self._tried[address] = "it does not answer"
                        nursery.start_soon(self._try, address, nursery.cancel_scope)

                for address in self._addresses:
                    found(address)
                if self._mdns:
                    await trio.sleep(_HEAD_START_S if self._addresses else 0)
                    mark = cluster_fingerprint(self._joiner.token.cluster_id)
                    await Mdns(None, mark).run(lambda candidate: found(candidate.address))
                await trio.sleep_forever()
        match self._outcome:
            case None:
                raise self._nobody()
            case JoinFailed() as failure:
                raise failure
            case outcome:
                return outcome

    async def _try(self, address: Address, scope: trio.CancelScope) -> None:
        while True:
            try:
                with trio.fail_after(_DIAL_S):
                    met = await meet(self._joiner, await connect(address), utc_now)
                try:
                    async with self._turn:
                        # Before anything is said: the one before may have ended the search.
                        await trio.lowlevel.checkpoint_if_cancelled()
                        with trio.fail_after(_ANSWER_S):
                            self._conclude((address, await met.ask()), scope)
                finally:
                    met.close()
            except JoinFailed as failure:
                self._tried[address], self._said[address] = str(failure), failure.reason
                if failure.reason in _FINAL_THERE:
                    return
                if failure.reason != Refusal.UNABLE.value:
                    self._conclude(failure, scope)
            except trio.TooSlowError:
                self._tried[address] = "it does not answer"
            except (SecurityError, trio.BrokenResourceError) as error:
                self._tried[address] = f"nobody is let in there now ({error})"
            except DialError as error:
                self._tried[address] = str(error).removeprefix(f"{address}: ")
            await trio.sleep(_AGAIN_AFTER_S)

    def _conclude(
        self, outcome: tuple[Address, Admission] | JoinFailed, scope: trio.CancelScope
    ) -> None:
        self._outcome = outcome
        scope.cancel()

    def _nobody(self) -> JoinFailed:
        """Why it came to nothing, in one sentence."""
        token = self._joiner.token
        told = "; ".join(f"{address}: {what}" for address, what in self._tried.items())
        if self._mdns:
            told = f"{told}; mDNS found nobody else" if told else "mDNS found nobody"
        if token.expires < utc_now():
            told += "; the token has expired, by this machine's clock"
        reason = next(iter(self._said.values())) if self._said else JoinFailure.UNREACHABLE
        return JoinFailed(
            reason,
            f"no node let this machine in: {told or 'no address is known'}; is a node with the "
            "cluster's key running, and the token still good (steinadler cluster tokens)?",
        )
