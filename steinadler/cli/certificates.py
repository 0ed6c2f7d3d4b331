"""`--cert`, `--key`, `--ca`, `--spiffe`: a certificate of another PKI, in place of the home's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from steinadler.security import FileCredentials, SpiffePattern

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """What the four options say."""

    cert: Path
    key: Path | None
    ca: Path
    pattern: SpiffePattern | None

    def read(self) -> FileCredentials:
        """Read the files; blocks, and raises as `FileCredentials` does."""
        return FileCredentials(self.cert, self.key, ca=self.ca, pattern=self.pattern)

    def __str__(self) -> str:
        """Of which cluster, for people."""
        return self.pattern.text if self.pattern is not None else f"of {self.cert}"


def certificate_options(
    pattern: click.ParamType,  # type: ignore[type-arg]  # as in `options`
) -> tuple[Callable[[Any], Any], ...]:
    """The options, last first."""
    return (
        click.option(
            "--spiffe",
            "pattern",
            type=pattern,
            metavar="PATTERN",
            help="How SPIFFE IDs of the cluster are written, as in "
            "spiffe://example.org/steinadler/{role}/{name}.",
        ),
        click.option(
            "--ca", type=_FILE, metavar="PATH", help="The authorities that sign for the cluster."
        ),
        click.option(
            "--key", type=_FILE, metavar="PATH", help="Its key, unless it is in that file too."
        ),
        click.option(
            "--cert",
            type=_FILE,
            metavar="PATH",
            help="A certificate of another PKI, for the home's; read again when it changes.",
        ),
    )


def certificate_files(
    cert: Path | None, key: Path | None, ca: Path | None, pattern: SpiffePattern | None
) -> CertificateFiles | None:
    """What the options come to; raises `click.UsageError` for some without the others."""
    if cert is not None and ca is not None:
        return CertificateFiles(cert, key, ca, pattern)
    if any(given is not None for given in (cert, key, ca, pattern)):
        raise click.UsageError("a certificate of another PKI takes --cert and --ca, both")
    return None
