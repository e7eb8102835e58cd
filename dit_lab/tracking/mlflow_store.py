"""The MLflow store: which addresses are allowed, making it exactly once, what it accepts, its page.

mlflow takes more than a second to import, so only the functions that talk to a store do it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dit_lab.core.errors import RequestError
from dit_lab.core.text import store_uri
from dit_lab.runs.folder import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # its page shows training
LOCK_SECONDS = 120.0  # making the tables takes seconds; a queue of jobs waits for the first one
BUSY_SECONDS = 20.0  # how long sqlite waits for another writer, as mlflow does

METRICS_PER_REQUEST = 1000  # MLflow's limits
VALUE_CHARACTERS, TAG_CHARACTERS, KEY_CHARACTERS = 6000, 8000, 250

_ENVIRONMENT = {  # the user's own settings win
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # our thread retries; mlflow would for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class StoreUnreachableError(Exception):
    """A remote store that does not answer now and may later: no reason to stop anything."""


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
    if is_local(uri) and not sqlite_path(uri).is_absolute():
        raise RequestError(
            f"tracking.uri={uri}: needs the absolute path of a file, or processes in different "
            f"folders would use different stores; give {example}"
        )

    if is_local(uri) and re.search("%[0-9A-Fa-f]{2}", str(sqlite_path(uri))):
        raise RequestError(
            f"tracking.uri={uri}: MLflow keeps no database in a folder with ? or %20 and the like "
            "in its name; give another paths.root or tracking.uri, or tracking=none"
        )
    if is_local(uri) and not _may_be_database(sqlite_path(uri)):
        raise RequestError(f"tracking.uri={uri}: is no sqlite database; give {example}")


def _host(uri: str) -> str | None:
    with suppress(ValueError):  # half an IPv6 address, or a port that is no number
        return urlsplit(uri).hostname if urlsplit(uri).port != 0 else None
    return None


def _may_be_database(path: Path) -> bool:
    """Whether a file is a sqlite database, or is not there yet."""
    try:
        with open(path, "rb") as file:
            return file.read(16) in (b"", b"SQLite format 3\0")
    except IsADirectoryError:
        return False
    except OSError:  # mlflow says why it cannot be opened
        return True


def is_server(uri: str) -> bool:
    """Whether an MLflow server stands between us and the database, and owns the artifacts."""
    return _scheme(uri) in SERVERS


def is_local(uri: str) -> bool:
    """Whether the store is a file of this machine, so that a failure to open it will not pass."""
    return _scheme(uri) == "sqlite"


def sqlite_path(uri: str) -> Path:
    """The file behind a sqlite URI: what follows the third slash, an empty path where nothing."""
    found = re.match(r"[\w+]+:///([^?]*)", uri)
    return Path(found[1] if found else "")


def shown(uri: str) -> str:
    """The URI without a user's password, for messages."""
    uri = re.sub(r"://\S*@", "://***@", uri)
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", uri)


def root_cause(error: BaseException) -> str:
    """One line: what the operating system or sqlite said, or else the error's own first words."""
    told, deeper = error, error.__cause__ or error.__context__
    while deeper is not None:
        if isinstance(deeper, OSError | sqlite3.Error):
            told = deeper
        deeper = deeper.__cause__ or deeper.__context__
    return shown(next(iter(str(told).splitlines()), type(told).__name__))


def _scheme(uri: str) -> str:
    """The kind of store: "postgresql" of "postgresql+psycopg2://...", "" for a path."""
    if uri == "databricks":
        return uri
    found = re.match(r"([A-Za-z][\w.-]+)(\+\w+)?:", uri)  # two letters at least: C:\ is a path
    return found[1].lower() if found else ""


def load_mlflow() -> None:
    """Import mlflow and keep it quiet: what concerns the user is said in our own words."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def check_answers(uri: str) -> None:
    """Raise RequestError where a database does not answer now: mlflow would try for minutes."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        create_engine(uri).connect().close()
    except (SQLAlchemyError, ImportError) as error:
        reason = root_cause(error)
        raise RequestError(f"tracking.uri={shown(uri)}: cannot be used: {reason}") from error


def open_client(uri: str) -> MlflowClient:
    """A client with nothing global about it: no active run, no MLFLOW_* variable decides for it."""
    load_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def open_existing(uri: str) -> MlflowClient:
    """`open_client`, but a database file that is missing is said to be, and not made."""
    if is_local(uri) and not sqlite_path(uri).exists():
        raise FileNotFoundError(f"{sqlite_path(uri)} is missing")
    return open_client(uri)


