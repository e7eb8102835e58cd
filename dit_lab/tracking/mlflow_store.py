"""The MLflow store: its creation, exactly once, and the limits of what it accepts.

Importing mlflow takes more than a second, so only functions that talk to a store import it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.text import store_uri
from dit_lab.runs.folder import flatten
from dit_lab.tracking.addresses import check_uri, is_local, is_server, not_contacted, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.entities import PagedList

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # a page for training
LOCK_SECONDS = 120.0  # creating the tables takes seconds; other jobs wait for the first one
BUSY_SECONDS = 20.0  # how long sqlite waits for another writer, as mlflow does

PLACES = ("paths", "sweep", "tracking")
LABELS = ("tags", "note")  # keys of a config that are not logged as parameters

WRONG_PASSWORD = "password authentication failed"  # PostgreSQL's message

METRICS_PER_REQUEST = 1000  # MLflow's limits
VALUE_CHARACTERS, TAG_CHARACTERS, KEY_CHARACTERS = 6000, 8000, 250

ENVIRONMENT = {  # defaults: variables of the user have precedence
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # our thread retries; mlflow would for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class StoreUnreachableError(Exception):
    """A remote store does not answer now and may answer later: nothing has to stop."""


class NotTrustedError(StoreUnreachableError):
    """A store is named by a file and not by this command: nothing is sent to it."""


def refuse_untrusted(uri: str) -> None:
    """Raise NotTrustedError unless this command names the store."""
    if not trust.may_contact(uri):
        raise NotTrustedError(not_contacted(uri))


def root_cause(error: BaseException) -> str:
    """Return one line: the message of the operating system or sqlite, or else the error's own."""
    if isinstance(error, NotTrustedError):
        return str(error)
    told, deeper = error, error.__cause__ or error.__context__
    while deeper is not None:
        if isinstance(deeper, OSError | sqlite3.Error):
            told = deeper
        deeper = deeper.__cause__ or deeper.__context__
    return shown(next(iter(str(told).splitlines()), type(told).__name__))


