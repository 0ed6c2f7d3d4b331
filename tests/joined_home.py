"""A home that joined a cluster, as a token would have it made, and without one."""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.identity import NODE
from steinadler.security import Admission, Cluster, Home, PeerIdentity
from steinadler.security.credentials import utc_now
from steinadler.security.joiner import Granted


def join_home(
    home: Home,
    issuer: Home,
    *given: tuple[str, str],
    name: str = "default",
    signed_at: datetime | None = None,
) -> Cluster:
    """Let `home` join the default cluster of `issuer`, with credentials for each (role, name)."""
    cluster = issuer.default_cluster()
    folder = issuer.cluster_folder(cluster)
    authority = folder.authority()
    granted = []
    for role, who in given:
        key = ec.generate_private_key(ec.SECP256R1())
        identity = PeerIdentity(cluster.id, role, who)
        certificate = authority.issue(identity, key.public_key(), signed_at or utc_now())
        granted.append(Granted(identity, key, certificate))
    at = PeerIdentity(cluster.id, NODE, "issuer")
    return home.keep(name, Admission(at, folder.trust(), tuple(granted)), seeds=())
