"""The sides: what each is, what it needs installed, and which workloads it cannot do, and why.

Each description names the module that is the side's program; nothing of a peer is imported here,
so the list can be shown on a machine that has none of them.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass, field

from benchmarks.workloads import Kind, Workload

_MEMORY = "not measured: the peer has no counterpart to a process at a mailbox, or to a node"
_NO_SLOW = "not measured: no receiver with a queue of its own in front of it"
_NO_ENTITIES = "not measured: the peer has no entities that a store keeps"
_ALWAYS_ANSWERED = "every request is answered: there are no one-way messages"


@dataclass(frozen=True, slots=True)
class Description:
    """A side of a comparison."""

    name: str
    title: str
    module: str
    security: str
    # Modules to import and programs to find, and how to get them.
    needs_modules: tuple[str, ...] = ()
    needs_programs: tuple[str, ...] = ()
    install: str = ""
    # Why it cannot do a workload, by the workload's name or kind.
    cannot: dict[str, str] = field(default_factory=dict)

    def why_not(self, workload: Workload) -> str | None:
        """Why this side cannot do a workload, or None when it can."""
        return self.cannot.get(workload.name) or self.cannot.get(workload.kind.value)

    def missing(self) -> str | None:
        """What is not installed, and how to install it, in one line; None when all is there."""
        absent = [name for name in self.needs_programs if shutil.which(name) is None]
        absent += [name for name in self.needs_modules if not _importable(name)]
        if not absent:
            return None
        return f"{self.title} is not installed ({', '.join(absent)} not found): {self.install}"


def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


_ENTITIES = {
    Kind.ENTITY_CALLS.value: _NO_ENTITIES,
    Kind.ENTITY_WRITES.value: _NO_ENTITIES,
    Kind.ENTITY_MEMORY.value: _NO_ENTITIES,
}


def _cannot(**more: str) -> dict[str, str]:
    reasons = {
        **_ENTITIES,
        Kind.PROCESS_MEMORY.value: _MEMORY,
        Kind.CONNECTION_MEMORY.value: _MEMORY,
        Kind.SLOW_RECEIVER.value: _NO_SLOW,
    }
    return reasons | {key.replace("_", "-"): why for key, why in more.items()}


OURS = Description(
    "steinadler", "Steinadler", "benchmarks.sides.ours", "TLS 1.3, both sides verified"
)

_BENCH_EXTRA = "pip install 'steinadler[bench]'"

PEERS: tuple[Description, ...] = (
    Description(
        "erlang",
        "Erlang/OTP",
        "benchmarks.sides.erlang",
        "TLS 1.3, both sides verified",
        needs_programs=("erl", "erlc", "epmd"),
        install="apt-get install erlang-base erlang-ssl",
        cannot={
            **_ENTITIES,
            Kind.CONNECTION_MEMORY.value: "a connection of Erlang's takes an operating-system "
            "process at each end: a difference of a hundred would measure the machine",
        },
    ),
    Description(
        "grpc",
        "grpc.aio",
        "benchmarks.sides.grpc",
        "clear text",
        needs_modules=("grpc",),
        install=_BENCH_EXTRA,
        cannot=_cannot(
            calls_1024="with 1,024 calls begun at once on one channel, grpc.aio cancels them",
        ),
    ),
    Description(
        "pyro5",
        "Pyro5",
        "benchmarks.sides.pyro5",
        "clear text",
        needs_modules=("Pyro5", "msgpack"),
        install=_BENCH_EXTRA,
        cannot=_cannot(
            calls_128="a call in flight holds a connection and a thread of the server, which has "
            "80 by default",
            calls_1024="a call in flight holds a connection and a thread of the server, which has "
            "80 by default",
        ),
    ),
    Description(
        "rpyc",
        "RPyC",
        "benchmarks.sides.rpyc",
        "clear text",
        needs_modules=("rpyc",),
        install=_BENCH_EXTRA,
        cannot=_cannot(one_way=_ALWAYS_ANSWERED),
    ),
    Description(
        "aiomas",
        "aiomas",
        "benchmarks.sides.aiomas",
        "clear text",
        needs_modules=("aiomas", "msgpack"),
        install=_BENCH_EXTRA,
        cannot=_cannot(one_way=_ALWAYS_ANSWERED),
    ),
    Description(
        "nats",
        "NATS (nats-py)",
        "benchmarks.sides.nats",
        "clear text, through nats-server",
        needs_modules=("nats",),
        needs_programs=("nats-server",),
        install=f"{_BENCH_EXTRA} and apt-get install nats-server",
        cannot=_cannot(),
    ),
    Description(
        "ray",
        "Ray",
        "benchmarks.sides.ray",
        "clear text",
        needs_modules=("ray",),
        install=_BENCH_EXTRA,
        cannot=_cannot(),
    ),
)

BY_NAME = {peer.name: peer for peer in PEERS}
