"""What a node asks of the others for the sake of entities, of their process `$entities`.

    ask            run this work, or say who else might
    make_way       let go of an entity that the store says you have
    until_heard    have you heard what I last said of myself?

**What is tried again and what is not (E3).**  An answer that says that nothing ran (`MOVED`) may
be followed by another attempt; everything else is the caller's to decide.  When the owner's node
goes down after the call was sent, the turn may have run, and the caller is told so with
`EntityHostFailed`.  A queue of calls kept at the caller's node for such cases was refused: it would
have to run a turn again to be of use.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import trio

from steinadler.config import EntitySettings
from steinadler.entity import answers
from steinadler.entity.answers import Answer
from steinadler.entity.service import SERVICE
from steinadler.entity.store import Held
from steinadler.errors import (
    DeliveryError,
    EntityHostFailed,
    NodeDown,
    NoSuchProcess,
    NotAuthorized,
    ProcessExited,
    RemoteError,
    SteinadlerError,
)
from steinadler.identity import Destination, EntityKey, NodeId, ProcessName
from steinadler.membership import Member
from steinadler.security.policy import Gate

logger = logging.getLogger("steinadler.entity")

# How long a node that stops hosting waits for the others to have heard of it.
HEARD_PATIENCE_S = 1.0


class Cluster(Protocol):
    """What entities ask of their node."""

    @property
    def id(self) -> NodeId: ...
    @property
    def guard(self) -> Gate: ...
    def members(self) -> tuple[Member, ...]: ...
    def record(self, name: str) -> Member | None: ...
    def set_own_label(self, name: str, value: str | None) -> None: ...
    async def wait_for_change(self) -> None: ...
    async def call(self, destination: Destination, request: object) -> Any: ...


class Peers:
    """The other members, as one node's entities deal with them."""

    def __init__(self, cluster: Cluster, settings: EntitySettings) -> None:
        self._cluster = cluster
        self._name = cluster.id.name
        self._settings = settings
        self._opened_at = 0.0

    def opened(self) -> None:
        """The node is open from now on: see `EntitySettings.settle_s`."""
        self._opened_at = trio.current_time()

    def is_member(self, name: str) -> bool:
        """Whether a node of that name is in the cluster now, suspected or not."""
        record = self._cluster.record(name)
        return record is not None and record.state.is_member

    async def ask(self, owner: str, request: tuple[Any, ...]) -> Answer:
        """Have another node do something for an entity.  What is certain not to have run there is
        answered as `MOVED`; raises `EntityHostFailed` when it may have."""
        if not self.is_member(owner):
            await trio.lowlevel.checkpoint()
            return answers.moved(None)
        try:
            reply = await self._cluster.call(ProcessName(SERVICE, owner), request)
        except NoSuchProcess:
            return answers.moved(None)  # it is closing, and all its entities are gone
        except (NodeDown, ProcessExited, RemoteError) as error:
            raise EntityHostFailed(f"{error}; the turn may have run") from error
        if (answer := answers.from_peer(reply)) is None:
            text = f"{owner} answered with what is no answer; the turn may have run"
            raise EntityHostFailed(text)
        return answer

    async def make_way(self, key: EntityKey, held: Held) -> None:
        """Have the node that holds an entity let go of it.

        Returns when it has, when its life is over, or when it does not answer within `drain_s` and
        a second: the next epoch shuts it out then.
        """
        assert held.owner is not None
        holder = NodeId(*held.owner)
        if holder.name == self._name:
            return
        settled_at = self._opened_at + self._settings.settle_s
        with trio.move_on_at(settled_at):
            while (record := self._cluster.record(holder.name)) is None or record.node < holder:
                await self._cluster.wait_for_change()
        record = self._cluster.record(holder.name)
        if record is None or record.node != holder or not record.state.is_member:
            return
        with trio.move_on_after(self._settings.drain_s + 1):
            try:
                request = ("release", key.type, key.id, held.epoch)
                await self._cluster.call(ProcessName(SERVICE, holder.name), request)
            except (DeliveryError, NotAuthorized, RemoteError) as error:
                logger.info("%s does not let go of %s: %s", holder, key, error)

    async def until_heard(self) -> None:
        """Wait until the members know what this node last said of itself, a second at most."""
        with trio.move_on_after(HEARD_PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for member in self._cluster.members():
                    if member.node.name != self._name:
                        nursery.start_soon(self._ask_if_heard, member.node.name)

    async def _ask_if_heard(self, name: str) -> None:
        try:
            await self._cluster.call(ProcessName(SERVICE, name), ("here",))
        except SteinadlerError as error:
            logger.debug("%s may not have heard: %s", name, error)
