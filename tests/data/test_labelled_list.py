"""Lists of labelled images: reading, refusing, decoding, cropping, flipping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lab.core.errors import RequestError
from dit_lab.core.rng import uniform
from dit_lab.data.images import centre_crop, to_pixels
from dit_lab.data.labelled_list import LabelledList
from dit_lab.data.list_file import read_class_names, read_list


def write_list(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "train_labels.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def entries(file: Path) -> list[tuple[str, int, int]]:
    images = read_list(file)
    paths = [images.path(index) for index in range(len(images))]
    return list(zip(paths, images.class_ids.tolist(), images.lines.tolist(), strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six training and two validation images of 16x16 random pixels in three classes."""
    random = np.random.default_rng(0)
    (tmp_path / "images" / "a folder").mkdir(parents=True)
    lines = []
    for i in range(8):
        name = f"a folder/image {i}.png"
        pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        lines.append(f"{name} {i % 3}\n")
    (tmp_path / "train_labels.txt").write_text("".join(lines[:6]))
    (tmp_path / "val_labels.txt").write_text("".join(lines[6:]))
    return tmp_path


def open_folder(folder: Path, **changes: Any) -> LabelledList:
    options: dict[str, Any] = {
        "split": "train",
        "root": folder,
        "image_size": 16,
        "horizontal_flip": True,
        "seed": 0,
    }
    return LabelledList(**(options | changes))


def pixels_of(dataset: LabelledList, index: int) -> torch.Tensor:
    return to_pixels(np.array(Image.open(dataset.path(index)))[None])[0]


# The list


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a.png 0\nb/c.png 12\n", [("a.png", 0, 1), ("b/c.png", 12, 2)]),
        ("a.png 0\nb.png 1", [("a.png", 0, 1), ("b.png", 1, 2)]),  # no newline at the end
        ("a.png 0\r\nb.png 1\r\n", [("a.png", 0, 1), ("b.png", 1, 2)]),
        ("# made by hand\n\na.png 3\n  \n  # more\nb.png 1\n", [("a.png", 3, 3), ("b.png", 1, 6)]),
        ("my cat 2.png 7\n", [("my cat 2.png", 7, 1)]),
        ("a.png\t1\n  b.png  2  \n", [("a.png", 1, 1), ("b.png", 2, 2)]),
        ("b b.png  2\n b b.png 3\n", [("b b.png", 2, 1), ("b b.png", 3, 2)]),
        ("\ufeffa.png 1\n", [("a.png", 1, 1)]),  # a byte order mark, as Windows editors write
        ("猫/ねこ.png 1\nété.png 2\n", [("猫/ねこ.png", 1, 1), ("été.png", 2, 2)]),
        ("a#1.png 1\n", [("a#1.png", 1, 1)]),  # only a line that begins with # is a comment
        ("a..b.png 1\n12:30.png 2\n", [("a..b.png", 1, 1), ("12:30.png", 2, 2)]),
        ("a.png 000001\n", [("a.png", 1, 1)]),
    ],
)
def test_lists_are_read(tmp_path: Path, content: str, expected: list[tuple[str, int, int]]) -> None:
    file = write_list(tmp_path, content)
    assert entries(file) == expected


