"""The run folder: hashes, whole files, metrics, one writer at a time, and how runs are found."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import dit_lab
from dit_lab.lab.config import compose_train
from dit_lab.runs import (
    NOT_DECIDING,
    Lease,
    MetricsRow,
    RunFolder,
    code_hash,
    find_run,
    flatten,
    format_row,
    read_json,
    read_metrics,
    train_hash,
    trim_metrics,
    update_status,
    write_atomically,
    write_json,
)
from dit_lab.types import RequestError

# ---- hashes -------------------------------------------------------------------------------------


def test_flatten_names_leaves_by_their_path() -> None:
    tree = {"a": 1, "b": {"c": [1, {"d": 2}], "e": {"f": None}, "g": {}}}
    assert list(flatten(tree)) == [("a", 1), ("b.c", [1, {"d": 2}]), ("b.e.f", None)]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return compose_train(["dataset=digits", "codec=identity", "model=pico", "name=here"])


def changed(config: dict[str, Any], path: str) -> dict[str, Any]:
    """The configuration with another value at one leaf, which may be new."""
    other = copy.deepcopy(config)
    *parents, leaf = path.split(".")
    node = other
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = f"not {node.get(leaf)}"
    return other


WATCHING = [
    "choices.model",
    "name",
    "resume",
    "trusted_modules",
    "paths.root",
    "tracking.uri",
    "tracking.backend",
    "distributed.num_processes",
    "sampler._target_",
    "sampler.steps",
    "guidance.scale",
    "sample.seed",
    "evaluation.loss_images",
    "dataset.root",
    "dataset.num_workers",
    "model.activation_checkpointing",
    "training.accumulation",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "training.sample_every_steps",
    "training.evaluate_every_steps",
]
DECIDING = [
    "seed",
    "dataset._target_",
    "dataset.image_size",
    "codec._target_",
    "model.depth",
    "model.class_dropout_prob",
    "objective._target_",
    "objective.time_sampling",
    "optimizer.lr",
    "schedule.warmup_steps",
    "training.total_steps",
    "training.global_batch_size",
    "training.clip_norm",
    "training.max_skipped_in_a_row",
    "precision.mixed_precision",
    "ema.decays",
    "ema.warmup",
    # not to be taken for their neighbours above
    "model.name",
    "names",
    "sample_order",
    "dataset.roots",
    "training.accumulation_dtype",
    "something.nobody.thought_of",
]


@pytest.mark.parametrize("path", WATCHING)
def test_how_a_run_is_watched_does_not_change_its_hash(config: dict[str, Any], path: str) -> None:
    assert train_hash(changed(config, path)) == train_hash(config)


@pytest.mark.parametrize("path", DECIDING)
def test_what_decides_the_weights_changes_the_hash(config: dict[str, Any], path: str) -> None:
    assert train_hash(changed(config, path)) != train_hash(config)


def test_the_two_lists_are_all_there_is(config: dict[str, Any]) -> None:
    """Each entry is a key of the composed configuration, and has its line in this file."""
    keys = {key for key, _ in flatten(config)}
    for entry in NOT_DECIDING:
        assert any(key == entry or key.startswith(f"{entry}.") for key in WATCHING), entry
        if entry != "dataset.root":  # the digits have none
            assert any(key == entry or key.startswith(f"{entry}.") for key in keys), entry


def test_the_hash_is_of_values_not_of_their_order(config: dict[str, Any]) -> None:
    backwards = {key: config[key] for key in reversed(config)}
    assert train_hash(backwards) == train_hash(config)
    assert len(train_hash(config)) == 12
    assert int(train_hash(config), 16) >= 0
    assert train_hash({"a": 1}) != train_hash({"a": True})
    assert train_hash({"a": [1, 2]}) != train_hash({"a": [2, 1]})


def test_the_code_hash_is_of_what_decides_the_weights(tmp_path: Path) -> None:
    """Of a copy of the package, changed file by file."""
    package = tmp_path / "dit_lab"
    shutil.copytree(Path(dit_lab.__file__).parent, package)
    command = [sys.executable, "-c", "from dit_lab.runs import code_hash; print(code_hash())"]

    def hash_of_copy() -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert hash_of_copy() == code_hash()  # where the package lies does not matter
    for file in ("cli/train.py", "tracking/console.py", "samplers/ode.py"):
        with open(package / file, "a") as source:
            source.write("# changed\n")
    assert hash_of_copy() == code_hash()
    seen = {code_hash()}
    for file in ("training/loop.py", "models/dit.py", "rng.py", "data/order.py", "codecs.py"):
        with open(package / file, "a") as source:
            source.write("# changed\n")
        seen.add(hash_of_copy())
    assert len(seen) == 6


def test_the_code_hash_covers_the_users_own_files(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.py", tmp_path / "other.py"
    mine.write_text("a = 1\n")
    other.write_text("b = 1\n")
    before = code_hash([mine, other])
    assert code_hash([other, mine]) == before
    assert code_hash([mine]) != before != code_hash()
    mine.write_text("a = 2\n")
    assert code_hash([mine, other]) != before


# ---- reading and writing ------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "x" * 100_000 + "\ud800")  # not writable as UTF-8
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"


def _rewrite_forever(path: Path) -> None:
    while True:
        for letter in "ab":
            write_atomically(path, letter * 50_000)


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "a" * 50_000)
    writer = multiprocessing.get_context("fork").Process(target=_rewrite_forever, args=(path,))
    writer.start()
    try:
        seen = {path.read_text() for _ in range(2_000)}
    finally:
        writer.kill()
        writer.join()
    assert seen == {"a" * 50_000, "b" * 50_000}


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    assert read_json(path) == {}
    write_json(path, {"b": [1, 2.5], "a": None})
    assert read_json(path) == {"a": None, "b": [1, 2.5]}
    path.write_text('{"a": ')
    with pytest.raises(RequestError, match=r"identity\.json: damaged .*; move it away"):
        read_json(path)


def test_status_changes_are_merged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    update_status(folder, status="RUNNING", step=1)
    status = update_status(folder, step=2)
    assert status == read_json(folder.status)
    assert (status["status"], status["step"]) == ("RUNNING", 2)


ROWS = [
    MetricsRow(step=step, seconds=100.5 + step, metrics={"train/loss": 1 / step})
    for step in (1, 2, 3)
]
TEXT = "".join(format_row(row) for row in ROWS)


def test_metrics_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text(TEXT)
    assert read_metrics(path) == ROWS


def test_a_torn_last_row_is_ignored_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    last = len(TEXT) - len(format_row(ROWS[-1]))
    for end in range(last, len(TEXT) - 1):
        path.write_text(TEXT[:end])
        assert read_metrics(path) == ROWS[:-1], TEXT[last:end]


@pytest.mark.parametrize("torn", ["", '{"step": 4, "sec'])
def test_trimming_keeps_what_training_goes_on_from(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    for last_step, kept in ((5, 3), (3, 3), (2, 2), (0, 0)):
        path.write_text(TEXT + torn)
        trim_metrics(path, last_step)
        assert path.read_text() == "".join(format_row(row) for row in ROWS[:kept])


def test_trimming_makes_no_file(tmp_path: Path) -> None:
    trim_metrics(tmp_path / "metrics.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


# ---- one writer ---------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from dit_lab.runs import Lease, RunFolder

with Lease(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""

Holder = subprocess.Popen[str]


@contextmanager
def held_by_another_process(folder: RunFolder) -> Iterator[Holder]:
    """A process that holds the lease until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder.root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with held_by_another_process(folder) as holder:
        for _ in range(2):  # being refused takes nothing away from the holder
            message = f"process {holder.pid} on {socket.gethostname()} has been writing here since"
            with pytest.raises(RequestError, match=message), Lease(folder):
                pass
        holder.communicate("")
        with Lease(folder):
            assert read_json(folder.lease)["pid"] == os.getpid()


