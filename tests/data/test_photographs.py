"""Typical image folders: names, order, splits, formats, orientation, transparency."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dit_lab.core.errors import RequestError
from dit_lab.core.types import DataFacts
from dit_lab.data import images
from dit_lab.data.facts import dataset_facts
from dit_lab.data.folder_listing import digest, notes_on, read_folder
from dit_lab.data.glance import glance
from dit_lab.data.image_check import look
from dit_lab.data.image_folder import ImageFolder
from dit_lab.data.images import Transform
from dit_lab.data.split_folders import FIRST, NOW, splits_among
from tests.data.test_image_folder import TARGET, numbered, options, paths, write

# ---- the order of classes -----------------------------------------------------------------------

ORDERS = {
    "numbers": ["0", "1", "2", "9", "10", "11", "100"],
    "numbers in front": ["1. Berge", "2_Hunde", "10 Blumen"],
    "numbers at the end": ["class2", "class10", "class10b"],
    "dates": ["2019-9", "2019-10", "2020-1"],
    "zeros in front": ["01", "1", "002", "10"],
    "no numbers": ["Owl", "cat", "fox"],
    "WordNet": ["n01440764", "n01443537", "n02102040"],
    "digits of other scripts": ["a", "٣", "²"],
}


@pytest.mark.parametrize("name", ORDERS)
def test_numbers_in_names_count_by_their_value(tmp_path: Path, name: str) -> None:
    for folder in reversed(ORDERS[name]):
        write(tmp_path, *numbered(folder, 3))
    now, first = (
        read_folder(tmp_path, validation_share=0.1, num_classes=None, reading=reading)
        for reading in (NOW, FIRST)
    )
    if name == "digits of other scripts":
        assert now.class_names == first.class_names
    else:
        assert list(now.class_names) == ORDERS[name]
    assert list(first.class_names) == sorted(ORDERS[name])
    same_order = now.class_names == first.class_names
    assert (digest(tmp_path, now) == digest(tmp_path, first)) == same_order


def facts(root: Path, **changes: Any) -> DataFacts:
    return dataset_facts(TARGET, options(root, **changes))


def test_a_run_s_data_is_read_as_the_run_recorded(tmp_path: Path) -> None:
    """All changed rules keep their old behaviour: order, extensions, splits."""
    write(tmp_path, *numbered("1", 3), *numbered("2", 3), *numbered("10", 3), "2/scan.tif")
    now = facts(tmp_path)
    first = dataset_facts(TARGET, options(tmp_path), reading=FIRST)
    assert (now.reading, now.class_names) == (NOW, ("1", "2", "10"))
    assert (first.reading, first.class_names) == (FIRST, ("1", "10", "2"))
    assert now.train_images + now.validation_images == 10
    assert first.train_images + first.validation_images == 9
    assert now.fingerprint != first.fingerprint
    assert first.recorded().keys() == {
        "channels", "height", "width", "num_classes", "class_names", "train_images",
        "validation_images", "fingerprint", "levels",
    }  # fmt: skip
    assert DataFacts.of(first.recorded()).reading == FIRST
    assert DataFacts.of(now.recorded()).reading == NOW
    ours = ImageFolder(split="train", seed=0, **options(tmp_path), reading=FIRST)
    assert len(ours) == first.train_images


# ---- splits -------------------------------------------------------------------------------------

SPLITS = {
    ("Training", "Testing"): ("Training", "Testing"),
    ("TRAIN", "TEST"): ("TRAIN", "TEST"),
    ("Train", "Val"): ("Train", "Val"),
    ("training_set", "test_set"): ("training_set", "test_set"),
    ("train", "val", "test"): ("train", "val"),
    ("Training Data", "Validation Data", "Test Data"): ("Training Data", "Validation Data"),
    ("train-images", "dev"): ("train-images", "dev"),
    ("trainset", "testset", "notes"): ("trainset", "testset"),
    ("train", "test", "valid"): ("train", "valid"),
}


@pytest.mark.parametrize("folders", SPLITS)
def test_splits_are_known_by_many_names(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        write(tmp_path, *numbered(f"{folder}/cat", 3), *numbered(f"{folder}/fox", 2))
    found = read_folder(tmp_path, validation_share=0.1, num_classes=None)
    train, held_out = SPLITS[folders]
    assert found.splits == (train, held_out) and found.class_names == ("cat", "fox")
    assert all(path.startswith(f"{train}/") for path in paths(found.train))
    assert all(path.startswith(f"{held_out}/") for path in paths(found.validation))
    said = notes_on(found)[0]
    assert said.startswith(f"training split: {train}; held-out split: {held_out}")
    assert ("not read" in said) == (len(folders) > 2)


CLASSES = [
    ("train", "ship"), ("Test", "Exam"), ("training", "rest"), ("trainer", "tester"),
    ("strain", "latest"), ("validity", "value"),
]  # fmt: skip


@pytest.mark.parametrize("folders", CLASSES)
def test_names_that_hold_such_words_are_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    assert splits_among(tmp_path, folders, NOW) is None


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("Training", "train", "Test"), "Training, train: all of these look like the same split"),
        (("train", "valid", "Validation"), "Validation, valid: all of these"),
        (("Testing", "test_set"), "this looks like splits, not classes"),
        (("TRAIN",), "this looks like splits, not classes"),
    ],
)
def test_unclear_splits_are_refused(tmp_path: Path, folders: tuple[str, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        splits_among(tmp_path, folders, NOW)


# ---- files --------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    write(
        tmp_path, *numbered("a", 3), *numbered("a", 2, "HEIC"), "a/x.CR2", "README", ".hidden.xmp"
    )
    assert facts(tmp_path).first_look.notes == (
        "1 class: a",
        "4 files skipped, by extension: 2 .heic, 1 without extension, 1 .cr2",
    )


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """An image, red above and blue below, with a transparent upper half if the mode allows."""
    image = Image.new("RGBA", size, (0, 0, 255, 255))
    image.paste((255, 0, 0, 0), (0, 0, size[0], size[1] // 2))
    if mode == "P":
        return image.convert("RGB").convert("P")
    return image.convert(mode)


def turned_by(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "jfif"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied_as_pillow_does(
    tmp_path: Path, ending: str, orientation: int
) -> None:
    file = tmp_path / f"a.{ending}"
    picture().save(file, exif=turned_by(orientation))
    with Image.open(file) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB").resize((16, 16)))
    shown = Transform(height=16, width=16, exif="apply").load(file)
    as_it_lies = Transform(height=16, width=16).load(file)
    assert shown[0, 0].argmax() == expected[0, 0].argmax()
    assert shown[-1, 0].argmax() == expected[-1, 0].argmax()
    assert as_it_lies[0, 0].argmax() == 0
    assert look(file, 0, Transform(height=16, width=16)).is_turned == (2 <= orientation <= 8)


def test_a_tiff_is_turned_once(tmp_path: Path) -> None:
    """Pillow turns TIFF files when it decodes them."""
    picture().save(tmp_path / "a.tif", exif=turned_by(3))
    for exif in ("ignore", "apply"):
        shown = Transform(height=16, width=16, exif=exif).load(tmp_path / "a.tif")  # type: ignore[arg-type]
        assert (shown[0, 0].argmax(), shown[-1, 0].argmax()) == (2, 0)


def test_orientation_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert Transform(height=16, width=16, exif="apply").load(tmp_path / "a.jpg").shape == (
        16,
        16,
        3,
    )


def with_transparency(folder: Path, kind: str) -> Path:
    file = folder / "a.png"
    if kind == "palette":
        palette = picture("RGB").quantize(2)
        red = palette.getpixel((0, 0))
        palette.save(file, transparency=red)
    elif kind == "colour":
        picture("RGB").save(file, transparency=(255, 0, 0))
    elif kind == "grey":
        grey = Image.new("LA", (40, 20), (90, 255))
        grey.paste((250, 0), (0, 0, 40, 10))
        grey.save(file)
    else:
        picture("RGBA").save(file)
    return file


@pytest.mark.parametrize("kind", ["channel", "palette", "colour", "grey"])
def test_transparent_parts_are_laid_over_what_is_asked(tmp_path: Path, kind: str) -> None:
    file = with_transparency(tmp_path, kind)
    corners = {
        colour: Transform(height=16, width=16, transparency=colour).load(file)[0, 0].tolist()  # type: ignore[arg-type]
        for colour in ("drop", "white", "black")
    }
    assert corners["white"] == [255] * 3 and corners["black"] == [0] * 3
    assert corners["drop"] == ([250] * 3 if kind == "grey" else [255, 0, 0])
    seen = look(file, 0, Transform(height=16, width=16))
    assert (seen.problem, seen.is_transparent) == ("", True)


def test_an_opaque_channel_is_not_called_transparent(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (1, 2, 3, 255)).save(tmp_path / "a.png")
    seen = look(tmp_path / "a.png", 0, Transform(height=16, width=16, transparency="white"))
    assert not seen.is_transparent
    assert Transform(height=16, width=16, transparency="white").load(tmp_path / "a.png")[
        0, 0
    ].tolist() == [1, 2, 3]


def test_the_first_picture_of_several(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    for name in ("a.gif", "a.tif"):
        transform = Transform(height=16, width=16)
        assert transform.load(tmp_path / name)[0, 0].argmax() == 0
        assert look(tmp_path / name, 0, transform).is_animated


def test_a_glance_before_training(tmp_path: Path) -> None:
    picture().save(tmp_path / "turned.jpg", exif=turned_by(6))
    with_transparency(tmp_path, "channel")
    files = (str(tmp_path / "turned.jpg"), str(tmp_path / "a.png"))
    how: dict[str, Any] = {"exif": "apply", "transparency": "white", "skips": False}
    assert glance(files, whole=True, **how) == (
        "1 of 2 images with an EXIF orientation: rotated (dataset.exif=apply)",
        "1 of 2 images with transparency: composited over white (dataset.transparency=white)",
    )
    assert "checked image" in glance(files, whole=False, **how)[0]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    broken = (*files, str(tmp_path / "broken.jpg"))
    with pytest.raises(RequestError, match=r"broken.jpg: .*or give dataset.on_bad_image=skip to"):
        glance(broken, whole=True, **how)
    *_, said = glance(broken, whole=True, **{**how, "skips": True})
    assert said == "1 of 3 images that cannot be read: skipped (dataset.on_bad_image=skip)"


def test_options_that_change_pixels_change_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path, *numbered("a", 3))
    seen = {facts(tmp_path, transparency=over).fingerprint for over in ("drop", "white", "black")}
    assert len(seen) == 3
    assert facts(tmp_path, transparency="drop").fingerprint == facts(tmp_path).fingerprint


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 9000), (9000, 40), (33, 7001), (300, 5000)])
@pytest.mark.parametrize("crop", [None, (0.3, 0.7, 0.2), (0.9, 0.01, 0.99)])
def test_of_a_long_image_only_a_part_is_scaled(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], crop: tuple[float, ...] | None
) -> None:
    """The result is the same, up to rounding."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image, found = Image.fromarray(pixels), []
    for most in (2**40, 1):
        monkeypatch.setattr(images, "SCALED_PIXELS", most)
        cut = images.random_crop(image, 16, 16, crop) if crop else images.centre_crop(image, 16, 16)
        found.append(np.asarray(cut).astype(int))
    assert np.abs(found[0] - found[1]).max() <= 8
    assert np.abs(found[0] - found[1]).mean() < 0.5