def test_plain_and_odd_rows_are_read_alike(tmp_path: Path) -> None:
    """Plain rows are read all at once; a path with `..` in it sends every row the other way."""
    rows = [(f"n{i % 7}/{i}.png", i * 37 % 1000) for i in range(500)]
    plain = "".join(f"{path} {class_id}\n" for path, class_id in rows)
    expected = [(path, class_id, line) for line, (path, class_id) in enumerate(rows, 1)]
    assert entries(write_list(tmp_path, plain)) == expected
    odd = write_list(tmp_path, plain + "x..y 1\n")
    assert entries(odd) == [*expected, ("x..y", 1, 501)]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("lonely.png", "expected `image_path class_id`, found 'lonely.png'"),
        ("7", "expected `image_path class_id`, found '7'"),
        (" 7", "expected `image_path class_id`, found '7'"),
        ("a.png cat", "class id 'cat' is not a number from 0 to 999999"),
        ("a.png -1", "class id '-1' is not a number"),
        ("a.png 1.0", "class id '1.0' is not a number"),
        ("a.png 1000000", "class id '1000000' is not a number"),
        (
            "a.png \u0661",
            "class id '\u0661' is not a number",
        ),  # a digit for Unicode, not for a list
        ("../a.png 1", "path '../a.png' leaves images/"),
        ("b/../../a.png 1", "leaves images/"),
        ("b\\..\\..\\a.png 1", "leaves images/"),
        ("/etc/a.png 1", "path '/etc/a.png' leaves images/"),
        ("\\\\host\\a.png 1", "leaves images/"),
        ("C:\\a.png 1", "leaves images/"),
        ("a\0.png 1", "holds a zero byte"),
    ],
)
@pytest.mark.parametrize("line", [1, 2])
def test_bad_rows_are_refused_by_line(tmp_path: Path, row: str, problem: str, line: int) -> None:
    file = write_list(tmp_path, "good.png 0\n" * (line - 1) + row + "\ngood.png 0\n")
    with pytest.raises(RequestError) as refusal:
        read_list(file)
    message = str(refusal.value)
    assert message.startswith(f"{file}: line {line}: ")
    assert problem in message
    assert "\n" not in message


def test_ten_problems_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    file = write_list(tmp_path, "good.png 1\n" + "bad.png x\n" * 25)
    with pytest.raises(RequestError) as refusal:
        read_list(file)
    message = str(refusal.value)
    assert message.count("class id 'x'") == 10
    assert "line 11: " in message
    assert "line 12: " not in message
    assert message.endswith("; and 15 more")


def test_class_names(tmp_path: Path) -> None:
    file = tmp_path / "class_names.txt"
    file.write_bytes(b"tench\r\ngreat white shark \ncrane\ncrane\n\n")
    assert read_class_names(file) == ("tench", "great white shark", "crane", "crane")
    file.write_text("tench\n\ncrane\n")
    with pytest.raises(RequestError, match="line 2: no name"):
        read_class_names(file)


# The crop


def test_a_crop_at_its_own_size_changes_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(centre_crop(Image.fromarray(pixels), 8, 8), pixels)


@pytest.mark.parametrize(("width", "height"), [(14, 8), (8, 14)])
def test_the_centre_of_a_longer_image_is_kept(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    top, left = (height - 8) // 2, (width - 8) // 2
    expected = pixels[top : top + 8, left : left + 8]
    assert np.array_equal(centre_crop(Image.fromarray(pixels), 8, 8), expected)


def test_powers_of_two_are_means_of_blocks() -> None:
    """Halving by a box filter is the mean of 2x2 blocks, and no bicubic step is left to do."""
    blocks = np.random.default_rng(0).integers(0, 64, (8, 8, 3), np.uint8) * 4
    pixels = blocks.repeat(4, axis=0).repeat(4, axis=1)  # (32, 32, 3)
    pixels[0::2, 0::2] += 2  # two of every four pixels: the mean of each 2x2 rises by exactly 1
    pixels[1::2, 1::2] += 2
    assert np.array_equal(centre_crop(Image.fromarray(pixels), 8, 8), blocks + 1)


def test_bicubic_does_what_halving_leaves() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 24, 3), np.uint8)
    image = Image.fromarray(pixels)
    halved = image.resize((12, 20), Image.Resampling.BOX)  # 12 < 2 * 8: halved once
    scaled = halved.resize((8, 13), Image.Resampling.BICUBIC)  # 20 * 8 / 12 = 13.3
    assert np.array_equal(centre_crop(image, 8, 8), np.asarray(scaled)[2:10])


def test_small_images_are_enlarged() -> None:
    assert centre_crop(Image.new("RGB", (3, 5)), 8, 8).size == (8, 8)


