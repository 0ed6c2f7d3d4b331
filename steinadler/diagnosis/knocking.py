"""Knocking at an address: who is there, and if nobody of ours, what is there instead?

    TCP -> TLS -> Hello -> goodbye

It is what a node does when it dials, step by step, so that it can be told which step failed.  With
an observer's certificate we are introduced, under a name that nobody else has, and leave again: the
node there has said that it would have us.  Without one (a joined home may have a node's alone) we
cannot be introduced, because that would be to join; then TLS must do, and a silence of
`PATIENCE_S` after it is taken for consent, since in TLS 1.3 the other side judges our certificate
when we are through already.

Where our own TLS refuses the certificate that is shown, it is looked at all the same (`shown`), to
say whose it is: that another cluster answers at a seed is a frequent reason for a machine not to
show up.
"""

from __future__ import annotations

import errno
import os
import secrets
import ssl
import time
from contextlib import suppress
from dataclasses import replace

import trio

from steinadler.config import WireSettings
from steinadler.diagnosis.outcomes import Obstacle, Obstructed, Outcome, Reached, TurnedAway
from steinadler.diagnosis.shown import connect, look
from steinadler.diagnosis.validity import Validity
from steinadler.errors import RemoteProtocolError, SecurityError
from steinadler.identity import Address, NodeId
from steinadler.security import Credentials, PeerIdentity
from steinadler.transport.carrier import Carrier
from steinadler.transport.handshake import first_frame
from steinadler.transport.tls import AnotherProtocol, TlsStream, handshake
from steinadler.wire.channels import PeerLimits
from steinadler.wire.frames import FrameType, encode_frame
from steinadler.wire.handshake import (
    Hello,
    SessionOffer,
    decode_hello,
    decode_reject,
    encode_hello,
    judge_hello,
)

# As `DialSettings.dial_timeout_s`.
KNOCK_S = 3.0
PATIENCE_S = 0.3
_GOODBYE_S = 0.5

_ON_THE_WAY = {
    errno.ECONNREFUSED: Obstacle.REFUSED,
    errno.ECONNRESET: Obstacle.REFUSED,
    errno.ETIMEDOUT: Obstacle.NO_ANSWER,
}
# By X509_V_ERR_*, as `steinadler.transport.tls.explain` has them.
_OF_CERTIFICATE = {
    10: Obstacle.EXPIRED,
    9: Obstacle.NOT_YET_VALID,
    **dict.fromkeys((2, 7, 18, 19, 20, 21), Obstacle.OTHER_AUTHORITY),
}
_ABOUT_CERTIFICATES = {*_OF_CERTIFICATE.values(), Obstacle.NOT_ACCEPTABLE}


async def knock(
    address: Address, credentials: Credentials, observer: str | None, *, within_s: float = KNOCK_S
) -> Outcome:
    """Knock at a literal address, and say what came of it.

    `observer` is the name to be introduced by, for this once; None for TLS alone.  Takes
    `within_s` seconds at most, and one more to look at a certificate that was refused.
    """
    accepted = False
    outcome: Outcome | None = None
    with trio.move_on_after(within_s):
        try:
            carrier = await connect(address)
        except OSError as error:
            obstacle = _ON_THE_WAY.get(error.errno or 0, Obstacle.UNREACHABLE)
            # Trio puts the address into the text.
            return Obstructed(obstacle, os.strerror(error.errno) if error.errno else str(error))
        accepted = True
        outcome = await _talk(carrier, credentials, observer)
    match outcome:
        case None:
            obstacle = Obstacle.SILENT if accepted else Obstacle.NO_ANSWER
            return Obstructed(obstacle, f"no answer within {within_s:g} s")
        case Obstructed(obstacle) if obstacle in _ABOUT_CERTIFICATES:
            return replace(outcome, shown=await look(address))
        case _:
            return outcome


