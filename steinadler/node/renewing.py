"""Renewing: a node's certificate, before it runs out.

    due --> find_signers --> certify: a signing request to one after the other --> until next time

Certificates are due at two thirds of their life, or a little sooner, so that not all nodes ask at
once; and at once when another authority is to be the one that signs.  Who cannot be certified goes
on with what it has, says how long that is good for, and asks again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import trio
from cryptography import x509

from steinadler.errors import SecurityError, SteinadlerError
from steinadler.security.credentials import utc_now
from steinadler.security.home_credentials import JoinedCredentials

# How often it is looked whether the certificate is due.
LOOK_INTERVAL_S = 0.5
# How long until the next attempt when nobody signed.
RETRY_S = 10.0

logger = logging.getLogger("steinadler.security")


class Renewing:
    """Keeps one certificate of a joined home good.

    `find_signers` returns the names of members that sign, in the order in which they are to be
    asked; `certify` has one of them answer a signing request with a certificate, both DER.  What
    comes of them is not relied upon; they raise `SteinadlerError` or `trio.TooSlowError`.
    """

    def __init__(
        self,
        credentials: JoinedCredentials,
        find_signers: Callable[[], Awaitable[list[str]]],
        certify: Callable[[str, bytes], Awaitable[Any]],
        rng: random.Random,
    ) -> None:
        self._credentials = credentials
        self._find_signers = find_signers
        self._certify = certify
        self._rng = rng
        self._share = rng.uniform(0.9, 1)  # of the time until it is due: not all at once
        self._ask_again_at = 0.0
        self._settled_at = 0.0
        self._complaint = ""
        self.problem = ""  # why nobody certified it when it was last due

    @property
    def certificate(self) -> x509.Certificate:
        """What it keeps good."""
        return self._credentials.certificate

    def ask_at_once(self) -> None:
        """Another authority signs: whoever asked in vain may have more luck."""
        self._ask_again_at = 0.0

    async def run(self) -> None:
        """Renew in time, until cancelled."""
        self._settled_at = trio.current_time() + RETRY_S
        while True:
            await trio.sleep(LOOK_INTERVAL_S * self._rng.uniform(0.75, 1.25))
            now = utc_now()
            try:
                certificate = self._credentials.certificate
                begin, due = certificate.not_valid_before_utc, self._credentials.renew_at()
            except SecurityError as error:
                self._complain(str(error))
                continue
            if due > begin:  # by time, and not because another authority signs
                due -= (due - begin) * (1 - self._share)
            if now >= due and trio.current_time() >= self._ask_again_at:
                left = certificate.not_valid_after_utc - now
                self._ask_again_at = trio.current_time() + _patience_s(left)
                await self._renew(left)

    async def _renew(self, left: timedelta) -> None:
        problem = "no member that has the authority's key is connected"
        able: list[str] = []
        try:
            able = await self._find_signers()
        except (SteinadlerError, trio.TooSlowError, TypeError) as error:
            problem = str(error) or "no answer in time"
        if not able and trio.current_time() < self._settled_at:
            self._ask_again_at = 0.0  # it has just opened, and may not have met anybody yet
            return
        for name in able:
            request = self._credentials.make_request()
            try:
                answer = await self._certify(name, request.der)
                certificate = x509.load_der_x509_certificate(answer)
                await trio.to_thread.run_sync(self._credentials.renew, request, certificate)
            except (SteinadlerError, trio.TooSlowError, ValueError, TypeError) as error:
                problem = f"{name}: {str(error) or 'no answer in time'}"
            else:
                self.problem = ""
                logger.info("%s was certified by %s", self._credentials.identity, name)
                return
        self.problem = problem
        logger.warning(
            "the certificate of %s could not be renewed, and is good for %s more: %s",
            self._credentials.identity,
            _rounded(left),
            problem,
        )

    def _complain(self, problem: str) -> None:
        if problem != self._complaint:
            self._complaint = problem
            logger.warning("%s", problem)


def _patience_s(left: timedelta) -> float:
    """How long to wait for the next attempt: less, where a certificate lives for seconds."""
    return min(RETRY_S, max(left.total_seconds() / 10, LOOK_INTERVAL_S))


def _rounded(left: timedelta) -> timedelta:
    return timedelta(seconds=max(round(left.total_seconds()), 0))
