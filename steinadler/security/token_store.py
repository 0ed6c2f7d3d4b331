"""The tokens that a home has given out, and the names that came in by them.

    tokens.json   {"format": 1, "tokens": [...], "names": [...]}, mode 0600
    tokens.lock   held while that changes

The file is next to the authority's key, and is all that there is: a token that another process
makes, revokes or spends counts in every node of this home with the next joiner.  It is replaced
whole, under the lock.  A use is spent, and is on disk, before the certificate is made; so uses are
counted right whatever dies when, and the worst that a crash does is to waste one.

Of a token its public key is kept (see `token`), until it expires: of one that was used up or
revoked, so that its holder can be told.

A name that was given to a joiner, in whatever role, is kept for good.  A token that leaves the name
to the joiner lets nobody in under one of those: whoever has such a token must not become another
machine.  One that is made for the name does, as when a machine is set up anew.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import NODE, Address, check_node_name, check_role
from steinadler.security.cluster_folder import Cluster
from steinadler.security.files import exclusive_lock, replace_file, stamp_of
from steinadler.security.token import MAX_ADDRESSES, SECRET_BYTES, JoinToken, token_id

MAX_TOKENS = 1000
MAX_USES = 1000
MAX_TTL = timedelta(days=30)
# A joiner waits meanwhile, and its connection is given up after `handshake_timeout_s`.
_LOCK_PATIENCE_S = 3.0


class Refusal(Enum):
    """Why a joiner is not let in; the values travel."""

    UNKNOWN_TOKEN = "unknown-token"
    USED_UP = "used-up"
    REVOKED = "revoked"
    WRONG_ROLE = "wrong-role"
    WRONG_NAME = "wrong-name"
    NAME_TAKEN = "name-taken"
    NAME_REVOKED = "name-revoked"
    BAD_REQUEST = "bad-request"
    UNABLE = "unable"


class JoinRefused(Exception):
    """What a joiner is to be told."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is kept of a token."""

    public_key: bytes
    role: str
    # The one that it is for; None for any that is free.
    name: str | None
    uses_left: int
    created: datetime
    expires: datetime
    revoked: bool = False
    # Who came in by it.
    names: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What the token is called."""
        return token_id(self.public_key)

    @property
    def state(self) -> str:
        """ "valid", "used up" or "revoked"; those that have expired are not kept."""
        if self.revoked:
            return "revoked"
        return "valid" if self.uses_left else "used up"


@dataclass(frozen=True, slots=True)
class _Kept:
    """The file's content."""

    tokens: tuple[TokenRecord, ...] = ()
    names: frozenset[str] = frozenset()


