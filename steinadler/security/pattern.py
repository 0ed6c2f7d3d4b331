"""How the SPIFFE IDs of a cluster's certificates are written, and read.

A pattern is the ID with places to fill: `spiffe://example.org/steinadler/{role}/{name}`.  The
cluster's own authority writes `spiffe://<cluster-id>/{role}/{name}`; another PKI (SPIRE,
cert-manager, Vault) has rules of its own for paths, and says here where in them the name of the
node is.  Without `{role}` every certificate is a node's.

Everything else in a pattern stands for itself.  A wild card was refused: two certificates that
differ only in what it covers would be two holders of one name (promise X3).

The pattern is also what makes the cluster.  A PKI signs for far more than one cluster, so that
its signature says little; who fits the pattern is a peer, and nobody else.  So the cluster's id
comes of it, and all nodes of a cluster must be given the same.
"""

from __future__ import annotations

import hashlib
import re

from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import NODE, check_node_name, check_role
from steinadler.security.peer import PeerIdentity, spiffe_id

# The SPIFFE-ID standard, section 2: trust domains are in lower case, and segments of the path are
# letters, digits, dots, dashes and underscores.
_PATTERN = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/(?:[A-Za-z0-9._-]|\{name\}|\{role\})+)+\Z")
_OWN = re.compile(r"spiffe://(?P<id>[0-9a-f]{32})/")
_PLACES = re.compile(r"(\{name\}|\{role\})")
_MAX_ID_BYTES = 2048


class SpiffePattern:
    """Which SPIFFE IDs are of the cluster, and whom they name.

    `text` is the pattern, and `cluster_id` the id of the cluster that it makes: 32 hexadecimal
    digits.
    """

    def __init__(self, text: str) -> None:
        """Raise `ConfigError` for what is no pattern."""
        segments = text.removeprefix("spiffe://").split("/")
        if (
            not _PATTERN.match(text)
            or text.count("{name}") != 1
            or text.count("{role}") > 1
            or any(len(_PLACES.findall(segment)) > 1 for segment in segments)
            or {".", ".."} & set(segments)
        ):
            raise ConfigError(
                f"{text!r} is no pattern of SPIFFE IDs: write one with {{name}} once, and {{role}} "
                "at most once in another segment, as in "
                "spiffe://example.org/steinadler/{role}/{name}"
            )
        self.text = text
        parts = {"{name}": r"(?P<name>[^/?#]+)", "{role}": r"(?P<role>[^/?#]+)"}
        self._expression = re.compile(
            "".join(parts.get(part) or re.escape(part) for part in _PLACES.split(text)) + r"\Z"
        )
        own = _OWN.match(text)
        # A cluster's own authority puts the id into the trust domain.  Of a pattern it is the
        # digest: one trust domain may hold several clusters, under different paths.
        if own is not None and text == _own_text(own["id"]):
            self.cluster_id = own["id"]
        else:
            self.cluster_id = hashlib.sha256(text.encode()).hexdigest()[:32]

    @classmethod
    def of_cluster(cls, cluster_id: str) -> SpiffePattern:
        """What a cluster's own authority writes."""
        return cls(_own_text(cluster_id))

    @classmethod
    def like(cls, uri: str) -> SpiffePattern | None:
        """The pattern of the cluster whose own authority wrote `uri`; None when none did."""
        own = _OWN.match(uri)
        return None if own is None else cls.of_cluster(own["id"])

    def read(self, uri: str) -> PeerIdentity:
        """Whom `uri` names.  Raises `SecurityError` when that is nobody of this cluster."""
        match = self._expression.match(uri) if len(uri) <= _MAX_ID_BYTES else None
        if match is None:
            raise SecurityError(
                f"the certificate names {_short(uri)}, and those of this cluster are like "
                f"{self.text}"
            )
        try:
            name = check_node_name(match["name"])
            role = check_role(match["role"]) if "{role}" in self.text else NODE
        except ConfigError as error:
            raise SecurityError(f"the certificate gives a bad name: {error}") from None
        return PeerIdentity(self.cluster_id, role, name)

    def identify(self, der: bytes) -> PeerIdentity:
        """Whom a certificate names whose chain has been verified.

        Raises `SecurityError`, with a text for the log, when that is nobody of this cluster.
        """
        return self.read(spiffe_id(der))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpiffePattern) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"SpiffePattern({self.text!r})"


def _own_text(cluster_id: str) -> str:
    return f"spiffe://{cluster_id}/{{role}}/{{name}}"


def _short(uri: str) -> str:
    return repr(uri if len(uri) <= 200 else f"{uri[:197]}...")
