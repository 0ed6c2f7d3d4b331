"""What is read from the link is well formed or turned down, and never raises (S3, X4)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceInfo

from steinadler.discovery import Advertisement
from steinadler.discovery.records import (
    MAX_ADDRESSES,
    SERVICE_TYPE,
    Announcement,
    Malformed,
    OtherVersion,
    all_loopback,
    cluster_mark,
    instance_label,
    read_txt,
    txt_properties,
    usable_ips,
)
from steinadler.errors import ConfigError
from steinadler.identity import Address, check_node_name

FINGERPRINT = "0123456789abcdef" * 4
MARK = FINGERPRINT[:32]

node_names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True)
incarnations = st.integers(0, 2**64 - 1)


def advertise(node: str = "alice", incarnation: int = 7) -> Advertisement:
    return Advertisement(node, incarnation, (Address("192.0.2.7", 4370),), FINGERPRINT)


def txt(*strings: bytes) -> bytes:
    return b"".join(bytes([len(string)]) + string for string in strings)


GOOD = (b"v=1", b"cluster=" + MARK.encode(), b"node=alice", b"inc=7")


@given(node_names, incarnations)
def test_what_a_node_announces_reads_back(node: str, incarnation: int) -> None:
    """S3: the hints that travel are the ones that were meant."""
    advertisement = advertise(node, incarnation)
    label = instance_label(advertisement)
    info = ServiceInfo(
        SERVICE_TYPE, f"{label}.{SERVICE_TYPE}", properties=txt_properties(advertisement)
    )
    assert read_txt(info.text) == Announcement(MARK, node, incarnation)


@given(node_names, incarnations)
def test_a_label_is_one_dns_label(node: str, incarnation: int) -> None:
    label = instance_label(advertise(node, incarnation))
    assert len(label.encode()) <= 63
    assert "." not in label


def test_labels_differ_where_dns_would_see_one_name() -> None:
    """Two lives never compete for an instance name, so that probing can be left out."""
    long = "a" * 40
    lives = [
        advertise("bob", 1),
        advertise("Bob", 1),
        advertise("bob", 2),
        advertise("b.b", 1),
        advertise("b-b", 1),
        advertise(long + "1", 1),
        advertise(long + "2", 1),
    ]
    assert len({instance_label(life).lower() for life in lives}) == len(lives)


def test_a_good_record_is_read() -> None:
    assert read_txt(txt(*GOOD)) == Announcement(MARK, "alice", 7)


@pytest.mark.parametrize(
    "strings",
    [
        (*GOOD, b"new=thing", b"flag", b"", b"=nokey"),
        (*GOOD, b"node=mallory"),
        (b"V=1", b"CLUSTER=" + MARK.encode(), b"Node=alice", b"iNC=7"),
        tuple(reversed(GOOD)),
        (*GOOD, b"other=\xff\xfe"),
    ],
    ids=["unknown keys", "first of two", "case", "order", "unknown binary"],
)
def test_what_rfc_6763_allows_is_read(strings: tuple[bytes, ...]) -> None:
    assert read_txt(txt(*strings)) == Announcement(MARK, "alice", 7)


@pytest.mark.parametrize("version", ["2", "0", "99", "18446744073709551615"])
def test_another_version_is_told_apart_whatever_else_it_says(version: str) -> None:
    """A later protocol may change every other key: it is not called malformed."""
    assert read_txt(txt(b"v=" + version.encode(), b"c=?")) == OtherVersion(version)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        txt(*GOOD)[:-1],
        b"\xff",
        txt(b"x" * 255, b"x" * 255, b"x" * 255, b"x" * 255, *GOOD),
        txt(*GOOD[1:]),
        txt(b"v", *GOOD[1:]),
        txt(b"v=", *GOOD[1:]),
        txt(b"v=-1", *GOOD[1:]),
        txt(b"v=1.0", *GOOD[1:]),
        txt(b"v=\xb2", *GOOD[1:]),
        txt(b"v=" + b"1" * 200, *GOOD[1:]),
        txt(*GOOD[:3]),
        txt(*GOOD[:3], b"inc=-1"),
        txt(*GOOD[:3], b"inc=1e3"),
        txt(*GOOD[:3], b"inc= 1"),
        txt(*GOOD[:3], b"inc=18446744073709551616"),
        txt(*GOOD[:2], b"node=", GOOD[3]),
        txt(*GOOD[:2], b"node=../../etc", GOOD[3]),
        txt(*GOOD[:2], b"node=" + b"a" * 64, GOOD[3]),
        txt(*GOOD[:2], b"node=al\nice", GOOD[3]),
        txt(*GOOD[:2], "node=älice".encode(), GOOD[3]),
        txt(*GOOD[:2], b"node=\xff\xfe", GOOD[3]),
        txt(GOOD[0], b"cluster=" + MARK.upper().encode(), *GOOD[2:]),
        txt(GOOD[0], b"cluster=" + MARK[:-1].encode(), *GOOD[2:]),
        txt(GOOD[0], b"cluster=" + MARK.encode() + b"0", *GOOD[2:]),
        txt(GOOD[0], b"cluster=" + b"z" * 32, *GOOD[2:]),
    ],
)
def test_anything_else_is_turned_down(data: bytes) -> None:
    assert isinstance(read_txt(data), Malformed)


@given(
    st.one_of(
        st.binary(max_size=1200),
        st.lists(
            st.one_of(
                st.sampled_from(GOOD),
                st.binary(max_size=255),
                st.builds(
                    lambda key, value: key + b"=" + value,
                    st.sampled_from([b"v", b"cluster", b"node", b"inc"]),
                    st.binary(max_size=200),
                ),
            ),
            max_size=8,
        ).map(lambda strings: txt(*strings)),
    )
)
def test_no_bytes_make_the_reader_raise_or_pass_on_nonsense(data: bytes) -> None:
    """X4: the outcome is one of three, and what is passed on fits its type."""
    match read_txt(data):
        case Announcement(cluster, node, incarnation):
            assert cluster_mark(cluster) == cluster
            assert check_node_name(node) == node
            assert 0 <= incarnation < 2**64
        case OtherVersion(version):
            assert int(version) != 1
        case Malformed(reason):
            assert reason


def test_a_fingerprint_is_hexadecimal() -> None:
    assert cluster_mark(FINGERPRINT.upper()) == MARK
    for wrong in ("", FINGERPRINT[:31], "g" * 64, FINGERPRINT + "\n"):
        with pytest.raises(ConfigError):
            cluster_mark(wrong)


@pytest.mark.parametrize(
    "useless",
    [
        "",
        "localhost",
        "300.1.1.1",
        "0.0.0.0",
        "::",
        "224.0.0.251",
        "ff02::fb",
        "255.255.255.255",
        "240.0.0.1",
        "fe80::1",
        "fe80::1%2",
        "::ffff:192.0.2.7",
        "127.0.0.1",
        "::1",
    ],
)
def test_addresses_that_lead_nowhere_are_left_out(useless: str) -> None:
    assert usable_ips([useless, "192.0.2.7"]) == ("192.0.2.7",)


def test_the_likeliest_address_comes_first() -> None:
    ips = ["169.254.1.1", "fd00::2", "192.0.2.7", "10.0.0.1"]
    assert usable_ips(ips) == ("192.0.2.7", "10.0.0.1", "fd00::2", "169.254.1.1")


def test_of_many_addresses_the_first_are_kept() -> None:
    """The machine's own, and not those of a row of bridges that sort before it."""
    bridges = [f"172.{number}.0.1" for number in range(17, 31)]
    assert usable_ips(["192.168.1.7", *bridges])[0] == "192.168.1.7"


def test_loopback_stays_where_there_is_nothing_else() -> None:
    assert usable_ips(["0.0.0.0", "::1", "127.0.0.1", "127.0.0.1"]) == ("127.0.0.1", "::1")
    assert all_loopback(["127.0.0.1", "::1"])
    assert not all_loopback(["127.0.0.1", "192.0.2.7"])


@given(st.lists(st.one_of(st.ip_addresses().map(str), st.text(max_size=30)), max_size=30))
def test_no_list_of_addresses_is_too_odd_or_too_long(texts: list[str]) -> None:
    """X4: one instance makes nobody dial more than a handful of addresses."""
    usable = usable_ips(texts)
    assert len(usable) <= MAX_ADDRESSES
    for text in usable:
        ip = ipaddress.ip_address(text)
        assert not ip.is_unspecified
        assert not ip.is_multicast
