"""Commands in processes that skip imports, which take most of the time of a short training.

The processes are forked from a server that has imported everything. They are otherwise ordinary
processes with their own process ids, which can be stopped and killed. The fixtures `command` and
`start` of tests/conftest.py start new Python processes instead.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from dit_lab.runs.folder import RunFolder, read_json
from dit_lab.runs.metrics import read_metrics
from tests.errors.lab import Lab
from tests.integration.fragile import write_module

IMPORTED = [
    "dit_lab.cli.evaluate",
    "dit_lab.cli.sample",
    "dit_lab.cli.tables",
    "dit_lab.cli.train",
    "dit_lab.data.digits",
    "dit_lab.evaluation.comparing",
    "dit_lab.actions.doctor",
    "dit_lab.actions.evaluate",
    "dit_lab.sweeps.job",
    "dit_lab.report.question",
    "dit_lab.actions.train",
    "dit_lab.models.dit",
    "dit_lab.objectives.rectified_flow",
    "dit_lab.tracking.console",
    "dit_lab.training.coupling",
    "torch._dynamo",  # by the first optimizer
    "alembic.command",
    "diffusers.models.autoencoders.autoencoder_kl",
    "filelock",
    "mlflow.store.tracking.sqlalchemy_store",
    "sklearn.datasets",
    "sklearn.ensemble",
    "sklearn.model_selection",
    "sklearn.svm",
    "tests.warm",
]

MAKE_STORE = """
from pathlib import Path
from dit_lab.core import trust
from dit_lab.tracking.mlflow_store import prepare_store
trust.trust_own_store(folder)
prepare_store(f"sqlite:///{folder}/mlflow.db", experiment="none", artifact_root=Path(folder))
"""
COMMAND = """
import os, sys
os.chdir(folder)
for number, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT), number)
    setattr(sys, name, open(number, "w", buffering=1, closefd=False))
exec(first)
from dit_lab.cli.main import main
sys.exit(main(arguments))
"""
FEW_TREES = "from dit_lab.evaluation.metrics import two_sample; two_sample.TREES = 3"
CHILDREN_TOO = "from tests.integration.zygote import install; install()"


def fork_code(code: str, names: dict[str, Any]) -> BaseProcess:
    """Run code in a process that is forked from the server."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    multiprocessing.set_forkserver_preload(IMPORTED)
    process = multiprocessing.get_context("forkserver").Process(target=exec, args=(code, names))
    process.start()
    return process


class Forked:
    """A running `dit-lab`. Its output goes to two files in `output`; `first` runs before it."""

    def __init__(self, folder: Path, arguments: Sequence[str], output: Path, first: str) -> None:
        given = {"folder": str(folder), "arguments": list(arguments), "output": str(output)}
        self.arguments, self._output = list(arguments), output
        self._process = fork_code(COMMAND, {**given, "first": first})
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, -n if it was ended by signal n."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def printed(self, name: str = "stdout") -> str:
        file = self._output / name
        return file.read_text() if file.exists() else ""

    def wait(self, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        self._process.join(seconds)
        assert self.returncode is not None, f"still running: {self.arguments}"
        return subprocess.CompletedProcess(
            self.arguments, self.returncode, self.printed(), self.printed("stderr")
        )


Fork = Callable[..., Forked]


@pytest.fixture(scope="session")
def fork_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fork]:
    """`fork_in(folder, "train", "seed=1")` starts `dit-lab train seed=1` there.

    With `few_trees=True` two-sample tests are fast, for tests that ignore their results. `first` is
    code that runs before. Child processes of the command are forked as well.
    """
    started: list[Forked] = []

    def start(folder: Path, *arguments: str, few_trees: bool = False, first: str = "") -> Forked:
        output = tmp_path_factory.mktemp("printed")
        code = "\n".join([first, *([FEW_TREES] if few_trees else []), CHILDREN_TOO])
        started.append(Forked(folder, arguments, output, code))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def fork(fork_in: Fork, tmp_path: Path) -> Fork:
    """`fork("train", "seed=1")` starts `dit-lab train seed=1` in an empty folder."""
    return partial(fork_in, tmp_path)


@pytest.fixture(scope="session")
def forked_in(fork_in: Fork) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Like `fork_in`, but waits for the end."""
    return lambda folder, *arguments, **more: fork_in(folder, *arguments, **more).wait()


@pytest.fixture
def forked(fork: Fork) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Like `fork`, but waits for the end."""
    return lambda *arguments, **more: fork(*arguments, **more).wait()


@pytest.fixture(scope="session")
def store_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Put an empty MLflow store into `folder/outputs`; creating its tables takes seconds."""
    made = tmp_path_factory.mktemp("store")
    process = fork_code(MAKE_STORE, {"folder": str(made)})
    process.join()
    assert process.exitcode == 0

    def put(folder: Path) -> None:
        (folder / "outputs").mkdir()
        shutil.copy(made / "mlflow.db", folder / "outputs")

    return put


@pytest.fixture
def folder(tmp_path: Path, store_in: Callable[[Path], None]) -> Path:
    """A folder with an empty store and an objective that fails on request, for sweeps."""
    write_module(tmp_path)
    store_in(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The folder of the cases of tests/errors; test processes share the results."""
    of_all = tmp_path_factory.getbasetemp()
    shared = (of_all.parent if "PYTEST_XDIST_WORKER" in os.environ else of_all) / "outcomes"
    shared.mkdir(exist_ok=True)
    with Lab(tmp_path_factory.mktemp("lab"), shared) as made:
        yield made


