"""Bytes and files of images: rounding, and the layout of grids, folders and npz files."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from dit_lab.core.errors import StopRequested
from dit_lab.sampling.images import captions_of, grid_columns, to_uint8, write_grid, write_images


def colours(count: int, height: int = 3, width: int = 5, channels: int = 3) -> Tensor:
    """Images whose every byte differs from its neighbours'."""
    values = torch.arange(count * height * width * channels) * 37 % 256
    return values.to(torch.uint8).reshape(count, height, width, channels)


# ---- bytes --------------------------------------------------------------------------------------


def bytes_of(*values: float, levels: int = 256) -> list[int]:
    return to_uint8(torch.tensor(values).reshape(1, 1, 1, -1), levels).flatten().tolist()


def test_the_ends_of_the_range_are_0_and_255() -> None:
    assert bytes_of(-1.0, 1.0) == [0, 255]
    assert bytes_of(-1.5, -100.0, -torch.inf, 1.004, 3.0, torch.inf) == [0, 0, 0, 255, 255, 255]


def test_values_round_to_the_nearest_byte() -> None:
    step = 2 / 255
    assert bytes_of(-1 + 0.49 * step, -1 + 0.51 * step, 1 - 0.49 * step, 1 - 0.51 * step) == [
        0, 1, 255, 254,
    ]  # fmt: skip


def test_every_byte_survives_the_way_there_and_back() -> None:
    values = torch.arange(256)
    assert bytes_of(*(values / 127.5 - 1).tolist()) == values.tolist()
    assert bytes_of(*(values.double() * 2 / 255 - 1).float().tolist()) == values.tolist()


def test_17_levels_are_those_of_the_digits() -> None:
    """Every image of scikit-learn's, as brightness k / 8 - 1, becomes the bytes of k / 16."""
    brightness = torch.from_numpy(load_digits().images)  # (1797, 8, 8), 0..16
    found = to_uint8((brightness / 8 - 1).float().unsqueeze(1), 17)
    expected = [round(k * 255 / 16) for k in brightness.flatten().int().tolist()]
    assert found.flatten().tolist() == expected
    assert len(found.unique()) == 17


def test_few_levels_round_to_the_nearest_and_end_at_0_and_255() -> None:
    step = 1 / 8
    assert bytes_of(-1 + 0.49 * step, -1 + 0.51 * step, 0.0, levels=17) == [0, 16, 128]
    assert bytes_of(-3.0, -torch.inf, 1.001, torch.inf, levels=17) == [0, 0, 255, 255]
    assert bytes_of(-0.1, 0.1, levels=2) == [0, 255]  # black or white
    values = torch.linspace(-1.2, 1.2, 1001).tolist()
    for levels in (2, 3, 17, 256):
        ladder = [round(k * 255 / (levels - 1)) for k in range(levels)]
        assert sorted(set(bytes_of(*values, levels=levels))) == ladder


def test_channels_go_last() -> None:
    images = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5) / 127.5 - 1
    found = to_uint8(images)
    assert (found.shape, found.dtype) == ((2, 4, 5, 3), torch.uint8)
    assert found.is_contiguous()
    assert torch.equal(found, torch.arange(120).byte().reshape(2, 3, 4, 5).permute(0, 2, 3, 1))
    assert torch.equal(to_uint8(images.bfloat16()[:, :, :1, :1]), found[:, :1, :1])


# ---- files --------------------------------------------------------------------------------------


