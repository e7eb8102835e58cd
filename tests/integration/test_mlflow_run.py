"""Runs in a real MLflow store: created once, complete, caught up later, correct final status.

One sqlite store serves all tests of this file, each with its own experiment; the server tests start
`mlflow server` on a free port of the loopback interface.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import (
    FAILED,
    FINISHED,
    KILLED,
    RunFolder,
    read_status,
    update_status,
    write_json,
)
from dit_lab.runs.metrics import MetricsRow, add_row, format_row, read_metrics
from dit_lab.tracking import mlflow_run
from dit_lab.tracking.addresses import check_uri, shown
from dit_lab.tracking.late import log_late, settle
from dit_lab.tracking.mlflow_page import ui_command
from dit_lab.tracking.mlflow_run import MlflowRun
from dit_lab.tracking.mlflow_store import (
    all_pages,
    as_params,
    clean_key,
    open_client,
    prepare_store,
)
from tests.integration.server import Proxy, fetch, free_port, listens, serving

CONFIG = {"seed": 0, "optimizer": {"lr": 1e-4}, "model": {"name": "pico", "sizes": [1, 2]}}


class Store:
    """A store and a run folder in it, with shorthands for what the tests look at."""

    def __init__(self, root: Path, uri: str, experiment: str) -> None:
        self.root, self.uri, self.experiment = root, trust.trust_store(uri), experiment
        self.folder = RunFolder(root / experiment)
        self.folder.root.mkdir()
        self.folder.config.write_text("seed: 0\n")

    def open(self, **changes: Any) -> MlflowRun:
        settings: dict[str, Any] = {
            "experiment": self.experiment,
            "artifact_root": self.root / "mlartifacts",
            "folder": self.folder,
            "name": "a run",
            "config": CONFIG,
            "tags": {"git_commit": "abc"},
        }
        return MlflowRun(self.uri, **(settings | changes))

    def read(self, run: MlflowRun) -> Any:
        return open_client(self.uri).get_run(run.run_id)

    def points(self, run: MlflowRun, key: str) -> list[tuple[int, float]]:
        history = open_client(self.uri).get_metric_history(run.run_id, key)
        return [(point.step, point.value) for point in history]

    def fill_metrics_file(self, steps: list[int]) -> None:
        rows = [MetricsRow(step, time.time(), {"train/loss": 1 / step}) for step in steps]
        self.folder.metrics.write_text("".join(format_row(row) for row in rows))

    def artifact(self, run: MlflowRun, name: str) -> Path:
        return self.root / "mlartifacts" / str(run.run_id) / "artifacts" / name


def end(run: MlflowRun, status: str = FINISHED, error: str | None = None) -> None:
    run.on_end(status=status, step=0, error=error)


def until(condition: Any, *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a store")  # with a space, which URIs must survive


@pytest.fixture
def store(root: Path, request: pytest.FixtureRequest) -> Store:
    return Store(root, f"sqlite:///{root}/mlflow.db", request.node.name)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker's times cut down to what a test can wait for."""
    monkeypatch.setattr(mlflow_run, "SEND_EVERY_SECONDS", 0.2)
    monkeypatch.setattr(mlflow_run, "LONGEST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(mlflow_run, "START_SECONDS", 2.0)
    monkeypatch.setattr(mlflow_run, "END_SECONDS", 2.0)


# ---- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////data/mlflow.db",
        "postgresql+psycopg2://user:secret@host/db",
        "mysql://host/db",
        "mssql+pyodbc://host/db",
        "http://127.0.0.1:5000",
        "https://host",
        "databricks",
        "databricks://profile",
    ],
)
def test_usable_addresses(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file:///data/mlruns", "mlflow migrate-filestore"),
        ("mlruns", "mlflow migrate-filestore"),
        ("/data/mlruns", "sqlite:////"),
        ("C:\\mlruns", "plain folders"),
        ("", "plain folders"),
        ("redis://host", "unknown kind of store 'redis'"),
        ("sqlite:///mlflow.db", f"sqlite:///{os.getcwd()}/mlflow.db"),
        ("sqlite://", "absolute path"),
        ("sqlite:///:memory:", "absolute path"),
    ],
)
def test_other_addresses_are_refused_in_one_line_that_says_what_instead(
    uri: str, said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        check_uri(uri)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checking_an_address_imports_nothing_slow() -> None:
    code = (
        "import sys; from dit_lab.tracking.mlflow_page import check_uri, ui_command\n"
        "from dit_lab.tracking import mlflow_run\n"
        "check_uri('http://host'); assert not {'torch', 'mlflow', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_passwords_are_not_shown() -> None:
    assert shown("postgresql://me:secret@host/db") == "postgresql://***@host/db"
    assert shown("postgresql://me:se/cr@t@host/db") == "postgresql://***@host/db"
    assert shown("postgresql://host/db?password=secret&user=me").endswith("?password=***&user=me")


# ---- making the store ---------------------------------------------------------------------------


PREPARE_EIGHT_TIMES = """
import multiprocessing, os, sys
from pathlib import Path
from dit_lab.core import trust
from dit_lab.tracking.mlflow_store import load_mlflow, open_client, prepare_store

load_mlflow()  # once, before the processes part: imports take longer than all that they do
import mlflow.store.tracking.sqlalchemy_store

def work(root, k, together):
    (root / f"cwd{k}").mkdir()
    os.chdir(root / f"cwd{k}")
    uri = f"sqlite:///{root}/out/mlflow.db"
    trust.trust_store(uri)
    together.wait()
    number = prepare_store(uri, experiment="x", artifact_root=root / "out/mlartifacts")
    open_client(uri).create_run(number)
    print(number, flush=True)

fork = multiprocessing.get_context("fork")
together = fork.Barrier(8)
jobs = [fork.Process(target=work, args=(Path(sys.argv[1]), k, together)) for k in range(8)]
for job in jobs:
    job.start()
for job in jobs:
    job.join()
"""


@pytest.mark.slow
def test_eight_processes_at_once_on_an_empty_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREPARE_EIGHT_TIMES, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("1\n" * 8, "")
    client = open_client(trust.trust_store(f"sqlite:///{tmp_path}/out/mlflow.db"))
    assert len(client.search_runs(["1"])) == 8
    location = client.get_experiment("1").artifact_location
    assert location == (tmp_path / "out/mlartifacts").as_uri()
    assert not list(tmp_path.glob("cwd*/*"))


def test_nothing_is_printed_from_first_table_to_last_metric(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from dit_lab.runs.folder import RunFolder\n"
        "from dit_lab.tracking.mlflow_run import MlflowRun\n"
        "from dit_lab.core import trust\n"
        "root = Path(sys.argv[1]); (root / 'config.yaml').write_text('')\n"
        "trust.trust_own_store(root)\n"
        "run = MlflowRun(f'sqlite:///{root}/mlflow.db', experiment='x', artifact_root=root / 'a',\n"
        "                folder=RunFolder(root), name='n', config={'a': 'b' * 7000}, tags={})\n"
        "run.on_metrics(1, {'train/loss': 1.0})\n"
        "run.on_end(status='FINISHED', step=1, error=None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


# ---- a run --------------------------------------------------------------------------------------


def test_a_run_from_start_to_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    parent = store.open(name="parent")
    run = store.open(tags={"mlflow.parentRunId": parent.run_id})
    assert run.run_id not in (None, "0" * 32, parent.run_id)
    assert store.read(run).info.status == "RUNNING"
    run.on_start(first_step=0, total_steps=20)
    for step in range(1, 21):
        run.on_step(step)
        run.on_metrics(step, {"train/loss": 1 / step, "train/grad_norm": float("inf")})
    samples = store.folder.samples / "step-00000020.png"
    samples.parent.mkdir()
    Image.effect_noise((40, 20), 50).save(samples)
    run.on_artifact(20, samples)
    end(run)
    end(parent)
    read = store.read(run)
    assert read.info.status == "FINISHED"
    assert read.info.end_time is not None
    assert read.info.run_name == "a run"
    assert read.data.tags["mlflow.parentRunId"] == parent.run_id
    assert read.data.params == {
        "seed": "0",
        "optimizer.lr": "0.0001",
        "model.name": "pico",
        "model.sizes": "[1, 2]",
    }
    assert store.points(run, "train/loss") == [(step, 1 / step) for step in range(1, 21)]
    assert store.points(run, "train/grad_norm") == []  # mlflow would have kept 1.8e308
    assert len(store.points(run, "nonfinite/train/grad_norm")) == 20
    assert store.artifact(run, "config.yaml").read_text() == "seed: 0\n"
    (kept,) = store.artifact(run, "images").glob("samples+step+20+*.png")
    assert list(Image.open(kept).getdata()) == list(Image.open(samples).getdata())
    assert read.data.tags["mlflow.loggedImages"] == "True"  # the page then looks for them
    assert len(open_client(store.uri).search_runs([read.info.experiment_id])) == 2


@pytest.mark.usefixtures("impatient")
def test_a_finished_training_is_a_model_with_what_was_measured(store: Store) -> None:
    client = open_client(store.uri)
    finished = store.open(name="1 lr=0.1", config={"choices": {"model": "pico"}, "seed": 0})
    for step in (10, 20):
        finished.on_metrics(step, {"train/loss": 1 / step, "eval/loss": 2 / step})
    end(finished)
    failed = store.open(name="failed")
    end(failed, FAILED, "ValueError")
    run = store.read(finished)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.name, model.source_run_id) == ("1 lr=0-1", finished.run_id)
    assert (model.status.name, model.params) == ("READY", {"model": "pico", "seed": "0"})
    assert [(metric.key, metric.step, metric.value) for metric in model.metrics] == [
        ("eval/loss", 20, 0.1)
    ]
    assert [made.model_id for made in run.outputs.model_outputs] == [model.model_id]
    assert store.points(finished, "eval/loss") == [(10, 0.2), (20, 0.1)]  # none of them twice
    again = store.open(run_id=finished.run_id, resume_step=20)
    end(again)
    assert len(client.search_logged_models([run.info.experiment_id])) == 1

    # a first try that ended before the model was linked
    cut_off = store.open(name="cut off")
    cut_off.on_metrics(20, {"eval/loss": 0.3})
    until(lambda: "eval/loss" in store.read(cut_off).data.metrics)
    client.create_logged_model(run.info.experiment_id, name="cut off", source_run_id=cut_off.run_id)
    end(cut_off)
    models = client.search_logged_models([run.info.experiment_id])
    assert sorted((one.name, one.status.name) for one in models) == [
        ("1 lr=0-1", "READY"), ("cut off", "READY")
    ]  # fmt: skip
    assert len(store.read(cut_off).outputs.model_outputs) == 1
    assert store.points(cut_off, "eval/loss") == [(20, 0.3)]


def test_a_large_configuration_with_odd_keys(store: Store) -> None:
    config = {f"group{k}": {"key": k} for k in range(400)}
    odd = {"a=b@c": "1", "a#b@c": "2", "x//../y/": None, "k" * 300: "", "long": "v" * 10_000}
    run = store.open(config=config | odd)
    end(run)
    params = store.read(run).data.params
    assert len(params) == 405
    assert params["group399.key"] == "399"
    assert (params["a_b_c"], params["a_b_c_2"], params["x/y"]) == ("1", "2", "null")
    assert params["k" * 250] == ""
    assert params["long"] == "v" * 6000


def test_keys_never_collide_however_long() -> None:
    names = ["k" * 250 + "=", "k" * 250 + "@", "k" * 250 + "#"]
    params = as_params({name: name[-1] for name in names})
    assert list(params.values()) == ["=", "@", "#"]
    assert max(map(len, params)) == 250
    assert clean_key("/../") == "_"


def test_how_a_run_ended_is_said_once_and_kept(store: Store) -> None:
    run = store.open()
    end(run, FAILED, "Traceback:\n  line 3\nValueError: loss is not finite\n")
    end(run, FINISHED)
    read = store.read(run)
    assert read.info.status == "FAILED"
    assert read.data.tags["error"] == "ValueError: loss is not finite"
    assert "line 3" in store.artifact(run, "traceback.txt").read_text()
    stopped = store.open()
    end(stopped, KILLED, "stopped by signal 15")
    assert store.read(stopped).info.status == "KILLED"
    assert not store.artifact(stopped, "traceback.txt").exists()
    closed_by_another = store.open()
    open_client(store.uri).set_terminated(closed_by_another.run_id, "KILLED")
    end(closed_by_another, FINISHED)
    assert store.read(closed_by_another).info.status == "KILLED"


def test_a_resumed_run_goes_on_in_the_same_place(store: Store) -> None:
    long = {"over=rides": "x" * 9000}  # kept cut and under another key, yet not a change
    first = store.open(tags={"git_commit": "abc"} | long)
    for step in (10, 20):
        first.on_metrics(step, {"train/loss": 1 / step})
    end(first, KILLED)

    def resume(attempt: int, *, in_file: list[int], then: list[int]) -> list[tuple[int, float]]:
        store.fill_metrics_file(in_file)
        again = store.open(
            run_id=first.run_id,
            resume_step=in_file[-1],
            config=CONFIG | {"optimizer": {"lr": 2e-4}, "new": True},
            tags={"git_commit": "def", "host": "b"} | long,
        )
        assert again.run_id == first.run_id
        assert store.read(again).info.status == "RUNNING"
        for step in then:
            again.on_metrics(step, {"train/loss": 1 / step})
        end(again)
        data = store.read(again).data
        assert data.params["optimizer.lr"] == "0.0001"
        assert data.params["new"] == "true"
        assert data.tags["git_commit"] == "abc"
        assert data.tags["host"] == "b"
        assert data.tags[f"resume.{attempt}.optimizer.lr"] == "0.0002"
        assert data.tags[f"resume.{attempt}.git_commit"] == "def"
        assert data.tags[f"resume.{attempt}.step"] == str(in_file[-1])
        assert len([key for key in data.tags if key.startswith("resume.")]) == 3 * attempt
        return store.points(again, "train/loss")

    # The store had missed step 30; then it is ahead of the checkpoint, which is at step 20.
    curve = [(step, 1 / step) for step in (10, 20, 30, 40, 50, 60)]
    assert resume(1, in_file=[10, 20, 30], then=[40, 50]) == curve[:5]
    assert resume(2, in_file=[10, 20], then=[30, 40, 50, 60]) == curve


def test_labels_and_the_note_are_those_of_the_last_command(store: Store) -> None:
    def told(run: MlflowRun) -> tuple[str, str]:
        tags = store.read(run).data.tags
        return tags["topic"], tags["mlflow.note.content"].partition("\n")[0]

    def opened(topic: str, note: str, **more: Any) -> MlflowRun:
        write_json(store.folder.tracking, {"name": "a run", "tags": {}, "note": note})
        return store.open(labels={"topic": topic}, **more)

    first = opened("a", "First.")
    assert told(first) == ("a", "First.")
    end(first, KILLED)
    again = opened("b", "Second.", run_id=first.run_id)
    assert told(again) == ("b", "Second.")
    client = open_client(store.uri)
    note = store.read(again).data.tags["mlflow.note.content"]
    client.set_tag(again.run_id, "mlflow.note.content", note.replace("Second", "Typed on the page"))
    write_json(store.folder.status, {"status": FINISHED, "step": 1, "updated": 1.0,
                                     "results": {"eval/loss": 0.25}})  # fmt: skip
    end(again)
    assert told(again) == ("b", "Typed on the page.")
    assert "| eval/loss | 0.25 |" in store.read(again).data.tags["mlflow.note.content"]


def test_a_run_that_the_store_lost_is_made_anew(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.fill_metrics_file([10])
    run = store.open(run_id="0" * 32, resume_step=10)
    end(run)
    assert run.run_id != "0" * 32
    assert store.points(run, "train/loss") == [(10, 0.1)]
    assert "is not in the store any more" in caplog.text


@pytest.mark.usefixtures("impatient")
def test_an_artifact_that_cannot_be_stored_holds_up_nothing_else(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run = store.open()
    store.artifact(run, "images").write_text("a file where a folder is needed")
    store.folder.samples.mkdir()
    broken, sample = (store.folder.samples / f"step-0000000{step}.png" for step in (1, 2))
    broken.write_bytes(b"no picture")
    Image.new("L", (4, 4)).save(sample)
    for path in (broken, sample, store.folder.root / "never written"):
        run.on_artifact(1, path)
    run.on_metrics(1, {"train/loss": 1.0})
    end(run)
    assert store.points(run, "train/loss") == [(1, 1.0)]
    assert store.artifact(run, "config.yaml").exists()
    assert f"{store.folder.root / 'never written'}: missing" in caplog.text
    assert f"{broken}: not an image" in caplog.text
    assert "metric rows left: 0, files left: 1" in caplog.text
    assert store.read(run).info.status == "RUNNING"  # the end comes last, when it is whole
    assert not run.is_whole


@pytest.mark.slow
def test_a_blocked_store_does_not_slow_training(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_run, "SEND_EVERY_SECONDS", 0.1)
    run = store.open()
    run.on_artifact(0, store.folder.config)
    with contextlib.closing(sqlite3.connect(f"{store.root}/mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.perf_counter()
        for step in range(2000):
            run.on_metrics(step, {"train/loss": 1.0, "train/lr": 0.1})
            if step % 100 == 0:
                time.sleep(0.02)  # so that the thread is in the middle of a request
        # 0.4 s of sleep, and a few microseconds a call: one wait for the lock would be 20 s.
        assert time.perf_counter() - started < 2
        other.rollback()
    end(run)
    assert len(store.points(run, "train/loss")) == 2000


# ---- afterwards ---------------------------------------------------------------------------------


def late(store: Store, run_id: str, uri: str | None = None, **metrics: float) -> str:
    """Send an evaluation of step 20; what went wrong, in words."""
    card = store.folder.evaluations / "0123456789ab.json"
    card.parent.mkdir(exist_ok=True)
    card.write_text("{}")
    named = {f"eval/{name}": value for name, value in metrics.items()}
    return log_late(uri or store.uri, run_id, MetricsRow(20, time.time(), named), artifact=card)


def test_an_error_that_a_store_would_not_take_is_written_out(store: Store) -> None:
    """A file name that is no UTF-8, and a NUL, which PostgreSQL refuses."""
    run = store.open()
    end(run, FAILED, "Traceback:\n  line 3\nOSError: no such file: \udcff\0.png")
    assert store.read(run).info.status == "FAILED"
    assert store.read(run).data.tags["error"] == "OSError: no such file: \\udcff\\0.png"
    assert "\\udcff" in store.artifact(run, "traceback.txt").read_text()


def test_a_search_goes_through_all_pages(store: Store) -> None:
    client = open_client(store.uri)
    experiment = prepare_store(store.uri, experiment=store.experiment, artifact_root=store.root)
    made = {client.create_run(experiment).info.run_id for _ in range(5)}
    for size in (2, 5, 1000):
        found = all_pages(client.search_runs, [experiment], max_results=size)
        assert len(found) == 5 and {run.info.run_id for run in found} == made


def test_an_evaluation_is_added_to_a_run_that_has_ended(store: Store) -> None:
    run = store.open()
    run.on_metrics(20, {"eval/recall": 0.5})
    end(run, KILLED)
    before = store.read(run).info
    assert late(store, str(run.run_id), accuracy=0.75, distance=float("nan")) == ""
    assert store.points(run, "eval/accuracy") == [(20, 0.75)]
    assert store.points(run, "eval/recall") == [(20, 0.5)]
    assert store.points(run, "eval/distance") == []
    assert store.points(run, "nonfinite/eval/distance") == [(20, 1.0)]
    assert store.artifact(run, "evaluations/0123456789ab.json").read_text() == "{}"
    after = store.read(run).info
    assert (after.status, after.end_time) == (before.status, before.end_time)


def test_a_run_that_is_taken_up_again_keeps_what_was_added(store: Store) -> None:
    """And sends its own metrics of that step all the same, once."""
    first = store.open()
    end(first, KILLED)
    assert late(store, str(first.run_id), accuracy=0.75) == ""
    store.fill_metrics_file([10, 20])
    again = store.open(run_id=first.run_id, resume_step=20)
    end(again)
    assert store.points(again, "train/loss") == [(10, 0.1), (20, 0.05)]
    assert store.points(again, "eval/accuracy") == [(20, 0.75)]


def test_what_the_store_does_not_take_is_said_in_one_line(store: Store, tmp_path: Path) -> None:
    """And a database that is gone, with its run, is not made anew."""
    run = store.open()
    end(run)
    gone = tmp_path / "gone" / "mlflow.db"
    started = time.monotonic()
    for uri, run_id, said in (
        (store.uri, "0" * 32, "not found"),
        (f"sqlite:///{gone}", str(run.run_id), f"{gone} is missing"),
        (f"http://127.0.0.1:{free_port()}", str(run.run_id), "Connection refused"),
    ):
        trouble = late(store, run_id, trust.trust_store(uri), accuracy=0.75)
        assert said in trouble
        assert "\n" not in trouble
    assert time.monotonic() - started < 30  # some seconds; mlflow alone retries for minutes
    assert store.points(run, "eval/accuracy") == []
    assert not gone.parent.exists()


# ---- a server -----------------------------------------------------------------------------------


def test_the_server_command() -> None:
    uri = "postgresql://me:secret@host/db"
    plain = trust.trust_store(uri)
    assert plain == "postgresql://me@host/db"
    command, environment = ui_command(plain, artifact_root=Path("/data/art"), port=5123)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert not any("secret" in word for word in command)
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
    with pytest.raises(RequestError, match="a server already"):
        ui_command("https://host", artifact_root=Path("/data"), port=1)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_run_outlives_its_server(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    prepare_store(store.uri, experiment="Default", artifact_root=store.root)
    port, cwd = free_port(), tmp_path / "cwd"
    cwd.mkdir()
    remote = Store(store.root, f"http://127.0.0.1:{port}", f"{store.experiment}_remotely")

    run = remote.open(config=CONFIG | {"empty": ""})  # nobody listens yet
    assert run.run_id is None
    assert "cannot be updated ([Errno 111] Connection refused)" in caplog.text
    run.on_metrics(1, {"train/loss": 1.0})
    with serving(store.uri, store.root / "mlartifacts", port, cwd):
        assert "<title>MLflow</title>" in fetch(f"http://127.0.0.1:{port}/")
        search = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
        found = json.loads(fetch(search, {"max_results": 100}))["experiments"]
        assert "Default" in {experiment["name"] for experiment in found}
        until(lambda: "is updated again" in caplog.text)
        assert run.run_id is not None
        end(run)
        assert remote.points(run, "train/loss") == [(1, 1.0)]
        assert remote.read(run).info.status == "FINISHED"
        assert remote.read(run).data.params["empty"] == ""
        artifacts = open_client(remote.uri).list_artifacts(run.run_id)
        assert [artifact.path for artifact in artifacts] == ["config.yaml"]
        remote.fill_metrics_file([1])
        again = remote.open(run_id=run.run_id, resume_step=1)
    assert not listens(port)
    assert list(cwd.iterdir()) == []  # the server left nothing where it was started

    again.on_metrics(2, {"train/loss": 0.5})
    remote.fill_metrics_file([1, 2])
    started = time.monotonic()
    end(again)
    assert time.monotonic() - started < 4  # END_SECONDS, and some air
    warnings = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert "([Errno 111] Connection refused); metric rows left: 1, files left: 0" in warnings[-1]

    with pytest.raises(RequestError, match="was made through a server, which keeps the artifacts"):
        store.open(run_id=run.run_id, experiment=remote.experiment, folder=remote.folder)


def track_and_end(uri: str, folder: RunFolder, config: Any, tags: dict[str, str]) -> None:
    """What a process does that trains for three steps; its end does not wait for the thread."""
    mlflow_run.START_SECONDS = mlflow_run.END_SECONDS = 2.0
    run = MlflowRun(
        trust.trust_store(uri),
        experiment=config["tracking"]["experiment"],
        artifact_root=Path(config["paths"]["root"]) / "mlartifacts",
        folder=folder,
        name="a run",
        config=config,
        tags=tags,
    )
    for row in read_metrics(folder.metrics):
        run.on_metrics(row.step, row.metrics)
    end(run)
    status = {"status": FINISHED, "step": 3, "error": None, "tracking_run_id": run.run_id}
    update_status(folder, **status, is_tracked_whole=run.is_whole)
    write_json(folder.tracking, {"name": "a run", "tags": tags})


@pytest.mark.slow
def test_what_a_server_refused_or_had_no_time_for_is_sent_afterwards(
    store: Store, tmp_path: Path
) -> None:
    """Counted: points, parameters, tags and files, and the end only behind all of them."""
    prepare_store(store.uri, experiment="Default", artifact_root=store.root)
    port, names = free_port(), [f"train/loss_{number}" for number in range(37)]
    tags = {f"tag.{number}": "x" for number in range(5)}
    with serving(store.uri, store.root / "mlartifacts", port, tmp_path), Proxy(port) as proxy:
        for way in ("refuses", "slow"):
            remote = Store(store.root, proxy.uri, f"{store.experiment}_{way}")
            folder = remote.folder
            config = {
                "option": {str(number): number for number in range(121)},
                "tracking": {"uri": proxy.uri, "experiment": remote.experiment},
                "paths": {"root": str(store.root)},
            }
            folder.samples.mkdir()
            Image.new("L", (4, 4)).save(folder.samples / "step-00000003.png")
            for step in (1, 2, 3):
                add_row(
                    folder.metrics, MetricsRow(step, 1.0 * step, dict.fromkeys(names, 1 / step))
                )
            proxy.seconds = 0.8 if way == "slow" else 0.0
            if way == "refuses":
                proxy.refuses = lambda path, body: b"train/loss_36" in body
            process = multiprocessing.get_context("forkserver").Process(
                target=track_and_end, args=(proxy.uri, folder, config, tags)
            )
            process.start()
            process.join()
            proxy.seconds, proxy.refuses = 0.0, lambda path, body: False
            status = read_status(folder)
            assert process.exitcode == 0 and status["is_tracked_whole"] is False
            client, run_id = open_client(proxy.uri), status["tracking_run_id"]
            assert client.get_run(run_id).info.status == "RUNNING"

            said = settle(folder, config)
            assert said.startswith("MLflow was updated: 111 points, ")
            assert said.endswith(", final status")
            found = client.get_run(run_id)
            assert found.info.status == "FINISHED"
            assert len(found.data.params) == 124 and tags.items() <= found.data.tags.items()
            for name in names:
                points = [(p.step, p.value) for p in client.get_metric_history(run_id, name)]
                assert points == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
            kept = [file.path for file in client.list_artifacts(run_id)]
            assert kept == ["config.yaml", "images"]
            assert read_status(folder)["is_tracked_whole"] is True
            assert settle(folder, config) == ""
            add_row(folder.pending_metrics, MetricsRow(2, 5.0, {"eval/late": 0.5}))
            assert settle(folder, config) == "MLflow was updated: 1 point"
            assert client.get_run(run_id).data.metrics["eval/late"] == 0.5
            assert settle(folder, config) == "" and not folder.pending_metrics.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_server_that_hangs_costs_a_bounded_time(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections are taken by the kernel and never answered
        remote = Store(store.root, f"http://127.0.0.1:{silent.getsockname()[1]}", "hanging")
        started = time.monotonic()
        run = remote.open()
        run.on_metrics(1, {"train/loss": 1.0})
        end(run)
        assert time.monotonic() - started < 6  # START_SECONDS and END_SECONDS, and some air
    messages = [entry.getMessage() for entry in caplog.records]
    assert len(messages) == 2
    assert "no answer in 2 s" in messages[0]
    assert "metric rows left: 1" in messages[1]


def test_wrong_credentials_are_the_users_to_put_right(store: Store) -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401, "You are not authenticated")

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = Store(store.root, f"http://me:secret@127.0.0.1:{server.server_port}", "refused")
        with pytest.raises(RequestError, match="cannot be used") as caught:
            remote.open()
        server.shutdown()
    assert "secret" not in str(caught.value)
