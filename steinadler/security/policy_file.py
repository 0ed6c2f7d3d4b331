"""A policy as a file: TOML, one table for each role.

    [roles.sidecar]
    look = ["*"]
    host = ["Cart", "Order"]
    call_entity = ["*"]

    [roles.observer.nodes."backup-*"] # further, for those of that role and such a name
    call = ["archive"]

What is not understood is refused, and never passed over: a misspelt word in a list of permissions
would otherwise be found out by whoever was to be let in, or worse, kept out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from steinadler.errors import ConfigError
from steinadler.identity import check_role
from steinadler.security.policy import ANY_ROLE, Grants, Policy

_ACTIONS = tuple(item.name for item in fields(Grants))
# Of a file that somebody gave by mistake not all needs to be read.
_MAX_BYTES = 1 << 20


def read_policy(path: Path | str) -> Policy:
    """The policy in a file.  Blocks.

    Raises `ConfigError`, which names the file and the line or the key, for a file that cannot be
    read or is no policy.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the policy {path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} is no policy: it has more than {_MAX_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} is no policy: line {line} is not UTF-8") from None
    return parse_policy(text, str(path))


def parse_policy(text: str, where: str = "the policy") -> Policy:
    """The policy that a text is; `where` it stands, for errors.  Raises as `read_policy`."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{where} is not TOML: {error}") from None
    _check_keys(document, ("roles",), where)
    roles: dict[str, Grants] = {}
    nodes: dict[str, dict[str, Grants]] = {}
    for role, table in _table(document.get("roles", {}), f"{where}: roles").items():
        key = f"{where}: roles.{_key(role)}"
        if role != ANY_ROLE:
            try:
                check_role(role)
            except ConfigError as error:
                raise ConfigError(f'{key}: {error}; or "*", for all that have no table') from None
        table = dict(_table(table, key))
        by_name = _table(table.pop("nodes", {}), f"{key}.nodes")
        # A role that has a table of names alone keeps what it may do by default.
        if table or not by_name:
            roles[role] = _grants(table, key, "nodes")
        for pattern, more in by_name.items():
            inner = f"{key}.nodes.{_key(pattern)}"
            nodes.setdefault(role, {})[pattern] = _grants(_table(more, inner), inner)
    try:
        return Policy(roles, nodes)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _grants(table: Mapping[str, Any], key: str, *others: str) -> Grants:
    _check_keys(table, (*_ACTIONS, *others), key)
    try:
        return Grants(**table)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from None


def _table(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} is a table, as in [roles.sidecar], not {value!r:.200}")
    return value


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], key: str) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(f"{key} has {_key(name)}, which is none of {', '.join(known)}")


def _key(text: str) -> str:
    """A key as TOML has it."""
    plain = text and all(c.isascii() and (c.isalnum() or c in "-_") for c in text)
    return text if plain else f'"{text}"'
