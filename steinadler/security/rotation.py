"""Rotating a cluster's authority: the steps, of which each can be taken again.

    begin     trust {old, new}; old signs       everybody will believe what either has signed
    switch    trust {new, old}; new signs       everybody gets a certificate of the new one
    drop      trust {new}                       what the old one has signed is worth nothing
    finish                                      every member has dropped it

What the next step is, the home tells: which authorities there are, whether the next one's key
waits in `ca.next.pem`, and whether `ca.dropping` says that not every member was seen to have
dropped the old one yet.  So whoever was interrupted, at any moment, begins again at `begin`, and
what is done already changes nothing.  A record of steps taken was refused: it could be of another
opinion than the files that count.

Whoever rotates waits, after each step, for every member: a member that did not hear of the new
authority would be shut out by the next step.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from steinadler.errors import ConfigError
from steinadler.security.authority import Authority
from steinadler.security.cluster_folder import ClusterFolder
from steinadler.security.credentials import utc_now
from steinadler.security.files import replace_file
from steinadler.security.trust import Trust


class Rotation:
    """A rotation of the authority whose key is in `folder`.

    Every step blocks for some milliseconds, and raises `SecurityError` when the folder is damaged
    or cannot be written.
    """

    def __init__(self, folder: ClusterFolder, *, clock: Callable[[], datetime] = utc_now) -> None:
        """Raise `ConfigError` for a home that joined its cluster."""
        if folder.read().joined:
            raise ConfigError(
                f"this home joined cluster {folder.name!r} and does not have its key: do that "
                "where the cluster was made"
            )
        self._folder = folder
        self._clock = clock
        self._dropping = folder.path / "ca.dropping"

    @property
    def is_dropping(self) -> bool:
        """Whether a former rotation came as far as `drop`, and not to its end."""
        return self._dropping.exists()

    def begin(self) -> Trust:
        """Have a further authority trusted, unless a rotation is under way."""
        if self._folder.next_authority() is None and len(self._folder.trust()) > 1:
            return self._folder.read_trust()
        new = self._folder.make_next_authority(self._clock())

        def add(held: Trust, signers: list[Authority]) -> Trust:
            if new.certificate in held.authorities:
                return held
            return held.successor(signers, authorities=[*held.authorities, new.certificate])

        return self._folder.change_trust(add)

    def switch(self) -> Trust:
        """Have the new authority sign."""
        new = self._folder.next_authority()
        if new is None:
            return self._folder.read_trust()

        def put_first(held: Trust, signers: list[Authority]) -> Trust:
            if held.signs == new.certificate:
                return held
            if new.certificate not in held.authorities:
                raise ConfigError(
                    "somebody else rotates this authority too, from another home: let that come "
                    f"to its end, or remove {self._folder.next_path} here"
                )
            others = [each for each in held.authorities if each != new.certificate]
            # By both keys, for those who have missed the step before.
            return held.successor(signers, authorities=[new.certificate, *others])

        trust = self._folder.change_trust(put_first)
        self._folder.use_next_authority()
        return trust

    def drop(self) -> Trust:
        """Trust the one that signs, and no other."""
        # First, so that it is there as long as somebody may not have heard of it.
        replace_file(self._dropping, b"")

        def drop(held: Trust, signers: list[Authority]) -> Trust:
            if len(held.authorities) == 1:
                return held
            return held.successor(signers, authorities=[held.signs])

        return self._folder.change_trust(drop)

    def finish(self) -> None:
        """Every member has dropped the old one."""
        self._dropping.unlink(missing_ok=True)
