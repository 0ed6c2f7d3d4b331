"""`cluster_supervisor`: the children are processes of any member, started by exported name.

    supervisor                                        the member chosen
    ----------                                        -----------------
    call $spawn: $child, with a token  -------------> a process of $child
    monitor it, remember it  <--- call: token, id ---
                             ---- answer -----------> tied to the supervisor: it monitors it
                                                      runs the exported function
    started  <--- if the function says so -----------

The call in the middle does three things.  The function does not run before it is monitored, so
how it ended is always told, however soon (D2).  A start that came too late (its node was stopped,
and went on after the supervisor had given it up and started the child elsewhere) is refused, and
nothing runs.  And it knows from its first step whose child it is: when the supervisor ends, or its
node is down as seen from there, the child exits as if it were linked to it.

A monitor and not a link, because a link works both ways: the supervisor would have to tell the
exits of its children from orders to end that come over links too, and a child that is started
over a network may exit before its supervisor has heard of it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import outcome
import trio

from steinadler.errors import (
    ConfigError,
    DeliveryError,
    MailboxFull,
    NameConflict,
    NodeClosed,
    NodeDown,
    NoSuchProcess,
    NotAuthorized,
    ProcessExited,
    RemoteError,
    SteinadlerError,
)
from steinadler.identity import NodeId, ProcessId, check_labels
from steinadler.process import DEFAULT_EXPORTS, Call, Process
from steinadler.process.process import describe
from steinadler.supervision.engine import Supervision
from steinadler.supervision.placing import moves, place
from steinadler.supervision.shell import (
    ASK_AGAIN_S,
    Shell,
    Started,
    ask_to_end,
    find,
    logger,
    waits_for_started,
)
from steinadler.supervision.specs import ChildSpec, SupervisorSpec
from steinadler.wire.signals import CLOSING, NO_CONNECTION, NO_PROCESS, SHUTDOWN

# What the process at the other end is exported as.
CHILD = "$child"


async def cluster_supervisor(
    me: Process, spec: SupervisorSpec, labels: Mapping[str, str] | None = None
) -> None:
    """As `supervisor`, with the children spread over the members that have these labels.

        node.spawn(
            steinadler.cluster_supervisor,
            steinadler.SupervisorSpec([steinadler.ChildSpec("job 1", job, (1,)), ...]),
            {"role": "worker"},
            name="jobs",
        )

    A child goes to the member that has the fewest children of this supervisor; a tie is settled
    by a hash of the names.  Its function is exported on every such member, and its arguments can
    be in messages.  While there is no such member, it waits for one.  When its node goes down or
    closes it is started elsewhere, which does not count as a restart; a temporary one is
    forgotten.  When a
    node comes (back), nothing moves but by `rebalance`.

    The strategy is one_for_one, and children start and end independently of each other, in no
    order.  Otherwise as `supervisor`, calls included.

    **There may be two of a child** for a while: the node of one may be cut off and not dead.  It
    ends when its node declares the supervisor's node down, usually within seconds of when it was
    replaced, or later if it does not let itself be cancelled.  What must not be done twice is to
    be fenced by what it is done to: let the child keep its state in an entity (E1).

    The supervisor itself is a process of one node, and its children end with it.

    Raises `ConfigError` for another strategy, a function that is not exported here, and arguments
    that are no labels.
    """
    if spec.strategy != "one_for_one":
        raise ConfigError(f"a cluster supervisor is one_for_one, and not {spec.strategy}")
    for child in spec.children:
        me.node.exports.name_of(child.function)
    check_labels(labels or {})
    shell = Shell(me, Supervision(spec, in_order=False))
    async with trio.open_nursery() as nursery:
        await shell.run(_Members(shell, nursery, dict(labels or {})))


@dataclass(frozen=True, slots=True)
class _End:
    """How a life ended that is no fault of the child's."""

    process: ProcessId
    node_lost: bool  # and it may live on there; otherwise it had ended before it ran anything


@dataclass(slots=True, eq=False)
class _Life:
    """One life of a child: from its start to the news of its end."""

    child: ChildSpec
    before: _End | None
    token: int = 0
    node: str | None = None  # where it is being started, or runs
    process: ProcessId | None = None
    unwanted: bool = False
    waiting: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def id(self) -> str:
        return self.child.id

    def was_in_vain_on(self, node: NodeId) -> bool:
        """Whether the one before ended there without having run: two in a row are a fault."""
        before = self.before
        return before is not None and not before.node_lost and before.process.node == node


