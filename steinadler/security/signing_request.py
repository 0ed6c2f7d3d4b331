"""Signing requests: how a key that stays where it is comes by a certificate.

A PKCS #10 request (RFC 2986) says as whom its key is to be certified, in the one URI among the
alternative names that it asks for, and is signed by that key.  Of all that a request can hold,
nothing else is looked at, and nothing is copied into the certificate: what that says is made from
an identity that the caller has decided on, so that a request can ask for no usage, no lifetime and
no name that nobody thought of.

Everything that signs for somebody else goes through `sign_request`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.errors import SecurityError
from steinadler.security.authority import CERTIFICATE_VALIDITY, Authority
from steinadler.security.peer import PeerIdentity

# One with a P-256 key and the longest names takes under 500.
MAX_REQUEST_BYTES = 2048


def make_request(identity: PeerIdentity, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Ask, in DER, to have `key` certified as `identity`."""
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(name, critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def sign_request(
    authority: Authority,
    request: bytes,
    identity: PeerIdentity,
    now: datetime,
    *,
    validity: timedelta = CERTIFICATE_VALIDITY,
) -> x509.Certificate:
    """Certify the key of a request (DER) as `identity`, which is what it must ask for.

    The certificate is what `Authority.issue` makes, good for `validity`, and no longer than the
    authority.  Raises `SecurityError`, with a text for whoever asked, for a request over
    `MAX_REQUEST_BYTES`, one that cannot be read or is not signed by its own key, a key that is not
    on P-256, and one that asks for another identity; and as `Authority.issue`.
    """
    return authority.issue(identity, _requested_key(request, identity), now, validity=validity)


def check_request(request: bytes, identity: PeerIdentity) -> None:
    """Raise as `sign_request` does for a request that it would not sign."""
    _requested_key(request, identity)


def _requested_key(request: bytes, identity: PeerIdentity) -> ec.EllipticCurvePublicKey:
    if len(request) > MAX_REQUEST_BYTES:
        raise SecurityError(f"a signing request of {len(request)} bytes, over {MAX_REQUEST_BYTES}")
    try:
        read = x509.load_der_x509_csr(request)
        key = read.public_key()
        # Before the signature: what checking it costs depends on the key.
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
            key.curve, ec.SECP256R1
        ):
            raise SecurityError("the key to be certified is not an elliptic-curve key on P-256")
        own = read.is_signature_valid
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        wanted = [name.value for name in names]
    except SecurityError:
        raise
    except Exception as error:  # a damaged request raises any of an undocumented set
        raise SecurityError(f"the signing request cannot be read: {error}") from error
    if not own:
        raise SecurityError("the signing request is not signed by the key that it is for")
    if wanted != [identity.uri]:
        raise SecurityError(f"the signing request does not ask for {identity.uri}, and it alone")
    return key
