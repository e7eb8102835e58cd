"""SIGTERM during training, evaluation, sampling, measuring and encoding.

All results are kept, the exit code is 143, and the repeated command gives the same results as an
uninterrupted one.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ENVIRONMENT
from tests.integration.test_console import read_all
from tests.integration.test_survival import write_module

pytestmark = pytest.mark.slow

Command = Callable[..., Any]
RunIn = Callable[[Path], Any]

TWO = ["distributed.num_processes=2"]
SHARDED = [*TWO, "distributed=fsdp"]
ALONE_OR_TWO = [pytest.param([], id="1"), pytest.param(TWO, id="2")]
SLOW_SAMPLES = ["sample.num_images=64", "sampler.steps=120"]  # a second or two of drawing


@pytest.fixture(scope="module")
def train(tiny: list[str]) -> list[str]:
    return ["train", *tiny, "tracking=none"]


def until(reached: Callable[[], Any], process: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.returncode is None, process.wait().stderr
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listens(process: Any) -> bool:
    """Whether the process has a handler of its own for SIGTERM."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "number"),
    [
        pytest.param([], signal.SIGUSR2, id="1"),
        pytest.param(TWO, signal.SIGTERM, id="2"),
        pytest.param(SHARDED, signal.SIGUSR1, id="2 sharded"),
    ],
)
def test_while_training(
    tmp_path_factory: pytest.TempPathFactory, fork_in: Command, forked_in: Command,
    train: list[str], run_in: RunIn, wait_for_step: Any, more: list[str], number: int,
) -> None:  # fmt: skip
    straight, stopped = (tmp_path_factory.mktemp(name) for name in ("straight", "stopped"))
    assert forked_in(straight, *train, *more).returncode == 0
    process = fork_in(stopped, *train, *more)
    wait_for_step(stopped, 10, process)
    process.send_signal(number)
    assert process.wait().returncode == 143
    run = run_in(stopped)
    assert run.status["status"] == "KILLED"
    assert run.checkpoints()[-1] == run.status["step"] < 40
    again = forked_in(stopped, *train, *more)
    assert again.returncode == 0 and f"resumed at step {run.checkpoints()[-2]}" not in again.stdout
    assert run.final_files() == run_in(straight).final_files()
    assert run.rows() == run_in(straight).rows()


@pytest.mark.parametrize(
    ("way", "code"), [("a lost terminal", 143), ("Ctrl-C twice in a row", 130)]
)
def test_on_a_terminal(
    tmp_path: Path, tiny: list[str], run_in: RunIn, store_in: Command, way: str, code: int
) -> None:
    """Which the process leads, as one that a shell has started there."""

    def lead() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    store_in(tmp_path)
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dit_lab", "train", *tiny, "training.total_steps=4000"],
        cwd=tmp_path, env=ENVIRONMENT, stdin=other_end, stdout=other_end, stderr=other_end,
        start_new_session=True, preexec_fn=lead,
    )  # fmt: skip
    os.close(other_end)
    shown = ""
    while "20/4000" not in shown:
        shown += os.read(terminal, 65536).decode(errors="replace")
    if way == "a lost terminal":
        os.close(terminal)
    else:
        for _ in range(2):
            os.write(terminal, b"\x03")
            time.sleep(0.02)
        read_all(terminal)
    assert process.wait(60) == code
    run = run_in(tmp_path)
    assert run.status["status"] == "KILLED"
    assert 20 <= run.checkpoints()[-1] == run.status["step"] < 4000


@pytest.mark.parametrize("more", [*ALONE_OR_TWO, pytest.param(SHARDED, id="2 sharded")])
def test_while_a_training_draws_samples(
    tmp_path_factory: pytest.TempPathFactory, fork_in: Command, forked_in: Command,
    train: list[str], run_in: RunIn, wait_for_step: Any, more: list[str],
) -> None:  # fmt: skip
    """After step 20; the evaluation that was cut off is made first by the next start."""
    command = [*train, *more, *SLOW_SAMPLES, "training.total_steps=22"]
    straight, stopped = (tmp_path_factory.mktemp(name) for name in ("straight", "stopped"))
    assert forked_in(straight, *command).returncode == 0
    process = fork_in(stopped, *command)
    wait_for_step(stopped, 20, process)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait().returncode == 143
    run = run_in(stopped)
    assert run.status["step"] == 20
    assert not list((run.root / "samples").glob("*"))
    assert forked_in(stopped, *command).returncode == 0
    for name in ("step-00000020.png", "step-00000022.png"):
        drawn, expected = (r.root / "samples" / name for r in (run, run_in(straight)))
        assert drawn.read_bytes() == expected.read_bytes()
    assert run.final_files() == run_in(straight).final_files()
    assert run.rows_by_step() == run_in(straight).rows_by_step()


