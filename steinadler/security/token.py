"""Join tokens: one line of text that lets a machine into a cluster, once.

    steinadler1_<base32 of: CBOR array, then 4 bytes of its SHA-256>

    [cluster's name, cluster's id, authority's fingerprint, secret, role, node's name or null,
     expiry in seconds since 1970, [[host, port] ...]]

The fingerprint is how a joiner knows whom it talks to, before it says a word.  The secret is how
it is known in turn, and never leaves it: it is the seed of an Ed25519 key, with which the joiner
signs.  Of that key the issuer keeps the public half alone, so that a stolen list of tokens lets
nobody in.  A password-authenticated key exchange was refused: it makes short secrets safe, and
nobody types a token; this one has 128 bits.

Base32, because it is one word: a double click takes all of it, and no shell or mail program
makes anything of it.  The sum at the end tells a token that was cut off from one that nobody knows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from steinadler.errors import ConfigError, RemoteProtocolError
from steinadler.identity import Address, check_node_name, check_role, parse_address
from steinadler.wire import plain

SECRET_BYTES = 16
MAX_ADDRESSES = 8
# What the longest content comes to, and some room for what a later version may add.
_MAX_TEXT = 8192
_SUM_BYTES = 4
_PREFIX = "steinadler1_"
_WORDS = re.compile(r"steinadler(\d+)_")
_CONTEXT = b"steinadler join token 1"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a token says.  Whoever has it may join: it is not for logs, and `repr` leaves the
    secret out."""

    cluster_name: str
    # 32 hexadecimal digits.
    cluster_id: str
    # SHA-256 of the certificate of the authority that signs, in hexadecimal.
    fingerprint: str
    secret: bytes = field(repr=False)
    role: str
    # As whom; None leaves it to the joiner.
    name: str | None
    # By the issuer's clock, to the second.
    expires: datetime
    # Where nodes that may admit its holder are, the likeliest first.
    addresses: tuple[Address, ...]

    def key(self) -> Ed25519PrivateKey:
        """The key that the secret stands for."""
        salt = bytes.fromhex(self.cluster_id)
        seed = HKDF(hashes.SHA256(), 32, salt, _CONTEXT).derive(self.secret)
        return Ed25519PrivateKey.from_private_bytes(seed)

    @property
    def public_key(self) -> bytes:
        """The half of it that the issuer keeps: 32 bytes."""
        return self.key().public_key().public_bytes_raw()

    @property
    def id(self) -> str:
        """What the issuer calls it; no secret."""
        return token_id(self.public_key)

    def encode(self) -> str:
        """As text."""
        content = plain.dumps(
            [
                self.cluster_name,
                bytes.fromhex(self.cluster_id),
                bytes.fromhex(self.fingerprint),
                self.secret,
                self.role,
                self.name,
                int(self.expires.timestamp()),
                [[address.host, address.port] for address in self.addresses],
            ]
        )
        text = base64.b32encode(content + _sum(content)).decode().rstrip("=").lower()
        return _PREFIX + text


def token_id(public_key: bytes) -> str:
    """What a token is called: 12 hexadecimal digits."""
    return hashlib.sha256(public_key).hexdigest()[:12]


def parse_token(text: str) -> JoinToken:
    """Read a token; raise `ConfigError` for anything else.  The error never repeats the token.

    White space is passed over: mail programs break lines.
    """
    if len(text) > _MAX_TEXT:
        raise ConfigError("that is no join token: it is far too long")
    text = "".join(text.split())
    match = _WORDS.match(text)
    if match is None:
        raise ConfigError(
            f"that is no join token: one begins with {_PREFIX}, and is what 'steinadler cluster "
            "token' prints"
        )
    if match[0] != _PREFIX:
        raise ConfigError(
            f"the join token is of version {match[1]:.20}, and this knows version 1; upgrade"
        )
    coded = text.removeprefix(_PREFIX).upper()
    try:
        data = base64.b32decode(coded + "=" * (-len(coded) % 8))
    except (binascii.Error, ValueError):
        data = b""
    content = data[:-_SUM_BYTES]
    if not content or data[-_SUM_BYTES:] != _sum(content):
        raise ConfigError("the join token is damaged, or a part of it is missing: copy it whole")
    try:
        return _read(plain.loads(content))
    except (RemoteProtocolError, ConfigError, OverflowError, OSError, ValueError) as error:
        # Its sum is right, so it was made so.
        raise ConfigError(f"the join token makes no sense: {error}") from error


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_SUM_BYTES]


def _read(value: object) -> JoinToken:
    cluster_name, cluster_id, digest, secret, role, name, expires, places = plain.array(value, 8)[
        :8
    ]
    addresses = []
    for place in plain.array(places, 0)[:MAX_ADDRESSES]:
        host, port = plain.array(place, 2)[:2]
        address = Address(plain.text(host, 255), plain.natural(port))
        addresses.append(parse_address(str(address)))
    return JoinToken(
        plain.text(cluster_name, 63),
        _octets(cluster_id, 16).hex(),
        _octets(digest, 32).hex(),
        _octets(secret, SECRET_BYTES),
        check_role(plain.text(role, 31)),
        None if name is None else check_node_name(plain.text(name, 63)),
        datetime.fromtimestamp(plain.natural(expires), UTC),
        tuple(addresses),
    )


def _octets(value: object, size: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != size:
        raise RemoteProtocolError(f"{size} bytes were expected")
    return value