class _Members:
    """`shell.Children`, over the members."""

    def __init__(self, shell: Shell, nursery: trio.Nursery, labels: Mapping[str, str]) -> None:
        self._shell = shell
        self._me = shell.me
        self._nursery = nursery
        self._labels = labels
        self._lives: dict[str, _Life] = {}
        self._by_token: dict[int, _Life] = {}
        self._by_process: dict[ProcessId, _Life] = {}
        self._ends: dict[str, _End] = {}  # by id, until the child is started again
        self._closing: set[NodeId] = set()
        self._tokens = itertools.count(1)

    # -- starting -----------------------------------------------------------------------------

    def start(self, child: ChildSpec) -> None:
        life = self._lives[child.id] = _Life(child, self._ends.pop(child.id, None))
        self._nursery.start_soon(self._start, life)

    async def _start(self, life: _Life) -> None:
        """Find it a place, and ask for it there, until somewhere it is begun or refused."""
        try:
            while life.process is None:
                await self._choose(life)
                if life.node is None:
                    self._over(life, SHUTDOWN)  # told to end before it had begun
                    return
                await self._ask(life)
        except SteinadlerError as error:
            if life.process is None:
                logger.error("%s cannot start child %r: %s", self._me, life.id, error)
                self._over(life, describe(error))

    async def _choose(self, life: _Life) -> None:
        """Set where it is to run; None when it is no longer to run at all."""
        life.node = None
        self._by_token.pop(life.token, None)  # an earlier start that may still arrive: refused
        while not life.unwanted:
            nodes = self._nodes()
            life.node = place(life.id, nodes, self._counts())
            if life.node is not None:
                return
            with trio.CancelScope() as life.waiting:
                await self._me.node.wait_for_change()

    async def _ask(self, life: _Life) -> None:
        assert life.node is not None
        child = life.child
        life.token = next(self._tokens)
        self._by_token[life.token] = life
        name = self._me.node.exports.name_of(child.function)
        arguments = (self._me.id, life.token, name, child.args)
        try:
            process = await self._me.node.spawn_on(life.node, CHILD, *arguments, name=child.name)
        except NodeDown:
            await trio.sleep(ASK_AGAIN_S)  # it may be a member for a moment longer
            return
        except (NoSuchProcess, ProcessExited):  # $spawn itself, which ends with its node
            self._closes(life.node)
            return
        except RemoteError as error:
            match error.type_name:
                case NodeClosed.__name__:
                    self._closes(life.node)
                case NameConflict.__name__ if await self._outlived(life):
                    pass
                case _:
                    raise
            return
        while life.process is None:  # it has not called yet, and may never
            try:
                self._watch(life, process)
            except MailboxFull:
                await trio.sleep(ASK_AGAIN_S)

    async def _outlived(self, life: _Life) -> bool:
        """Whether the name may have been the child's own: its former life was given up with that
        node, and lives on there.  Waits for its end; then the name is free, or another's."""
        before, life.before = life.before, None
        if before is None or not before.node_lost or before.process.node.name != life.node:
            return False
        if before.process.node not in (member.node for member in self._me.node.members()):
            return False  # and its successor knows nothing of it
        if life.unwanted:
            return True
        with trio.CancelScope() as life.waiting:
            try:
                async with self._me.node.monitor(before.process) as down:
                    end = await down.wait()
            except MailboxFull:
                life.before = before
                await trio.sleep(ASK_AGAIN_S)
            else:
                if end.reason == NO_CONNECTION and not end.ended:
                    life.before = before  # it was cut off once more
        return True

    def _watch(self, life: _Life, process: ProcessId) -> None:
        self._me.monitor(process)
        life.process = process
        self._by_process[process] = life

    def _closes(self, name: str) -> None:
        """That node takes nothing any more, and will soon be no member."""
        self._closing |= {each.node for each in self._me.node.members() if each.node.name == name}

    def _nodes(self) -> list[str]:
        self._closing &= {member.node for member in self._me.node.members()}
        members = self._me.node.members(**self._labels)
        return [member.node.name for member in members if member.node not in self._closing]

    def _counts(self) -> Counter[str]:
        return Counter(life.node for life in self._lives.values() if life.node is not None)

    # -- what the shell asks ------------------------------------------------------------------

    def stop(self, id_: str, kill: bool) -> None:
        life = self._lives.get(id_)
        if life is None:
            return  # the news of its end is on its way
        life.unwanted = True  # where it is being started, it will be refused
        life.waiting.cancel()
        if life.process is not None:
            self._nursery.start_soon(ask_to_end, self._me, life.process, kill)

    def process_of(self, id_: str) -> ProcessId | None:
        life = self._lives.get(id_)
        return life.process if life is not None else None

    def lost(self, process: ProcessId, reason: str, ended: bool) -> tuple[str, bool] | None:
        life = self._by_process.pop(process, None)
        if life is None:
            return None
        del self._by_token[life.token]
        del self._lives[life.id]
        # A child may itself end with these reasons, by a link to what was not there or is lost, and
        # that counts: it could be started again without end.
        node_lost = not ended and reason == NO_CONNECTION
        # Not there when it was to be monitored, so it ran nothing: mostly because its node closes.
        in_vain = not ended and reason == NO_PROCESS and not life.was_in_vain_on(process.node)
        if (node_lost or in_vain) and not life.unwanted and life.child.restart != "temporary":
            self._ends[life.id] = _End(process, node_lost)
        return life.id, node_lost or in_vain or reason == CLOSING

    def _over(self, life: _Life, reason: str) -> None:
        self._by_token.pop(life.token, None)
        del self._lives[life.id]
        self._shell.child_ended(life.id, reason)

    def answer(self, call: Call) -> None:
        match call.request:
            case ("$child", int() as token, ProcessId() as process, bool() as waits):
                self._begun(call, token, process, waits)
            case ("$started", int() as token):
                life = self._by_token.get(token)
                if life is not None:
                    self._shell.child_started(life.id)
                call.reply()
            case "rebalance":
                call.reply(self._rebalance())
            case _:
                raise ConfigError("a supervisor understands the calls of steinadler.supervision")

    def _begun(self, call: Call, token: int, process: ProcessId, waits: bool) -> None:
        life = self._by_token.get(token)
        if life is None or life.unwanted or life.process not in (None, process):
            raise ConfigError("this start was given up")
        if process.node != call.caller or process.node.name != life.node:
            raise ConfigError(f"{process} was not asked for")
        if life.process is None:
            self._watch(life, process)
        if not waits:
            self._shell.child_started(life.id)
        call.reply()

    def _rebalance(self) -> list[str]:
        stay = {
            child.id
            for child, state in self._shell.engine.children()
            if child.restart == "temporary" or state != "running"
        }
        where = {life.id: life.node for life in self._lives.values() if life.node is not None}
        moving = [id_ for id_ in moves(self._nodes(), where) if id_ not in stay]
        for id_ in moving:
            self._shell.carry_out(self._shell.engine.move(id_, trio.current_time()))
        return moving


