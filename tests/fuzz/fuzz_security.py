"""Certificates and what they say, for the fuzzer.

Invariant: whatever stands in a certificate whose chain was verified, its holder is somebody whose
name and role the pattern allows, or `SecurityError` says why not; nothing else is raised (X3, X4).
"""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from steinadler.errors import ConfigError, SecurityError
from steinadler.identity import check_node_name, check_role
from steinadler.security.pattern import SpiffePattern

sys.path.append(str(Path(__file__).parents[1] / "security"))
from making import PATTERN, OtherAuthority, uri_of

MAX_TEXT = 3_000
CLUSTER = "0123456789abcdef" * 2
PATTERNS = [SpiffePattern.of_cluster(CLUSTER), SpiffePattern(PATTERN)]


def told(text: str, most: int = MAX_TEXT) -> None:
    """The reason is one that a log can hold."""
    assert 0 < len(text) < most


def certificate(data: bytes) -> None:
    """A certificate in DER, as TLS hands it over."""
    for pattern in PATTERNS:
        try:
            peer = pattern.identify(data)
        except SecurityError as error:
            told(str(error))
            continue
        assert peer.cluster_id == pattern.cluster_id
        assert check_node_name(peer.name) == peer.name
        assert check_role(peer.role) == peer.role


def spiffe(data: bytes) -> None:
    """A pattern of SPIFFE IDs as a user wrote it, a line end, and an ID to be read by it."""
    text, _, uri = data.decode(errors="replace").partition("\n")
    try:
        pattern = SpiffePattern(text)
    except ConfigError as error:
        told(str(error), MAX_TEXT + len(text))
        return
    assert SpiffePattern(pattern.text) == pattern
    try:
        peer = pattern.read(uri)
    except SecurityError as error:
        told(str(error), MAX_TEXT + len(text))
        return
    written = pattern.text.replace("{name}", peer.name).replace("{role}", peer.role)
    assert written == uri, "two IDs of one cluster never name the same holder"


def _certificates() -> list[bytes]:
    authority = OtherAuthority()
    issued = [
        authority.issue(uri_of("bob")),
        authority.issue(uri_of("bob", "observer"), hosts=("bob.example.org",)),
        authority.issue(f"spiffe://{CLUSTER}/node/bob"),
        authority.issue(uri_of("bob"), uri_of("alice")),
        authority.issue(),
        authority.issue(f"{uri_of('b')}%2F../..?x#y"),
    ]
    return [
        *(each.certificate.public_bytes(Encoding.DER) for each in issued),
        authority.certificate.public_bytes(Encoding.DER),
    ]


CERTIFICATES = _certificates()
SPIFFE_IDS = [
    f"{PATTERN}\n{uri_of('bob')}".encode(),
    f"spiffe://{CLUSTER}/{{role}}/{{name}}\nspiffe://{CLUSTER}/observer/bob".encode(),
    b"spiffe://a/x-{name}-y\nspiffe://a/x-bob-y",
]
