"""A training that is disturbed gives the same bits once the disturbance is over.

The disturbances are real: signals, damaged files, an objective that fails, a full disk, a folder
that becomes read-only. The runs train a user-defined objective, which stops or fails when a file
tells it to.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dit_lab.runs.lock import read_holder
from tests.integration.conftest import COMMAND, fork_code

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Fork = Callable[..., Any]
RunIn = Callable[[Path], Any]

NOT_ALLOWED = 77  # the exit code where the kernel lets nobody mount anything

MODULE = '''
"""Rectified flow that looks up something in a file from step 15 on."""

import time
from pathlib import Path

from dit_lab.objectives.rectified_flow import RectifiedFlow

GLOBAL_BATCH_SIZE = 16


class Table(RectifiedFlow):
    samplers = ("euler",)

    def loss(self, predict, batch):
        if batch.sample_counter[0] >= 15 * GLOBAL_BATCH_SIZE:
            while Path("busy").exists():
                Path("here").touch()
                time.sleep(0.01)
            Path("table").read_bytes()
        return super().loss(predict, batch)
'''


KILLS = """
import os
import time
from pathlib import Path

from dit_lab.core.types import Hook


class Kills(Hook):
    def on_metrics(self, step, metrics):
        if step == 40 and "eval/loss" in metrics:
            while not list(Path().glob("outputs/runs/*/*/checkpoints/step-00000040/COMPLETE")):
                time.sleep(0.01)  # it is written beside the evaluation
            os.kill(os.getpid(), 9)
"""


def write_module(folder: Path) -> None:
    (folder / "looking_up.py").write_text(MODULE)
    (folder / "conf/objective").mkdir(parents=True)
    (folder / "conf/objective/table.yaml").write_text("_target_: looking_up.Table\n")
    (folder / "table").write_text("")


WITHOUT_NAME = """
from tests.errors.worker import with_own_mounts
try:
    with_own_mounts(54321)
except OSError:
    sys.exit(NOT_ALLOWED)
for name in ("HOME", "USER", "LOGNAME"):
    os.environ.pop(name, None)