@DEFAULT_EXPORTS.export_runner(CHILD, 2)
async def _child(
    me: Process, supervisor: ProcessId, token: int, function: str, args: Iterable[Any]
) -> Any:
    """A child at work: its supervisor is asked first, and followed when it ends."""
    try:
        run = find(me, function)
    except ConfigError:
        await _told(me, supervisor, ("$child", token, me.id, True))  # which hears why it ends
        raise
    me.function_name = function  # what the log calls it
    waits = waits_for_started(run)
    async with trio.open_nursery() as nursery:
        following = trio.CancelScope()
        nursery.start_soon(_follow, me, supervisor, following)
        if not await _told(me, supervisor, ("$child", token, me.id, waits)):
            nursery.cancel_scope.cancel()
            return None

        def say_so() -> None:
            nursery.start_soon(_told, me, supervisor, ("$started", token))

        keywords = {"task_status": Started(say_so)} if waits else {}
        # Captured, or the nursery would raise it as a group of one.
        result = await outcome.acapture(run, me, *args, **keywords)
        following.cancel()  # and not what is still to be said
    value: Any = result.unwrap()
    if me.closing:  # it returned because of that
        me.end(CLOSING)
        await trio.lowlevel.checkpoint()
    return value


async def _told(me: Process, supervisor: ProcessId, request: object) -> bool:
    """Whether the supervisor is there, and does not refuse."""
    try:
        await me.call(supervisor, request)
    except (DeliveryError, NotAuthorized, RemoteError):
        return False
    return True


async def _follow(me: Process, supervisor: ProcessId, scope: trio.CancelScope) -> None:
    """End with the supervisor, as a link would have it."""
    with scope:
        async with me.node.monitor(supervisor) as down:
            me.exit_signal(supervisor, (await down.wait()).reason, linked=True)
