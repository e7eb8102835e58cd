"""Addresses of MLflow stores: checks, kinds of stores, and their display without passwords."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.text import key_value, store_uri

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")


def check_uri(uri: str) -> None:
    """Raise RequestError unless `uri` is a store that works from every process and folder."""
    scheme = _scheme(uri)
    example = store_uri(Path.cwd() / "mlflow.db")
    if scheme in ("", "file"):
        raise RequestError(
            f"tracking.uri={uri}: MLflow no longer keeps runs in plain folders; give {example}, "
            "and move an old store over with `mlflow migrate-filestore`"
        )
    if scheme not in DATABASES + SERVERS:
        raise RequestError(
            f"tracking.uri={shown(uri)}: unknown kind of store {scheme!r}; give {example}, a "
            "postgresql:, mysql: or mssql: database, or the https: address of an MLflow server"
        )
    if scheme in ("http", "https") and not _host(uri):
        raise RequestError(f"tracking.uri={shown(uri)}: names no server; give https://HOST:PORT")
    if is_local(uri) and not trust.sqlite_path(uri).is_absolute():
        raise RequestError(
            f"tracking.uri={uri}: needs the absolute path of a file, or processes in different "
            f"folders would use different stores; give {example}"
        )
    if is_local(uri) and re.search("%[0-9A-Fa-f]{2}", str(trust.sqlite_path(uri))):
        raise RequestError(
            f"tracking.uri={uri}: MLflow keeps no database in a folder with ? or %20 and the like "
            "in its name; give another paths.root or tracking.uri, or tracking=none"
        )
    if is_local(uri) and not _may_be_database(trust.sqlite_path(uri)):
        raise RequestError(f"tracking.uri={uri}: is no sqlite database; give {example}")


def _host(uri: str) -> str | None:
    with suppress(ValueError):  # an incomplete IPv6 address, or a port that is not a number
        return urlsplit(uri).hostname if urlsplit(uri).port != 0 else None
    return None


def _may_be_database(path: Path) -> bool:
    """Return whether a file is a sqlite database or does not exist yet."""
    try:
        with open(path, "rb") as file:
            return file.read(16) in (b"", b"SQLite format 3\0")
    except IsADirectoryError:
        return False
    except OSError:  # mlflow says why it cannot be opened
        return True


def is_server(uri: str) -> bool:
    """Return whether the store is an MLflow server, which owns the database and the artifacts."""
    return _scheme(uri) in SERVERS


def is_local(uri: str) -> bool:
    """Return whether the store is a file on this machine: its errors do not pass by waiting."""
    return _scheme(uri) == "sqlite"


def shown(uri: str) -> str:
    """Return the URI without user and password, for messages."""
    uri = re.sub(r"://\S*@", "://***@", uri)
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", uri)


def not_contacted(uri: str) -> str:
    """Return why nothing is sent to a store, and what to do about it."""
    plain = trust.plain_address(uri)
    return (
        f"{plain} is not contacted, since only a file names it; add "
        f"{key_value('tracking.uri', plain)} to the command, or put it into {trust.user_file()}"
    )


def _scheme(uri: str) -> str:
    """Return the kind of store: "postgresql" of "postgresql+psycopg2://...", "" for a path."""
    if uri == "databricks":
        return uri
    found = re.match(r"([A-Za-z][\w.-]+)(\+\w+)?:", uri)  # two letters at least: C:\ is a path
    return found[1].lower() if found else ""
