"""Dates of certificates: good, not yet, no longer, and not for long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from steinadler.diagnosis.findings import Finding, Topic, ok, problem, warning
from steinadler.diagnosis.machine import in_words

# To replace an authority takes everybody's doing.
AUTHORITY_NOTICE = timedelta(days=60)
# Certificates are renewed when a third of their life is left, as a rule.  With less than this
# part of it left, renewal has stopped.
LATE = 0.25


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate is good; `what` is its holder and where it lies."""

    what: str
    begins: datetime
    ends: datetime

    @classmethod
    def of(cls, what: str, certificate: x509.Certificate) -> Validity:
        return cls(what, certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    @classmethod
    def of_der(cls, what: str, der: bytes) -> Validity:
        """Of a certificate that TLS has read."""
        return cls.of(what, x509.load_der_x509_certificate(der))


def judge_certificate(validity: Validity, now: datetime, *, renew: str) -> Finding:
    """Of a certificate that somebody renews; `renew` says how."""
    life = validity.ends - validity.begins
    return _judge(Topic.CERTIFICATE, validity, now, life * LATE, renew)


def judge_authority(validity: Validity, now: datetime) -> Finding:
    """Of an authority: it signs for years, and then all of the cluster ends at once."""
    do = "put another authority in its place in time (docs/security.md), or make a new cluster"
    return _judge(Topic.AUTHORITY, validity, now, AUTHORITY_NOTICE, do)


def _judge(
    topic: Topic, validity: Validity, now: datetime, notice: timedelta, renew: str
) -> Finding:
    what, begins, ends = validity.what, day(validity.begins), day(validity.ends)
    if now < validity.begins:
        return problem(
            topic,
            f"{what} is good from {begins} on, and the clock here says {day(now)}",
            "set the clock: this machine's, or that of whoever signed it and had it ahead",
        )
    if now >= validity.ends:
        past = in_words(now - validity.ends)
        return problem(topic, f"{what} has expired, {past} ago, at {ends}", renew)
    left = in_words(validity.ends - now)
    if validity.ends - now < notice:
        return warning(topic, f"{what} expires in {left}, at {ends}", renew)
    return ok(topic, f"{what} is good for {left} more, until {ends}")


def day(when: datetime) -> str:
    """A time, to the minute, for people."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
