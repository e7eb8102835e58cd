"""Hand-written lists: spellings of paths, line ends, contradictory or stray class ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lab.core.errors import RequestError
from dit_lab.core.types import DataFacts
from dit_lab.data.facts import dataset_facts
from dit_lab.data.labelled_list import LabelledList
from dit_lab.data.list_file import read_list

LISTS = "dit_lab.data.labelled_list.LabelledList"
NAMES = ["0/a.png", "1/my cat.png", "0/été.png"]
IDS = [0, 1, 0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images, each of one colour; lists are written by the tests."""
    folder = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), 50 * number, np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    (folder / "val_labels.txt").write_text("0/a.png 0\n")
    return folder


def options(root: Path, **changes: Any) -> dict[str, Any]:
    return {"root": root, "image_size": 8, "horizontal_flip": False} | changes


def facts(root: Path, **changes: Any) -> DataFacts:
    return dataset_facts(LISTS, options(root, **changes))


def brightness(root: Path, **changes: Any) -> list[float]:
    """Return the brightness of the listed images, which identifies them."""
    dataset = LabelledList(split="train", **options(root, **changes))
    images, _ = dataset.fetch(torch.arange(len(dataset)), None)
    return ((images.mean((1, 2, 3)) + 1) * 127.5).round().tolist()


