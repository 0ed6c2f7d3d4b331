"""Homes that joined a cluster, as a token would have them made, and changes to that cluster."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric import ec
from joined_home import join_home

from steinadler import Node
from steinadler.identity import NODE, OBSERVER
from steinadler.security import ClusterFolder, Home, PeerIdentity
from steinadler.security.authority import Authority
from steinadler.security.credentials import utc_now
from steinadler.security.revocation import Revocations
from steinadler.security.trust import Trust


def issue_to(folder: ClusterFolder, issuer: Home, role: str, name: str) -> None:
    """Put credentials into a joined home in the place of former ones."""
    cluster = issuer.default_cluster()
    key = ec.generate_private_key(ec.SECP256R1())
    identity = PeerIdentity(cluster.id, role, name)
    authority = issuer.cluster_folder(cluster).authority()
    certificate = authority.issue(identity, key.public_key(), utc_now())
    folder.store_credentials(role, name, key, [certificate])


def join(path: Path, issuer: Home, name: str, *, ago: timedelta = timedelta(0)) -> Path:
    """A home that joined as `name`, so long ago; its path."""
    join_home(Home(path), issuer, (NODE, name), (OBSERVER, name), signed_at=utc_now() - ago)
    return path


def change_revoked(folder: ClusterFolder, *revoke: str, readmit: tuple[str, ...] = ()) -> Trust:
    """Sign the next version, with these names revoked or readmitted."""

    def change(held: Trust, signers: list[Authority]) -> Trust:
        revoked: Revocations = held.revoked
        for name in revoke:
            revoked = revoked.revoke(name, utc_now())
        for name in readmit:
            revoked = revoked.readmit(name)
        return held.successor(signers, revoked=revoked)

    return folder.change_trust(change)


async def state_of(asker: Node, name: str) -> dict[str, Any]:
    state: dict[str, Any] = await asker.call(f"$trust@{name}", "state")
    return state


async def all_hold(nodes: list[Node], trust: Trust) -> None:
    """Wait until every node holds this, and has stored it."""
    for node in nodes:
        while True:
            state = await state_of(node, node.name)
            if (state["version"], state["digest"]) >= trust.mark and state["stored"]:
                break
            await trio.sleep(0.01)


async def all_certified_by(nodes: list[Node], fingerprint: str) -> None:
    """Wait until every node shows a certificate of this authority."""
    for node in nodes:
        while (await state_of(node, node.name))["certified_by"] != fingerprint:  # noqa: ASYNC110
            await trio.sleep(0.01)