def in_groups(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Four at a time, as generators hand them over."""
    yield from zip(images.split(4), labels.split(4), strict=True)


@pytest.mark.parametrize("name", ["samples.npz", "samples"])
def test_one_group_is_in_memory_at_a_time(tmp_path: Path, name: str) -> None:
    alive, most = set(), 0

    def groups() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal most
        for number in range(20):
            images = colours(4)
            alive.add(number)
            weakref.finalize(images, alive.discard, number)
            most = max(most, len(alive))
            yield images, torch.zeros(4, dtype=torch.int64)

    write_images(tmp_path / name, groups(), num_images=80, columns=1)
    assert most <= 2  # the one that was written and the one that is being made


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_npz_is_adms(tmp_path: Path, channels: int) -> None:
    images, labels = colours(6, channels=channels), torch.tensor([3, 1, 4, 1, 5, 9])
    out = tmp_path / "samples.npz"
    out.write_text("an older file")
    write_images(out, in_groups(images, labels), num_images=len(images), columns=3)
    with np.load(out, allow_pickle=False) as saved:
        assert saved.files == ["arr_0", "arr_1"]
        assert (saved["arr_0"].dtype, saved["arr_0"].shape) == (np.uint8, (6, 3, 5, channels))
        assert saved["arr_1"].dtype == np.int64
        assert np.array_equal(saved["arr_0"], images.numpy())
        assert np.array_equal(saved["arr_1"], labels.numpy())
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_has_all_images_or_is_not_there(tmp_path: Path) -> None:
    images, labels = colours(12, channels=1), torch.zeros(12, dtype=torch.int64)

    def stopped() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield images[:6], labels[:6]
        raise StopRequested(15)

    with pytest.raises(StopRequested):
        write_images(tmp_path / "samples", stopped(), num_images=12, columns=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_holds_one_png_per_image(tmp_path: Path, channels: int) -> None:
    images, labels = colours(12, channels=channels), torch.arange(12) % 7
    write_images(tmp_path / "samples", in_groups(images, labels), num_images=len(images), columns=3)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [f"{number:05d}-class-{number % 7}.png" for number in range(12)]
    for name, image in zip(names, images, strict=True):
        with Image.open(tmp_path / "samples" / name) as opened:
            assert opened.mode == {1: "L", 3: "RGB"}[channels]
            assert np.array_equal(np.asarray(opened), image.squeeze(-1).numpy())


def test_a_png_is_the_grid(tmp_path: Path) -> None:
    images = colours(5)
    write_images(
        tmp_path / "samples.png", in_groups(images, torch.arange(5)), num_images=5, columns=2
    )
    write_grid(tmp_path / "grid.png", images, columns=2)
    assert (tmp_path / "samples.png").read_bytes() == (tmp_path / "grid.png").read_bytes()


# ---- the grid -----------------------------------------------------------------------------------


def grid(tmp_path: Path, images: Tensor, columns: int) -> np.ndarray:
    write_grid(tmp_path / "grid.png", images, columns=columns)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    with Image.open(tmp_path / "grid.png") as opened:
        return np.asarray(opened)


def test_large_images_lie_row_by_row_with_a_gap(tmp_path: Path) -> None:
    images = colours(5, height=64, width=80)
    sheet = grid(tmp_path, images, columns=3)
    assert sheet.shape == (64 + 1 + 64, 80 + 1 + 80 + 1 + 80, 3)
    assert np.array_equal(sheet[:64, :80], images[0].numpy())
    assert np.array_equal(sheet[:64, 162:], images[2].numpy())
    assert np.array_equal(sheet[65:, 81:161], images[4].numpy())  # second row, second column
    for empty in (sheet[64], sheet[:, 80], sheet[:, 161], sheet[65:, 162:]):
        assert (empty == 128).all()


def test_captions_lie_below_their_images_and_change_none(tmp_path: Path) -> None:
    """Each cut to the width of its cell; names come from other people's folders."""
    images = colours(3, height=64, width=64)
    captions = ["a", "a very long name of a class of flowers", "two\nlines"]
    write_grid(tmp_path / "grid.png", images, columns=2, captions=captions)
    with Image.open(tmp_path / "grid.png") as opened:
        sheet = np.asarray(opened)
    assert sheet.shape == (2 * 80 - 1, 2 * 65 - 1, 3)
    for number, image in enumerate(images):
        top, left = number // 2 * 80, number % 2 * 65
        assert np.array_equal(sheet[top : top + 64, left : left + 64], image.numpy())
        assert (sheet[top + 64 : top + 79, left : left + 64] > 200).any()  # letters
    assert (sheet[:, 64] == 128).all()  # none of which leaves its cell
    assert captions_of(torch.tensor([1, 0, 7]), ["x", "y"]) == ["y", "x", "7"]
    assert captions_of(torch.zeros(2, dtype=torch.int64), ()) is None


def test_small_images_are_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    """8 pixels a side become 64; pixel (2, 7) of image 3 becomes a square of 8 x 8."""
    images = colours(4, height=8, width=8, channels=1)
    sheet = grid(tmp_path, images, columns=2)
    assert sheet.shape == (129, 129)
    top, left = 65 + 2 * 8, 65 + 7 * 8
    assert (sheet[top : top + 8, left : left + 8] == images[3, 2, 7].item()).all()
    assert np.array_equal(sheet[65::8, 65::8], images[3, :, :, 0].numpy())


def test_the_shorter_side_decides_the_enlargement(tmp_path: Path) -> None:
    assert grid(tmp_path, colours(1, height=20, width=100), columns=1).shape == (80, 400, 3)
    assert grid(tmp_path, colours(1, height=31, width=33), columns=1).shape == (93, 99, 3)


@pytest.mark.parametrize(
    ("num_images", "num_labels", "columns"),
    [
        (100, 10, 10),  # a column for each class
        (64, 20, 20),
        (4, 10, 4),  # no more columns than images
        (64, 21, 8),  # too many classes for a row: a square
        (64, 1, 8),
        (65, 1, 9),
        (1, 1, 1),
        (1, 2, 1),
        (2, 1, 2),
    ],
)
def test_columns(num_images: int, num_labels: int, columns: int) -> None:
    assert grid_columns(num_images, num_labels) == columns
