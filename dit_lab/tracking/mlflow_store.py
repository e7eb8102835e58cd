"""The MLflow store: making it exactly once, and what it accepts.

mlflow takes more than a second to import, so only the functions that talk to a store do it.
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

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # its page shows training
LOCK_SECONDS = 120.0  # making the tables takes seconds; a queue of jobs waits for the first one
BUSY_SECONDS = 20.0  # how long sqlite waits for another writer, as mlflow does

PLACES = ("paths", "sweep", "tracking")
LABELS = ("tags", "note")  # of a configuration, which are no parameters

WRONG_PASSWORD = "password authentication failed"  # in the words of PostgreSQL

METRICS_PER_REQUEST = 1000  # MLflow's limits
VALUE_CHARACTERS, TAG_CHARACTERS, KEY_CHARACTERS = 6000, 8000, 250

ENVIRONMENT = {  # the user's own settings win
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # our thread retries; mlflow would for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class StoreUnreachableError(Exception):
    """A remote store that does not answer now and may later: no reason to stop anything."""


class NotTrustedError(StoreUnreachableError):
    """A store that a file names and this command does not: nothing is sent to it."""


def refuse_untrusted(uri: str) -> None:
    """Raise NotTrustedError unless this command names the store."""
    if not trust.may_contact(uri):
        raise NotTrustedError(not_contacted(uri))


def root_cause(error: BaseException) -> str:
    """One line: what the operating system or sqlite said, or else the error's own first words."""
    if isinstance(error, NotTrustedError):
        return str(error)
    told, deeper = error, error.__cause__ or error.__context__
    while deeper is not None:
        if isinstance(deeper, OSError | sqlite3.Error):
            told = deeper
        deeper = deeper.__cause__ or deeper.__context__
    return shown(next(iter(str(told).splitlines()), type(told).__name__))


def load_mlflow() -> None:
    """Import mlflow and keep it quiet: what concerns the user is said in our own words."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def check_answers(uri: str) -> None:
    """Raise RequestError where a database does not answer now: mlflow would try for minutes."""
    refuse_untrusted(uri)
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _connect(uri)
    except (SQLAlchemyError, ImportError) as error:
        reason = root_cause(error)
        raise RequestError(f"tracking.uri={shown(uri)}: cannot be used: {reason}") from error


def _connect(uri: str) -> None:
    """Raise at once what a database says to whoever connects."""
    from sqlalchemy import create_engine

    create_engine(trust.with_password(uri)).connect().close()


def open_client(uri: str) -> MlflowClient:
    """A client of a store that this command names; raises NotTrustedError for others."""
    refuse_untrusted(uri)
    load_mlflow()
    from dit_lab.tracking.client import Client

    return Client(uri)


def open_existing(uri: str) -> MlflowClient:
    """`open_client`, but a database file that is missing is said to be, and not made."""
    if is_local(uri) and not trust.sqlite_path(uri).exists():
        raise FileNotFoundError(f"{trust.sqlite_path(uri)} is missing")
    return open_client(uri)


def prepare_store(uri: str, *, experiment: str, artifact_root: Path) -> str:
    """Make folder, database tables and experiment where they are missing; the experiment's id.

    Any number of processes may call it at once on an empty folder. Artifacts of a database that
    we open ourselves go to `artifact_root`; a server decides for itself. Raises RequestError for
    what the user must put right, StoreUnreachableError where a remote store does not answer.
    """
    check_uri(uri)
    refuse_untrusted(uri)
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        if not (is_local(uri) or is_server(uri)):
            _connect(uri)  # mlflow would try for minutes, and a refusal is to leave nothing
        with _alone(uri, artifact_root):
            if is_local(uri):
                _make_tables(trust.sqlite_path(uri))
            return _experiment_id(uri, experiment, artifact_root)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        reason = root_cause(error)
        denied = isinstance(error, MlflowException) and error.get_http_status_code() in (401, 403)
        denied = denied or WRONG_PASSWORD in str(error)
        # a driver is missing, or the address names none that exists
        hopeless = isinstance(error, ImportError | ArgumentError)
        if is_local(uri) or denied or hopeless:
            reason += trust.lacks_password(uri)
            raise RequestError(f"tracking.uri={shown(uri)}: cannot be used: {reason}") from error
        raise StoreUnreachableError(reason + trust.lacks_password(uri)) from error


@contextmanager
def _alone(uri: str, artifact_root: Path) -> Iterator[None]:
    """Hold the lock under which a database is made: mlflow's migrations break when run twice."""
    if is_server(uri):
        yield
        return
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - a second, better spent before
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
    """Make a database file that is not there yet, whole: mlflow cannot go on with one that lacks
    tables because it was killed."""
    if path.exists() and path.stat().st_size:
        return
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    beside = path.with_name(f".{path.name}.new")
    for left in path.parent.glob(f"{beside.name}*"):  # by who was killed
        left.unlink()
    beside.touch()  # by itself sqlite lets nobody of a group write
    engine = create_engine(store_uri(beside))
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    os.replace(beside, path)


def _check_writable(path: Path) -> None:
    """Raise sqlite3.Error or OSError now; mlflow would retry a hopeless file for 100 s."""
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("SELECT count(*) FROM sqlite_master")
        database.execute("ROLLBACK")


def _experiment_id(uri: str, name: str, artifact_root: Path) -> str:
    from mlflow.exceptions import MlflowException

    from dit_lab.tracking.client import refuse_elsewhere, refuse_unwritable

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
    refuse_elsewhere(uri, found.artifact_location)
    return found.experiment_id


def clean_key(name: str) -> str:
    """A key that MLflow accepts: letters, digits, `_ . - /` and spaces, no odd path, 250 long."""
    name = re.sub(r"[^\w./ -]", "_", name)
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:KEY_CHARACTERS].rstrip("/") or "_"


def as_params(config: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of a configuration as MLflow parameters, no two under one key: the chosen members
    first, each under the name of its group, `objective` = `ddpm`.

    Values are cut at 6000 characters; the artifact config.yaml has them whole.
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
    """A text that every store takes: without NUL, and bytes that were no UTF-8 written out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def members(choices: Mapping[str, str]) -> dict[str, str]:
    """The chosen members that say what is trained, and not where it is kept."""
    return {group: name for group, name in choices.items() if group not in PLACES}


def as_tags(texts: Mapping[str, str]) -> dict[str, str]:
    """MLflow tags, values cut at 8000 characters."""
    return {clean_key(name): clean_text(text)[:TAG_CHARACTERS] for name, text in texts.items()}


def compare(
    known: Mapping[str, str], now: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """(what is new, what has changed); keys under `mlflow.` belong to MLflow and stay."""
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
    """Everything that a search of the client finds, page by page."""
    found: list[Any] = []
    token: str | None = None
    while token != "":
        page = search(*asked, **options, page_token=token)
        found += page
        token = page.token or ""
    return found