# ---- what a run has left behind -----------------------------------------------------------------

Row = tuple[int, dict[str, float]]
BY_THE_CLOCK = ("perf/", "system/")  # metrics that depend on the clock and on the machine


@dataclass(frozen=True)
class Run:
    """A run folder, with properties for the tests."""

    root: Path

    @property
    def status(self) -> dict[str, Any]:
        return read_json(self.root / "status.json")

    @property
    def identity(self) -> dict[str, Any]:
        return read_json(self.root / "identity.json")

    @property
    def log(self) -> str:
        return (self.root / "train.log").read_text()

    def checkpoint(self, step: int) -> Path:
        return self.root / f"checkpoints/step-{step:08d}"

    def checkpoints(self) -> list[int]:
        """Steps of the complete checkpoints."""
        found = self.root.glob("checkpoints/step-*/COMPLETE")
        return sorted(int(path.parent.name.removeprefix("step-")) for path in found)

    def final_files(self) -> dict[str, bytes]:
        """All files of the last checkpoint, and the last sample grid."""
        last = max(self.root.glob("checkpoints/step-*"))
        files = {str(p.relative_to(last)): p.read_bytes() for p in last.rglob("*") if p.is_file()}
        files["picture"] = max(self.root.glob("samples/*.png")).read_bytes()
        return files

    def rows(self) -> list[Row]:
        """Logged rows without values that depend on time."""
        return [
            (row.step, {k: v for k, v in row.metrics.items() if not k.startswith(BY_THE_CLOCK)})
            for row in read_metrics(self.root / "metrics.jsonl")
        ]

    def rows_by_step(self) -> list[Row]:
        """The same by step; evaluations are merged into the row of their step."""
        return by_step(
            (step, name, value) for step, row in self.rows() for name, value in row.items()
        )

    def times(self) -> dict[Path, int]:
        """Modification times of all files and folders except the lease."""
        lease = RunFolder(self.root).lease
        return {path: path.stat().st_mtime_ns for path in self.root.rglob("*") if path != lease}


@pytest.fixture(scope="session")
def runs_in() -> Callable[..., list[Run]]:
    """`runs_in(folder)` are the runs below `folder/outputs` that were not set aside."""

    def find(folder: Path, name: str = "tiny") -> list[Run]:
        found = folder.glob(f"outputs/runs/{name}/*")
        return [Run(path) for path in sorted(found) if ".before-" not in path.name]

    return find


@pytest.fixture(scope="session")
def run_in(runs_in: Callable[..., list[Run]]) -> Callable[..., Run]:
    """The only run, as in `runs_in`."""

    def find(folder: Path, name: str = "tiny") -> Run:
        (run,) = runs_in(folder, name)
        return run

    return find


@pytest.fixture(scope="session")
def wait_for_step() -> Callable[[Path, int, Forked], None]:
    """Wait until a run below `folder/outputs` has logged a step."""

    def wait(folder: Path, step: int, process: Forked) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            files = folder.glob("outputs/runs/*/*/metrics.jsonl")
            if any(row.step >= step for file in files for row in read_metrics(file)):
                return
            assert process.returncode is None, process.wait()
            time.sleep(0.01)
        raise AssertionError("the run did not get there")

    return wait


@dataclass(frozen=True)
class Tracked:
    """A run in a sqlite store of MLflow."""

    run_id: str
    status: str
    points: list[tuple[int, str, float]]  # step, metric, value
    tags: dict[str, str]
    params: dict[str, str]

    def rows(self) -> list[Row]:
        """In the form of `Run.rows_by_step`; no point may be there twice."""
        assert len({point[:2] for point in self.points}) == len(self.points)
        return by_step(self.points)


@pytest.fixture(scope="session")
def tracked_in() -> Callable[[Path], list[Tracked]]:
    """`tracked_in(folder)` is what `folder/outputs/mlflow.db` holds, the oldest run first."""

    def read(folder: Path) -> list[Tracked]:
        with sqlite3.connect(folder / "outputs/mlflow.db") as store:

            def of(run_id: str, what: str) -> list[Any]:
                return store.execute(f"select {what} where run_uuid = ?", [run_id]).fetchall()

            return [
                Tracked(
                    run_id,
                    status,
                    of(run_id, "step, key, value from metrics"),
                    dict(of(run_id, "key, value from tags")),
                    dict(of(run_id, "key, value from params")),
                )
                for run_id, status in store.execute(
                    "select run_uuid, status from runs order by start_time"
                ).fetchall()
            ]

    return read


def by_step(points: Iterable[tuple[int, str, float]]) -> list[Row]:
    """Return one row per step, without values that depend on time."""
    rows: dict[int, dict[str, float]] = {}
    for step, name, value in points:
        if not name.startswith(BY_THE_CLOCK):
            rows.setdefault(step, {})[name] = value
    return sorted(rows.items())
