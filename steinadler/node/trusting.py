"""Whom to trust, at one node: what others say of it, and what follows.

    a peer connects             --> what is held here (TRUST), to it
    a peer holds something else --> what is held here, to it, when that is later
                                    "$trust" there, when it says that its own is later
    a document that is later    --> adopted, told to all that are connected, enforced, stored
    now and then                --> the home's files, one neighbour

`steinadler.security.trust` says which document is to be taken; this module carries.  What is told
is lost with its connection, as membership's gossip is; meeting and comparing find what is missing.
A document travels in the frame that announces it where it fits, so that a revocation takes one step
for each link on its way.

**Enforcing.**  Names that are barred are members no longer, and every connection is judged anew by
the certificate that it began with: one that would be refused now is closed.  Its session goes on
when its peer comes back with a certificate that is good.  So dropping an authority costs each
connection one handshake, and nobody a message (M3); leaving connections alone was refused, because
who holds a stolen key could stay for as long as it keeps quiet.

Nothing here is a privilege: what changes a cluster is signed by its authority, and can be brought
by anybody.

    $trust   "state"               -> what `_state` and `Certifying.state` tell
             "signers"             -> the names of members that certify others (`certifying`)
             "document"            -> the document, or None in version 0
             ("take", document)    -> [version, digest] of what is held then
             ("certify", request)  -> a certificate (DER) for the caller
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio
from cryptography import x509

from steinadler.errors import (
    CertificateRevoked,
    ConfigError,
    RemoteProtocolError,
    SecurityError,
    SteinadlerError,
)
from steinadler.identity import Destination, NodeId, ProcessId, ProcessName
from steinadler.node.certifying import Certifying
from steinadler.node.naming import Naming
from steinadler.node.peering import Peering
from steinadler.process import Call, Process, serve_calls
from steinadler.security.authority import Authority, fingerprint
from steinadler.security.credentials import Credentials
from steinadler.security.revocation import NOBODY
from steinadler.security.trust import MAX_DOCUMENT_BYTES, Mark, Trust, read
from steinadler.transport.link import Link
from steinadler.wire import plain
from steinadler.wire.frames import MAX_PAYLOAD_BYTES, FrameType

SERVICE = "$trust"

# How often a node looks at its home's files, and compares with a neighbour.
LOOK_INTERVAL_S = 2.0
# How long a peer may take to answer.
ASK_TIMEOUT_S = 5.0
# Peers of whom it is remembered that they said what nobody signed.
MAX_REFUSED = 1024
# How long a node that was revoked goes on, so that others hear it before they miss it; and not so
# long that it takes them for dead, who have closed their connections with it.
RESIGN_S = 1.5

logger = logging.getLogger("steinadler.security")


class Trusting:
    """The part of one node that knows whom it trusts.  Without credentials it does nothing."""

    def __init__(
        self,
        credentials: Credentials | None,
        peering: Peering,
        naming: Naming,
        call: Callable[[Destination, object], Awaitable[Any]],
        rng: random.Random,
    ) -> None:
        self._credentials = credentials
        self._peering = peering
        self._call = call
        self._rng = rng
        self._enforced: Mark = (0, b"")
        self._stored: Mark = (0, b"")
        self._authorities: tuple[x509.Certificate, ...] = ()
        self._complaint = ""
        self._wake = trio.Event()
        self._missing = NOBODY  # what was revoked and is not in the document that is held
        self._process: ProcessId | None = None  # of the service
        self._fetching: set[NodeId] = set()
        self._refused: set[str] = set()  # from whom something was not taken, by name
        self._nursery: trio.Nursery | None = None  # while it runs
        self._certifying = Certifying(credentials, peering, naming, self._ask, rng)

    # -- life ---------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up until cancelled."""
        credentials = self._credentials
        if credentials is None:
            task_status.started()
            return
        self._stored = credentials.trust.mark
        self._authorities = credentials.trust.authorities
        self._follow(credentials, None)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._certifying.run)
            task_status.started()
            try:
                while True:
                    with trio.move_on_after(LOOK_INTERVAL_S * self._rng.uniform(0.75, 1.25)):
                        await self._wake.wait()
                    self._wake = trio.Event()
                    credentials.look()
                    self._follow(credentials, None)
                    if self._process is not None:
                        self._certifying.show_whether_it_signs(credentials, self._process)
                    await self._store(credentials)
                    await self._join(credentials)
                    self._compare(credentials)
            finally:
                self._nursery = None  # which takes nothing more

    # -- what others say ----------------------------------------------------------------------

    def connected(self, link: Link) -> None:
        """Somebody connected: it is told what is held here, if that is anything."""
        if self._credentials is not None and self._credentials.trust.version:
            # The handshake may have found something new on the disk.
            self._follow(self._credentials, None)
            self._tell(link, self._credentials.trust, whole=False)

    def told(self, link: Link, data: bytes) -> None:
        """What a peer holds, or tells.  Raises `RemoteProtocolError` for anything else."""
        version, digest, *rest = plain.array(plain.loads(data), 2)
        document = rest[0] if rest else None
        if not isinstance(digest, bytes) or not isinstance(document, (bytes, type(None))):
            raise RemoteProtocolError("no mark of whom to trust")
        mark: Mark = (plain.natural(version), digest)
        credentials = self._credentials
        if credentials is None:
            return
        self._follow(credentials, None)
        held = credentials.trust
        if mark < held.mark:
            self._tell(link, held, whole=True)
        elif mark > held.mark and document is not None:
            try:
                self._take(credentials, document, link.node)
            except SecurityError as error:
                self._did_not_take(link.node, str(error))
        elif mark > held.mark and not link.to_observer:  # which could not be called
            self._fetch(credentials, link.node)

    def _tell(self, link: Link, trust: Trust, *, whole: bool) -> None:
        if link.connected:
            version, digest = trust.mark
            data = plain.dumps([version, digest, trust.document] if whole else [version, digest])
            if len(data) > MAX_PAYLOAD_BYTES:
                data = plain.dumps([version, digest])
            link.session.gossip(data, FrameType.TRUST)
            link.flush_at_once()

    def _compare(self, credentials: Credentials) -> None:
        neighbours = self._peering.neighbours()
        link = self._peering.connections.link(self._rng.choice(neighbours)) if neighbours else None
        if link is not None:
            self.connected(link)

    def _fetch(self, credentials: Credentials, node: NodeId) -> None:
        """Ask for a document that was too large to be told.  One at a time of each peer."""
        if node not in self._fetching and self._nursery is not None:
            self._fetching.add(node)
            self._nursery.start_soon(self._fetch_from, credentials, node)

    async def _fetch_from(self, credentials: Credentials, node: NodeId) -> None:
        try:
            document = await self._ask(node.name, "document")
            if isinstance(document, bytes):
                self._take(credentials, document, node)
        except (SteinadlerError, trio.TooSlowError) as error:
            self._did_not_take(node, str(error) or "no answer in time")
        finally:
            self._fetching.discard(node)

    def _take(self, credentials: Credentials, document: bytes, source: NodeId) -> None:
        """Raises `RemoteProtocolError` for what is no document, `SecurityError` as `adopt`."""
        former, later = credentials.trust, read(document)
        if credentials.adopt(later):
            self._refused.clear()
            if later.lacks(former):
                self._missing = self._missing.join(former.revoked)
            self._follow(credentials, source)

    def _did_not_take(self, node: NodeId, why: str) -> None:
        """Say so, once of each peer until something is taken: it may come with every frame."""
        if node.name not in self._refused:
            if len(self._refused) >= MAX_REFUSED:
                self._refused.clear()
            self._refused.add(node.name)
            logger.warning("did not take from %s whom to trust: %s", node, why)

    async def _join(self, credentials: Credentials) -> None:
        """Two have signed at once: whoever has the key adds what the other one revoked."""
        missing, self._missing = self._missing, NOBODY
        if not missing:
            return

        def joined(held: Trust, signers: list[Authority]) -> Trust:
            return held.successor(signers, revoked=held.revoked.join(missing))

        with suppress(SecurityError, ConfigError):  # the key is elsewhere
            made = await trio.to_thread.run_sync(credentials.change_trust, joined)
            if credentials.adopt(made):
                self._follow(credentials, None)

    # -- what follows -------------------------------------------------------------------------

    def _follow(self, credentials: Credentials, source: NodeId | None) -> None:
        """Have what is held now count, here and with others, unless it does already."""
        trust = credentials.trust
        if trust.mark == self._enforced:
            return
        self._enforced = trust.mark
        logger.info(
            "trusts version %d: %d authorities, %d names revoked",
            trust.version,
            len(trust.authorities),
            len(trust.revoked.barred),
        )
        # First of all, so that whoever is revoked hears why.
        for link in self._peering.connections.links():
            if link.node != source:
                self._tell(link, trust, whole=True)
        try:
            credentials.check_own()
        except CertificateRevoked as error:
            if self._nursery is not None:
                self._nursery.start_soon(self._resign, error)
            return
        self._peering.bar(trust.revoked.barred)
        self._peering.connections.judge_again()
        if trust.authorities != self._authorities:
            self._authorities = trust.authorities
            self._certifying.ask_at_once()
        self._wake.set()  # it is to be stored, and perhaps to be certified anew

    async def _store(self, credentials: Credentials) -> None:
        mark = credentials.trust.mark
        if mark == self._stored:
            return
        try:
            await trio.to_thread.run_sync(credentials.store_trust)
        except (SecurityError, ConfigError) as error:
            self._complain(f"whom to trust could not be stored, and is held in memory: {error}")
        else:
            self._stored = mark

    def _complain(self, what: str) -> None:
        if what != self._complaint:
            self._complaint = what
            logger.warning("%s", what)

    async def _resign(self, error: CertificateRevoked) -> None:
        self._wake.set()  # it is to be stored, for whoever starts this node again
        await trio.sleep(RESIGN_S)
        self._peering.fail(error)

    async def _ask(self, name: str, request: object) -> Any:
        """Have that member's built-in process answer; raises `trio.TooSlowError` too."""
        with trio.fail_after(ASK_TIMEOUT_S):
            return await self._call(ProcessName(SERVICE, name), request)

    # -- the built-in process -----------------------------------------------------------------

    async def serve(self, me: Process) -> None:
        """Answer calls for as long as the node lives, whatever is asked."""
        self._process = me.id
        self._wake.set()
        await serve_calls(me, lambda call: call.reply(self._answer(call)))

    def _answer(self, call: Call) -> object:
        credentials = self._credentials
        if credentials is None:
            raise ConfigError("this node's network has no certificates")
        match call.request:
            case "state":
                return self._state(credentials) | self._certifying.state(credentials)
            case "signers":
                return self._certifying.signers()
            case "document":
                return credentials.trust.document or None
            case ("take", bytes() as document) if len(document) <= MAX_DOCUMENT_BYTES:
                self._take(credentials, document, call.caller)
                return list(credentials.trust.mark)
            case ("certify", bytes() as request):
                return self._certifying.certify(credentials, call.caller, request)
            case _:
                raise ConfigError(
                    "$trust understands 'state', 'signers', 'document', ('take', document) and "
                    "('certify', request)"
                )

    def _state(self, credentials: Credentials) -> dict[str, object]:
        """What it holds, for those who rotate and revoke."""
        trust = credentials.trust
        return {
            "version": trust.version,
            "digest": trust.digest,
            "stored": self._stored == trust.mark,
            "authorities": [fingerprint(each) for each in trust.authorities],
        }
