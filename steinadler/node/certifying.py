"""Certificates, at one node: who certifies whom, and for how long.

    a certificate is due (`renewing`) --> a member of the group $authority, which it finds
                                      <-- a certificate, signed by the authority's key

A node whose home does not have the authority's key asks a member that has it, which it knows by a
group: it sends a signing request, and is certified as whom its connection says that it is, or as an
observer of that name, which its token gave it too.  To ask takes a certificate that is good and not
revoked; that is all the right that it needs.  The built-in process which is asked is that of
`steinadler.node.trusting`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import trio
from cryptography.hazmat.primitives import serialization

from steinadler.errors import ConfigError, NotAuthorized, SecurityError
from steinadler.identity import OBSERVER, NodeId, ProcessId
from steinadler.node.naming import Naming
from steinadler.node.peering import Peering
from steinadler.node.renewing import Renewing
from steinadler.security.authority import fingerprint
from steinadler.security.credentials import Credentials, utc_now
from steinadler.security.from_files import FileCredentials
from steinadler.security.home_credentials import JoinedCredentials
from steinadler.security.signing_request import check_request, sign_request
from steinadler.security.trust import is_issued_by

# The group of those members' built-in processes that sign for others.
GROUP = "$authority"

logger = logging.getLogger("steinadler.security")


class Certifying:
    """The part of one node that certifies others, or has itself certified.

    `ask` has a member's built-in process answer a request; it raises `SteinadlerError` or
    `trio.TooSlowError`.
    """

    def __init__(
        self,
        credentials: Credentials | None,
        peering: Peering,
        naming: Naming,
        ask: Callable[[str, object], Awaitable[Any]],
        rng: random.Random,
    ) -> None:
        self._peering = peering
        self._naming = naming
        self._ask = ask
        self._rng = rng
        self._signs = False
        self._renewing = [
            Renewing(each, self._find_signers, self._ask_to_certify, rng)
            for each in _renewed(credentials)
        ]

    # -- being certified ----------------------------------------------------------------------

    async def run(self) -> None:
        """Renew what this home was given, in time, until cancelled."""
        async with trio.open_nursery() as nursery:
            for renewing in self._renewing:
                nursery.start_soon(renewing.run)

    def ask_at_once(self) -> None:
        """Another authority signs: whoever asked in vain may have more luck."""
        for renewing in self._renewing:
            renewing.ask_at_once()

    async def _find_signers(self) -> list[str]:
        """The members that sign, in no order; an observer, which holds no groups, asks one."""
        names = self.signers()
        neighbours = self._peering.neighbours()
        if self._peering.connections.identity.is_observer and neighbours:
            names = list(map(str, await self._ask(self._rng.choice(neighbours).name, "signers")))
        self._rng.shuffle(names)
        return names

    async def _ask_to_certify(self, name: str, request: bytes) -> Any:
        return await self._ask(name, ("certify", request))

    # -- certifying others --------------------------------------------------------------------

    def signers(self) -> list[str]:
        """The names of the members that sign, as far as this node knows."""
        found = self._naming.registry.members_of(GROUP)
        return [process.node.name for process in found]

    def show_whether_it_signs(self, credentials: Credentials, process: ProcessId) -> None:
        """Have `process` in the group while this home has the key of the authority that signs."""
        authority = credentials.authority()
        signs = authority is not None and authority.certificate == credentials.trust.signs
        if credentials.identity.is_observer or signs == self._signs:
            return
        self._signs = signs
        if not signs:
            self._naming.leave(GROUP, process)
            return
        try:
            self._naming.join(GROUP, process)
        except NotAuthorized as error:  # and the others would not believe it either
            logger.info("signs certificates for nobody: %s", error)

    def certify(self, credentials: Credentials, caller: NodeId, request: bytes) -> bytes:
        """A certificate (DER) for a node that is connected.

        Raises `ConfigError` where this home does not have the key or the caller no certificate,
        `SecurityError` for a request (DER) that asks for anything else than the caller's own.
        """
        authority = credentials.authority()
        if authority is None:
            name = self._peering.connections.identity.name
            raise ConfigError(f"{name} does not have the key of the authority")
        identity = self._peering.connections.identity_of(caller)
        if identity is None:
            raise ConfigError(f"{caller} is not connected here by a certificate")
        if identity.role != OBSERVER:
            observer = replace(identity, role=OBSERVER)
            with suppress(SecurityError):
                check_request(request, observer)
                identity = observer
        certificate = sign_request(authority, request, identity, utc_now())
        logger.info("certified %s until %s", identity, certificate.not_valid_after_utc)
        return certificate.public_bytes(serialization.Encoding.DER)

    # -- what is so ---------------------------------------------------------------------------

    def state(self, credentials: Credentials) -> dict[str, object]:
        """What it shows to peers and may do, for those who rotate."""
        certificate = credentials.certificate
        shown = [certificate]
        for renewing in self._renewing:
            with suppress(SecurityError):
                shown.append(renewing.certificate)
        # The one that signs only if it has certified all.
        by = [
            fingerprint(authority)
            for authority in reversed(credentials.trust.authorities)
            if any(is_issued_by(each, authority) for each in shown)
        ]
        return {
            "certified_by": by[0] if by else None,
            "valid_until": certificate.not_valid_after_utc,
            "kind": _kind(credentials),
            "signs": self._signs,
            "problem": next((each.problem for each in self._renewing if each.problem), ""),
        }


def _renewed(credentials: Credentials | None) -> list[JoinedCredentials]:
    """What a node has renewed: its own, and beside these those by which its home observes, as
    commands are over too soon for that."""
    if not isinstance(credentials, JoinedCredentials):
        return []
    try:
        observing = credentials.for_observing()
    except SecurityError as error:
        logger.warning("this home cannot observe: %s", error)
        observing = None
    return [credentials] if observing is None else [credentials, observing]


def _kind(credentials: Credentials) -> str:
    match credentials:
        case JoinedCredentials():
            return "joined"
        case FileCredentials():
            return "files"
        case _:
            return "issuer"