class TokenStore:
    """The tokens of one cluster in one home.

    Every method reads the disk, and those that change something wait for the lock, 3 s at most.
    They raise `SecurityError`, naming the file, when it is damaged or cannot be read or written,
    and `ConfigError` when the lock is not to be had.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.json"
        self._lock_path = folder / "tokens.lock"
        self._seen: object = None
        self._last_expiry: datetime | None = None

    def tokens(self, now: datetime) -> tuple[TokenRecord, ...]:
        """Those that have not expired, the oldest first."""
        return self._read(now).tokens

    def is_open(self, now: datetime) -> bool:
        """Whether there is a token that has not expired.  One call of `stat` when nothing changed;
        never raises: of a file that cannot be read, it says no."""
        stamp = stamp_of((self.path,))
        if stamp != self._seen:
            try:
                kept = self._read(now)
            except SecurityError:
                return False
            self._last_expiry = max((each.expires for each in kept.tokens), default=None)
            self._seen = stamp
        return self._last_expiry is not None and now < self._last_expiry

    def make(
        self,
        cluster: Cluster,
        *,
        role: str = NODE,
        name: str | None = None,
        uses: int = 1,
        ttl: timedelta = timedelta(minutes=10),
        addresses: Iterable[Address] = (),
        now: datetime,
    ) -> JoinToken:
        """Make a token for `cluster`, whose home this store is in, and keep what is kept of it.

        `name`: for whom; None lets its holder choose one that is free.  `addresses`: where nodes
        of this home are, of which the first eight are told.  Raises `ConfigError` for a role or
        name that nobody can have, for uses or time to live out of bounds (`MAX_USES`, `MAX_TTL`),
        and when there are `MAX_TOKENS` already.
        """
        if not 1 <= uses <= MAX_USES:
            raise ConfigError(f"a token may be used 1 to {MAX_USES} times, not {uses}")
        if not timedelta(seconds=1) <= ttl <= MAX_TTL:
            raise ConfigError(f"a token may live from one second to {MAX_TTL.days} days")
        now = now.replace(microsecond=0)
        token = JoinToken(
            cluster.name,
            cluster.id,
            cluster.fingerprint,
            secrets.token_bytes(SECRET_BYTES),
            check_role(role),
            None if name is None else check_node_name(name),
            now + ttl,
            tuple(addresses)[:MAX_ADDRESSES],
        )
        self._add(TokenRecord(token.public_key, role, name, uses, now, token.expires))
        return token

    def _add(self, record: TokenRecord) -> None:
        with self._changing(record.created) as kept:
            if len(kept.tokens) >= MAX_TOKENS:
                raise ConfigError(
                    f"there are {MAX_TOKENS} tokens that have not expired: give one more uses, or "
                    "a shorter life"
                )
            self._write(replace(kept, tokens=(*kept.tokens, record)))

    def revoke(self, id_: str, now: datetime) -> None:
        """Let nobody in by this token any more; raise `ConfigError` when there is none."""
        with self._changing(now) as kept:
            found = next((each for each in kept.tokens if each.id == id_), None)
            if found is None:
                raise ConfigError(
                    f"there is no token {id_!r} that could be revoked: it has expired, or never "
                    "was; steinadler cluster tokens lists those there are"
                )
            self._write(_replacing(kept, found, replace(found, revoked=True)))

    def spend(self, id_: str, role: str, name: str, now: datetime, living: Collection[str]) -> None:
        """Count one use, by a joiner of that role and name; raise `JoinRefused` when the token does
        not let it in.  `living`: the names of members."""
        with self._changing(now) as kept:
            found = _find(kept, id_, role, name, living)
            spent = replace(found, uses_left=found.uses_left - 1, names=(*found.names, name))
            names = kept.names | {name}
            self._write(replace(_replacing(kept, found, spent), names=names))

    def find(self, id_: str, now: datetime) -> TokenRecord | None:
        """The token of that id, whatever its state; None when there is none, or no longer."""
        return next((each for each in self._read(now).tokens if each.id == id_), None)

    # -- the file -----------------------------------------------------------------------------

    @contextmanager
    def _changing(self, now: datetime) -> Iterator[_Kept]:
        try:
            with exclusive_lock(self._lock_path, _LOCK_PATIENCE_S):
                yield self._read(now)
        except OSError as error:
            raise SecurityError(f"{self.path} cannot be changed: {error.strerror}") from error

    def _read(self, now: datetime) -> _Kept:
        try:
            match json.loads(self.path.read_bytes()):
                case {"format": 1, "tokens": [*tokens], "names": [*names]}:
                    read = tuple(map(_from_json, tokens))
                    return _Kept(
                        tuple(each for each in read if now < each.expires),
                        frozenset(map(str, names)),
                    )
                case {"format": int(number)} if number > 1:
                    raise SecurityError(
                        f"{self.path} is of format {number}, and this version knows 1; upgrade"
                    )
        except FileNotFoundError:
            return _Kept()
        except OSError as error:
            raise SecurityError(f"{self.path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, RecursionError, OverflowError):
            pass
        raise SecurityError(f"{self.path} is damaged; move it away, and make new tokens")

    def _write(self, kept: _Kept) -> None:
        content = {
            "format": 1,
            "tokens": [_to_json(each) for each in kept.tokens],
            "names": sorted(kept.names),
        }
        replace_file(self.path, json.dumps(content, indent=1).encode() + b"\n")


def _find(kept: _Kept, id_: str, role: str, name: str, living: Collection[str]) -> TokenRecord:
    found = next((each for each in kept.tokens if each.id == id_), None)
    if found is None:
        raise JoinRefused(Refusal.UNKNOWN_TOKEN, "this token is not known here, or has expired")
    if found.revoked:
        raise JoinRefused(Refusal.REVOKED, "the token was revoked; another is needed")
    if not found.uses_left:
        who = ", ".join(found.names[-3:])
        raise JoinRefused(
            Refusal.USED_UP, f"the token was used up already, by {who}; another is needed"
        )
    if role != found.role:
        raise JoinRefused(
            Refusal.WRONG_ROLE, f"the token is for the role {found.role}, and not for {role}"
        )
    if found.name is None:
        taken = "was given to a machine already" if name in kept.names else ""
        if name in living:
            taken = "is that of a living member"
        if taken:
            raise JoinRefused(
                Refusal.NAME_TAKEN,
                f"the name {name} {taken}: choose another, or make a token for it, with "
                f"--name {name}",
            )
    elif name != found.name:
        raise JoinRefused(Refusal.WRONG_NAME, f"the token is for {found.name}, and not for {name}")
    return found


def _replacing(kept: _Kept, old: TokenRecord, new: TokenRecord) -> _Kept:
    return replace(kept, tokens=tuple(new if each is old else each for each in kept.tokens))


def _to_json(record: TokenRecord) -> dict[str, object]:
    return {
        "public_key": record.public_key.hex(),
        "role": record.role,
        "name": record.name,
        "uses_left": record.uses_left,
        "created": record.created.isoformat(),
        "expires": record.expires.isoformat(),
        "revoked": record.revoked,
        "names": list(record.names),
    }


def _from_json(value: object) -> TokenRecord:
    match value:
        case {
            "public_key": str(public_key),
            "role": str(role),
            "name": str() | None as name,
            "uses_left": int(uses_left),
            "created": str(created),
            "expires": str(expires),
            "revoked": bool(revoked),
            "names": [*names],
        } if uses_left >= 0:
            return TokenRecord(
                bytes.fromhex(public_key),
                check_role(role),
                None if name is None else check_node_name(name),
                uses_left,
                datetime.fromisoformat(created).astimezone(UTC),
                datetime.fromisoformat(expires).astimezone(UTC),
                revoked,
                tuple(map(str, names)),
            )
        case _:
            raise ValueError("no token")
