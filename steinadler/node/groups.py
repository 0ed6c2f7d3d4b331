"""`Group`: the processes of the cluster that joined under one name (OTP's `pg`)."""

from __future__ import annotations

import random
from typing import Any

import trio

from steinadler.errors import (
    DeliveryError,
    MailboxFull,
    NodeClosed,
    NodeDown,
    NoSuchProcess,
    NotEncodable,
    SteinadlerError,
)
from steinadler.identity import ProcessId
from steinadler.node.naming import Naming
from steinadler.node.router import Router


class Group:
    """A handle on a group; made by `Node.group`, and of any number.

    A group is there as long as it has members; a process that ends has left.  What other nodes'
    processes do arrives a moment later, and after a partition once both sides have met (N3).
    """

    def __init__(self, name: str, naming: Naming, router: Router, rng: random.Random) -> None:
        self.name = name
        self._naming = naming
        self._router = router
        self._rng = rng

    def __repr__(self) -> str:
        return f"<Group {self.name!r} of {len(self.members())}>"

    def join(self, process: ProcessId) -> None:
        """Put a process of this node in.  Once is enough: doing it again changes nothing.

        Raises `NoSuchProcess` when it is not alive here, `ConfigError` when the group's name is
        none, `NotAuthorized` when this node may not join it, by its role.
        """
        self._naming.join(self.name, process)

    def leave(self, process: ProcessId) -> None:
        """Take a process of this node out; nothing happens when it is not in."""
        self._naming.leave(self.name, process)

    def members(self) -> list[ProcessId]:
        """The processes that are in it, by node and number."""
        return self._naming.registry.members_of(self.name)

    def local_members(self) -> list[ProcessId]:
        """Those of this node."""
        me = self._naming.me
        return [process for process in self.members() if process.node == me]

    async def send(self, message: object, *, local: bool = False) -> int:
        """Send a message to each member, or to those of this node; return how many there were.

        Waits for the credit of all of them at the same time, so that a slow one delays no other.
        One whose node goes down meanwhile is passed over.  Where a member's node does not take
        the message, because it is over that node's `max_message_bytes`, or because it has
        unconsumed messages for as many destinations as it allows (`max_channels`), all others get
        it first; then the error of the first such member is raised (`MessageTooLarge`, or a plain
        `DeliveryError`), with a note of how many did not get it.

        Raises `NotEncodable` before anybody gets anything, and `NodeClosed`.  Cancelled, some may
        have got it.
        """
        members = self.local_members() if local else self.members()
        waiting: list[ProcessId] = []
        failures: list[SteinadlerError] = []
        for process in members:
            try:
                self._router.send_nowait(process, message)
            except MailboxFull:
                waiting.append(process)
            except NotEncodable:
                raise
            except NodeDown:
                pass  # and its members are none in a moment
            except DeliveryError as error:
                failures.append(error)
        if waiting:
            async with trio.open_nursery() as nursery:
                for process in waiting:
                    nursery.start_soon(self._send, process, message, failures)
        else:
            await trio.lowlevel.checkpoint()
        if failures:
            failures[0].add_note(f"{len(failures)} of {len(members)} members did not get it")
            raise failures[0]
        return len(members)

    async def _send(
        self, process: ProcessId, message: object, failures: list[SteinadlerError]
    ) -> None:
        try:
            await self._router.send(process, message)
        except NodeDown:
            pass
        except (DeliveryError, NodeClosed) as error:  # one of them, and no group of them, is raised
            failures.append(error)

    def pick(self) -> ProcessId:
        """One member: of this node if there is one, else any; at random.

        Raises `NoSuchProcess` when it has none.
        """
        members = self.local_members() or self.members()
        if not members:
            raise NoSuchProcess(f"group {self.name!r}")
        return self._rng.choice(members)

    async def send_one(self, message: object) -> ProcessId:
        """Send a message to one member (`pick`), and return which."""
        process = self.pick()
        await self._router.send(process, message)
        return process

    async def call_one(self, request: object) -> Any:
        """Call one member (`pick`).  Raises what `Node.call` raises; never tried at another."""
        return await self._router.call(self.pick(), request)
