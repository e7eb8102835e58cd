"""A shared MLflow store: a PostgreSQL database, behind the server of `dit-lab ui` or alone.

Run with `pytest -m extra tests/integration/test_team_store.py`.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dit_lab.core import trust
from dit_lab.runs.folder import RunFolder
from dit_lab.runs.metrics import read_metrics
from dit_lab.tracking.mlflow_store import clean_key, open_client
from dit_lab.tracking.parent import PARENT_TAG
from tests.integration.fragile import manifest_in, sweep_in, sweep_of, write_module
from tests.integration.server import fetch, free_port, listens

pytestmark = [
    pytest.mark.extra,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (shutil.which("initdb") and shutil.which("pg_ctl")), reason="no PostgreSQL here"
    ),
]
pytest.importorskip("psycopg")

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

PASSWORD = "nobody-may-read-this"


class Database(NamedTuple):
    """An empty database of PostgreSQL, and the file with the password of its user."""

    port: int
    passfile: Path

    @property
    def with_password(self) -> str:
        return f"postgresql://lab:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def without(self) -> str:
        return f"postgresql://lab@127.0.0.1:{self.port}/postgres?passfile={self.passfile}"


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    port = free_port()
    passfile = tmp_path_factory.mktemp("secret") / "pgpass"
    passfile.write_text(f"127.0.0.1:{port}:postgres:lab:{PASSWORD}\n")
    passfile.chmod(0o600)
    with tempfile.TemporaryDirectory() as folder:  # where a user without rights may look
        Path(folder, "password").write_text(PASSWORD)
        who: dict[str, Any] = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        if os.geteuid() == 0:  # as whom PostgreSQL refuses to run
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            who |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        make = "initdb -D data -U lab --pwfile=password --auth=scram-sha-256 --no-sync -E UTF8"
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        subprocess.run(make.split(), **who)
        subprocess.run(["pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start"], **who)
        yield Database(port, passfile)
        subprocess.run(["pg_ctl", "-D", "data", "-m", "immediate", "stop"], **who)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_module(tmp_path)
    return tmp_path


@pytest.fixture
def server(folder: Path, start: Start, database: Database) -> Iterator[str]:
    """The address of what `dit-lab ui` serves on the database."""
    port = free_port()
    given = [f"tracking.uri={database.with_password}", "paths.root=team"]
    process = start("ui", "--port", str(port), *given)
    deadline = time.monotonic() + 240
    while not listens(port):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert PASSWORD not in process.stdout.read()


def open_at(port: str) -> list[str]:
    """The addresses at which a port of this machine is open."""
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    return re.findall(rf"\d+: ([0-9A-F]+):{int(port):04X} 0+:0000 0A", listening)


def that_show_the_password(folder: Path) -> list[str]:
    """Files below the folder, and command lines of this machine."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    found = []
    for path in [*files, *Path("/proc").glob("[0-9]*/cmdline")]:
        try:
            shows = PASSWORD.encode() in path.read_bytes()
        except OSError:  # a process that has ended since
            continue
        found += [str(path)] if shows else []
    return found


def check_sweep(folder: Path, uri: str, artifacts: Path) -> None:
    """That the store has the whole of the only sweep there, which has two jobs."""
    client, manifest = open_client(trust.trust_store(uri)), manifest_in(folder)
    parent = client.get_run(manifest["parent_run_id"])
    runs = client.search_runs([parent.info.experiment_id])
    children = [run for run in runs if run.data.tags.get(PARENT_TAG) == parent.info.run_id]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.run_id for run in children} == {job["run_id"] for job in manifest["jobs"]}
    assert (len(runs), len(children)) == (3, 2)

    def kept(run_id: str, name: str) -> bytes:
        (place,) = artifacts.rglob(run_id)  # a server puts a folder for the experiment around it
        return (place / "artifacts" / name).read_bytes()

    for job in manifest["jobs"]:
        run, known = RunFolder(folder / "outputs" / job["run"]), client.get_run(job["run_id"])
        rows = read_metrics(run.metrics)
        told = [
            (key, point.step, point.value)
            for key in known.data.metrics
            for point in client.get_metric_history(job["run_id"], key)
        ]
        assert sorted(told) == sorted(
            (clean_key(key), row.step, value) for row in rows for key, value in row.metrics.items()
        )
        assert len(told) > 20
        assert kept(job["run_id"], "config.yaml") == run.config.read_bytes()
    report = Path(sweep_in(folder)) / "report/report.html"
    assert kept(parent.info.run_id, "report/report.html") == report.read_bytes()


def test_a_sweep_through_the_server(
    folder: Path, command: Command, tiny: list[str], server: str
) -> None:
    assert open_at(server.rpartition(":")[2]) == ["0100007F"]  # 127.0.0.1, and no other address
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(f"{server}/ajax-api/3.0/jobs/", {"job_name": "invoke_scorer", "params": {}})
    assert "job execution feature is not enabled" in refused.value.read().decode()

    done = command(*sweep_of(tiny), "seed=0,1", f"tracking.uri={server}")
    assert done.returncode == 0, done.stdout + done.stderr
    check_sweep(folder, server, folder / "team/mlartifacts")
    assert that_show_the_password(folder) == []


def test_a_sweep_without_a_server(
    folder: Path, command: Command, tiny: list[str], database: Database
) -> None:
    done = command(*sweep_of(tiny), "seed=0,1", f"tracking.uri='{database.without}'")
    assert done.returncode == 0, done.stdout + done.stderr
    check_sweep(folder, database.without, folder / "outputs/mlartifacts")
    assert that_show_the_password(folder) == []


def test_a_wrong_password_is_refused_and_leaves_nothing(
    tmp_path: Path, command: Command, tiny: list[str], database: Database
) -> None:
    uri = database.with_password.replace(PASSWORD, "wrong")
    done = command("train", "-m", *tiny, "seed=0,1", f"tracking.uri={uri}")
    assert done.returncode == 2
    assert "password authentication failed" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_does_not_answer_is_said_at_once(command: Command) -> None:
    uri = f"postgresql://lab:{PASSWORD}@127.0.0.1:{free_port()}/postgres"
    done = command("ui", f"tracking.uri={uri}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dit-lab: tracking.uri=postgresql://***@127.0.0.1:")
    assert done.stderr.endswith("Connection refused\n")
    assert done.stderr.count("\n") == 1
