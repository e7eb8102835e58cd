"""The run folder: hashes, atomic files, metrics, and lookup of runs."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dit_lab.core.errors import RequestError
from dit_lab.core.files import remove_leftovers
from dit_lab.runs.finding import all_runs, find_run
from dit_lab.runs.folder import (
    NOT_DECIDING,
    RunFolder,
    digest,
    flatten,
    is_deciding,
    read_json,
    read_status,
    update_status,
    write_atomically,
    write_json,
)
from dit_lab.runs.metrics import MetricsRow, format_row, read_metrics, trim_metrics, write_metrics
from tests.errors.worker import with_own_mounts

NOT_ALLOWED = 77  # the exit code where the kernel lets nobody mount anything

# ---- what is hashed ------------------------------------------------------------------------------


def test_flatten_names_leaves_by_their_path() -> None:
    tree = {"a": 1, "b": {"c": [1, {"d": 2}], "e": {"f": None}, "g": {}}}
    assert list(flatten(tree)) == [("a", 1), ("b.c", [1, {"d": 2}]), ("b.e.f", None)]


def test_a_digest_is_of_values_not_of_their_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len(digest({})) == 12
    assert int(digest({}), 16) >= 0
    assert digest({"a": 1}) != digest({"a": True})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
    assert digest(b"a") != digest(b"b")


@pytest.mark.parametrize("entry", NOT_DECIDING)
def test_what_does_not_decide_is_a_key_or_what_lies_below_it(entry: str) -> None:
    assert not is_deciding(entry)
    assert not is_deciding(f"{entry}.below")
    assert is_deciding(f"{entry}s")
    assert is_deciding(f"model.{entry}")
    assert is_deciding(entry.partition(".")[0]) == ("." in entry)


# ---- reading and writing ------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "x" * 100_000 + "\ud800")  # not writable as UTF-8
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, "new")
    assert path.read_text() == "new"


WRITE_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from dit_lab.runs.folder import write_atomically

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path(sys.argv[1]), "x" * 100_000)
except OSError as error:
    print(type(error).__name__, error.strerror)
"""


def test_a_write_that_finds_no_room_leaves_the_old_text_and_gives_back_the_room(
    tmp_path: Path,
) -> None:
    """The system refuses what is past 4 KiB, as a full disk does in the middle of a file."""
    path = tmp_path / "status.json"
    write_atomically(path, "old")
    done = subprocess.run(
        [sys.executable, "-c", WRITE_WITHOUT_ROOM, str(path)], capture_output=True, text=True
    )
    assert done.stdout == "OSError File too large\n", done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


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


def _end_where_there_are_no_inodes(folder: Path) -> None:
    try:
        libc = with_own_mounts()
    except OSError:
        sys.exit(NOT_ALLOWED)
    assert libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"nr_inodes=20") == 0
    run = RunFolder(folder)
    update_status(run, status="RUNNING", step=1, error=None)
    with pytest.raises(OSError, match="No space left"):
        for number in range(20):
            (folder / f"{number}").touch()
    update_status(run, status="FAILED", error="long" * 100)
    assert (read_json(run.status)["status"], len(read_json(run.status)["error"])) == ("FAILED", 400)
    update_status(run, status="FINISHED", error=None)
    assert (read_json(run.status)["status"], read_json(run.status)["error"]) == ("FINISHED", None)


def test_a_status_needs_no_room_for_a_second_file(tmp_path: Path) -> None:
    run = multiprocessing.get_context("fork").Process(
        target=_end_where_there_are_no_inodes, args=(tmp_path,)
    )
    run.start()
    run.join()
    if run.exitcode == NOT_ALLOWED:
        pytest.skip("nobody may mount a disk of their own here")
    assert run.exitcode == 0


def test_what_a_killed_write_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    names = [".status.json.123", ".status.json.124", ".mine", "status.json.9", ".status.json.x"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / ".status.json.124")  # still being written
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    assert read_json(path) == {}
    write_json(path, {"b": [1, 2.5], "a": None})
    assert list(read_json(path).items()) == [("b", [1, 2.5]), ("a", None)]
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


def test_numbers_that_are_not_finite_are_strict_json(tmp_path: Path) -> None:
    """In rows and in a status; files of before, which have bare words, are read as well."""
    values = {"eval/loss": math.inf, "train/loss": math.nan, "eval/mse": -math.inf, "lr": 0.1}
    folder = RunFolder(tmp_path)
    update_status(folder, status="FAILED", step=2, results=values)
    write_metrics(folder.metrics, [MetricsRow(step=2, seconds=1.0, metrics=values)])
    for file in (folder.status, folder.metrics):
        text = file.read_text()
        json.loads(text, parse_constant=pytest.fail)
        for spelled in (text, re.sub(r'"(-?Infinity|NaN)"', r"\1", text)):
            file.write_text(spelled)
            found = read_status(folder)["results"], read_metrics(folder.metrics)[0].metrics
            assert [{k: str(v) for k, v in one.items()} for one in found] == [
                {"eval/loss": "inf", "train/loss": "nan", "eval/mse": "-inf", "lr": "0.1"}
            ] * 2


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
        trim_metrics(path, last_step, measured=True)
        assert path.read_text() == "".join(format_row(row) for row in ROWS[:kept])