PEAKS = """
import resource, sys
from pathlib import Path
from dit_lab.data.images import Transform
transform = Transform(height=256, width=256, transparency="white")
for file in sys.argv[1:]:
    transform.load(Path(file))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_shape(tmp_path: Path) -> None:
    """An image of 4 million pixels needs about the same memory at any aspect ratio.

    Scaling all of an image 1,000 times as long as wide would give 256 million pixels.
    """
    modes = ("RGB", "L", "I;16", "LA", "P", "1")
    sizes = [(2000, 2000)] + [(64, 62_500), (62_500, 64)] * len(modes)
    files = []
    for number, (mode, size) in enumerate(zip(("RGBA", *np.repeat(modes, 2)), sizes, strict=True)):
        files.append(tmp_path / f"{number}.png")
        Image.new(str(mode), size).save(files[-1], compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, *map(str, files)], capture_output=True, text=True
    )
    peaks = [int(line) / 1024 for line in done.stdout.split()]
    assert len(peaks) == len(files), done.stderr
    assert max(peaks) < peaks[0] + 60, peaks  # MB; 1,100 where it was scaled whole


def test_images_without_classes_are_one_class(tmp_path: Path) -> None:
    write(tmp_path, *(f"{number}.jfif" for number in range(4)))
    found = facts(tmp_path)
    assert (found.num_classes, found.class_names, found.default_classes) == (0, (), (0,))
    assert torch.equal(
        ImageFolder(split="train", seed=0, **options(tmp_path)).labels,
        torch.zeros(found.train_images, dtype=torch.int64),
    )
