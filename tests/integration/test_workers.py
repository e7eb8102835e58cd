"""One training on two processes: the same numbers, and the same end for both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]

TWO = "distributed.num_processes=2"


@pytest.fixture(scope="module")
def train(tiny: list[str]) -> list[str]:
    return ["train", *tiny, "tracking=none"]


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, forked_in: Command, train: list[str], run_in: Any
) -> Any:
    """The training in one process."""
    folder = tmp_path_factory.mktemp("alone")
    done = forked_in(folder, *train)
    assert done.returncode == 0, done.stderr
    return run_in(folder)


def check_same(run: Any, other: Any) -> None:
    """Compare up to the order of float sums.

    Adam's first steps are as large as the sign of a gradient, so a rounding error of 1e-8 may
    become about 1e-5 of a weight in 40 steps at a learning rate of 1e-4.
    """
    assert [(step, row.keys()) for step, row in run.rows()] == [
        (step, row.keys()) for step, row in other.rows()
    ]
    for (_, row), (_, expected) in zip(run.rows(), other.rows(), strict=True):
        for name, value in row.items():
            assert value == pytest.approx(expected[name], rel=1e-4), name
    for file in ("model", "ema-0.9"):
        found, wanted = (load_file(r.checkpoint(40) / f"{file}.safetensors") for r in (run, other))
        for name, weight in found.items():
            np.testing.assert_allclose(weight, wanted[name], rtol=0, atol=1e-4)


def test_two_processes_train_what_one_does(
    tmp_path: Path, forked: Command, train: list[str], run_in: Any, alone: Any
) -> None:
    done = forked(*train, TWO, "training.accumulation=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("run folder: ") == done.stdout.count("result: ") == 1
    run = run_in(tmp_path)
    assert run.root.name == alone.root.name  # the same weights, the same hash
    check_same(run, alone)
    assert run.status["status"] == "FINISHED"
    again = forked(*train, TWO)
    assert "already finished" in again.stdout


def test_two_jobs_of_two_processes_in_one_sweep(
    tmp_path: Path, forked: Command, tiny: list[str], runs_in: Any, alone: Any
) -> None:
    more = ["seed=0,1", "sweep.jobs_per_slot=2", "tracking=none"]
    done = forked("train", "-m", *tiny, TWO, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {run.identity["train_hash"]: run for run in runs_in(tmp_path)}
    assert [run.status["status"] for run in runs.values()] == ["FINISHED"] * 2
    check_same(runs[alone.root.name], alone)  # each has its own partner
    logs = [path.read_text() for path in tmp_path.glob("outputs/sweeps/*/jobs/*/output.log")]
    assert [log.count("result: ") for log in logs] == [1, 1]


def test_stopped_together_and_resumed_alone(
    tmp_path: Path, fork: Any, forked: Command, train: list[str], run_in: Any, alone: Any,
    wait_for_step: Any,
) -> None:  # fmt: skip
    process = fork(*train, TWO)
    wait_for_step(tmp_path, 10, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait().returncode == 143
    assert run_in(tmp_path).status["status"] == "KILLED"
    done = forked(*train)
    assert done.returncode == 0
    assert "resumed at step" in done.stdout
    check_same(run_in(tmp_path), alone)


def test_a_worker_that_dies_ends_the_other(tmp_path: Path, start: Any, train: list[str]) -> None:
    """And meanwhile, the two listen to each other alone: on the loopback interface."""
    process = start(*train, TWO, "training.total_steps=100000")
    while not (workers := _workers(process.pid)) or len(workers) < 2:
        assert process.poll() is None
    while "step 5/" not in process.stdout.readline():
        assert process.poll() is None
    heard = [address for worker in workers for address in _listened_on(worker)]
    assert heard and all(address.is_loopback for address in heard), heard
    os.kill(max(workers), signal.SIGKILL)
    process.wait()
    assert process.returncode == 128 + signal.SIGKILL
    assert "worker 1: " in process.stdout.read()
    assert _workers(process.pid) == []


def _workers(parent: int) -> list[int]:
    """Processes that this one has started and that still run."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(number) for number in children.read_text().split()] if children.exists() else []