def test_trimming_drops_what_an_evaluation_had_told_before_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [
        MetricsRow(step=step, seconds=1.0, metrics=metrics)
        for step in (2, 4)
        for metrics in ({"train/loss": 1.0, "train/lr": 0.1}, {"eval/loss": 1.0})
    ]
    for measured, kept in ((True, 4), (False, 3)):
        write_metrics(path, rows)
        trim_metrics(path, 4, measured=measured)
        assert read_metrics(path) == rows[:kept]


def test_metrics_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(TEXT)
    write_metrics(path, ROWS[1:])
    assert read_metrics(path) == ROWS[1:]
    assert list(tmp_path.iterdir()) == [path]


def test_trimming_makes_no_file(tmp_path: Path) -> None:
    trim_metrics(tmp_path / "metrics.jsonl", 3, measured=True)
    assert list(tmp_path.iterdir()) == []


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
        update_status(folder, status="RUNNING", step=5, tracking_run_id=f"id-of-{name}")
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
        (str(folder.root.parent.parent), "has no config.yaml"),
        (str(folder.checkpoints), "has no config.yaml"),
    ):
        with pytest.raises(RequestError) as refused:
            find_run(run, root=tmp_path)
        assert str(refused.value).startswith(f"run={run}: {reason}; give a run folder")
        assert f"{tmp_path}/runs/NAME/HASH" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_the_only_run_of_a_name_is_meant_by_it(place: Place, tmp_path: Path) -> None:
    folder = place("one")
    name = folder.root.parent
    assert find_run(str(name), root=tmp_path) == (folder, None)
    second = RunFolder(name / "ba9876543210")
    second.root.mkdir()
    assert find_run(str(name), root=tmp_path) == (folder, None)  # what has no record is no run
    second.config.write_text("seed: 1\n")
    with pytest.raises(
        RequestError, match=r"holds 2 runs \(0123456789ab, ba9876543210\); name one"
    ):
        find_run(str(name), root=tmp_path)


@pytest.mark.parametrize("ended", ["FAILED", "KILLED", None])
def test_runs_without_a_checkpoint_do_not_count_beside_one_with(
    place: Place, tmp_path: Path, ended: str | None
) -> None:
    """What a broken picture ended, or a typing error that was noticed at once."""
    folder = place("one")
    name = folder.root.parent
    for other in ("ba9876543210", "cc9876543210"):
        empty = RunFolder(name / other)
        (empty.checkpoints / "step-00000001").mkdir(parents=True)  # not complete
        empty.config.write_text("seed: 1\n")
        if ended:
            write_json(empty.status, {"status": ended, "step": 1, "updated": 1.0})
    with pytest.raises(RequestError, match="holds 3 runs"):
        find_run(str(name), root=tmp_path)
    whole = folder.checkpoints / "step-00000005"
    whole.mkdir(parents=True, exist_ok=True)
    (whole / "COMPLETE").write_text("{}")
    assert find_run(str(name), root=tmp_path) == (folder, None)
    second = RunFolder(name / "cc9876543210").checkpoints / "step-00000001"
    (second / "COMPLETE").write_text("{}")
    with pytest.raises(RequestError, match="holds 2 runs"):
        find_run(str(name), root=tmp_path)


@pytest.mark.parametrize("name", ["DiT-XL-2.pt", "last.ckpt", "a file.bin"])
def test_weights_of_other_programs_are_to_be_imported(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(RequestError, match=r"holds weights alone; dit-lab import .* --out RUN"):
        find_run(str(tmp_path / name), root=tmp_path)


def test_a_damaged_status_hides_no_other_run(place: Place, tmp_path: Path) -> None:
    damaged, folder = place("one"), place("two")
    damaged.status.write_text("[]")
    assert find_run("id-of-two", root=tmp_path) == (folder, None)


def test_all_runs_are_those_with_a_status(place: Place, tmp_path: Path) -> None:
    assert all_runs(tmp_path / "nowhere") == []
    folders = [place("one"), place("two")]
    (tmp_path / "runs/three/0123456789ab").mkdir(parents=True)
    assert all_runs(tmp_path) == folders
