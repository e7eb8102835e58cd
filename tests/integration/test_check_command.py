"""`dit-lab check`: faulty images are found, counted and named before training."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., "subprocess.CompletedProcess[str]"]

ASKED = ["check", "dataset.root=data", "dataset.image_size=16"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 images of three classes by lists, of which the last 8 are held out."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(40):
        file = tmp_path / f"data/images/{number:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(file)
        lines.append(f"{file.name} {number % 3}\n")
    (tmp_path / "data/train_labels.txt").write_text("".join(lines[:32]))
    (tmp_path / "data/val_labels.txt").write_text("".join(lines[32:]))
    return tmp_path / "data"


def test_a_good_set(data: Path, forked_in: Command) -> None:
    done = forked_in(data.parent, *ASKED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[-3:] == [
        "train: 32 images in 3 classes, 10 to 11 in a class",
        "validation: 8 images in 3 classes, 2 to 3 in a class",
        "",
    ]


def test_all_that_is_wrong_is_named(data: Path, forked_in: Command) -> None:
    images = data / "images"
    (images / "03.jpg").write_bytes(b"")
    whole = (images / "04.jpg").read_bytes()
    (images / "04.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "05.jpg").unlink()
    (images / "06.jpg").unlink()
    (images / "06.jpg").symlink_to("/etc/hostname")
    Image.new("RGB", (15, 30)).save(images / "07.jpg")
    shutil.copy(images / "08.jpg", images / "09.jpg")
    shutil.copy(images / "08.jpg", images / "39.jpg")
    done = forked_in(data.parent, *ASKED, "out=report.json", "num_processes=2")
    assert done.returncode == 1
    assert done.stderr == "dit-lab: 4 images of 40 cannot be read\n"
    report = json.loads((data.parent / "report.json").read_text())
    train, validation = report["splits"]["train"], report["splits"]["validation"]
    assert (train["images"], validation["images"]) == (32, 8)
    problems = {Path(bad["path"]).name: bad["problem"] for bad in train["unreadable"]}
    assert problems.keys() == {"03.jpg", "04.jpg", "05.jpg", "06.jpg"}
    assert "not PNG, JPEG, WEBP, BMP, GIF or TIFF" in problems["03.jpg"]
    assert "truncated" in problems["04.jpg"].lower()
    assert problems["05.jpg"] == "No such file or directory"
    assert "link out of images/" in problems["06.jpg"]
    assert [Path(path).name for path in train["too_small"]] == ["07.jpg"]
    assert train["class_counts"] == [9, 10, 9] and validation["unreadable"] == []
    (alike,) = report["duplicates"]
    assert [Path(path).name for path in alike] == ["08.jpg", "09.jpg", "39.jpg"]
    assert report["in_both_splits"] == [alike]
    for line in ("train: cannot be read: 4", "train: smaller than 16 x 16: 1",
                 "duplicates: 1", "in both splits: 1"):  # fmt: skip
        assert line in done.stdout


def test_the_report_is_the_same_for_any_number_of_processes(data: Path, forked_in: Command) -> None:
    reports = []
    for number in (1, 2):
        done = forked_in(data.parent, *ASKED, f"out={number}.json", f"num_processes={number}")
        assert done.returncode == 0, done.stderr
        reports.append((data.parent / f"{number}.json").read_bytes())
    assert reports[0] == reports[1]
