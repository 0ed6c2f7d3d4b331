"""Who was revoked: names that get no connection, and no certificate until they are readmitted.

A name is revoked, not a certificate.  What is stolen or turns bad is a machine: with its key it
has had, and may have stored, any number of certificates, and nobody keeps a register of them.
So an entry says up to which moment certificates of the name are void: those that are good from a
second at or before it.  The cluster's authorities date back what they sign by five minutes, and
so an issuer whose clock is fast by less than that has signed none that is good later than that.

    revoke    moment = now, barred      no certificate of the name is accepted, and none is signed
    readmit   the moment stays          what was void stays void; the name may be certified anew,
                                        from the second after the moment on

Lists of different origin are joined name by name: the later moment wins, and of one moment the
readmission, which came after it.  So two who revoke at the same time lose neither.

An entry that was readmitted says nothing more once every authority is younger than its moment:
none of them can have signed what it makes void.  That is how the list becomes shorter again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from steinadler.errors import CertificateRevoked, ConfigError

# About 75 bytes each, encoded; more is a cluster that needs another authority, not a longer list.
MAX_REVOKED = 1024


@dataclass(frozen=True, slots=True)
class Revocation:
    """One name.  `moment` is in seconds since 1970; `barred` until the name is readmitted."""

    name: str
    moment: int
    barred: bool = True

    @property
    def at(self) -> datetime:
        """The moment, for people."""
        return datetime.fromtimestamp(self.moment, UTC)


@dataclass(frozen=True, slots=True)
class Revocations:
    """A list of them: sorted by name, each name once."""

    entries: tuple[Revocation, ...] = ()

    def __post_init__(self) -> None:
        """Raise `ConfigError` for more than `MAX_REVOKED`, or what is not sorted."""
        names = [entry.name for entry in self.entries]
        if names != sorted(set(names)):
            raise ConfigError("a list of revocations is sorted by name, each name once")
        if len(names) > MAX_REVOKED:
            raise ConfigError(
                f"{len(names)} names are revoked, and {MAX_REVOKED} are the most that members "
                "tell each other; rotate the authority (steinadler cluster rotate-ca --drop-old), "
                "and readmit names that may come back"
            )

    def __iter__(self) -> Iterator[Revocation]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, name: str) -> Revocation | None:
        """The entry of that name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    @property
    def barred(self) -> frozenset[str]:
        """The names that may not take part at all."""
        return frozenset(entry.name for entry in self.entries if entry.barred)

    def check(self, name: str, good_from: datetime) -> None:
        """Raise `CertificateRevoked` for a certificate of `name` that is good from then on."""
        entry = self.find(name)
        if entry is None:
            return
        if entry.barred:
            raise CertificateRevoked(f"{name!r} was revoked at {entry.at}")
        if good_from.timestamp() <= entry.moment:
            raise CertificateRevoked(
                f"this certificate of {name!r} was revoked at {entry.at}, before the name was "
                "readmitted"
            )

    def earliest_for(self, name: str) -> datetime | None:
        """From when on a new certificate of `name` may be good, if that is limited.

        Raises `CertificateRevoked` for a name that is to get none.
        """
        entry = self.find(name)
        if entry is None:
            return None
        if entry.barred:
            raise CertificateRevoked(
                f"{name!r} was revoked at {entry.at}, and gets no certificate; where the cluster's "
                f"key is, 'steinadler cluster readmit {name}' lets it be certified anew"
            )
        return datetime.fromtimestamp(entry.moment + 1, UTC)

    # -- changes ------------------------------------------------------------------------------

    def revoke(self, name: str, now: datetime) -> Revocations:
        """The list with `name` revoked; unchanged when it is barred already."""
        entry = self.find(name)
        if entry is not None and entry.barred:
            return self
        moment = int(now.timestamp())
        if entry is not None:  # a readmission is later than its moment, whatever clocks say
            moment = max(moment, entry.moment + 1)
        return self.join(Revocations((Revocation(name, moment),)))

    def readmit(self, name: str) -> Revocations:
        """The list with `name` let in again.  Raises `ConfigError` when it is not barred."""
        entry = self.find(name)
        if entry is None or not entry.barred:
            revoked = ", ".join(sorted(self.barred)) or "nobody"
            raise ConfigError(f"{name!r} is not revoked; revoked is: {revoked}")
        return self.join(Revocations((replace(entry, barred=False),)))

    def join(self, other: Revocations) -> Revocations:
        """Both lists in one."""
        joined = {entry.name: entry for entry in self.entries}
        for entry in other:
            held = joined.get(entry.name)
            joined[entry.name] = entry if held is None else max(held, entry, key=_rank)
        return Revocations(tuple(joined[name] for name in sorted(joined)))

    def without_void(self, authorities_since: Iterable[datetime]) -> Revocations:
        """The list without what can no longer matter, when the authorities are from then on."""
        oldest = min(since.timestamp() for since in authorities_since)
        kept = (entry for entry in self.entries if entry.barred or entry.moment >= oldest)
        return Revocations(tuple(kept))


NOBODY = Revocations()


def _rank(entry: Revocation) -> tuple[int, bool]:
    return entry.moment, not entry.barred