async def _talk(carrier: Carrier, credentials: Credentials, observer: str | None) -> Outcome:
    """All that comes after TCP.  Closes the carrier."""
    begun = trio.current_time()
    shown: list[bytes] = []

    def judge(der: bytes) -> PeerIdentity:
        shown.append(der)
        return credentials.judge(der)

    try:
        context = credentials.client_context()
    except SecurityError as error:
        carrier.close()
        return Obstructed(Obstacle.NO_CREDENTIALS, str(error))
    stream: TlsStream | None = None
    try:
        stream = await handshake(carrier, context, server_side=False, judge=judge)
        certificate = Validity.of_der(f"the certificate of {stream.peer}", shown[0])
        if observer is None:
            await _wait_for_refusal(stream)
            return Reached(stream.peer, certificate, trio.current_time() - begun)
        return await _introduce(stream, credentials.identity, observer, certificate, begun)
    except AnotherProtocol as error:
        return Obstructed(Obstacle.OTHER_PROTOCOL, str(error))
    except SecurityError as error:
        return Obstructed(_obstacle_of(error.__cause__), str(error))
    except trio.BrokenResourceError as error:
        refused = _obstacle_of(error.__cause__) is Obstacle.REFUSES_US
        return Obstructed(Obstacle.REFUSES_US if refused else Obstacle.CLOSED, str(error))
    except RemoteProtocolError as error:
        return Obstructed(Obstacle.BREAKS_RULES, str(error))
    finally:
        if stream is not None:
            stream.close_nowait()


async def _wait_for_refusal(stream: TlsStream) -> None:
    """Raise as the stream does when the other side will not have us after all."""
    with trio.move_on_after(PATIENCE_S):
        if not await stream.receive_some():
            raise trio.BrokenResourceError("the connection was closed after the TLS handshake")


async def _introduce(
    stream: TlsStream, ours: PeerIdentity, name: str, certificate: Validity, begun: float
) -> Outcome:
    node = NodeId(name, time.time_ns() // 1000)
    stream.write_nowait(_hello(ours, node))
    await stream.flush()
    frame, _ = await first_frame(stream)
    took_s = trio.current_time() - begun
    if frame.type == FrameType.REJECT:
        return TurnedAway(stream.peer, decode_reject(frame.payload))
    if frame.type != FrameType.HELLO:
        raise RemoteProtocolError(f"a frame of type {frame.type:#04x} before the Hello")
    hello = decode_hello(frame.payload)
    peer = stream.peer
    refusal = judge_hello(
        hello, cluster_id=peer.cluster_id, role=peer.role, name=peer.name, ourselves=node
    )
    if refusal is not None:
        return Obstructed(Obstacle.BREAKS_RULES, refusal.detail)
    with trio.move_on_after(_GOODBYE_S), suppress(trio.BrokenResourceError):
        stream.write_nowait(encode_frame(FrameType.GOODBYE, payload=b"left"))
        while await stream.receive_some():  # it closes when it has read that
            pass
    return Reached(peer, certificate, took_s, hello.node, hello.addresses)


def _hello(ours: PeerIdentity, node: NodeId) -> bytes:
    wire = WireSettings()
    limits = PeerLimits(wire.window_bytes, wire.max_message_bytes, wire.reassembly_bytes)
    return encode_hello(
        Hello(
            cluster_id=ours.cluster_id,
            role=ours.role,
            node=node,
            refutation=0,
            addresses=(),
            labels=(),
            features=(),
            limits=limits,
            session=SessionOffer(secrets.randbelow(2**63) + 1, 0, 0, 1),
        )
    )


def _obstacle_of(error: BaseException | None) -> Obstacle:
    """What OpenSSL's error says; None is ours, of a chain that was in order."""
    match error:
        case ssl.SSLCertVerificationError(verify_code=code):
            return _OF_CERTIFICATE.get(code, Obstacle.NOT_ACCEPTABLE)
        case ssl.SSLError(reason=str(reason)) if "ALERT" in reason:
            return Obstacle.REFUSES_US
        # RFC 7301, section 3.2: an alert that Python has no name for.
        case ssl.SSLError() if "no application protocol" in str(error):
            return Obstacle.OTHER_PROTOCOL
        case ssl.SSLError():
            return Obstacle.TLS_FAILED
        case _:
            return Obstacle.NOT_ACCEPTABLE
