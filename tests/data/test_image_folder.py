"""Folders of images: classes, splits, refusals, facts, decoding, flipping."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lab.core.errors import RequestError
from dit_lab.core.rng import uniform
from dit_lab.core.types import DataFacts
from dit_lab.data import folder_listing, image_folder
from dit_lab.data.facts import dataset_facts
from dit_lab.data.folder_listing import ByClass, FolderListing, ImageFile, digest, read_folder
from dit_lab.data.image_folder import ImageFolder
from dit_lab.data.images import Transform, to_pixels

TARGET = "dit_lab.data.image_folder.ImageFolder"


def write(root: Path, *names: str) -> Path:
    """Write files that contain their own names, for tests that open no image."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def numbered(folder: str, count: int, ending: str = "png") -> list[str]:
    return [f"{folder}/{number}.{ending}" for number in range(count)]


def paint(root: Path, names: Iterable[str], seed: int = 0) -> Path:
    """PNG files of 16 x 16 random pixels."""
    random = np.random.default_rng(seed)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(root / name)
    return root


def listing(root: Path, *, share: float = 0.1, num_classes: int | None = None) -> FolderListing:
    return read_folder(root, validation_share=share, num_classes=num_classes)


def paths(by_class: ByClass) -> list[str]:
    return [file.path for files in by_class.values() for file in files]


def refusal(root: Path | None, **changes: Any) -> str:
    """Return the error of a command's checks."""
    with pytest.raises(RequestError) as refused:
        facts(root, **changes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def options(root: Path | None, **changes: Any) -> dict[str, Any]:
    return {
        "root": root, "image_size": 16, "horizontal_flip": False, "validation_share": 0.1
    } | changes  # fmt: skip


def facts(root: Path | None, **changes: Any) -> DataFacts:
    return dataset_facts(TARGET, options(root, **changes))


def open_folder(root: Path, **changes: Any) -> ImageFolder:
    return ImageFolder(**({"split": "train", "seed": 0} | options(root, **changes)))


# Classes and files


def test_folders_are_classes_in_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, *numbered("fox", 4), *numbered("cat", 3), *numbered("Owl", 2))
    found = listing(tmp_path)
    assert found.class_names == ("Owl", "cat", "fox")
    assert list(found.train) == list(found.validation) == ["Owl", "cat", "fox"]
    together = sorted(paths(found.train) + paths(found.validation))
    assert together == sorted(
        [*numbered("fox", 4), *numbered("cat", 3), *numbered("Owl", 2)]
    )  # each image once


def test_images_alone_have_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png", "c.png")
    found = listing(tmp_path)
    assert found.class_names == ()
    assert sorted(paths(found.train) + paths(found.validation)) == ["a.png", "b.png", "c.png"]


def test_endings_hidden_files_and_depth(tmp_path: Path) -> None:
    images = ["a/1.png", "a/2.JPG", "a/b/3.jpeg", "a/b/c/4.WebP", "a/5.bmp", "a/6.GIF"]
    others = ["notes.txt", "a/7.png.txt", "a/.8.png", "a/.thumbs/9.png", ".git/10.png"]
    write(tmp_path, *images, *others)
    found = listing(tmp_path)
    assert sorted(paths(found.train) + paths(found.validation)) == sorted(images)
    assert found.class_names == ("a",)


def test_links_are_followed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = write(tmp_path_factory.mktemp("elsewhere"), *numbered("many", 3), "one.png")
    write(tmp_path, "cat/0.png")
    (tmp_path / "cat" / "1.png").symlink_to(elsewhere / "one.png")
    (tmp_path / "fox").symlink_to(elsewhere / "many")
    found = listing(tmp_path)
    assert sorted(paths(found.train) + paths(found.validation)) == [
        "cat/0.png", "cat/1.png", "fox/0.png", "fox/1.png", "fox/2.png"
    ]  # fmt: skip


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_in_a_circle_is_refused(tmp_path: Path, target: str) -> None:
    write(tmp_path, *numbered("cat/young", 3))
    (tmp_path / "cat" / "young" / "again").symlink_to(target)
    assert "cat/young/again" in (message := refusal(tmp_path))
    assert "a link to one of its parent folders" in message


# Splits