PREFIXES = {
    "below images": "",
    "from the root": "images/",
    "from here": "./images/",
    "from here, below images": "./",
    "of Windows": "images\\",
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("between", [" ", "\t", "  \t "])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_all_spellings_name_the_same_images(
    root: Path, prefix: str, ends: str, between: str, mark: str
) -> None:
    written = [f"{PREFIXES[prefix]}{name}" for name in NAMES]
    if "Windows" in prefix:
        written = [path.replace("/", "\\") for path in written]
    rows = [f"{path}{between}{label}" for path, label in zip(written, IDS, strict=True)]
    (root / "train_labels.txt").write_bytes((mark + ends.join([*rows, ""])).encode())
    assert brightness(root) == [0, 50, 100]
    found = facts(root)
    assert (found.train_images, found.num_classes) == (3, 2)
    assert (found.first_look.doubt, found.first_look.lost) == ("", "")


def test_a_folder_that_is_called_images_below_images(root: Path) -> None:
    """Then the name in front is that folder's."""
    (root / "images/images/0").mkdir(parents=True)
    Image.new("RGB", (8, 8), (200, 200, 200)).save(root / "images/images/0/a.png")
    (root / "train_labels.txt").write_text("images/0/a.png 0\n0/a.png 1\n")
    assert brightness(root) == [200, 0]


def test_lists_may_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/mine.txt").write_text("images/0/a.png 0\n1/my cat.png 1\n")
    (root / "train_labels.txt").symlink_to(tmp_path / "lists/mine.txt")
    assert brightness(root) == [0, 50]


def test_absolute_paths(root: Path) -> None:
    (root / "train_labels.txt").write_text(f"{root}/images/1/my cat.png 0\n")
    with pytest.raises(RequestError, match=r"line 1: path '/.*' leaves images/; write it relative "
                       r"to that folder, or give dataset.allow_outside=true"):  # fmt: skip
        facts(root)
    assert brightness(root, allow_outside=True) == [50]


@pytest.mark.parametrize("written", ["photos/images/0/a.png", "0/A.png", "a.png", "img/0/a.png"])
def test_paths_that_lead_nowhere_are_said_at_once(root: Path, written: str) -> None:
    """Reported before the training; with on_bad_image=skip, such images are skipped."""
    (root / "train_labels.txt").write_text(f"0/a.png 0\n{written} 1\n")
    lost = facts(root).first_look.lost
    assert "train_labels.txt: line 2: " in lost and written in lost
    assert lost.endswith("write paths relative to images/, or to the folder of the list")
    assert facts(root, on_bad_image="skip").first_look.lost == ""


# ---- class ids ----------------------------------------------------------------------------------


def with_ids(root: Path, ids: list[int], held_out: tuple[int, ...] = (0,)) -> DataFacts:
    """Return facts of lists that assign these class ids to images."""
    for name, given in (("train", ids), ("val", held_out)):
        lines = [f"{name}{number}.png {label}\n" for number, label in enumerate(given)]
        (root / f"{name}_labels.txt").write_text("".join(lines))
    return facts(root, on_bad_image="skip")


@pytest.mark.parametrize(
    ("ids", "held_out", "absent"),
    [
        ([1, 3, 7], (1,), (0, 2, 4, 5, 6)),
        ([0, 1, 2], (0,), ()),
        ([0, 1], (2,), (2,)),  # held-out images of a class that is never trained on
        ([1, 2, 3], (1,), (0,)),  # counted from one
    ],
)
def test_classes_without_training_images_are_not_drawn(
    root: Path, ids: list[int], held_out: tuple[int, ...], absent: tuple[int, ...]
) -> None:
    found = with_ids(root, ids, held_out)
    assert found.absent_classes == absent
    assert set(found.default_classes) == set(ids)
    assert bool(found.first_look.notes) == bool(absent)
    if absent:
        said = f"{len(absent)} of {found.num_classes} classes have no training image"
        assert found.first_look.notes[0].startswith(said)
    assert DataFacts.of(found.recorded()).absent_classes == absent


def test_names_without_images_are_reported_by_name(root: Path) -> None:
    (root / "class_names.txt").write_text("Berge\nHunde\nBlumen\n")
    assert "(Hunde, Blumen)" in with_ids(root, [0, 0]).first_look.notes[0]


@pytest.mark.parametrize(
    ("ids", "is_doubtful"),
    [
        ([0, 1, 151673], True),
        ([*range(10), 999], True),
        ([2019, 2020, 2021], True),
        ([*range(10), 99], False),
        ([1, 3, 7], False),
        ([*range(0, 1000, 7)], False),
    ],
)
def test_ids_far_beyond_the_others_are_doubted(
    root: Path, ids: list[int], is_doubtful: bool
) -> None:
    doubt = with_ids(root, ids).first_look.doubt
    assert bool(doubt) == is_doubtful
    if is_doubtful:
        line = ids.index(max(ids)) + 1
        assert f"train_labels.txt: line {line}: class id {max(ids)} makes" in doubt
    declared = facts(root, num_classes=max(ids) + 1, on_bad_image="skip")
    assert declared.first_look.doubt == ""
    assert facts(root, num_classes=0, on_bad_image="skip").first_look.doubt == ""


def test_a_stray_id_among_the_held_out(root: Path) -> None:
    doubt = with_ids(root, [0, 1], (0, 5000)).first_look.doubt
    assert "val_labels.txt: line 2: class id 5000 makes 5,001 classes" in doubt


@pytest.mark.parametrize(
    ("train", "held_out", "says"),
    [
        ("a.png 0\nb.png 1\na.png 1\n", "c.png 0\n",
         "train_labels.txt: line 3: a.png has class id 1, and 0 in .*train_labels.txt: line 1"),
        ("a.png 0\nb.png 1\n", "b.png 0\n",
         "val_labels.txt: line 1: b.png has class id 0, and 1 in .*train_labels.txt: line 2"),
        ("# mine\na.png 0\na.png 0\na.png 2\n", "b.png 1\n", "line 4: a.png has class id 2"),
    ],
)  # fmt: skip
def test_one_path_has_one_id(root: Path, train: str, held_out: str, says: str) -> None:
    (root / "train_labels.txt").write_text(train)
    (root / "val_labels.txt").write_text(held_out)
    doubt = facts(root, on_bad_image="skip").first_look.doubt
    assert re.search(says, doubt), doubt


def test_a_path_may_stand_twice_with_one_id(root: Path) -> None:
    (root / "train_labels.txt").write_text("a.png 0\na.png 0\nb.png 1\n")
    assert facts(root, on_bad_image="skip").first_look.doubt == ""


def test_line_ends_of_old_machines(tmp_path: Path) -> None:
    """With CR alone, two images were once read as one line."""
    (tmp_path / "list.txt").write_bytes(b"a.png 0\rb.png 1\r")
    found = read_list(tmp_path / "list.txt")
    assert [found.path(at) for at in range(len(found))] == ["a.png", "b.png"]
    assert found.lines.tolist() == [1, 2]
