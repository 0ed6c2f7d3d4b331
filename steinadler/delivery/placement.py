"""Placement: which of the members that host its type owns an entity, by rendezvous hashing.

Names are hashed, not lives: a node that comes back gets back what it owned.  Which types a member
hosts is in its label; a suspected member still counts, because it may refute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from steinadler.delivery.rendezvous import pick
from steinadler.errors import ConfigError
from steinadler.identity import EntityKey, NodeId
from steinadler.membership import Member
from steinadler.wire.handshake import MAX_LABEL_VALUE_LENGTH

# The label that names the types that a node hosts, with commas between.
LABEL = "$entities"


def owner_of(key: EntityKey, hosts: Iterable[str]) -> str | None:
    """The name of the host that owns an entity; None when there are no hosts."""
    return pick(hosts, key.type, key.id)


def label_of(types: Iterable[str]) -> str | None:
    """What the label of a node that hosts these types says.

    Raises `ConfigError` for more than a label holds.
    """
    text = ",".join(sorted(types))
    if len(text) > MAX_LABEL_VALUE_LENGTH:
        raise ConfigError(
            f"the types of entities that a node hosts take {MAX_LABEL_VALUE_LENGTH} characters at "
            f"most, all names together with commas between; these take {len(text)}"
        )
    return text or None


def hosts_by_type(
    members: Iterable[Member], may_host: Callable[[NodeId, str], bool]
) -> dict[str, list[str]]:
    """The names of the members that host each type, as their labels tell, and may."""
    hosts: dict[str, list[str]] = {}
    for member in members:
        for type_ in (member.label(LABEL) or "").split(","):
            if type_ and may_host(member.node, type_):
                hosts.setdefault(type_, []).append(member.node.name)
    return hosts


class Placement:
    """Owners among the members as one node sees them.  `members` tells who they are now, and
    `may_host` which of them may host a type: all, where nobody says otherwise."""

    def __init__(
        self,
        members: Callable[[], Iterable[Member]],
        may_host: Callable[[NodeId, str], bool] = lambda node, type_: True,
    ) -> None:
        self._members = members
        self._may_host = may_host
        self._hosts: dict[str, list[str]] | None = None

    def members_changed(self) -> None:
        """Look at the members again, when somebody next asks."""
        self._hosts = None

    def owner(self, key: EntityKey) -> str | None:
        """The member that owns an entity; None when none hosts its type."""
        if self._hosts is None:
            self._hosts = hosts_by_type(self._members(), self._may_host)
        return owner_of(key, self._hosts.get(key.type, ()))
