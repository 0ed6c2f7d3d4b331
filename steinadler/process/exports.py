"""Exported functions: the only code that a peer can make a node run (X4).

A registry of code, like a module: one for the interpreter, shared by every node in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, overload

from steinadler.errors import ConfigError

ProcessFunction = Callable[..., Awaitable[Any]]
_F = TypeVar("_F", bound=ProcessFunction)


class Exports:
    """Functions that may be spawned from another node, by name."""

    def __init__(self) -> None:
        self._functions: dict[str, ProcessFunction] = {}
        self._names: dict[ProcessFunction, str] = {}
        self._runners: dict[str, int] = {}

    @overload
    def export(self, function: _F) -> _F: ...
    @overload
    def export(self, *, name: str) -> Callable[[_F], _F]: ...

    def export(self, function: _F | None = None, *, name: str | None = None) -> Any:
        """Let peers spawn this function, under its own name or `name`.

        It is an `async def` whose first parameter is its `Process`.  Raises `ConfigError` when
        it is not, or when another function has the name.
        """
        if function is None:
            return lambda f: self._add(f, name or f.__name__)
        return self._add(function, function.__name__)

    def _add(self, function: _F, name: str) -> _F:
        is_coroutine: bool = inspect.iscoroutinefunction(function)
        if not is_coroutine or not inspect.signature(function).parameters:
            raise ConfigError(
                f"{name!r} cannot be exported: it must be an 'async def' whose first parameter "
                "is the Process it runs as"
            )
        known = self._functions.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            function.__module__,
            function.__qualname__,
        ):
            raise ConfigError(
                f"the export name {name!r} belongs to {known.__module__}.{known.__qualname__}; "
                "give this function another: @steinadler.export(name=...)"
            )
        self._functions[name] = function
        self._names[function] = name
        return function

    def export_runner(self, name: str, argument: int) -> Callable[[_F], _F]:
        """As `export`, for a function that runs another one that is exported: the one that its
        `argument`, counted from 0 after its `Process`, names."""
        self._runners[name] = argument
        return lambda function: self._add(function, name)

    def run_by(self, name: str, args: Sequence[Any]) -> str:
        """What is run when `name` is spawned with these arguments: itself, or what it runs."""
        argument = self._runners.get(name, len(args))
        runs = args[argument] if argument < len(args) else None
        return runs if isinstance(runs, str) else name

    def require(self, name: str, node: str) -> ProcessFunction:
        """The function exported as `name`.  Raises `ConfigError`, which tells the name of the
        node, because it may travel, when there is none."""
        function = self._functions.get(name)
        if function is None:
            known = ", ".join(self.names()) or "nothing"
            raise ConfigError(
                f"no function is exported as {name!r} on {node}; exported is: {known}"
            )
        return function

    def names(self) -> list[str]:
        """Everything exported, sorted."""
        return sorted(self._functions)

    def name_of(self, function: ProcessFunction | str) -> str:
        """The name to spawn `function` by; a text is taken for a name that the peer knows.

        Raises `ConfigError` for a function that was not exported, and for no name at all.
        """
        if function == "":
            raise ConfigError("say which function: one that is exported, or the name of one")
        if isinstance(function, str):
            return function
        name = self._names.get(function)
        if name is None:
            raise ConfigError(
                f"{getattr(function, '__qualname__', function)!r} is not exported; "
                "put @steinadler.export above it, on every node that is to run it"
            )
        return name


DEFAULT_EXPORTS = Exports()