def test_the_lease_of_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with held_by_another_process(folder) as holder:
        holder.kill()
        holder.wait()
        with Lease(folder):
            assert read_json(folder.lease)["pid"] == os.getpid()


def test_a_lease_can_be_taken_again_and_not_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lease = Lease(folder)
    with lease, pytest.raises(RequestError, match="writing here"), Lease(folder):
        pass
    with pytest.raises(ValueError, match="gone wrong"), Lease(folder):
        raise ValueError("gone wrong")
    with Lease(folder):
        pass


def test_a_heartbeat_says_that_the_holder_is_alive(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with Lease(folder) as lease:
        first = json.loads(folder.lease.read_text())
        lease.heartbeat()
        second = json.loads(folder.lease.read_text())
    assert second["heartbeat"] > first["heartbeat"]
    assert second["started"] == first["started"] <= first["heartbeat"]


# ---- finding a run ------------------------------------------------------------------------------

Place = Callable[[str], RunFolder]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Makes `runs/<name>/<hash>` with a configuration, a checkpoint and a tracking run id."""

    def make(name: str) -> RunFolder:
        folder = RunFolder(tmp_path / "runs" / name / "0123456789ab")
        checkpoint = folder.checkpoints / "step-00000005"
        checkpoint.mkdir(parents=True)
        folder.config.write_text("seed: 0\n")
        (checkpoint / "state.json").write_text("{}")
        update_status(folder, tracking_run_id=f"id-of-{name}")
        return folder

    return make


def test_a_run_is_found_by_folder_checkpoint_or_id(place: Place, tmp_path: Path) -> None:
    folder, other = place("one"), place("two")
    checkpoint = folder.checkpoints / "step-00000005"
    assert find_run(str(folder.root), root=tmp_path) == (folder, None)
    assert find_run(f"{folder.root}/", root=tmp_path / "elsewhere") == (folder, None)
    assert find_run(str(checkpoint), root=tmp_path) == (folder, checkpoint)
    assert find_run("id-of-one", root=tmp_path) == (folder, None)
    assert find_run("id-of-two", root=tmp_path) == (other, None)


def test_a_run_is_found_from_inside_its_folders(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place("one")
    checkpoint = folder.checkpoints / "step-00000005"
    monkeypatch.chdir(folder.root)
    assert find_run(".", root=tmp_path) == (folder, None)
    assert find_run("checkpoints/step-00000005", root=tmp_path) == (folder, checkpoint)
    monkeypatch.chdir(checkpoint)
    assert find_run(".", root=tmp_path) == (folder, checkpoint)


def test_what_is_no_run_is_refused(place: Place, tmp_path: Path) -> None:
    folder = place("one")
    for run, reason in (
        ("id-of-none", "does not exist"),
        (str(folder.root.parent), "has no config.yaml"),
        (str(folder.checkpoints), "has no config.yaml"),
    ):
        with pytest.raises(RequestError) as refused:
            find_run(run, root=tmp_path)
        assert str(refused.value).startswith(f"run={run}: {reason}; give a run folder")
        assert f"{tmp_path}/runs/NAME/HASH" in str(refused.value)
        assert "\n" not in str(refused.value)