def _listened_on(process: int) -> list[IPv4Address | IPv6Address]:
    """The addresses on which a process waits for connections."""
    own = {os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir()}
    found: list[IPv4Address | IPv6Address] = []
    for table, kind in (("tcp", IPv4Address), ("tcp6", IPv6Address)):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in own:
                words = re.findall(".{8}", local.partition(":")[0])  # each in the machine's order
                found.append(kind(b"".join(bytes.fromhex(word)[::-1] for word in words)))
    return found


POISONED = '''
"""Rectified flow whose loss is not a number for the second process from step 21 on."""

import os

import torch

from dit_lab.objectives.rectified_flow import RectifiedFlow


class Poisoned(RectifiedFlow):
    samplers = ("euler",)

    def loss(self, predict, batch):
        terms = super().loss(predict, batch)
        bad = os.environ["RANK"] == "1" and batch.sample_counter[0] >= 20 * 16
        return {name: term * torch.nan if bad else term for name, term in terms.items()}
'''


def test_nan_in_one_worker_fails_the_run_with_its_images(
    tmp_path: Path, forked: Command, train: list[str], run_in: Any
) -> None:
    (tmp_path / "poisoned.py").write_text(POISONED)
    (tmp_path / "conf/objective").mkdir(parents=True)
    (tmp_path / "conf/objective/poisoned.yaml").write_text("_target_: poisoned.Poisoned\n")
    kept = [text for text in train if not text.startswith("objective=")]
    chosen = ["objective=poisoned", "trusted_modules=[poisoned]", TWO]
    done = forked(*kept, *chosen, "training.max_skipped_in_a_row=3")
    assert done.returncode == 1
    run = run_in(tmp_path)
    assert run.status["status"] == "FAILED"
    assert (
        "not finite in 5 of 25 steps, 5 of them in a row (step 25: training images"
        in run.status["error"]
    )
    diagnosis = json.loads((run.root / "nonfinite.json").read_text())
    assert diagnosis["first_step"] == 21
    assert {image["process"] for image in diagnosis["images"]} == {1}
    assert len(diagnosis["images"]) == 8
    assert run.checkpoints() == [10, 20]  # each of them finite
    for file in run.root.glob("checkpoints/*/**/*.safetensors"):
        assert all(np.isfinite(tensor).all() for tensor in load_file(file).values())


def test_another_number_of_processes_is_refused(tmp_path: Path, train: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dit_lab", *train],
        cwd=tmp_path,
        env={**os.environ, "WORLD_SIZE": "2", "RANK": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "dit-lab: distributed.num_processes=1: but 2 processes were started; give "
        "distributed.num_processes=2, or leave out torchrun\n"
    )


@pytest.mark.parametrize("processes", ["1", "2"], ids=["alone", "of two"])
def test_a_command_ends_before_the_interpreter_goes(processes: str) -> None:
    """Its threads have ended and exit handlers have run, but no object is freed.

    Otherwise threads could use the interpreter while it ends (a thread of gloo aborts the process
    then).
    """
    code = (
        "import atexit, time, concurrent.futures; from dit_lab.cli import main\n"
        "class Held:\n"
        "    def __del__(self): print('freed')\n"
        "def run(arguments):\n"
        "    global held\n"
        "    held = Held(); atexit.register(print, 'registered')\n"
        "    pool = concurrent.futures.ThreadPoolExecutor(1)\n"
        "    pool.submit(lambda: (time.sleep(0.2), print('written')))\n"
        "    print('done'); return 3\n"
        "main.main = run; main.command()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "WORLD_SIZE": processes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\nwritten\nregistered\n", "")


@pytest.mark.parametrize(("what", "code"), [("SystemExit(0)", 0), ("ValueError('wrong')", 1)])
def test_a_command_that_gives_no_code_ends_as_any_program(what: str, code: int) -> None:
    """Help raises SystemExit; an error that nobody expected has its traceback."""
    text = (
        "from dit_lab.cli import main\n"
        f"def run(arguments): raise {what}\n"
        "main.main = run; main.command()"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("ValueError: wrong" in done.stderr) == (code == 1)
