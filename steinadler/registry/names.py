"""The names of one node: which process has which, freed together with the process."""

from __future__ import annotations

from steinadler.errors import ConfigError, NameConflict
from steinadler.identity import check_process_name

# Names that begin so belong to the runtime: `$echo`, `$info`, `$spawn`.
RESERVED_PREFIX = "$"


class LocalNames:
    """Name to process number, and back.  A process may have several names.

    `changes` is another number whenever a name was given or taken away.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._numbers: dict[str, int] = {}
        self._names: dict[int, list[str]] = {}

    def register(self, name: str, number: int, *, by_runtime: bool = False) -> None:
        """Give `name` to process `number`.

        Raises `NameConflict` when another process has it (doing it twice for the same one is
        fine), and `ConfigError` for a text that cannot be a name or that is the runtime's.
        """
        check_process_name(name)
        if name.startswith(RESERVED_PREFIX) and not by_runtime:
            raise ConfigError(f"{name!r}: names that begin with '$' belong to the runtime")
        holder = self._numbers.get(name)
        if holder == number:
            return
        if holder is not None:
            raise NameConflict(
                f"the name {name!r} belongs to process #{holder} of this node; "
                "unregister it there first, or choose another"
            )
        self.changes += 1
        self._numbers[name] = number
        self._names.setdefault(number, []).append(name)

    def unregister(self, name: str) -> int | None:
        """Free `name`; return whose it was, or None when it was nobody's.

        Raises `ConfigError` for a name of the runtime.
        """
        if name.startswith(RESERVED_PREFIX):
            raise ConfigError(f"{name!r}: names that begin with '$' belong to the runtime")
        number = self._numbers.pop(name, None)
        if number is not None:
            self.changes += 1
            names = self._names[number]
            names.remove(name)
            if not names:
                del self._names[number]
        return number

    def find(self, name: str) -> int | None:
        """The number of the process that has `name`."""
        return self._numbers.get(name)

    def names_of(self, number: int) -> tuple[str, ...]:
        """The names of process `number`, in the order it got them."""
        return tuple(self._names.get(number, ()))

    def process_ended(self, number: int) -> None:
        """Free all names of process `number`."""
        names = self._names.pop(number, ())
        self.changes += bool(names)
        for name in names:
            del self._numbers[name]