def load_mlflow() -> None:
    """Import mlflow and silence its output; the lab reports what concerns the user."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def check_answers(uri: str) -> None:
    """Raise RequestError if a database does not answer now; mlflow would try for minutes."""
    refuse_untrusted(uri)
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _connect(uri)
    except (SQLAlchemyError, ImportError) as error:
        reason = root_cause(error)
        raise RequestError(f"tracking.uri={shown(uri)}: cannot be used: {reason}") from error


def _connect(uri: str) -> None:
    """Connect to a database once, so that its error is raised at once."""
    from sqlalchemy import create_engine

    create_engine(trust.with_password(uri)).connect().close()


def open_client(uri: str) -> MlflowClient:
    """Return a client of a store that this command names; raise NotTrustedError for others."""
    refuse_untrusted(uri)
    load_mlflow()
    from dit_lab.tracking.client import Client

    return Client(uri)


def open_existing(uri: str) -> MlflowClient:
    """Return a client as `open_client`; raise FileNotFoundError for a missing database file."""
    if is_local(uri) and not trust.sqlite_path(uri).exists():
        raise FileNotFoundError(f"{trust.sqlite_path(uri)} is missing")
    return open_client(uri)


def prepare_store(uri: str, *, experiment: str, artifact_root: Path) -> str:
    """Create folder, database tables and experiment if missing; return the experiment's id.

    Any number of processes may call this at once on an empty folder. With a database, artifacts go
    to `artifact_root`; a server decides for itself.

    Raises:
        RequestError: if the user must correct something.
        StoreUnreachableError: if a remote store does not answer.
    """
    check_uri(uri)
    refuse_untrusted(uri)
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        if not (is_local(uri) or is_server(uri)):
            _connect(uri)  # mlflow would try for minutes; if refused, nothing has been created
        with _alone(uri, artifact_root):
            if is_local(uri):
                _make_tables(trust.sqlite_path(uri))
            return _experiment_id(uri, experiment, artifact_root)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        reason = root_cause(error)
        denied = isinstance(error, MlflowException) and error.get_http_status_code() in (401, 403)
        denied = denied or WRONG_PASSWORD in str(error)
        # the driver is missing, or the address names one that does not exist
        hopeless = isinstance(error, ImportError | ArgumentError)
        if is_local(uri) or denied or hopeless:
            reason += trust.lacks_password(uri)
            raise RequestError(f"tracking.uri={shown(uri)}: cannot be used: {reason}") from error
        raise StoreUnreachableError(reason + trust.lacks_password(uri)) from error


@contextmanager
def _alone(uri: str, artifact_root: Path) -> Iterator[None]:
    """Hold the lock for creating a database: mlflow's migrations break if run twice at once."""
    if is_server(uri):
        yield
        return
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - a second, spent before locking
    from filelock import FileLock, Timeout

    beside = trust.sqlite_path(uri) if is_local(uri) else artifact_root
    beside.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(beside.with_name(f"{beside.name}.lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise RequestError(
            f"tracking.uri={shown(uri)}: another process has held {lock.lock_file} for "
            f"{LOCK_SECONDS:.0f} s; stop it, or give another tracking.uri"
        ) from None
    try:
        if is_local(uri):
            _check_writable(trust.sqlite_path(uri))
        yield
    finally:
        lock.release()


def _make_tables(path: Path) -> None:
    """Create a missing database file with all tables, atomically.

    mlflow cannot use a file without tables, as a killed process would leave it.
    """
    if path.exists() and path.stat().st_size:
        return
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    beside = path.with_name(f".{path.name}.new")
    for left in path.parent.glob(f"{beside.name}*"):  # from killed processes
        left.unlink()
    beside.touch()  # sqlite would create it without write access for the group
    engine = create_engine(store_uri(beside))
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    os.replace(beside, path)


def _check_writable(path: Path) -> None:
    """Raise sqlite3.Error or OSError now; mlflow would retry for 100 s."""
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("SELECT count(*) FROM sqlite_master")
        database.execute("ROLLBACK")


def _experiment_id(uri: str, name: str, artifact_root: Path) -> str:
    from mlflow.exceptions import MlflowException

    from dit_lab.tracking.client import check_artifact_location, refuse_unwritable

    client = open_client(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if is_server(uri) else artifact_root.absolute().as_uri()
        try:
            return client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another machine may have been faster
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        raise RequestError(
            f"tracking.experiment={name}: was deleted from the store; `mlflow experiments restore "
            f"-x {found.experiment_id}` brings it back, or give another name"
        )
    refuse_unwritable(uri, name, found.artifact_location)
    check_artifact_location(uri, found.artifact_location)
    return found.experiment_id


def clean_key(name: str) -> str:
    """Return a key that MLflow accepts.

    It has letters, digits, `_ . - /` and spaces, a plain path and at most 250 characters.
    """
    name = re.sub(r"[^\w./ -]", "_", name)
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:KEY_CHARACTERS].rstrip("/") or "_"


def as_params(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the leaves of a config as MLflow parameters with distinct keys.

    The chosen members come first, each under the name of its group: `objective` = `ddpm`. Values
    are cut at 6000 characters; the artifact config.yaml has them whole.
    """
    params: dict[str, str] = {}
    leaves = {key: part for key, part in config.items() if key not in ("choices", *LABELS)}
    for name, value in (*members(config.get("choices", {})).items(), *flatten(leaves)):
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        key, count = clean_key(name), 1
        while key in params:
            count += 1
            key = f"{clean_key(name)[: KEY_CHARACTERS - 8]}_{count}"
        params[key] = clean_text(text)[:VALUE_CHARACTERS]
    return params


def clean_text(text: str) -> str:
    """Return a text that every store accepts: NUL and bytes that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def members(choices: Mapping[str, str]) -> dict[str, str]:
    """Return the chosen members that say what is trained, and not where results are kept."""
    return {group: name for group, name in choices.items() if group not in PLACES}


def as_tags(texts: Mapping[str, str]) -> dict[str, str]:
    """Return MLflow tags, with values cut at 8000 characters."""
    return {clean_key(name): clean_text(text)[:TAG_CHARACTERS] for name, text in texts.items()}


def compare(
    known: Mapping[str, str], now: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return (new texts, changed texts); keys under `mlflow.` belong to MLflow and never change."""
    new = {key: text for key, text in now.items() if key not in known}
    changed = {
        key: text
        for key, text in now.items()
        if known.get(key, text) != text and not key.startswith("mlflow.")
    }
    return new, changed


def log_texts(
    client: MlflowClient, run_id: str, *, params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """Log parameters and tags; the client sends them in the chunks of 100 that MLflow allows."""
    from mlflow.entities import Param, RunTag

    client.log_batch(
        run_id,
        params=[Param(key, text) for key, text in params.items()],
        tags=[RunTag(key, text) for key, text in tags.items()],
    )


def all_pages(search: Callable[..., PagedList[Any]], *asked: Any, **options: Any) -> list[Any]:
    """Return all results of a search of the client, page by page."""
    found: list[Any] = []
    token: str | None = None
    while token != "":
        page = search(*asked, **options, page_token=token)
        found += page
        token = page.token or ""
    return found
