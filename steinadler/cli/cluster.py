"""`steinadler cluster ...`: the clusters in this user's home, and who belongs to them."""

from __future__ import annotations

import click

from steinadler.cli.options import as_json
from steinadler.cli.output import print_json
from steinadler.cli.revoking import readmit, revoke, revoked
from steinadler.cli.rotating import rotate_ca
from steinadler.cli.running import Failed
from steinadler.cli.tokens import join, token, tokens
from steinadler.errors import SteinadlerError
from steinadler.security import Cluster, Home, open_home
from steinadler.security.authority import fingerprint


@click.group()
def cluster() -> None:
    """Make clusters, show those that there are, and say who belongs to them.

    A cluster is a certificate authority: whoever holds its key, in this user's STEINADLER_HOME,
    can run nodes of it.  Another machine joins by a token.
    """


for command in (token, tokens, join, revoke, readmit, revoked, rotate_ca):
    cluster.add_command(command)


@cluster.command()
@click.argument("name")
@as_json
def init(name: str, as_json: bool) -> None:
    """Make a cluster called NAME.  The one called "default" makes itself on first use."""
    home = open_home()
    try:
        made = home.create_cluster(name)
    except SteinadlerError as error:
        raise Failed(str(error)) from error
    _tell(made, home, as_json)


@cluster.command()
@click.argument("name", required=False)
@as_json
def show(name: str | None, as_json: bool) -> None:
    """Show the cluster NAME, or all of them.

    With --json: an object {name, id, fingerprint, created, folder, authorities, revoked}, or
    without NAME a list of such.  The fingerprint is the SHA-256 of the certificate of the authority
    that signs; authorities: all that are trusted, {fingerprint, valid_until}; revoked: names.
    """
    home = open_home()
    try:
        if name is not None:
            _tell(home.cluster(name), home, as_json)
            return
        clusters = home.clusters()
    except SteinadlerError as error:
        raise Failed(str(error)) from error
    if as_json:
        print_json([_facts(one, home) for one in clusters])
        return
    if not clusters:
        click.echo(f"There is no cluster in {home.path} yet; the first node makes one.")
    for one in clusters:
        _tell(one, home, as_json=False)


def _facts(cluster: Cluster, home: Home) -> dict[str, object]:
    folder = home.cluster_folder(cluster)
    trust = folder.read_trust()
    return {
        "name": cluster.name,
        "id": cluster.id,
        "fingerprint": cluster.fingerprint,
        "created": cluster.created,
        "folder": str(folder.path),
        "authorities": [
            {"fingerprint": fingerprint(each), "valid_until": each.not_valid_after_utc}
            for each in trust.authorities
        ],
        "revoked": sorted(trust.revoked.barred),
    }


def _tell(cluster: Cluster, home: Home, as_json: bool) -> None:
    facts = _facts(cluster, home)
    if as_json:
        print_json(facts)
        return
    trust = home.cluster_folder(cluster).read_trust()
    for key in ("name", "id", "fingerprint", "created", "folder"):
        click.echo(f"{key:<12} {facts[key]}")
    for each in trust.authorities:
        what = "signs" if each == trust.signs else "trusted"
        until = f"{each.not_valid_after_utc:%Y-%m-%d}"
        click.echo(f"{what:<12} {fingerprint(each)[:16]}, valid until {until}")
    click.echo(f"{'revoked':<12} {', '.join(sorted(trust.revoked.barred)) or 'nobody'}")
