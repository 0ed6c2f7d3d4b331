"""The store that a URL names.

    sqlite:///var/lib/shop/entities.sqlite3     the file /var/lib/shop/entities.sqlite3
    postgresql://user@host/database             libpq's own URLs, with all their parameters

The path of a SQLite URL is the file's, as URLs have it: three slashes before an absolute path.
SQLAlchemy's fourth one changes nothing; a relative path is `sqlite:a/b`.

PostgreSQL's driver is imported only for it: it is an extra, and brings asyncio's modules along.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from steinadler.entity.grouping import GroupingStore
from steinadler.entity.sqlite import SqliteDatabase
from steinadler.entity.store import Store
from steinadler.errors import ConfigError


def open_store(url: str) -> Store:
    """The store at `url`, not opened yet: no file is touched and nobody is asked.

    Raises `ConfigError` when `url` names no store, or PostgreSQL's driver is not installed.
    """
    scheme, colon, _ = url.partition(":")
    if colon and scheme.lower() == "sqlite":
        return GroupingStore(SqliteDatabase(_path_of(url)))
    if colon and scheme.lower() in ("postgresql", "postgres"):
        try:
            from steinadler.entity.postgres import PostgresDatabase
        except ImportError as error:
            raise ConfigError(
                f"PostgreSQL's driver is missing ({error}): pip install 'steinadler[postgres]'"
            ) from error
        return GroupingStore(PostgresDatabase(url))
    # Not the whole of it: it may hold a password.
    raise ConfigError(
        f"a URL that begins with {scheme[:20]!r} names no store; "
        "write sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    )


def _path_of(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{url!r} is not a URL: {error}") from error
    if parts.netloc:
        raise ConfigError(
            f"{url!r} names a host, {parts.netloc!r}; write sqlite:///PATH, with three slashes"
        )
    path = url2pathname(f"/{parts.path.lstrip('/')}" if parts.path[:1] == "/" else parts.path)
    if not path.strip(os.sep) or "\0" in path or parts.query or parts.fragment:
        raise ConfigError(
            f"{url!r} names no file; write sqlite:///PATH, with %3F for ? and %23 for #"
        )
    return Path(path)