# ---- drawing and measuring ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, forked_in: Command, train: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert forked_in(folder, *train).returncode == 0
    return folder


@pytest.mark.parametrize("more", ALONE_OR_TWO)
def test_while_sampling(
    trained: Path, fork_in: Command, forked_in: Command, run_in: RunIn, more: list[str]
) -> None:
    """Nothing is written; afterwards the images are those of one process."""
    sample = ["sample", f"run={run_in(trained).root}", "sample.num_images=128"]
    sample.append(f"sampler.steps={400 if more else 100}")
    out, expected = trained / f"out-{len(more)}.npz", trained / "expected.npz"
    process = fork_in(trained, *sample, f"out={out}", *more)
    until(lambda: listens(process), process)
    time.sleep(1 if more else 0.5)
    process.send_signal(signal.SIGUSR1)
    assert process.wait().returncode == 143
    assert not out.exists()
    assert forked_in(trained, *sample, f"out={out}", *more).returncode == 0
    assert forked_in(trained, *sample, f"out={expected}").returncode == 0
    assert out.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("more", ALONE_OR_TWO)
def test_while_evaluating(
    trained: Path, fork_in: Command, forked_in: Command, run_in: RunIn, more: list[str]
) -> None:
    """And the numbers of two processes are those of one."""
    run = run_in(trained).root
    seed = f"sample.seed={1 + len(more)}"
    evaluate = ["evaluate", f"run={run}", "evaluation.num_images=90", "sampler.steps=100", seed]
    process = fork_in(trained, *evaluate, *more, few_trees=True)
    until(lambda: "drawing 90 images" in process.printed(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait().returncode == 143
    assert not list((run / "evaluations").glob("*"))
    assert forked_in(trained, *evaluate, *more, few_trees=True).returncode == 0
    (found,) = (run / "evaluations").glob("*")
    table = json.loads(found.read_text())
    found.unlink()
    assert forked_in(trained, *evaluate, few_trees=True).returncode == 0
    alone = json.loads(found.read_text())
    assert table == alone
    found.unlink()


# ---- a process that hangs -----------------------------------------------------------------------


def test_a_process_that_hangs_ends_the_run_with_every_stack(
    tmp_path: Path, fork: Command, tiny: list[str], run_in: RunIn
) -> None:
    """Both hang: one in the objective, the other in waiting for it."""
    write_module(tmp_path)
    kept = [text for text in tiny if not text.startswith("objective=")]
    (tmp_path / "busy").write_text("")
    command = ["train", *kept, "objective=table", "trusted_modules=[looking_up]", "tracking=none"]
    process = fork(*command, *TWO, "training.hang_after_seconds=4")
    done = process.wait()
    assert done.returncode == 1
    assert "no process made progress for 4 s" in done.stdout
    run = run_in(tmp_path)
    assert run.status["status"] == "FAILED"
    assert "no process made progress" in run.status["error"]
    stacks = [(run.root / f"watchdog/stacks-{rank}.txt").read_text() for rank in (0, 1)]
    assert any("looking_up.py" in stack for stack in stacks)
    assert all("Thread" in stack for stack in stacks)
    (tmp_path / "busy").unlink()
    assert fork(*command, *TWO).wait().returncode == 0
    assert not (run.root / "watchdog").exists()


def test_a_process_that_the_system_stops_ends_the_run(
    tmp_path: Path, fork: Command, train: list[str], run_in: RunIn, wait_for_step: Any
) -> None:
    """As a machine does that has lost its memory or its disk: it answers nothing any more."""
    process = fork(*train, *TWO, "training.hang_after_seconds=10", "training.total_steps=100000")
    wait_for_step(tmp_path, 10, process)
    run = run_in(tmp_path)
    os.kill(_other_worker(run.root), signal.SIGSTOP)
    assert process.wait().returncode == 1
    assert run.status["status"] == "FAILED"
    assert "Thread" in (run.root / "watchdog/stacks-0.txt").read_text()


def _other_worker(run: Path) -> int:
    """The worker that is not the one which writes."""
    holder = json.loads((run / "lease").read_text())["pid"]
    status = Path(f"/proc/{holder}/status").read_text().splitlines()
    starter = next(line.split()[1] for line in status if line.startswith("PPid"))
    workers = Path(f"/proc/{starter}/task/{starter}/children").read_text().split()
    return next(int(number) for number in workers if int(number) != holder)
