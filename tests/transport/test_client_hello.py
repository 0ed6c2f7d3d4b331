"""What a client asks for is read out of its first record, whatever that is (X4)."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.transport.client_hello import missing_bytes, offered_protocols

MAX_FIRST_RECORD_BYTES = 5 + 16 * 1024  # RFC 8446, section 5.1


def client_hello(*protocols: str) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


HELLO = client_hello("steinadler-join/1")


@pytest.mark.parametrize("offered", [(), ("a",), ("steinadler/1",), ("h2", "steinadler-join/1")])
def test_the_names_that_a_real_client_offers(offered: tuple[str, ...]) -> None:
    assert offered_protocols(client_hello(*offered)) == offered


def test_it_is_known_how_much_is_missing() -> None:
    """A client that sends a byte at a time is read to the end of its record, and no further."""
    for size in range(len(HELLO)):
        begin = HELLO[:size]
        assert 0 < missing_bytes(begin) <= len(HELLO) - size
        assert offered_protocols(begin) == ()
    assert missing_bytes(HELLO) == 0
    assert missing_bytes(HELLO + b"more") == 0
    assert offered_protocols(HELLO + b"more") == ("steinadler-join/1",)


@pytest.mark.parametrize(
    "begin", [b"GET / HTTP/1.1", b"\x15\x03\x03\x00\x02", b"\x16\x03\x01\xff\xff", b"\x80"]
)
def test_nothing_is_waited_for_that_is_no_client_hello(begin: bytes) -> None:
    assert missing_bytes(begin) == 0
    assert offered_protocols(begin) == ()


@given(st.binary(max_size=100))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    for begin in (data, b"\x16\x03\x01" + data, HELLO[:43] + data):
        assert 0 <= missing_bytes(begin) <= MAX_FIRST_RECORD_BYTES
        offered_protocols(begin)


@given(st.integers(0, len(HELLO) - 1), st.integers(1, 255))
def test_a_damaged_client_hello_is_read_without_an_error(place: int, change: int) -> None:
    damaged = bytearray(HELLO)
    damaged[place] ^= change
    assert offered_protocols(bytes(damaged)) in ((), ("steinadler-join/1",)) or place > 43