def test_a_share_of_every_class_is_held_out(tmp_path: Path) -> None:
    write(tmp_path, *numbered("cat", 2000), *numbered("fox", 1000))
    for share in (0.1, 0.3):
        found = listing(tmp_path, share=share)
        for name, count in (("cat", 2000), ("fox", 1000)):
            expected, held_out = share * count, len(found.validation[name])
            # a binomial count; by chance alone, four deviations come once in 16,000
            assert abs(held_out - expected) < 4 * (expected * (1 - share)) ** 0.5
            assert len(found.train[name]) == count - held_out
    few, many = listing(tmp_path, share=0.1), listing(tmp_path, share=0.3)
    assert set(paths(few.validation)) < set(paths(many.validation))


def test_adding_a_file_moves_no_other(tmp_path: Path) -> None:
    write(tmp_path, *numbered("cat", 60), *numbered("fox", 60))
    before = listing(tmp_path)
    write(tmp_path, *(f"cat/new {number}.png" for number in range(100)), *numbered("owl", 10))
    after = listing(tmp_path)
    assert set(paths(before.train)) < set(paths(after.train))
    assert set(paths(before.validation)) < set(paths(after.validation))


def test_the_split_depends_on_paths_below_root_alone(tmp_path: Path) -> None:
    write(tmp_path / "here", *numbered("cat", 50), *numbered("fox", 50))
    before = listing(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert listing(tmp_path / "there") == before
    unlabelled = listing(tmp_path / "there", num_classes=0)
    assert paths(unlabelled.validation) == paths(before.validation)
    root = paint(tmp_path / "images", numbered("cat", 20))
    seeds = [open_folder(root, seed=seed) for seed in (0, 1)]
    assert [seeds[0].path(i) for i in range(len(seeds[0]))] == [
        seeds[1].path(i) for i in range(len(seeds[1]))
    ]


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9999])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_no_side_of_a_class_is_empty(tmp_path: Path, share: float, count: int) -> None:
    write(tmp_path, *(name for folder in "abcdefgh" for name in numbered(folder, count)))
    found = listing(tmp_path, share=share)
    sizes = [(len(found.train[name]), len(found.validation[name])) for name in "abcdefgh"]
    assert all(kept + held_out == count for kept, held_out in sizes)
    assert all(kept >= 1 and held_out >= 1 for kept, held_out in sizes)
    if share == 0.0001:  # all on the one side by themselves, so just one crosses over
        assert {held_out for _, held_out in sizes} == {1}


def test_a_small_class_exchanges_one_file_at_most(tmp_path: Path) -> None:
    """If a file was held out only so that the side is not empty, a new file may replace it."""
    write(tmp_path, *numbered("cat", 2))
    turns = 0
    held_out = set(paths(listing(tmp_path, share=0.001).validation))
    for number in range(2, 40):
        write(tmp_path, f"cat/{number}.png")
        now = set(paths(listing(tmp_path, share=0.001).validation))
        assert len(now) == 1
        assert now == held_out or now == {f"cat/{number}.png"}
        turns += now != held_out
        held_out = now
    assert turns > 0


def test_train_and_val_are_the_splits(tmp_path: Path) -> None:
    write(tmp_path, *numbered("train/cat", 3), *numbered("train/fox", 2))
    write(tmp_path, "val/cat/x.png", *numbered("val/fox/deep", 2), *numbered("test/emu", 2))
    found = listing(tmp_path)
    assert found.class_names == ("cat", "fox")
    assert paths(found.train) == [*numbered("train/cat", 3), *numbered("train/fox", 2)]
    assert paths(found.validation) == ["val/cat/x.png", *numbered("val/fox/deep", 2)]
    unlabelled = listing(tmp_path, num_classes=0)
    assert unlabelled.class_names == ()
    assert paths(unlabelled.validation) == paths(found.validation)


def test_train_and_val_without_classes(tmp_path: Path) -> None:
    write(tmp_path, *numbered("train", 3), *numbered("val", 1))
    found = listing(tmp_path)
    assert found.class_names == ()
    assert (paths(found.train), paths(found.validation)) == (numbered("train", 3), ["val/0.png"])


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write(tmp_path, *numbered("train", 3), *numbered("ship", 3))
    assert listing(tmp_path).class_names == ("ship", "train")


# Refusals: (files, options, what the one line says)

