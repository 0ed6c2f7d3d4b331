"""What a program says about its entities, at `/dapr/config`.  Sans-IO.

    {"entities": ["Cart"], "actorIdleTimeout": "1h",
     "reentrancy": {"enabled": true, "maxStackDepth": 32},
     "entitiesConfig": [{"entities": ["Cart"], "actorIdleTimeout": "5m"}]}

`entitiesConfig` goes before what is said for all.  `drainOngoingCallTimeout` is how long a turn may
still run when its entity is to leave, and with `drainRebalancedActors` false it may not; both
within the sidecar's `--drain-timeout`, because whoever stops it said how long that may take.
`actorScanInterval` and `remindersStoragePartitions` are taken and mean nothing here: idle entities
are found without scanning, and reminders are not kept in partitions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from steinadler.entity.behaviour import Behaviour
from steinadler.errors import ConfigError
from steinadler.identity import check_entity_type
from steinadler.sidecar.durations import BadTime, read_duration

_MAX_DEPTH = 1000


@dataclass(frozen=True, slots=True)
class TypeSettings:
    """What holds for the entities of one type.

    `drain_s`: how long a turn may still run when its entity is to leave, if it `drains` at all;
    `max_depth`: how many turns may run within each other (None: no reentrancy).
    """

    idle_s: float = Behaviour.idle_s
    drain_s: float = Behaviour.drain_s
    drains: bool = True
    max_depth: int | None = None


def read_config(body: bytes) -> dict[str, TypeSettings]:
    """The types that a program has, with their settings.

    Raises `ConfigError` for what is not such a document.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"/dapr/config is not JSON: {error}") from None
    if not isinstance(told, dict):
        raise ConfigError("/dapr/config is not a JSON object")
    common = _settings(told, TypeSettings())
    types = dict.fromkeys(_types(told), common)
    special = told.get("entitiesConfig") or []
    if not isinstance(special, list):
        raise ConfigError("/dapr/config: entitiesConfig is not a list")
    for each in special:
        if not isinstance(each, dict):
            raise ConfigError("/dapr/config: entitiesConfig is not a list of objects")
        types.update(dict.fromkeys(_types(each), _settings(each, common)))
    return types


def _types(told: dict[str, Any]) -> list[str]:
    types = told.get("entities") or []
    if not isinstance(types, list) or not all(isinstance(each, str) for each in types):
        raise ConfigError("/dapr/config: entities is not a list of texts")
    return [check_entity_type(each) for each in types]


def _settings(told: dict[str, Any], settings: TypeSettings) -> TypeSettings:
    idle_s = _seconds(told, "actorIdleTimeout")
    if idle_s:
        settings = replace(settings, idle_s=idle_s)
    drain_s = _seconds(told, "drainOngoingCallTimeout")
    if drain_s is not None:
        settings = replace(settings, drain_s=drain_s)
    match told.get("drainRebalancedActors"):
        case None:
            pass
        case bool(drains):
            settings = replace(settings, drains=drains)
        case _:
            raise ConfigError("/dapr/config: drainRebalancedActors is true or false")
    match told.get("reentrancy"):
        case None:
            return settings
        case {"enabled": bool(enabled), **more}:
            depth = more.get("maxStackDepth", 32)
            if not isinstance(depth, int) or not 0 < depth <= _MAX_DEPTH:
                raise ConfigError(f"/dapr/config: maxStackDepth is from 1 to {_MAX_DEPTH}")
            return replace(settings, max_depth=depth if enabled else None)
        case _:
            raise ConfigError('/dapr/config: reentrancy is {"enabled": true or false, ...}')


def _seconds(told: dict[str, Any], name: str) -> float | None:
    match told.get(name):
        case None | "":
            return None
        case str(text):
            try:
                return read_duration(text)
            except BadTime as error:
                raise ConfigError(f"/dapr/config: {name}: {error}") from None
        case _:
            raise ConfigError(f"/dapr/config: {name} is not a text")
