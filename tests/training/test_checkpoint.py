"""Checkpoints are complete or absent, whatever happens to the process or to the files."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from dit_lab.runs.folder import steps_in
from dit_lab.training.checkpoint import Checkpoint
from dit_lab.training.checkpoint_store import CheckpointStore

FILES = {
    "model.safetensors",
    "ema-0.9999.safetensors",
    "optimizer/state.safetensors",
    "state.json",
    "COMPLETE",
}
RUN = "0123456789ab"
Damage = Callable[[Path], None]


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> CheckpointStore:
    return CheckpointStore(tmp_path, run=RUN, warn=warnings.append)


def only_whole(folder: Path) -> CheckpointStore:
    """A store where whatever is skipped is left unsaid."""
    return CheckpointStore(folder, run=RUN, warn=lambda text: None)


def content(step: int) -> dict[str, dict[str, Tensor]]:
    """Tensors that tell which step they were saved at."""
    return {
        "model": {"weight": torch.full((64, 64), float(step)), "bias": torch.arange(5) * step},
        "ema-0.9999": {"weight": torch.full((64, 64), step / 2)},
        "optimizer/state": {"weight/step": torch.tensor(float(step))},
    }


def save(store: CheckpointStore, step: int) -> Checkpoint:
    return store.save(step, tensors=content(step), state={"step": step, "mean": 0.1 + step})


def assert_holds(checkpoint: Checkpoint | None, step: int) -> None:
    """It is the checkpoint of this step and gives back every bit."""
    assert checkpoint is not None
    assert checkpoint.step == step
    assert checkpoint.state() == {"step": step, "mean": 0.1 + step, "run": RUN}
    for name, group in content(step).items():
        loaded = checkpoint.tensors(name)
        assert loaded.keys() == group.keys()
        for key, tensor in group.items():
            assert loaded[key].dtype == tensor.dtype
            assert torch.equal(loaded[key], tensor)


def test_what_is_saved_is_loaded(store: CheckpointStore, warnings: list[str]) -> None:
    assert store.latest() is None
    for step in (5, 10, 100):
        assert_holds(save(store, step), step)
        assert_holds(store.latest(), step)
    assert warnings == []


def test_no_pickle(store: CheckpointStore) -> None:
    """Safetensors and JSON, nothing else."""
    path = save(store, 1).path
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert files == FILES
    for file in files:
        if file.endswith(".safetensors"):
            with safe_open(path / file, "pt") as opened:
                assert opened.keys()
        else:
            json.loads((path / file).read_text())


def test_tensors_of_any_layout_are_saved(store: CheckpointStore) -> None:
    """Transposed, requiring gradients, or sharing memory: safetensors alone would refuse them."""
    base = torch.arange(12.0).view(3, 4)
    tensors = {"a": base.t(), "b": torch.nn.Parameter(base[0].clone()), "c": base[1:]}
    loaded = store.save(1, tensors={"model": tensors}, state={}).tensors("model")
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)


def _remove_marker(path: Path) -> None:
    (path / "COMPLETE").unlink()


def _tear_marker(path: Path) -> None:
    marker = path / "COMPLETE"
    marker.write_text(marker.read_text()[:100])


def _truncate(path: Path) -> None:
    with open(path / "model.safetensors", "r+b") as file:
        file.truncate(1000)


def _flip_a_bit(path: Path) -> None:
    flip(path / "ema-0.9999.safetensors", place=-5)


def _lose_a_file(path: Path) -> None:
    (path / "optimizer/state.safetensors").unlink()


def _change_a_scalar(path: Path) -> None:
    state = path / "state.json"
    state.write_text(state.read_text().replace("2", "3"))


def flip(file: Path, place: int) -> None:
    """One bit of one byte."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no marker": (_remove_marker, "step-00000002: incomplete"),
    "torn marker": (_tear_marker, "step-00000002: damaged COMPLETE"),
    "truncated": (_truncate, "step-00000002/model.safetensors: 1000 bytes, not "),
    "flipped bit": (_flip_a_bit, "step-00000002/ema-0.9999.safetensors: content differs"),
    "missing file": (_lose_a_file, "step-00000002/optimizer/state.safetensors: missing"),
    "changed scalar": (_change_a_scalar, "step-00000002/state.json: content differs"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(
    store: CheckpointStore, warnings: list[str], damage: Damage, message: str
) -> None:
    save(store, 1)
    damage(save(store, 2).path)
    assert_holds(store.latest(), 1)
    assert len(warnings) == 1
    assert message in warnings[0]

    assert_holds(save(store, 2), 2)  # training comes past this step again and writes it anew
    warnings.clear()
    assert_holds(store.latest(), 2)
    assert warnings == []


def test_all_damaged_is_none(store: CheckpointStore, warnings: list[str]) -> None:
    for step in (1, 2):
        _truncate(save(store, step).path)
    assert store.latest() is None
    assert [("step-00000002" in text, "step-00000001" in text) for text in warnings] == [
        (True, False),
        (False, True),
    ]


def test_any_flipped_bit_of_the_marker_is_harmless(
    store: CheckpointStore, warnings: list[str]
) -> None:
    """Each byte in turn: no crash; the checkpoint is skipped or, whole as it is, used."""
    older, newer = save(store, 1), save(store, 2)
    marker = newer.path / "COMPLETE"
    whole = marker.read_bytes()
    for place in range(len(whole)):
        for bit in (0x01, 0x80):
            marker.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            found = store.latest()
            assert found in (older, newer), (place, bit)
    assert warnings


# ---- whose checkpoint it is ---------------------------------------------------------------------


def test_a_checkpoint_of_another_run_is_named_and_skipped(
    store: CheckpointStore, warnings: list[str], tmp_path: Path
) -> None:
    """Copied in by hand, whole as it is."""
    save(store, 1)
    (tmp_path / "other").mkdir()
    other = CheckpointStore(tmp_path / "other", run="ffffffffffff", warn=pytest.fail)
    save(other, 2).path.rename(tmp_path / "step-00000002")
    assert_holds(store.latest(), 1)
    (warning,) = warnings
    assert warning.endswith("step-00000002: of another run (ffffffffffff)")
    assert_holds(save(store, 2), 2)  # when training comes past this step
    assert_holds(store.latest(), 2)


def test_the_checkpoint_of_an_ancestor_is_our_own(store: CheckpointStore, tmp_path: Path) -> None:
    save(store, 1)
    for line in (["older", RUN], [RUN]):
        heir = CheckpointStore(tmp_path, run="eeeeeeeeeeee", ancestors=line, warn=pytest.fail)
        assert_holds(heir.latest(), 1)
    said: list[str] = []
    stranger = CheckpointStore(tmp_path, run="eeeeeeeeeeee", ancestors=["older"], warn=said.append)
    assert stranger.latest() is None
    assert f"of another run ({RUN})" in said[0]


# ---- interrupted and failed writes --------------------------------------------------------------


def test_leftovers_of_an_interrupted_write_do_not_disturb(
    store: CheckpointStore, warnings: list[str], tmp_path: Path
) -> None:
    whole = save(store, 1)
    beside = tmp_path / ".writing-step-00000002"
    shutil.copytree(whole.path, beside)  # complete as it looks, it is not in place
    (beside / "stale.safetensors").write_bytes(b"half")
    assert_holds(store.latest(), 1)
    assert_holds(save(store, 2), 2)
    assert not (tmp_path / "step-00000002" / "stale.safetensors").exists()
    assert not beside.exists()
    assert_holds(store.latest(), 2)
    assert warnings == []


SAVE_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
import torch
from dit_lab.training.checkpoint_store import CheckpointStore

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
store = CheckpointStore(Path(sys.argv[1]), run="0123456789ab", warn=print)
tensors = {"model": {"a": torch.ones(4)}, "ema-0.9999": {"a": torch.ones(4096)}}
try:
    store.save(2, tensors=tensors, state={})
except Exception as error:
    print("refused", "File too large" in str(error))
"""


def test_copies_beside_checkpoints_are_none(store: CheckpointStore, warnings: list[str]) -> None:
    """Of names that a person gives, whole or not, and of more than eight digits in their order."""
    for step in (20, 123_456_789):
        newest = save(store, step).path
        for name in ("step-00000030.bak", "step-00000020 (copy)", "step-new", "step-"):
            shutil.copytree(newest, newest.parent / name, dirs_exist_ok=True)
        assert_holds(store.latest(), step)
    assert [path.name for path in steps_in(newest.parent)] == ["step-00000020", "step-123456789"]
    assert warnings == []


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_checkpoint_that_was_moved_and_linked_is_one(
    is_whole: bool, tmp_path: Path, warnings: list[str]
) -> None:
    """To a larger disk. What is not kept loses its link, and a damaged one gives way to a new one;
    nobody's files elsewhere are removed."""
    store = CheckpointStore(tmp_path / "here", run=RUN, keep_last=1, warn=warnings.append)
    moved = tmp_path / "elsewhere"
    first = save(store, 10).path
    shutil.move(first, moved)
    first.symlink_to(moved)
    if is_whole:
        assert_holds(store.latest(), 10)
    else:
        (moved / "COMPLETE").unlink()
        assert_holds(save(store, 10), 10)
        assert not first.is_symlink()
    for step in (20, 30):
        assert_holds(save(store, step), step)
    assert [path.name for path in first.parent.iterdir()] == ["step-00000030"]
    assert (moved / "model.safetensors").is_file()
    assert warnings == []


def test_a_write_that_finds_no_room_leaves_what_was_there_and_gives_back_the_room(
    store: CheckpointStore, warnings: list[str], tmp_path: Path
) -> None:
    """The system refuses what is past 4 KiB of a file, so the second file breaks in the middle."""
    save(store, 1)
    done = subprocess.run(
        [sys.executable, "-c", SAVE_WITHOUT_ROOM, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout == "refused True\n", done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert_holds(store.latest(), 1)
    assert warnings == []


# ---- real kills ---------------------------------------------------------------------------------

KILLS = 12


def _save_forever(folder: Path, step: int, stride: int, finished: Connection) -> None:
    """Body of the process that is killed: save after save, and say when one is done."""
    store = only_whole(folder)
    while True:
        save(store, step)
        finished.send(step)
        step += stride


def killed_while_saving(folder: Path, *, stride: int, moments: random.Random) -> int:
    """Save from the newest checkpoint on in another process, SIGKILL it; the last step it saved."""
    latest = only_whole(folder).latest()
    first_step = latest.step + stride if latest else 1
    context = multiprocessing.get_context("fork")
    listen, finished = context.Pipe(duplex=False)
    process = context.Process(target=_save_forever, args=(folder, first_step, stride, finished))
    began = time.perf_counter()
    process.start()
    finished.close()
    last = listen.recv()
    time.sleep(moments.uniform(0, 2 * (time.perf_counter() - began)))  # up to two saves later
    process.kill()
    process.join()
    with contextlib.suppress(EOFError):
        while True:
            last = listen.recv()
    return last


@pytest.mark.slow
def test_sigkill_at_any_moment_leaves_the_newest_loadable(tmp_path: Path) -> None:
    """The newest is the last one whose save returned, or the next one."""
    moments, interrupted = random.Random(0), 0
    for _ in range(KILLS):
        last = killed_while_saving(tmp_path, stride=1, moments=moments)
        latest = only_whole(tmp_path).latest()
        assert latest is not None
        assert latest.step in (last, last + 1)
        assert_holds(latest, latest.step)
        unmarked = [p for p in tmp_path.glob("step-*") if not (p / "COMPLETE").exists()]
        interrupted += bool(unmarked or list(tmp_path.glob(".writing-*")))
    # the process spends nearly all its time inside a save: if no kill hit one, this test is blind
    assert interrupted > 0


@pytest.mark.slow
def test_sigkill_while_a_step_is_saved_again_does_not_lose_it(tmp_path: Path) -> None:
    """A stop right behind a due checkpoint saves the same step twice; it may be the only one."""
    moments = random.Random(0)
    for _ in range(KILLS):
        killed_while_saving(tmp_path, stride=0, moments=moments)
        assert_holds(only_whole(tmp_path).latest(), 1)
