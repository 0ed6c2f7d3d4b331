"""What several commands take, and how it is read."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from steinadler.cli.certificates import CertificateFiles, certificate_files, certificate_options
from steinadler.config import Minority
from steinadler.discovery import Dns, SeedFile, Source
from steinadler.entity.python import Entity
from steinadler.errors import ConfigError
from steinadler.identity import (
    OBSERVER,
    Address,
    check_node_name,
    check_process_name,
    check_role,
    parse_address,
)
from steinadler.process.exports import ProcessFunction
from steinadler.process.process import describe
from steinadler.security import Credentials, JoinToken, SpiffePattern, parse_token, read_policy
from steinadler.security.home import DEFAULT_CLUSTER

_Command = TypeVar("_Command", bound=Callable[..., Any])
_LOG_LEVELS = ("debug", "info", "warning", "error")


class Reader(click.ParamType):  # type: ignore[type-arg]  # it has none before click 8.5
    """A parameter type made of a function that raises `ConfigError` for what it cannot read."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # a default, or read before
        try:
            return self._read(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class Seconds(click.FloatRange):
    """A number of seconds in a range: `nan`, which no comparison keeps out, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is not a label: write KEY=VALUE, as in role=gpu")
    return key, value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{_short(text)} is not JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno} (texts are in double quotes, as in '\"hello\"')"
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number of 4301 digits
        raise ConfigError(f"{_short(text)} cannot be read as JSON: {error}") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _app(text: str) -> tuple[str, ProcessFunction | type[Entity]]:
    """Read MODULE:FUNCTION or MODULE:CLASS; return the name and what has it."""
    module_name, colon, name = text.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"{text!r} is not MODULE:FUNCTION, as in shop.carts:cart")
    function = getattr(load(module_name), name, None)
    if function is None:
        raise ConfigError(f"the module {module_name!r} has nothing called {name!r}")
    if isinstance(function, type) and issubclass(function, Entity):
        return name, function
    if not inspect.iscoroutinefunction(function) or not inspect.signature(function).parameters:
        raise ConfigError(
            f"{text} cannot run as a process: it must be an 'async def' whose first parameter "
            "is the Process it runs as, or an entity class"
        )
    return check_process_name(name), function


def load(module: str) -> Any:
    """Import a module, from the current folder too; raise `ConfigError` when that fails."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except Exception as error:  # its own code runs, and may raise anything
        raise ConfigError(f"the module {module!r} cannot be imported: {describe(error)}") from error


def _member_role(text: str) -> str:
    if check_role(text) == OBSERVER:
        raise ConfigError(
            f"{OBSERVER!r} is no member: `members`, `call` and the like are run by observers"
        )
    return text


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise ConfigError(f"{text!r} is no time: write 90s, 10m, 12h or 7d")
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    return timedelta(**{units[match[2]]: int(match[1])})


def _token(text: str) -> JoinToken:
    # For whom the arguments of a process are too public.
    return parse_token(sys.stdin.readline() if text == "-" else text)


def _seed_dns(text: str) -> Source:
    if ":" not in text:
        return Dns(text)
    address = parse_address(text)
    return Dns(address.host, address.port)


NODE_NAME = Reader("name", check_node_name)
ADDRESS = Reader("host:port", parse_address)
SEED_DNS = Reader("name[:port]", _seed_dns)
SEED_SRV = Reader("name", Dns)
SEED_FILE = Reader("path", SeedFile)
ROLE = Reader("role", _member_role)
POLICY = Reader("path", read_policy)
SPIFFE = Reader("pattern", SpiffePattern)
DURATION = Reader("time", _duration)
TOKEN = Reader("token", _token)
LABEL = Reader("key=value", _label)
JSON = Reader("json", _json)
APP = Reader("module:function", _app)
MODULE = Reader("module", load)


@dataclass(frozen=True, slots=True)
class Where:
    """Which cluster to go to, and how to find it."""

    cluster: str | None
    seeds: tuple[Address, ...]
    sources: tuple[Source, ...]
    mdns: bool
    files: CertificateFiles | None = None

    @property
    def cluster_name(self) -> str:
        """Of which cluster, for people."""
        return str(self.files) if self.files is not None else self.cluster or DEFAULT_CLUSTER

    async def credentials(self) -> Credentials | None:
        """Those that were given, read now; None for the home's."""
        return None if self.files is None else await trio.to_thread.run_sync(self.files.read)

    @property
    def told(self) -> bool:
        """Whether somebody said where nodes are, and they may be expected to be met soon."""
        return bool(self.seeds or self.sources)

    def __str__(self) -> str:
        """Where was looked, for people."""
        places = ["in the runtime folder"]
        if self.mdns:
            places.append("by mDNS")
        if self.seeds:
            places.append(f"at the seeds {', '.join(map(str, self.seeds))}")
        places.extend(map(str, self.sources))
        if len(places) == 1:
            return places[0]
        return f"{', '.join(places[:-1])} and {places[-1]}"


def joining(command: Callable[..., None], *, log_level: str = "warning") -> Callable[..., None]:
    """The options of every command that joins a cluster; it gets them as `where`."""

    @wraps(command)
    def with_where(
        *args: Any,
        cluster: str | None,
        mdns: bool,
        seeds: tuple[Address, ...],
        names: tuple[Source, ...],
        services: tuple[Source, ...],
        files: tuple[Source, ...],
        cert: Path | None,
        key: Path | None,
        ca: Path | None,
        pattern: SpiffePattern | None,
        **others: Any,
    ) -> None:
        sources = (*names, *services, *files)
        certificate = certificate_files(cert, key, ca, pattern)
        if cluster is not None and certificate is not None:
            raise click.UsageError("--cluster is one of the home, and --cert says which it is")
        command(*args, where=Where(cluster, seeds, sources, mdns, certificate), **others)

    joined: Callable[..., None] = with_where
    for option in (
        click.option(
            "--log-level",
            type=click.Choice(_LOG_LEVELS),
            default=log_level,
            show_default=True,
            callback=lambda _ctx, _param, level: set_up_logging(level),
            expose_value=False,
            help="What to tell on stderr.",
        ),
        *certificate_options(SPIFFE),
        click.option("--cluster", metavar="NAME", help="Which cluster.  [default: default]"),
        click.option(
            "--no-mdns",
            "mdns",
            is_flag=True,
            flag_value=False,
            default=True,
            help="Use no multicast: only the runtime folder of this machine, and seeds.",
        ),
        click.option(
            "--seed-file",
            "files",
            type=SEED_FILE,
            multiple=True,
            metavar="PATH",
            help="A file of such addresses, one a line, read again when it changes.  Repeatable.",
        ),
        click.option(
            "--seed-srv",
            "services",
            type=SEED_SRV,
            multiple=True,
            metavar="NAME",
            help="A service in DNS: its SRV records say where nodes are.  Repeatable.",
        ),
        click.option(
            "--seed-dns",
            "names",
            type=SEED_DNS,
            multiple=True,
            metavar="NAME[:PORT]",
            help="All addresses that DNS has for NAME, asked again and again; without PORT, the "
            "service _steinadler._tcp.NAME.  Repeatable.",
        ),
        click.option(
            "--seed",
            "seeds",
            type=ADDRESS,
            multiple=True,
            metavar="HOST:PORT",
            help="A node to join through.  Repeatable.",
        ),
    ):
        joined = option(joined)
    return joined


@dataclass(frozen=True, slots=True)
class At:
    """Where a node listens for others, if it does."""

    host: str | None
    port: int
    listen: bool


def listening_at(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that runs a member; it gets them as `at`."""

    @wraps(command)
    def with_at(*args: Any, host: str | None, port: int, listen: bool, **others: Any) -> None:
        if not listen and (host is not None or port):
            raise click.UsageError("--no-listen and --host or --port contradict each other")
        command(*args, at=At(host, port, listen), **others)

    member: Callable[..., None] = with_at
    for option in (
        click.option(
            "--no-listen",
            "listen",
            is_flag=True,
            flag_value=False,
            default=True,
            help="Only dial: for a node behind NAT or a firewall.  It needs a seed or mDNS.",
        ),
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=0,
            help="For other nodes; 0, the default, is any that is free.",
        ),
        click.option("--host", help="The interface for other nodes.  [default: all]"),
    ):
        member = option(member)
    return member


def in_minority(command: _Command) -> _Command:
    """`--in-minority`, of the commands whose node may hold names: a `Minority`."""
    return click.option(
        "--in-minority",
        type=click.Choice([choice.value for choice in Minority]),
        default=Minority.CARRY_ON.value,
        show_default=True,
        callback=lambda _ctx, _param, value: Minority(value),
        help="What to do on the smaller side of a partition.",
    )(command)


def authorizing(command: _Command) -> _Command:
    """`--role` and `--policy`, of the commands whose node is a member."""
    for option in (
        click.option(
            "--policy",
            type=POLICY,
            metavar="FILE",
            help="What other nodes may do here, by their roles.  [default: docs/security.md]",
        ),
        click.option(
            "--role",
            type=ROLE,
            metavar="ROLE",
            help="As which its certificate names this node.  [default: node, or what it says]",
        ),
    ):
        command = option(command)
    return command


def as_json(command: _Command) -> _Command:
    """`--json`, of every command that has something to tell."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        command
    )


def set_up_logging(level: str) -> None:
    """Log to stderr, one line for each event; tracebacks only with a process's own crash."""
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")
    # It reports an interface without a route as a warning with a traceback.
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