REFUSALS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "no image in any class": (["cat/a.heic", "fox/b.txt"], {}, "holds no images (png"),
    "no image below": (
        ["cat/a.heic"],
        {"num_classes": 0},
        "1 file skipped, by extension: 1 .heic",
    ),
    "one image": (["a.png"], {}, "only one image; at least two are needed"),
    "other classes in val": (
        ["train/cat/a.png", "train/fox/a.png", "val/cat/b.png", "val/owl/a.png"],
        {},
        "train and val have different classes (only in train: fox; only in val: owl)",
    ),
    "no classes in val": (
        ["train/cat/a.png", "val/b.png"],
        {},
        "(only in train: cat; only in val: images without a class)",
    ),
    "an empty val": (["train/cat/a.png", "val/notes.txt"], {}, "val: holds no images"),
    "classes without folders": (
        ["a.png", "b.png"],
        {"num_classes": 3},
        "has no class folders; leave dataset.num_classes out",
    ),
    "nothing to hold out": (["a.png"], {"validation_share": 0.0}, "above 0 and below 1"),
    "nothing to train on": (["a.png"], {"validation_share": 1.0}, "above 0 and below 1"),
    "no pixels": (["a.png"], {"image_size": 0}, "dataset.image_size=0"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_in_one_line(tmp_path: Path, case: str) -> None:
    names, changes, expected = REFUSALS[case]
    write(tmp_path, *names)
    assert expected in refusal(tmp_path, **changes)


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    write(tmp_path, *(f"class {number:02}/a.png" for number in range(20)))
    assert "class 04 and 15 more" in refusal(tmp_path)


# Facts


def test_facts(tmp_path: Path) -> None:
    write(tmp_path, *numbered("cat", 30), *numbered("fox", 20))
    found = facts(tmp_path)
    assert (found.channels, found.height, found.width) == (3, 16, 16)
    assert (found.num_classes, found.class_names) == (2, ("cat", "fox"))
    assert found.train_images + found.validation_images == 50
    assert found.train_images == len(open_folder(tmp_path))
    assert found.validation_images == len(open_folder(tmp_path, split="validation"))
    unlabelled = facts(tmp_path, num_classes=0)
    assert (unlabelled.num_classes, unlabelled.class_names) == (0, ())
    assert facts(tmp_path, num_classes=2) == found


def test_the_fingerprint_follows_what_is_trained_on(tmp_path: Path) -> None:
    root = write(tmp_path / "here", *numbered("cat", 30), *numbered("fox", 20))
    first = facts(root).fingerprint
    write(root, "notes.txt", ".cache/a.png")
    os.utime(root / "cat/0.png", (0, 0))
    assert facts(root).fingerprint == first  # nothing that counts has changed
    moved = root.rename(tmp_path / "there")
    assert facts(moved).fingerprint == first

    seen = [first, facts(moved, num_classes=0).fingerprint]
    seen += [facts(moved, **change).fingerprint for change in (
        {"image_size": 8}, {"horizontal_flip": True}, {"validation_share": 0.5}
    )]  # fmt: skip
    (moved / "cat/0.png").rename(moved / "cat/zero.png")
    seen.append(facts(moved).fingerprint)
    (moved / "cat/1.png").write_text("another size")
    seen.append(facts(moved).fingerprint)
    (moved / "cat/2.png").write_text("CAT/2.png")  # the same size
    seen.append(facts(moved).fingerprint)
    write(moved, "fox/new.png")
    seen.append(facts(moved).fingerprint)
    assert len(set(seen)) == len(seen)


def test_the_split_is_in_the_digest(tmp_path: Path) -> None:
    """The choice of held-out files counts, even if the overall order is the same."""
    write(tmp_path, "a.png", "b.png", "c.png")
    files = [ImageFile(name, 5) for name in ("a.png", "b.png", "c.png")]
    splits = [FolderListing({"": files[:cut]}, {"": files[cut:]}) for cut in (1, 2)]
    assert digest(tmp_path, splits[0]) != digest(tmp_path, splits[1])


def test_contents_are_read_in_small_folders_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *numbered("cat", 4))  # 9 bytes each
    monkeypatch.setattr(folder_listing, "MAX_READ_BYTES", 36)
    before = facts(tmp_path).fingerprint
    (tmp_path / "cat/2.png").write_text("CAT/2.png")
    assert facts(tmp_path).fingerprint == before
    monkeypatch.setattr(folder_listing, "MAX_READ_BYTES", 37)
    before = facts(tmp_path).fingerprint
    (tmp_path / "cat/2.png").write_text("cat/2.png")
    assert facts(tmp_path).fingerprint != before


def test_two_thousand_files_are_listed_in_a_tenth_of_a_second(tmp_path: Path) -> None:
    for name in "abcdefghij":
        (tmp_path / name).mkdir()
        for number in range(200):
            (tmp_path / name / f"{number}.png").touch()
    seconds = []
    for _ in range(3):  # the best of three: the disk and memory are shared
        start = time.process_time()
        found = listing(tmp_path)
        seconds.append(time.process_time() - start)
    assert len(paths(found.train)) + len(paths(found.validation)) == 2000
    assert min(seconds) < 0.1  # 0.02 s on two cores