"""

USING = "dit-lab: using conf/ of this folder: adds objective=table"
"""What a command says first where there is a conf/."""


@pytest.fixture(scope="module")
def train(tiny: list[str]) -> list[str]:
    """The command that every test types."""
    kept = [text for text in tiny if not text.startswith("objective=")]
    return ["train", *kept, "objective=table", "trusted_modules=[looking_up]", "tracking=none"]


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, forked_in: Command, train: list[str], run_in: RunIn
) -> Any:
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("straight")
    write_module(folder)
    done = forked_in(folder, *train)
    assert done.returncode == 0, done.stderr
    return run_in(folder)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    write_module(tmp_path)
    return tmp_path


@pytest.fixture
def killed(straight: Any, folder: Path, run_in: RunIn) -> Any:
    """The run as SIGKILL leaves it after step 30; copied from the undisturbed one, to save time."""
    shutil.copytree(straight.root.parents[2], folder / "outputs")
    run = run_in(folder)
    shutil.rmtree(run.checkpoint(40))
    lines = (run.root / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.root / "metrics.jsonl").write_text("".join(lines[:-2]))
    (run.root / "samples/step-00000040.png").unlink()
    running = {**run.status, "status": "RUNNING", "step": 35}
    del running["results"]
    (run.root / "status.json").write_text(json.dumps(running))
    return run


def assert_same(found: Any, straight: Any) -> None:
    """Equal in every bit, logged rows included."""
    assert found.root.name == straight.root.name
    assert found.final_files() == straight.final_files()
    assert found.rows() == straight.rows()
    assert found.status["status"] == "FINISHED"
    assert found.status["error"] is None
    assert found.status["results"] == straight.status["results"]


# ---- a job that is put back into the queue ------------------------------------------------------


def test_the_same_command_waits_for_its_predecessor_to_save(
    straight: Any, fork: Fork, train: list[str], folder: Path, run_in: RunIn
) -> None:
    (folder / "busy").write_text("")
    first = fork(*train)
    until((folder / "here").exists)
    first.send_signal(signal.SIGTERM)  # noticed when step 16 is over
    until(lambda: says_that_it_is_leaving(run_in(folder).root / "lease"))
    second = fork(*train)
    waiting = f"waiting for process {first.pid}, which is leaving this run"
    until(lambda: waiting in second.printed() or second.returncode is not None)
    assert first.returncode is None
    (folder / "busy").unlink()
    done = second.wait()
    assert first.wait().returncode == 143
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(waiting) == 1
    assert "resumed at step 16" in done.stdout
    assert_same(run_in(folder), straight)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_run_folder_that_is_removed_ends_the_training(
    fork: Fork, train: list[str], folder: Path, run_in: RunIn, is_replaced: bool
) -> None:
    """When it logs next; and nothing is written into what somebody else has put there."""
    (folder / "busy").write_text("")
    process = fork(*train)
    until((folder / "here").exists)
    root = run_in(folder).root
    shutil.rmtree(root)
    if is_replaced:
        root.mkdir()
        (root / "lease").write_text("")
    (folder / "busy").unlink()
    done = process.wait()
    said = f"dit-lab: failed: LeaseLost: {root}: was removed or replaced while it was written to"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, said)
    assert [path.name for path in root.glob("*")] == (["lease"] if is_replaced else [])


def test_killed_while_it_measures_at_the_end_it_measures_again(
    straight: Any, folder: Path, forked: Command, train: list[str], run_in: RunIn
) -> None:
    """The kill comes between the numbers of the evaluation and the note that it is whole."""
    (folder / "killing.py").write_text(KILLS)
    own = ["+hook.kills._target_=killing.Kills", "trusted_modules=[looking_up,killing]"]
    assert forked(*train, *own).returncode == -9
    run = run_in(folder)
    assert run.checkpoints()[-1] == 40
    assert run.rows() == straight.rows()
    done = forked(*train)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 40" in done.stdout
    assert_same(run, straight)


# ---- damaged and foreign checkpoints ------------------------------------------------------------


def lose(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name", "reason"),
    [
        (lose, "optimizer/state.safetensors", "missing"),
        (truncate, "ema-0.9.safetensors", " bytes, not "),
        (flip, "model.safetensors", "content differs from what was written"),
        (lose, "COMPLETE", "incomplete (no COMPLETE)"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_skipped(
    damage: Callable[[Path], None],
    name: str,
    reason: str,
    killed: Any,
    straight: Any,
    forked: Command,
    train: list[str],
) -> None:
    damage(killed.checkpoint(30) / name)
    done = forked(*train)
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stdout.splitlines() if "skipped a checkpoint" in line]
    assert str(killed.checkpoint(30)) in said
    assert reason in said
    assert "resumed at step 20" in done.stdout
    assert_same(killed, straight)
    assert killed.checkpoints() == [10, 20, 30, 40]  # the damaged one was written anew


def test_where_none_is_whole_it_starts_anew_and_says_so(
    killed: Any, straight: Any, forked: Command, train: list[str]
) -> None:
    for step in killed.checkpoints():
        flip(killed.checkpoint(step) / "model.safetensors")
    done = forked(*train)
    assert done.returncode == 0, done.stderr
    for step in (10, 20, 30):
        assert f"skipped a checkpoint: {killed.checkpoint(step)}" in done.stdout
    assert "none of the checkpoints is whole: training starts at step 0" in done.stdout
    assert_same(killed, straight)


def test_where_none_was_saved_yet_it_starts_anew_and_says_so(
    killed: Any, straight: Any, forked: Command, train: list[str]
) -> None:
    shutil.rmtree(killed.checkpoint(10).parent)
    done = forked(*train)
    assert done.returncode == 0, done.stderr
    said = "no checkpoint was saved yet (training.checkpoint_every_steps=10): training starts at"
    assert f"{said} step 0" in done.stdout
    assert_same(killed, straight)


def test_a_checkpoint_of_another_run_is_named_and_skipped(
    killed: Any, straight: Any, forked: Command, train: list[str], folder: Path, run_in: RunIn
) -> None:
    """Copied in by hand, with weights that would fit."""
    assert forked(*train, "name=other", "seed=1", "training.total_steps=35").returncode == 0
    (other,) = folder.glob("outputs/runs/other/*")
    shutil.copytree(other / "checkpoints/step-00000035", killed.checkpoint(35))
    done = forked(*train)
    assert done.returncode == 0, done.stderr
    assert f"skipped a checkpoint: {killed.checkpoint(35)}: of another run" in done.stdout
    assert "resumed at step 30" in done.stdout
    assert_same(killed, straight)


# ---- what made the run has changed --------------------------------------------------------------


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_changed_source_is_refused_and_forcing_is_remembered(
    killed: Any, straight: Any, forked: Command, train: list[str], folder: Path
) -> None:
    with open(folder / "looking_up.py", "a") as module:
        module.write("UNUSED = 1\n")
    before = killed.times()
    assert "other source code (looking_up.py changed)" in refusal(forked(*train))
    assert killed.times() == before
    done = forked(*train, "resume=force")
    assert done.returncode == 0, done.stderr
    assert "resumed at step 30" in done.stdout
    assert killed.identity["forced_over"] == [
        "this run was made with other source code (looking_up.py changed)"
    ]
    assert_same(killed, straight)  # the constant decides nothing, which nobody can know
    assert "already finished" in forked(*train).stdout


# ---- an error while training --------------------------------------------------------------------


def test_an_error_is_told_and_the_rerun_goes_on_once_it_is_gone(
    straight: Any,
    forked: Command,
    train: list[str],
    folder: Path,
    run_in: RunIn,
    store_in: Callable[[Path], None],
    tracked_in: Callable[..., Any],
) -> None:
    store_in(folder)
    tracked_train = [text for text in train if text != "tracking=none"]
    (folder / "table").rename(folder / "elsewhere")
    done = forked(*tracked_train)
    run = run_in(folder)
    assert done.returncode == 1
    using, line = done.stderr.splitlines()
    assert using == USING
    reason = "FileNotFoundError: [Errno 2] No such file or directory: 'table'"
    assert line == f"dit-lab: failed: {reason} (traceback in {run.root / 'train.log'})"
    assert "Traceback" not in done.stdout
    assert (run.status["status"], run.status["step"]) == ("FAILED", 15)
    assert run.status["error"] == reason
    assert "failed at step 15\n  Traceback" in run.log
    (tracked,) = tracked_in(folder)
    assert (tracked.status, tracked.tags["error"]) == ("FAILED", reason)
    (kept,) = (folder / "outputs/mlartifacts").rglob("traceback.txt")
    assert "looking_up.py" in kept.read_text()
    assert kept.read_text().strip().endswith(reason)

    (folder / "elsewhere").rename(folder / "table")
    done = forked(*tracked_train)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 10" in done.stdout
    assert_same(run, straight)
    (tracked,) = tracked_in(folder)
    assert (tracked.run_id, tracked.status) == (run.status["tracking_run_id"], "FINISHED")
    assert tracked.rows() == run.rows_by_step()
    assert "error" not in tracked.tags


# ---- a user without name and home ---------------------------------------------------------------


def test_a_user_without_name_and_home_trains(
    tmp_path: Path, tiny: list[str], run_in: RunIn
) -> None:
    """As a container may start it: libraries ask for both."""
    code = COMMAND.replace("exec(first)", WITHOUT_NAME)
    given = {"folder": str(tmp_path), "output": str(tmp_path), "NOT_ALLOWED": NOT_ALLOWED}
    short = ["train", *tiny, "training.total_steps=2"]
    process = fork_code(code, {**given, "arguments": short})
    process.join()
    if process.exitcode == NOT_ALLOWED:
        pytest.skip("nobody may be another user here")
    assert process.exitcode == 0, (tmp_path / "stderr").read_text()
    assert run_in(tmp_path).status["is_tracked_whole"] is True


# ---- a full disk --------------------------------------------------------------------------------

# Runs the command on a small disk of its own; what lies there is copied out after each time.
ON_A_SMALL_DISK = """
import os, shutil, subprocess, sys
from pathlib import Path
from dit_lab.cli.main import main
from tests.errors.worker import with_own_mounts

