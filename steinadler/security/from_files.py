"""Credentials from files that somebody else makes and renews: another PKI, or a join.

Three things are needed: a certificate (with those between it and an authority behind it), its
private key, and the authorities to trust; all PEM.  The files are looked at when a handshake
needs them (three calls of `stat`), and read again when they changed.  Watching them with a task,
or with the system's notifications, was refused: what is renewed matters at a handshake, and at no
other time, and a notification that is missed is never made up for.

What was read is checked whole before it replaces the former, ending with a handshake with
oneself, which is what peers will do.  Renewal by tools is rarely atomic: the key is here and the
certificate is not, for a moment.  So what does not fit together is a warning, and the former
material is used until it expires.

The identity may not change while a node lives: its peers know it by that name.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from steinadler.errors import SecurityError
from steinadler.security.contexts import Shown, make_shown, shake_hands
from steinadler.security.credentials import Credentials, utc_now
from steinadler.security.files import read_secret, stamp_of
from steinadler.security.pattern import SpiffePattern
from steinadler.security.peer import PeerIdentity, is_authority, spiffe_id
from steinadler.security.trust import Trust

# Far more than any bundle has: a wrong path is told at once, and is not read to its end.
_MAX_FILE_BYTES = 4 * 1024 * 1024


class FileCredentials(Credentials):
    """A certificate, its key and its authorities, from files: `open_node(credentials=...)`.

    `cert`: the certificate, and behind it those between it and an authority.  `key`: its private
    key, without a password; None when it is in `cert` too.  Nobody but the owner may write it,
    nobody but the owner and its group may read it.  `ca`: the authorities to trust, in one file.
    `pattern`: how SPIFFE IDs of the cluster are written (`SpiffePattern`); by default as the
    cluster's own authority writes them, `spiffe://<32 hexadecimal digits>/{role}/{name}`.

    The certificate must be good for both ends of a connection: where it tells key usages,
    digitalSignature, and where extended ones, serverAuth and clientAuth.
    """

    def __init__(
        self,
        cert: str | Path,
        key: str | Path | None = None,
        *,
        ca: str | Path,
        pattern: str | SpiffePattern | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Read the files; blocks for some 10 ms.

        Raises `ConfigError` for what is no pattern, and `SecurityError`, naming the file and what
        to do, for files that cannot be read or do not fit together.
        """
        self._cert = Path(cert)
        self._key = self._cert if key is None else Path(key)
        self._ca = Path(ca)
        given = SpiffePattern(pattern) if isinstance(pattern, str) else pattern
        self.identity, self.pattern = self._identify(self._read_chain()[0], given)
        self._begin(clock)

    def _stamp(self) -> object:
        return stamp_of((self._cert, self._key, self._ca))

    def _read_trust(self) -> Trust:
        # Its authorities are to be the file's; only who was revoked is learned from others, and
        # from them again after a restart.
        return Trust(self.pattern.cluster_id, 0, read_authorities(self._ca))

    def _authorities(self) -> tuple[x509.Certificate, ...]:
        """Whom contexts are to trust."""
        return read_authorities(self._ca)

    def _is_of_trusted(self, certificate: x509.Certificate) -> bool:
        return True  # there may be others between; and who trusts a file looks after it

    def _make(self, now: datetime) -> Shown:
        chain, key, trust = self._read_chain(), self._read_key(), self._authorities()
        leaf = chain[0]
        self._check_identity(leaf)
        self._check_usage(leaf)
        self._check_time(leaf, now)
        if leaf.public_key() != key.public_key():
            raise SecurityError(
                f"the key in {self._key} is not that of the certificate in {self._cert}; put the "
                "two that were made together"
            )
        shown = make_shown(chain, key, trust, leaf.not_valid_after_utc)
        self._check_chain(shown)
        return shown

    # -- reading ------------------------------------------------------------------------------

    def _read_chain(self) -> list[x509.Certificate]:
        return _certificates_in(self._cert, read_file(self._cert))

    def _read_key(self) -> PrivateKeyTypes:
        pem = read_secret(self._key, group_may_read=True)
        try:
            return serialization.load_pem_private_key(pem, password=None)
        except TypeError as error:
            raise SecurityError(
                f"the key in {self._key} has a password, and nobody is there to type it: store it "
                "without (openssl pkey -in KEY -out KEY), readable by its owner alone"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SecurityError(f"{self._key} holds no private key in PEM") from error

    # -- checking -----------------------------------------------------------------------------

    def _identify(
        self, leaf: x509.Certificate, pattern: SpiffePattern | None
    ) -> tuple[PeerIdentity, SpiffePattern]:
        try:
            uri = spiffe_id(leaf.public_bytes(serialization.Encoding.DER))
            pattern = pattern or SpiffePattern.like(uri)
            if pattern is None:
                raise SecurityError(
                    f"the certificate names {uri!r}, which no cluster's own authority writes: say "
                    "by a pattern where the node's name is, as in "
                    "spiffe://example.org/steinadler/{role}/{name}"
                )
            return pattern.read(uri), pattern
        except SecurityError as error:
            raise SecurityError(f"{self._cert}: {error}") from error

    def _check_identity(self, leaf: x509.Certificate) -> None:
        identity, _ = self._identify(leaf, self.pattern)
        if identity != self.identity:
            raise SecurityError(
                f"{self._cert} is for {identity} now, and this is {self.identity}; start the node "
                "again to have it go by another name"
            )

    def _check_usage(self, leaf: x509.Certificate) -> None:
        try:
            usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
            if not usage.digital_signature:
                raise SecurityError(
                    f"{self._cert} may not be used for signatures (keyUsage), which TLS 1.3 takes: "
                    "have it issued with digitalSignature"
                )
        except x509.ExtensionNotFound:
            pass
        try:
            purposes = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        except x509.ExtensionNotFound:
            return
        wanted = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        if not wanted <= purposes:
            raise SecurityError(
                f"{self._cert} is not for both ends of connections (extendedKeyUsage), and every "
                "node dials and is dialled: have it issued with serverAuth and clientAuth"
            )

    def _check_time(self, leaf: x509.Certificate, now: datetime) -> None:
        if now < leaf.not_valid_before_utc:
            raise SecurityError(
                f"{self._cert} is good from {leaf.not_valid_before_utc} on, and it is {now}; is "
                "the clock right?"
            )
        if now >= leaf.not_valid_after_utc:
            raise SecurityError(
                f"{self._cert} has expired, at {leaf.not_valid_after_utc}; have a new one issued, "
                "and put it there"
            )

    def _check_chain(self, shown: Shown) -> None:
        try:
            shake_hands(shown)
        except ssl.SSLCertVerificationError as error:
            raise SecurityError(
                f"the certificate in {self._cert} cannot be verified by the authorities in "
                f"{self._ca}: {error.verify_message}; put the authority there that it comes from, "
                f"and certificates between the two behind it in {self._cert}"
            ) from error
        except ssl.SSLError as error:
            raise SecurityError(
                f"no TLS connection can be made with {self._cert} and {self._key}: "
                f"{error.reason or error}"
            ) from error


def read_authorities(path: Path) -> tuple[x509.Certificate, ...]:
    """The authorities in a file; raises `SecurityError`, naming it, when it holds anything else."""
    return authorities_in(path, read_file(path))


def authorities_in(path: Path, pem: bytes) -> tuple[x509.Certificate, ...]:
    """As `read_authorities`, of what was read from `path`."""
    found = _certificates_in(path, pem)
    for each in found:
        try:
            signs = is_authority(each)
        except ValueError as error:
            raise SecurityError(f"{path} holds a damaged certificate: {error}") from error
        if not signs:
            raise SecurityError(
                f"{path} holds the certificate of {each.subject.rfc4514_string() or 'a node'}, "
                "which is no authority: put there only those that sign"
            )
    return tuple(found)


def read_file(path: Path) -> bytes:
    """What a file of certificates holds; raises `SecurityError`, naming it."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise SecurityError(f"{path} cannot be read: {error.strerror}") from error


def _certificates_in(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise SecurityError(f"{path} holds no certificate in PEM") from error
