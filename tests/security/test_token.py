"""Join tokens as text: what is in one comes out, and nothing else passes for one."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steinadler.errors import ConfigError
from steinadler.identity import Address
from steinadler.security import JoinToken, parse_token
from steinadler.security.token import MAX_ADDRESSES

names = st.text("aZ0._-", max_size=61).map("a{}0".format)
addresses = st.builds(
    Address,
    st.one_of(names, st.ip_addresses().map(str)),
    st.integers(1, 65535),
)
tokens = st.builds(
    JoinToken,
    names,
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.binary(min_size=16, max_size=16),
    st.sampled_from(["node", "observer", "g-1" + "x" * 28]),
    st.none() | names,
    st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.lists(addresses, max_size=MAX_ADDRESSES).map(tuple),
)
TOKEN = JoinToken(
    "default",
    "0123456789abcdef" * 2,
    "ab" * 32,
    bytes(range(16)),
    "node",
    "bob",
    datetime(2026, 1, 1, tzinfo=UTC),
    (Address("192.0.2.7", 4370),),
)


@given(tokens)
@settings(max_examples=30)
def test_what_goes_in_comes_out(token: JoinToken) -> None:
    text = token.encode()
    assert parse_token(text) == token
    assert text.replace("_", "").isalnum(), "one word, for shells and double clicks"


def test_what_mail_programs_do_to_it_does_no_harm() -> None:
    text = TOKEN.encode()
    assert parse_token(f"  {text[:70]}\r\n{text[70:]}\n") == TOKEN
    assert parse_token(text[:12] + text[12:].upper()) == TOKEN


@given(st.data())
def test_a_token_with_a_mistake_in_it_is_told_from_one_that_nobody_knows(
    data: st.DataObject,
) -> None:
    text = TOKEN.encode()
    place = data.draw(st.integers(12, len(text) - 1))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
    changed = text[:place] + letter + text[place + 1 :]
    if base64.b32decode(_padded(changed)) != base64.b32decode(_padded(text)):
        with pytest.raises(ConfigError, match="copy it whole"):
            parse_token(changed)


def _padded(text: str) -> str:
    coded = text.removeprefix("steinadler1_").upper()
    return coded + "=" * (-len(coded) % 8)


@given(st.text() | st.text("abcdefghijklmnopqrstuvwxyz234567=").map("steinadler1_".__add__))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        parse_token(text)


def test_a_token_that_was_cut_off_says_copy_it_whole() -> None:
    text = TOKEN.encode()
    for size in range(12, len(text)):
        with pytest.raises(ConfigError, match="copy it whole"):
            parse_token(text[:size])


def test_a_token_of_a_later_version_says_upgrade() -> None:
    with pytest.raises(ConfigError, match=r"version 2.*upgrade"):
        parse_token("steinadler2_mzxw6")


def test_the_secret_is_in_no_log() -> None:
    """Neither in what it looks like, nor in the error of one that is damaged."""
    assert TOKEN.secret.hex() not in repr(TOKEN)
    assert repr(TOKEN.secret) not in repr(TOKEN)
    text = TOKEN.encode()
    with pytest.raises(ConfigError) as raised:
        parse_token(text[:-3])
    assert text[20:40] not in str(raised.value)


def test_each_secret_is_another_key_and_so_is_each_cluster() -> None:
    keys = {
        JoinToken("", id_, "", secret, "node", None, TOKEN.expires, ()).public_key
        for id_ in ("00" * 16, "01" * 16)
        for secret in (bytes(16), bytes(15) + b"\x01")
    }
    assert len(keys) == 4