# The dataset


def test_fetch_returns_the_files_in_order(folder: Path) -> None:
    dataset = open_folder(folder)
    images, labels = dataset.fetch(torch.tensor([4, 0]), None)
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert torch.equal(images, torch.stack([pixels_of(dataset, 4), pixels_of(dataset, 0)]))
    assert torch.equal(labels, torch.tensor([1, 0]))
    assert len(dataset) == 6
    assert len(open_folder(folder, split="validation")) == 2


def test_fetch_opens_just_the_files_asked_for(folder: Path) -> None:
    dataset = open_folder(folder)
    for index in (1, 2, 3, 4, 5):
        dataset.path(index).unlink()
    dataset.fetch(torch.tensor([0]), None)
    with pytest.raises(RequestError, match=r"image 3\.png: cannot be read as an image"):
        dataset.fetch(torch.tensor([0, 3]), None)


def test_pixels_span_minus_one_to_one() -> None:
    levels = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    assert to_pixels(levels).tolist() == [[[[-1.0, 1.0]]]]


def test_flips_depend_on_seed_and_counter_alone(folder: Path) -> None:
    dataset = open_folder(folder, seed=3)
    counters = torch.arange(100, 140)
    indices = counters % 6
    expected = torch.stack(
        [
            pixels_of(dataset, index).flip(-1) if draw < 0.5 else pixels_of(dataset, index)
            for index, draw in zip(indices.tolist(), uniform(3, "flip", counters), strict=True)
        ]
    )
    images, _ = dataset.fetch(indices, counters)
    assert torch.equal(images, expected)
    pieces = [
        dataset.fetch(index, counter)[0]
        for index, counter in zip(indices.split(7), counters.split(7), strict=True)
    ]
    assert torch.equal(torch.cat(pieces), expected)
    assert not torch.equal(images, dataset.fetch(indices, None)[0])
    assert not torch.equal(images, open_folder(folder, seed=4).fetch(indices, counters)[0])


def test_no_flips_where_they_are_off(folder: Path) -> None:
    dataset = open_folder(folder, horizontal_flip=False)
    indices = torch.arange(6)
    counted, plain = dataset.fetch(indices, indices), dataset.fetch(indices, None)
    assert torch.equal(counted[0], plain[0])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(folder: Path, mode: str) -> None:
    file = open_folder(folder).path(0)
    Image.new("RGB", (20, 30), (255, 255, 255)).convert(mode).save(file.with_suffix(".tiff"))
    (folder / "train_labels.txt").write_text(
        f"{file.with_suffix('.tiff').relative_to(folder / 'images')} 2\n"
    )
    images, _ = open_folder(folder).fetch(torch.tensor([0]), None)
    assert torch.equal(images, torch.ones(1, 3, 16, 16))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\0\0"])
def test_a_broken_image_is_named(folder: Path, content: bytes) -> None:
    dataset = open_folder(folder)
    dataset.path(2).write_bytes(content)
    with pytest.raises(RequestError) as refusal:
        dataset.fetch(torch.tensor([2]), None)
    assert str(refusal.value).startswith(str(dataset.path(2)))
    assert "\n" not in str(refusal.value)


def test_a_truncated_image_is_refused(folder: Path) -> None:
    dataset = open_folder(folder)
    whole = dataset.path(2).read_bytes()
    dataset.path(2).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match="cannot be read as an image"):
        dataset.fetch(torch.tensor([2]), None)


def test_zero_classes_leave_the_labels_out(folder: Path) -> None:
    dataset = open_folder(folder, num_classes=0)
    _, labels = dataset.fetch(torch.arange(6), None)
    assert torch.equal(labels, torch.zeros(6, dtype=torch.int64))


def test_links_are_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "images"
    (folder / "images").rename(elsewhere)
    (folder / "images").symlink_to(elsewhere)
    assert open_folder(folder).fetch(torch.arange(6), None)[0].shape == (6, 3, 16, 16)
