"""What is kept of one cluster on disk, and in which order it changes.

    cluster.json                    format, kind ("issuer" or "joined"), name, id, time of creation
    ca.pem                          the authorities that are trusted, the one that signs first; and,
                                    in a block of its own, the document that says so (`trust`)
    ca.key                          issuer: its private key
    ca.next.pem                     issuer, in a rotation: the next key and its certificate
    credentials/<role>.<name>.pem   joined: a key and its certificate, as the issuer signed it
    seeds                           joined: addresses of nodes of the cluster, one a line
    trust.lock                      held while ca.pem, or the issuer's key, is replaced

A cluster's key either is here, and every node signs for itself, or is not and never was, and a
node is whom a token let in (`kind`).  All files have mode 0600.  Each is replaced whole and
atomically, and none says anything about another that could become untrue when only one of the
two was replaced: so the authorities' fingerprints are read from `ca.pem`, and whether they are of
this cluster is read from the constraint within them.  Format 1, which every home had before there
were joined ones, has the authority's fingerprint in `cluster.json`, and holds one authority; it is
read, and becomes format 2 when the authorities change.

The document with the revocations is in `ca.pem`, and not beside it, for that reason: certificates
that it does not name are as damaged as one that is missing.  Whoever replaces the file by hand
replaces both, and begins again at version 0, with nobody revoked.

Readers take no lock.  What they read is checked before it is used.
"""

from __future__ import annotations

import base64
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.errors import ConfigError, RemoteProtocolError, SecurityError
from steinadler.identity import Address, check_node_name, check_role
from steinadler.security.authority import Authority, constrained_to, fingerprint
from steinadler.security.files import exclusive_lock, read_secret, replace_file, write_new
from steinadler.security.from_files import authorities_in, read_file
from steinadler.security.trust import Trust, read, signers_of

