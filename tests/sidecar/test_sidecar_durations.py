"""Durations, periods and due times, as the SDKs write them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steinadler.sidecar.durations import (
    LONGEST_S,
    BadTime,
    Period,
    read_due,
    read_duration,
    read_period,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0h0m0s100ms0µs", 0.1),  # the Python SDK, with U+00B5
        ("0h0m0s100ms0μs", 0.1),  # U+03BC
        ("1h2m3s4ms5us6ns", 3723.004005006),
        ("0.1s", 0.1),  # the JavaScript SDK
        ("1m30s", 90.0),
        (".5h", 1800.0),
        ("1.s", 1.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("PT0.1S", 0.1),
        ("PT1H2M3S", 3723.0),
        ("P1DT2H", 93600.0),
        ("p1dt2h", 93600.0),  # the JavaScript SDK, above a day
        ("P2W", 1209600.0),
        ("P1D", 86400.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "1", "s", "-1s", "+1s", "1 s", "1s ", "1d", "1S", "1e3s", "١s", "1s\n", "nans"),
        *("P", "PT", "P1", "P1DT", "PT1D", "P1Y", "P1M", "-PT1S", "PT1S2M", "P1D2W", "infs"),
        *("1000000h", "9" * 99 + "s", "9" * 400 + "s", "PT" + "9" * 90 + "H"),
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BadTime):
        read_duration(text)


@given(st.text())
@example("P1")
def test_reading_ends_in_a_number_in_range_or_in_bad_time(text: str) -> None:
    for read in (read_duration, lambda t: read_due(t, 0.0), lambda t: read_period(t).every_s or 0):
        with suppress(BadTime):
            assert 0 <= read(text) <= LONGEST_S


@given(
    st.integers(0, int(LONGEST_S) // 3600 - 1),
    st.integers(0, 59),
    st.integers(0, 59),
    st.integers(0, 999),
    st.sampled_from("µμ"),
)
def test_go_and_iso_agree(hours: int, minutes: int, seconds: int, ms: int, micro: str) -> None:
    go = read_duration(f"{hours}h{minutes}m{seconds}s{ms}ms0{micro}s")
    assert go == pytest.approx(read_duration(f"PT{hours}H{minutes}M{seconds}.{ms:03}S"))
    expected = timedelta(hours=hours, minutes=minutes, seconds=seconds, milliseconds=ms)
    assert go == pytest.approx(expected.total_seconds())


@pytest.mark.parametrize(
    ("text", "period"),
    [
        (None, Period()),
        ("", Period()),
        ("0h0m0s0ms0µs", Period()),
        ("1m", Period(60.0)),
        ("R/PT10S", Period(10.0)),
        ("R5/PT10S", Period(10.0, 4)),
        ("r2/10s", Period(10.0, 1)),
        ("R1/PT10S", Period()),
    ],
)
def test_periods(text: str | None, period: Period) -> None:
    assert read_period(text) == period


@pytest.mark.parametrize("text", ["R0/PT1S", "R5", "R5/", "R-1/PT1S", "R5/PT0S", "1us", "R2/soon"])
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(BadTime):
        read_period(text)


NOW = datetime(2030, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0.0),
        ("", 0.0),
        ("1m", 60.0),
        ("2030-01-01T00:00:30Z", 30.0),
        ("2030-01-01T01:00:30.5+01:00", 30.5),
        ("2029-01-01T00:00:00Z", 0.0),  # overdue is due
    ],
)
def test_due_times(text: str | None, seconds: float) -> None:
    assert read_due(text, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("2030-01-01T00:00:30", "2030-01-01", "2030-13-01T00:00:00Z", "soon-ish", "-1s"),
        *("9999-12-31T23:59:59Z", "2030-01-01T00:00:30Z" + " " * 100),
    ],
)
def test_what_is_no_due_time(text: str) -> None:
    with pytest.raises(BadTime):
        read_due(text, NOW)


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), st.integers(-14, 14))
def test_every_rfc_3339_time_is_read(at: datetime, hours: int) -> None:
    at = at.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert read_due(at.isoformat(), NOW) == pytest.approx(max(0.0, at.timestamp() - NOW))