def prepare_store(uri: str, *, experiment: str, artifact_root: Path) -> str:
    """Make folder, database tables and experiment where they are missing; the experiment's id.

    Any number of processes may call it at once on an empty folder. Artifacts of a database that
    we open ourselves go to `artifact_root`; a server decides for itself. Raises RequestError for
    what the user must put right, StoreUnreachableError where a remote store does not answer.
    """
    check_uri(uri)
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        with _alone(uri, artifact_root):
            return _experiment_id(uri, experiment, artifact_root)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        reason = root_cause(error)
        denied = isinstance(error, MlflowException) and error.get_http_status_code() in (401, 403)
        # a driver is missing, or the address names none that exists
        hopeless = isinstance(error, ImportError | ArgumentError)
        if is_local(uri) or denied or hopeless:
            raise RequestError(f"tracking.uri={shown(uri)}: cannot be used: {reason}") from error
        raise StoreUnreachableError(reason) from error


@contextmanager
def _alone(uri: str, artifact_root: Path) -> Iterator[None]:
    """Hold the lock under which a database is made: mlflow's migrations break when run twice."""
    if is_server(uri):
        yield
        return
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - a second, better spent before
    from filelock import FileLock, Timeout

    beside = sqlite_path(uri) if is_local(uri) else artifact_root
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
            _check_writable(sqlite_path(uri))
        yield
    finally:
        lock.release()


def _check_writable(path: Path) -> None:
    """Raise sqlite3.Error or OSError now; mlflow would retry a hopeless file for 100 s."""
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("SELECT count(*) FROM sqlite_master")
        database.execute("ROLLBACK")


def _experiment_id(uri: str, name: str, artifact_root: Path) -> str:
    from mlflow.exceptions import MlflowException

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
    return found.experiment_id


def clean_key(name: str) -> str:
    """A key that MLflow accepts: letters, digits, `_ . - /` and spaces, no odd path, 250 long."""
    name = re.sub(r"[^\w./ -]", "_", name)
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:KEY_CHARACTERS].rstrip("/") or "_"


def as_params(config: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of a configuration as MLflow parameters, no two under one key.

    Values are cut at 6000 characters; the artifact config.yaml has them whole.
    """
    params: dict[str, str] = {}
    for name, value in flatten(config):
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        key, count = clean_key(name), 1
        while key in params:
            count += 1
            key = f"{clean_key(name)[: KEY_CHARACTERS - 8]}_{count}"
        params[key] = text[:VALUE_CHARACTERS]
    return params


def as_tags(texts: Mapping[str, str]) -> dict[str, str]:
    """MLflow tags, values cut at 8000 characters."""
    return {clean_key(name): str(text)[:TAG_CHARACTERS] for name, text in texts.items()}


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


def last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """Metric key -> the last step that the store has of it."""
    known = client.get_run(run_id).data.metrics
    return {key: max(p.step for p in client.get_metric_history(run_id, key)) for key in known}


def newest_pages(uri: str, *, address: str, count: int = 3) -> dict[str, str]:
    """Experiment -> its list of runs on MLflow's page, which shows that of language models unless
    the address says otherwise; the newest experiments first."""
    if not is_local(uri):  # to look would make the tables, which the server makes in its own way
        return {}
    order = ["creation_time DESC"]
    found = open_existing(uri).search_experiments(order_by=order, max_results=count)
    place = f"{address}/#/experiments"
    return {
        one.name: f"{place}/{one.experiment_id}/runs?workflowType=machine_learning" for one in found
    }


def ui_command(
    uri: str, *, artifact_root: Path, host: str = "127.0.0.1", port: int
) -> tuple[list[str], dict[str, str]]:
    """The command line and the whole environment of an MLflow server that shows the store.

    It has no login and is meant for this machine: anybody who can reach another `host` reads and
    changes every run. Job execution, which runs code for whoever asks, is off. The store's address
    travels in the environment because it may hold a password, and command lines are public.
    """
    check_uri(uri)
    if is_server(uri):
        raise RequestError(f"tracking.uri={shown(uri)}: is a server already; open it in a browser")
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", artifact_root.absolute().as_uri()]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONSAFEPATH": "1",  # `python -m` would import from the folder it is started in
    }
    return command, {**_ENVIRONMENT, **os.environ, **settings}