os.chdir(folder)
disk, kept = Path(folder, "disk"), Path(folder, "kept")
try:
    with_own_mounts()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
except (OSError, subprocess.CalledProcessError):
    sys.exit(NOT_ALLOWED)

def run(name):
    (kept / name).mkdir()
    if os.fork() == 0:
        for number, stream in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(kept / name / stream, os.O_WRONLY | os.O_CREAT), number)
        code = main([*arguments, f"paths.root={disk}/outputs"])
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    shutil.copytree(disk / "outputs", kept / name / "outputs")
    (kept / name / "code").write_text(str(code))

run("full")
filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
try:
    while True:
        os.write(filler, bytes(4096))
except OSError:
    pass
run("still full")
(disk / "filler").unlink()
subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
run("roomy")
"""


@pytest.fixture(scope="module")
def disk(
    tmp_path_factory: pytest.TempPathFactory, straight: Any, train: list[str]
) -> Callable[[str], tuple[subprocess.CompletedProcess[str], Any]]:
    """What the command did on a disk with room for two checkpoints and a half, and after."""
    folder = tmp_path_factory.mktemp("disk")
    write_module(folder)
    (folder / "disk").mkdir()
    (folder / "kept").mkdir()
    one = sum(file.stat().st_size for file in straight.checkpoint(10).rglob("*") if file.is_file())
    given = {"folder": str(folder), "size": int(2.5 * one), "arguments": train}
    process = fork_code(ON_A_SMALL_DISK, {**given, "NOT_ALLOWED": NOT_ALLOWED})
    process.join()
    if process.exitcode == NOT_ALLOWED:
        pytest.skip("nobody may mount a disk of their own here")
    assert process.exitcode == 0

    def after(name: str) -> tuple[subprocess.CompletedProcess[str], Path]:
        kept = folder / "kept" / name
        code = int((kept / "code").read_text())
        texts = [(kept / stream).read_text() for stream in ("stdout", "stderr")]
        return subprocess.CompletedProcess(train, code, *texts), kept

    return after


@pytest.mark.parametrize("name", ["full", "still full"])
def test_a_full_disk_ends_the_run_in_one_line_and_loses_nothing(
    name: str, disk: Callable[..., Any], run_in: RunIn, straight: Any
) -> None:
    done, kept = disk(name)
    assert done.returncode == 1
    using, line = done.stderr.splitlines()
    assert using == USING
    assert line.startswith("dit-lab: failed: ")
    assert "No space left on device" in line
    assert "Traceback" not in done.stdout
    run = run_in(kept)
    assert run.checkpoints() == [10, 20]
    for step in (10, 20):
        for file in straight.checkpoint(step).rglob("*.safetensors"):
            same = run.checkpoint(step) / file.relative_to(straight.checkpoint(step))
            assert same.read_bytes() == file.read_bytes()
    names = {path.name for path in run.root.rglob("*")}
    assert not [name for name in names if name.startswith(".")]  # nothing half-written is left
    assert run.status["status"] == "FAILED"
    if name == "full":
        assert 30 <= run.status["step"] < 40  # it trains while the third is written
        assert "No space left on device" in run.status["error"]


def test_with_room_again_the_same_command_ends_in_the_same_bits(
    disk: Callable[..., Any], run_in: RunIn, straight: Any
) -> None:
    done, kept = disk("roomy")
    assert done.returncode == 0, done.stderr
    assert "resumed at step 20" in done.stdout
    run = run_in(kept)
    assert_same(run, straight)
    assert run.checkpoints() == [10, 20, 30, 40]


# ---- a folder that turns read-only --------------------------------------------------------------

# Runs the command in a namespace of its own, where the run's folder turns read-only at step 15.
WHERE_A_FOLDER_TURNS_READ_ONLY = """
import os, subprocess, sys, time
from pathlib import Path
from dit_lab.cli.main import main
from tests.errors.worker import with_own_mounts

