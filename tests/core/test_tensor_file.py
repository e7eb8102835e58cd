"""Files written by libraries get the same permissions as the user's other files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dit_lab.core.files import atomic_path, reset_permissions
from dit_lab.core.tensor_file import save_tensors
from dit_lab.runs.lock import Lease
from dit_lab.tracking.spool import MetricsFile


@pytest.fixture(params=[0o002, 0o022, 0o027, 0o077], ids="{:03o}".format)
def expected(request: pytest.FixtureRequest) -> Iterator[int]:
    """Return the permissions of a new file under a umask, which is set during the test."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def access(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_weights_follow_the_umask(tmp_path: Path, expected: int) -> None:
    file = save_tensors({"a": torch.arange(3.0)}, tmp_path / "new/model.safetensors")
    assert access(file) == expected
    assert load_file(file)["a"].tolist() == [0, 1, 2]
    assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]


def test_a_lease_and_metrics_follow_the_umask(tmp_path: Path, expected: int) -> None:
    with Lease(tmp_path / "lease"):
        assert access(tmp_path / "lease") == expected
    MetricsFile(tmp_path / "metrics.jsonl").on_end(status="FINISHED", step=0, error=None)
    assert access(tmp_path / "metrics.jsonl") == expected


def test_whatever_a_library_puts_into_a_folder_follows_the_umask(
    tmp_path: Path, expected: int
) -> None:
    """Links are not followed: their targets belong to others."""
    outside = tmp_path / "outside"
    outside.touch(mode=0o600)
    with atomic_path(tmp_path / "folder") as beside:
        (beside / "vae").mkdir(parents=True)
        (beside / "vae" / "weights").touch(mode=0o600)
        (beside / "wide").touch()
        (beside / "wide").chmod(0o777)
        (beside / "link").symlink_to(outside)
    folder = tmp_path / "folder"
    assert access(folder / "vae/weights") == access(folder / "wide") == expected
    assert access(outside) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "outside"}


def test_a_file_whose_access_is_right_is_not_touched(
    tmp_path: Path, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have no permissions and refuse to change them."""
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(Path, "chmod", None)
    reset_permissions(file)
    assert access(file) == expected