def test_facts_import_nothing_slow(tmp_path: Path) -> None:
    write(tmp_path, *numbered("cat", 4))
    script = f"""
import sys
from dit_lab.data.facts import dataset_facts
dataset_facts({TARGET!r}, {options(None) | {"root": str(tmp_path)}!r})
print(*{{"torch", "numpy", "PIL"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# Images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve training and six validation images in three classes."""
    names = [f"train/{name}/{i}.png" for name in ("cat", "fox", "owl") for i in range(4)]
    names += [f"val/{name}/{i}.png" for name in ("cat", "fox", "owl") for i in range(2)]
    return paint(tmp_path, names)


def pixels_of(dataset: ImageFolder, index: int) -> torch.Tensor:
    return to_pixels(np.stack([Transform(height=16, width=16).load(dataset.path(index))]))[0]


def test_fetch_returns_the_images_asked_for(folder: Path) -> None:
    dataset = open_folder(folder)
    images, labels = dataset.fetch(torch.tensor([9, 0, 9, 5]), None)
    assert (images.shape, images.dtype) == ((4, 3, 16, 16), torch.float32)
    assert torch.equal(images, torch.stack([pixels_of(dataset, i) for i in (9, 0, 9, 5)]))
    assert torch.equal(labels, torch.tensor([2, 0, 2, 1]))
    assert [dataset.path(index).parent.name for index in (9, 0, 5)] == ["owl", "cat", "fox"]
    assert len(dataset) == 12
    assert len(open_folder(folder, split="validation")) == 6


def test_without_classes_all_labels_are_zero(folder: Path) -> None:
    dataset = open_folder(folder, num_classes=0)
    _, labels = dataset.fetch(torch.arange(12), None)
    assert torch.equal(labels, torch.zeros(12, dtype=torch.int64))


def test_a_file_is_decoded_once(folder: Path) -> None:
    dataset = open_folder(folder)
    before, _ = dataset.fetch(torch.arange(12), None)
    for index in range(12):
        dataset.path(index).unlink()
    assert torch.equal(dataset.fetch(torch.arange(12), None)[0], before)


def test_no_more_is_kept_than_there_is_room_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "MAX_KEPT_BYTES", 2 * 3 * 16 * 16)
    dataset = open_folder(folder)
    dataset.fetch(torch.tensor([3, 4, 5]), None)
    for index in range(12):
        dataset.path(index).unlink()
    dataset.fetch(torch.tensor([4, 3]), None)
    with pytest.raises(RequestError, match="cannot be read as an image"):
        dataset.fetch(torch.tensor([5]), None)


def test_flips_depend_on_seed_and_counter_alone(folder: Path) -> None:
    dataset = open_folder(folder, horizontal_flip=True, seed=3)
    counters = torch.arange(100, 136)
    indices = counters % 12
    draws = uniform(3, "flip", counters)
    plain = [pixels_of(dataset, index) for index in indices.tolist()]
    expected = torch.stack(
        [p.flip(-1) if draw < 0.5 else p for p, draw in zip(plain, draws, strict=True)]
    )
    assert torch.equal(dataset.fetch(indices, counters)[0], expected)
    assert torch.equal(
        dataset.fetch(indices, counters)[0], expected
    )  # what is kept stays unflipped
    assert torch.equal(dataset.fetch(indices, None)[0], torch.stack(plain))
    unflipped = open_folder(folder, horizontal_flip=False, seed=3)
    assert torch.equal(unflipped.fetch(indices, counters)[0], torch.stack(plain))
    assert not torch.equal(expected, torch.stack(plain))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\0\0"])
def test_an_unreadable_image_is_named(folder: Path, content: bytes) -> None:
    dataset = open_folder(folder)
    dataset.path(2).write_bytes(content)
    with pytest.raises(RequestError) as refused:
        dataset.fetch(torch.tensor([0, 2]), None)
    assert str(refused.value).startswith(f"{dataset.path(2)}: cannot be read as an image")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("ending", folder_listing.ENDINGS)
def test_every_ending_can_be_read(tmp_path: Path, ending: str) -> None:
    for number in range(2):
        Image.new("L", (20, 30), 255).save(tmp_path / f"{number}{ending}")
    images, _ = open_folder(tmp_path).fetch(torch.tensor([0]), None)
    assert torch.equal(images, torch.ones(1, 3, 16, 16))