os.chdir(folder)
try:
    with_own_mounts()
except OSError:
    sys.exit(NOT_ALLOWED)
for number, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
Path("busy").touch()
child = os.fork()
if child == 0:
    code = main(arguments)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)
while not Path("here").exists():
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "ended too early"
    time.sleep(0.01)
(run,) = Path("outputs/runs/tiny").iterdir()
place = run / inside
subprocess.run(["mount", "--bind", place, place], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
Path("busy").unlink()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("inside", ["checkpoints", "."])
def test_a_folder_that_turns_read_only_loses_no_checkpoint(
    inside: str, folder: Path, train: list[str], forked: Command, run_in: RunIn, straight: Any
) -> None:
    """Only the checkpoints' folder, or the whole run folder: an error of one line.

    Once the folder is writable again, the same command resumes to the same bits.
    """
    given = {"folder": str(folder), "inside": inside, "arguments": train}
    process = fork_code(WHERE_A_FOLDER_TURNS_READ_ONLY, {**given, "NOT_ALLOWED": NOT_ALLOWED})
    process.join()
    if process.exitcode == NOT_ALLOWED:
        pytest.skip("nobody may mount anything here")
    printed, errors = ((folder / name).read_text() for name in ("stdout", "stderr"))
    assert process.exitcode == 1, errors
    using, line = errors.splitlines()
    assert using == USING
    assert line.startswith("dit-lab: failed: ")
    assert "Read-only file system" in line
    assert "Traceback" not in printed
    run = run_in(folder)
    assert run.checkpoints() == [10]
    (folder / "here").unlink()
    again = forked(*train)
    assert again.returncode == 0, again.stderr
    assert "resumed at step 10" in again.stdout
    assert_same(run, straight)


def says_that_it_is_leaving(lease: Path) -> bool:
    """Which it does half a second after the signal; before that, a start is refused."""
    holder = read_holder(lease)
    return holder is not None and holder.stopping


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
