"""The processes that every node has, by reserved name.

They are ordinary processes called in the ordinary way, so what peers may ask of a node needs no
protocol of its own: credit, size limits, errors and cancellation are those of every call.

    $echo        answers with the request
    $info        answers with facts about the node
    $names       ("whereis", name) -> ProcessId or None; ("whereis_global", name) -> the same
                 ("reserve", name, process, number, version)
                     -> None, or who has that name of the cluster
                 ("release", name, process, number) -> None: that claim came to nothing
                 ("holds", claims), each (name, number, claimed) -> which are this node's, as bools
    $statistics  ("statistics", count) -> what `Node.statistics`, `connections`,
                 `processes(count)` and `stream_statistics(count)` tell, by name of the field,
                 and the node's clock
    $spawn       ("spawn", export, args, name) -> ProcessId
                 ("run", export, args) -> what the function returns; giving up the call ends it
    $entities    entity calls of other nodes: see `steinadler.entity.service`
    $streams     opens streams for other nodes: see `steinadler.stream.service`
    $trust       whom this node trusts, and certificates from its authority: see
                 `steinadler.node.trusting`
    $relay       carries connections between others: see `steinadler.node.relaying`

Any peer's calls reach them, and each asks the guard for what it is asked: the policy's words are
about what is done, and not about these names.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import outcome
import trio

from steinadler.entity import service as entity_service
from steinadler.errors import ConfigError, NodeClosed, SteinadlerError
from steinadler.identity import Address, ProcessId, check_process_name
from steinadler.node import relaying, trusting
from steinadler.node.naming import CONTESTS_TOGETHER
from steinadler.process import Call, Process, serve_calls
from steinadler.process.exports import ProcessFunction
from steinadler.registry.messages import MAX_VERSION
from steinadler.security.policy import Action
from steinadler.stream import service as stream_service
from steinadler.transport.carrier import Via
from steinadler.wire.quotas import Quota

if TYPE_CHECKING:
    from steinadler.node.runtime import Runtime


# What one reply of $statistics holds at most of processes, and of streams: about 300 and 150 bytes
# for each.
MAX_TOLD = 1000
# How often one node is told, which takes up to some tens of milliseconds each time.
STATISTICS_AT_ONCE, STATISTICS_PER_S = 20, 5.0


def start_all(runtime: Runtime, max_processes: int) -> None:
    """Spawn every built-in process.  Of `max_processes` see `Config`."""
    spawn = runtime.spawn_builtin
    spawn(_echo, runtime, name="$echo")
    spawn(_info, runtime, name="$info")
    spawn(_names, runtime, name="$names")
    spawn(_statistics, runtime, name="$statistics")
    spawn(entity_service.serve, runtime.entities, name=entity_service.SERVICE)
    spawn(stream_service.serve, runtime.streams, name=stream_service.SERVICE)
    spawn(runtime.relaying.serve, name=relaying.SERVICE)
    spawn(runtime.trusting.serve, name=trusting.SERVICE)
    spawn(_spawner, runtime, max_processes, name="$spawn")


async def _echo(me: Process, runtime: Runtime) -> None:
    def answer(call: Call) -> None:
        runtime.guard.require(call.caller, Action.LOOK, "echo")
        call.reply(call.request)

    await serve_calls(me, answer)


async def _info(me: Process, runtime: Runtime) -> None:
    node, started = runtime.node, trio.current_time()

    def answer(call: Call) -> None:
        runtime.guard.require(call.caller, Action.LOOK, "info")
        call.reply(
            {
                "name": node.name,
                "incarnation": node.id.incarnation,
                "addresses": [str(address) for address in node.addresses],
                "labels": dict(node.labels),
                "members": [member.node.name for member in node.members()],
                "processes": node.statistics().processes,
                "exports": node.exports.names(),
                "uptime_s": round(trio.current_time() - started, 3),
                "unix_time_s": time.time(),
                "pid": os.getpid(),
                "version": version("steinadler"),
                "python": platform.python_version(),
            }
        )

    await serve_calls(me, answer)


async def _names(me: Process, runtime: Runtime) -> None:
    require = runtime.guard.require

    def answer(call: Call) -> None:
        match call.request:
            case ("whereis", str() as name):
                require(call.caller, Action.LOOK, "names")
                call.reply(runtime.find_local(name))
            case ("whereis_global", str() as name):
                require(call.caller, Action.LOOK, "names")
                call.reply(runtime.naming.find(name))
            case (
                "reserve",
                str() as name,
                ProcessId() as process,
                int() as number,
                int() as version,
            ):
                require(call.caller, Action.REGISTER, name)
                _check_claim(call, name, process, number, version)
                call.reply(runtime.naming.reserve(name, process, number, version))
            case ("release", str() as name, ProcessId() as process, int() as number):
                _check_claim(call, name, process, number)
                runtime.naming.registry.release(name, process, number)
                call.reply(None)
            case ("holds", list() as claims) if len(claims) <= CONTESTS_TOGETHER:
                call.reply([_holds(runtime, claim) for claim in claims])
            case _:
                raise ConfigError(
                    "$names understands ('whereis', name), ('whereis_global', name), ('reserve', "
                    "name, process, number, version), ('release', name, process, number) and "
                    f"('holds', {CONTESTS_TOGETHER} claims at most)"
                )

    await serve_calls(me, answer)


def _check_claim(call: Call, name: str, process: ProcessId, *numbers: int) -> None:
    """Raises `ConfigError` for a claim that no node would make: it is to be held (X4)."""
    check_process_name(name)
    if process.node != call.caller:
        raise ConfigError(f"{process} is no process of the caller's node")
    if not all(0 <= number <= MAX_VERSION for number in (process.number, *numbers)):
        raise ConfigError(f"the numbers of a claim are from 0 to {MAX_VERSION}")


def _holds(runtime: Runtime, claim: object) -> bool:
    match claim:
        case (str() as name, int() as number, int() as claimed_us):
            return runtime.naming.registry.holds(name, number, claimed_us)
        case _:
            raise ConfigError("a claim is (name, number, claimed)")


async def _statistics(me: Process, runtime: Runtime) -> None:
    node = runtime.node
    quota = Quota(STATISTICS_AT_ONCE, STATISTICS_PER_S)

    def answer(call: Call) -> None:
        runtime.guard.require(call.caller, Action.LOOK, "statistics")
        if not quota.allows(call.caller, trio.current_time()):
            raise ConfigError(
                f"$statistics answers one node {STATISTICS_PER_S:g} times a second: ask less often"
            )
        match call.request:
            case ("statistics", int() as count) if 0 <= count <= MAX_TOLD:
                call.reply(
                    {
                        "clock_s": trio.current_time(),
                        "node": _facts(node.statistics()),
                        "connections": [_facts(each) for each in node.connections()],
                        "processes": [_facts(each) for each in node.processes(count)],
                        "streams": [_facts(each) for each in node.stream_statistics(count)],
                    }
                )
            case _:
                raise ConfigError(f"$statistics understands ('statistics', 0 to {MAX_TOLD})")

    await serve_calls(me, answer)


def _facts(statistics: Any) -> dict[str, Any]:
    """Its fields in what needs no registered class, so that versions may differ."""
    facts = {field.name: getattr(statistics, field.name) for field in fields(statistics)}
    return {k: str(v) if isinstance(v, (Address, Via)) else v for k, v in facts.items()}


async def _spawner(me: Process, runtime: Runtime, max_processes: int) -> None:
    def answer(call: Call) -> None:
        name = runtime.id.name
        if runtime.closing:
            raise NodeClosed(f"{name} is closing, and starts nothing more")
        if len(runtime.processes) >= max_processes:
            raise ConfigError(f"{name} has {max_processes} processes (its max_processes)")
        _spawn(call, runtime)

    await serve_calls(me, answer)


def _spawn(call: Call, runtime: Runtime) -> None:
    match call.request:
        case ("spawn", str() as export, list() | tuple() as args, str() | None as name):
            function = _find(call, runtime, export, args)
            call.reply(runtime.node.spawn(function, *args, name=name))
        case ("run", str() as export, list() | tuple() as args):
            function = _find(call, runtime, export, args)
            process = runtime.spawn_reporting(function, tuple(args), lambda r: _report(call, r))
            call.on_abandoned(lambda: process.end("cancelled"))
        case _:
            raise ConfigError("$spawn understands ('spawn', export, args, name) and ('run', ...)")


def _find(call: Call, runtime: Runtime, name: str, args: Sequence[Any]) -> ProcessFunction:
    runtime.require_spawn(call.caller, name, args)
    return runtime.exports.require(name, runtime.id.name)


def _report(call: Call, result: outcome.Outcome[Any]) -> None:
    match result:
        case outcome.Value(value):
            try:
                call.reply(value)
            except SteinadlerError as error:  # what it returned cannot travel
                call.fail(error)
        case outcome.Error(error):
            call.fail(error)