_CLUSTER_ID = re.compile(r"[0-9a-f]{32}\Z")
_FORMAT = 2
_ISSUER = "issuer"
_JOINED = "joined"
_BLOCK = re.compile(
    rb"-----BEGIN STEINADLER TRUST-----\s+([A-Za-z0-9+/=\s]*)-----END STEINADLER TRUST-----"
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as it stands on disk: everything about it but its keys."""

    name: str
    # 32 hexadecimal digits: the trust domain of every certificate.
    id: str
    # SHA-256 of the signing authority's certificate, in hexadecimal.  Another one after a rotation.
    fingerprint: str
    created: datetime
    # Whether this home joined it, and its key is elsewhere.
    joined: bool = False


class ClusterFolder:
    """The folder of one cluster.

    Reading raises `SecurityError`, naming the file, for what is missing, damaged or unsafe;
    writing raises `OSError`.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        """`name` is the cluster's while the folder, which is being made, still has another."""
        self.path = path
        self.name = name or path.name
        self.trust_path = path / "ca.pem"
        self.key_path = path / "ca.key"
        self.next_path = path / "ca.next.pem"
        self.seeds_path = path / "seeds"
        self._description_path = path / "cluster.json"

    # -- reading ------------------------------------------------------------------------------

    def read(self) -> Cluster:
        """The cluster, once its description and its authorities have been checked."""
        path = self._description_path
        try:
            match json.loads(_read(path)):
                case {
                    "format": 1,
                    "name": str(name),
                    "id": str(cluster_id),
                    "fingerprint": str(digest),
                    "created": str(created),
                } if name == self.name and _CLUSTER_ID.match(cluster_id):
                    signs = fingerprint(self._authorities(cluster_id)[0])
                    if signs != digest:
                        raise damaged(
                            self.trust_path, "its fingerprint is not the one in cluster.json"
                        )
                    return Cluster(name, cluster_id, signs, datetime.fromisoformat(created))
                case {
                    "format": 2,
                    "kind": "issuer" | "joined" as kind,
                    "name": str(name),
                    "id": str(cluster_id),
                    "created": str(created),
                } if name == self.name and _CLUSTER_ID.match(cluster_id):
                    made = datetime.fromisoformat(created)
                    signs = fingerprint(self._authorities(cluster_id)[0])
                    return Cluster(name, cluster_id, signs, made, joined=kind == _JOINED)
                case {"format": int(number)} if number > _FORMAT:
                    raise SecurityError(
                        f"{path} is of format {number}, and this version knows {_FORMAT}; upgrade"
                    )
                case _:
                    raise damaged(path, "it does not describe this cluster")
        except (ValueError, RecursionError) as error:
            raise damaged(path, str(error)) from error

    def trust(self) -> tuple[x509.Certificate, ...]:
        """The authorities that are trusted, the one that signs first."""
        return self.read_trust().authorities

    def read_trust(self) -> Trust:
        """Whom to trust, and who was revoked."""
        return self._read_trust(self.read().id)

    def authority(self) -> Authority:
        """The authority whose key is here, and signs."""
        key = _private_key(self.key_path, read_secret(self.key_path))
        # By key, not by place: in a rotation the new key comes before, or after, the new order.
        trust = self.read_trust()
        for certificate in trust.authorities:
            if certificate.public_key() == key.public_key():
                return Authority(certificate, key, revoked=trust.revoked)
        raise damaged(self.key_path, "the key does not belong to any certificate in ca.pem")

    def next_authority(self) -> Authority | None:
        """The authority that a rotation has made and not yet put in its place."""
        if not self.next_path.exists():
            return None
        pem = read_secret(self.next_path)
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            return Authority(certificate, _private_key(self.next_path, pem))
        except ValueError as error:
            raise damaged(self.next_path, str(error)) from error

    def credentials_path(self, role: str, name: str) -> Path:
        """Where a joined home keeps the key and certificate of this role and name."""
        # A role has no dot in it, so no two of these are the same.
        return self.path / "credentials" / f"{check_role(role)}.{check_node_name(name)}.pem"

    def joined_as(self) -> list[tuple[str, str]]:
        """The roles and names that there are credentials of, sorted."""
        found = []
        for path in (self.path / "credentials").glob("*.pem"):
            role, _, name = path.stem.partition(".")
            with suppress(ConfigError):  # not one of ours
                found.append((check_role(role), check_node_name(name)))
        return sorted(found)

    def _authorities(self, cluster_id: str) -> tuple[x509.Certificate, ...]:
        return self._read_trust(cluster_id).authorities

    def _read_trust(self, cluster_id: str) -> Trust:
        try:
            # Once, so that certificates and document are of the same moment.
            pem = read_file(self.trust_path)
            found = authorities_in(self.trust_path, pem)
        except SecurityError as error:
            raise damaged(self.trust_path, str(error)) from error
        for each in found:
            if constrained_to(each) != cluster_id:
                raise damaged(self.trust_path, "it holds the authority of another cluster")
        block = _BLOCK.search(pem)
        if block is None:
            return Trust(cluster_id, 0, found)
        try:
            trust = read(base64.b64decode(block[1]))
            signed = signers_of(trust)
        except (RemoteProtocolError, ValueError) as error:
            raise damaged(self.trust_path, f"its document cannot be read: {error}") from error
        if trust.cluster_id != cluster_id or trust.authorities != found or not signed:
            raise damaged(self.trust_path, "its certificates are not those that were signed")
        return trust

    # -- writing ------------------------------------------------------------------------------

    def write_issuer(self, cluster_id: str, authority: Authority, now: datetime) -> None:
        """Fill the folder, which is not in its place yet, for a cluster whose key is here."""
        write_new(self.key_path, _key_pem(authority.key))
        write_new(self.trust_path, _pem([authority.certificate]))
        write_new(self._description_path, _description(_ISSUER, self.name, cluster_id, now))

    def write_joined(
        self, cluster_id: str, authorities: Iterable[x509.Certificate], now: datetime
    ) -> None:
        """Fill the folder, which is not in its place yet, for a cluster that was joined."""
        write_new(self.trust_path, _pem(authorities))
        (self.path / "credentials").mkdir(mode=0o700)
        write_new(self._description_path, _description(_JOINED, self.name, cluster_id, now))

    def store_credentials(
        self,
        role: str,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        chain: Sequence[x509.Certificate],
    ) -> None:
        """Keep a key and its certificate, in the place of former ones."""
        replace_file(self.credentials_path(role, name), _key_pem(key) + _pem(chain))

    def store_seeds(self, addresses: Iterable[Address]) -> None:
        """Keep where nodes of the cluster were, for those who start here."""
        lines = "".join(f"{address}\n" for address in addresses)
        text = f"# Where nodes of the cluster are: one address a line.  May be edited.\n{lines}"
        replace_file(self.seeds_path, text.encode())

    def trust_anew(self, authorities: Iterable[x509.Certificate], names: Iterable[str]) -> None:
        """Trust what a joiner was told who was certified as `names`, the one that signs first.

        Unless that one is trusted here already: then what is held goes on, and with it who was
        revoked; but not where one of the names still is.  Whom to trust beside it, and who is
        revoked, members tell.
        """
        with self._locked():
            trust, held = Trust(self.read().id, 0, tuple(authorities)), self.read_trust()
            if trust.signs not in held.authorities or not held.revoked.barred.isdisjoint(names):
                self._write_trust(trust)

    def take_trust(self, later: Trust) -> Trust:
        """Hold this if it is later than what is held, and return what is held then.

        Blocks for some milliseconds.  Raises `SecurityError` as `Trust.judge` does.
        """
        with self._locked():
            held = self.read_trust()
            if held.judge(later):
                self._write_trust(later)
                return later
            return held

    def change_trust(self, change: Callable[[Trust, list[Authority]], Trust]) -> Trust:
        """Hold what `change` makes of what is held and of the authorities whose keys are here.

        Blocks for some milliseconds.  Raises what `change` raises, and then nothing has changed.
        """
        with self._locked():
            held = self.read_trust()
            made = change(held, self._authorities_at_hand())
            if made.mark != held.mark:
                self._write_trust(made)
            return made

    def make_next_authority(self, now: datetime) -> Authority:
        """The authority that is to take the place of the present one, made if there is none yet."""
        with self._locked():
            made = self.next_authority()
            if made is None:
                made = Authority.create(self.read().id, now)
                replace_file(self.next_path, _key_pem(made.key) + _pem([made.certificate]))
            return made

    def use_next_authority(self) -> None:
        """Sign with the key of the next authority, which `ca.pem` has as the one that signs."""
        with self._locked():
            made = self.next_authority()
            if made is not None and made.certificate == self.read_trust().signs:
                replace_file(self.key_path, _key_pem(made.key))
                self.next_path.unlink()

    def _authorities_at_hand(self) -> list[Authority]:
        made = self.next_authority()
        return [self.authority()] if made is None else [self.authority(), made]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with exclusive_lock(self.path / "trust.lock"):
                yield
        except OSError as error:
            raise SecurityError(f"{self.path} cannot be written: {error.strerror}") from error

    def _write_trust(self, trust: Trust) -> None:
        cluster = self.read()
        # The description first, so that no moment has a fingerprint that is not in ca.pem.
        kind = _JOINED if cluster.joined else _ISSUER
        description = _description(kind, cluster.name, cluster.id, cluster.created)
        if self._description_path.read_bytes() != description:
            replace_file(self._description_path, description)
        block = ""
        if trust.document:
            text = "\n".join(textwrap.wrap(base64.b64encode(trust.document).decode(), 64))
            block = f"-----BEGIN STEINADLER TRUST-----\n{text}\n-----END STEINADLER TRUST-----\n"
        replace_file(self.trust_path, _pem(trust.authorities) + block.encode())


def _description(kind: str, name: str, cluster_id: str, created: datetime) -> bytes:
    fields = {
        "format": _FORMAT,
        "kind": kind,
        "name": name,
        "id": cluster_id,
        "created": created.isoformat(),
    }
    return json.dumps(fields, indent=2).encode() + b"\n"


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _private_key(path: Path, pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise damaged(path, "it is not a PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise damaged(path, "it is not an elliptic-curve key")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise damaged(path, "it is missing") from error
    except OSError as error:
        raise SecurityError(f"{path} cannot be read: {error.strerror}") from error


def damaged(path: Path, what: str) -> SecurityError:
    """What to raise for a file that is not as it was written."""
    return SecurityError(
        f"{path} is damaged: {what}; restore it from a copy, or move its folder away"
    )
