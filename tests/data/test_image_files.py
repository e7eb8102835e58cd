"""Conversion of files to pixels: modes, depths, orientation, crops, unreadable files."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lab.core.errors import RequestError
from dit_lab.data.image_files import ImageFiles
from dit_lab.data.images import CROP_RANGE, Transform, random_crop
from dit_lab.data.order import SampleOrder

ORIENTATION = 0x0112  # EXIF's tag


class Files(ImageFiles):
    """A dataset of listed files."""

    def __init__(self, paths: list[Path], **options: Any) -> None:
        transform = options.pop("transform", Transform(height=4, width=4))
        labels = torch.arange(len(paths))
        super().__init__(labels=labels, transform=transform, **{"on_bad_image": "error"} | options)
        self._paths = paths

    def path(self, index: int) -> Path:
        return self._paths[index]


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def load(path: Path, **options: Any) -> np.ndarray:
    return Transform(**{"height": 4, "width": 4, **options}).load(path)


# ---- modes --------------------------------------------------------------------------------------


def test_16_bits_of_grey_are_scaled_to_8(tmp_path: Path) -> None:
    """Pillow's own conversion clips everything above 255."""
    deep = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4369  # 0 to 65535
    found = load(save(tmp_path / "deep.png", deep))
    assert found[..., 0].flatten().tolist() == [17 * n for n in range(16)]
    assert (found == found[..., :1]).all()


def test_transparency_is_dropped_and_not_blended(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[..., 3] = 0
    assert (load(save(tmp_path / "clear.png", pixels)) == 200).all()


FORMATS = {"png": ("RGB", "L", "P"), "webp": ("RGB", "L", "P"), "bmp": ("RGB", "L", "P"),
           "jpg": ("RGB", "L", "CMYK")}  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "mode"), [(ending, mode) for ending, modes in FORMATS.items() for mode in modes]
)
def test_formats_and_modes(tmp_path: Path, mode: str, ending: str) -> None:
    """A uniform colour is preserved by all formats that can store it, up to compression loss."""
    image = Image.new("RGB", (12, 9), (204, 204, 204)).convert(mode)
    image.save(tmp_path / f"image.{ending}")
    found = load(tmp_path / f"image.{ending}").astype(int)
    assert abs(found - 204).max() <= 3


def test_numbers_without_a_range_are_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "float.tiff", np.ones((4, 4), np.float32))
    with pytest.raises(RequestError, match="floating-point numbers, without a known range"):
        load(file)
    file = save(tmp_path / "long.tiff", np.full((4, 4), 70_000, np.int32))
    with pytest.raises(RequestError, match="pixels from 70000 to 70000"):
        load(file)


def test_the_camera_is_heard_where_that_is_asked(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turned by a quarter
    file = save(tmp_path / "turned.png", pixels, exif=exif)
    assert np.array_equal(load(file), pixels)
    assert np.array_equal(load(file, exif="apply"), np.rot90(pixels, -1))


# ---- crops --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(4, 8), (8, 4), (5, 5)])
def test_any_height_and_width(tmp_path: Path, height: int, width: int) -> None:
    """The scaled image covers the requested size, and its centre is cropped."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    found = load(save(tmp_path / "half.png", pixels), height=height, width=width)
    assert found.shape == (height, width, 3)
    columns = found[..., 0].mean(axis=0)
    assert columns[0] < 10 and columns[-1] > 245
    assert abs(columns[: width // 2].mean() - (255 - columns[-(width // 2) :].mean())) < 1


def test_random_crops_show_four_fifths_to_all_of_the_image_anywhere() -> None:
    """For an image whose pixels encode their positions, at the extreme draws."""
    ramp = np.linspace(0, 255, 200)
    places = np.stack([*np.meshgrid(ramp, ramp, indexing="ij"), np.zeros((200, 200))], axis=-1)
    image = Image.fromarray(places.astype(np.uint8))
    least, most = CROP_RANGE
    nearly_1 = 1 - 2**-53

    def shown(*draws: float) -> np.ndarray:
        return np.asarray(random_crop(image, 20, 20, draws)).astype(float) / 255

    whole = shown(0.0, 0.5, 0.5)
    assert whole[-1, 0, 0] - whole[0, 0, 0] == pytest.approx(most, abs=0.06)
    for top, left in ((0.0, nearly_1), (nearly_1, 0.0)):
        part = shown(nearly_1, top, left)
        assert part[-1, 0, 0] - part[0, 0, 0] == pytest.approx(least, abs=0.06)
        assert part[0, 0, 0] == pytest.approx((1 - least) * round(top), abs=0.03)
        assert part[0, 0, 1] == pytest.approx((1 - least) * round(left), abs=0.03)


def test_random_crops_depend_on_seed_and_counter_alone(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    paths = [save(tmp_path / "one.png", pixels)] * 6

    def files(seed: int) -> Files:
        transform = Transform(height=16, width=16, crop="random", horizontal_flip=True, seed=seed)
        return Files(paths, transform=transform, max_kept_bytes=10**6)

    indices, counters = torch.arange(6), torch.arange(100, 106)
    together, _ = files(0).fetch(indices, counters)
    alone = [files(0).fetch(indices[at : at + 1], counters[at : at + 1])[0] for at in range(6)]
    assert torch.equal(together, torch.cat(alone))
    assert len(together.flatten(1).unique(dim=0)) == 6
    assert not torch.equal(together, files(1).fetch(indices, counters)[0])
    centre, _ = files(0).fetch(indices, None)
    assert len(centre.flatten(1).unique(dim=0)) == 1


# ---- bad images ---------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Six uniformly coloured image files, of which 2 and 3 cannot be read."""
    found = [save(tmp_path / f"{n}.png", np.full((4, 4, 3), n, np.uint8)) for n in range(6)]
    found[2].write_bytes(b"no image")
    found[3].write_bytes(found[3].read_bytes()[:45])
    return found


def brightness(images: torch.Tensor) -> list[int]:
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_a_bad_image_is_refused(paths: list[Path]) -> None:
    with pytest.raises(RequestError, match=r"2\.png: cannot be read as an image"):
        Files(paths).fetch(torch.tensor([1, 2]), None)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings since the last call, up to the reason."""
    lines = [record.getMessage().split(": ")[0] for record in caplog.records]
    caplog.clear()
    return lines


def test_the_next_image_takes_the_place_of_a_bad_one(
    paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """With its label, wherever it is requested; warned once."""
    files = Files(paths, on_bad_image="skip")
    images, labels = files.fetch(torch.tensor([2, 0, 3]), None)
    assert brightness(images) == labels.tolist() == [4, 0, 4]
    assert told(caplog) == [f"skipped {paths[n]}" for n in (2, 3)]
    assert files.fetch(torch.tensor([3]), None)[1].tolist() == [4]
    assert told(caplog) == []
    assert Files(paths, on_bad_image="skip").fetch(torch.tensor([3]), None)[1].tolist() == [4]


def test_what_workers_skip_is_said_once(
    paths: list[Path], caplog: pytest.LogCaptureFixture, make_batches: Callable[..., Any]
) -> None:
    """The main process logs the warning, whichever process found it; workers' logs are lost."""
    files = Files(paths, on_bad_image="skip")
    batches = make_batches(dataset=files, order=SampleOrder(0, len(files)), num_workers=2)
    for _ in islice(batches.from_step(0), 4):
        pass
    assert sorted(told(caplog)) == [f"skipped {paths[n]}" for n in (2, 3)]


def test_the_list_is_a_circle_until_no_image_is_left(paths: list[Path]) -> None:
    for path in paths[4:]:
        path.write_bytes(b"")
    assert Files(paths, on_bad_image="skip").fetch(torch.tensor([2]), None)[1].tolist() == [0]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(RequestError, match="`dit-lab check` lists all unreadable images"):
        Files(paths, on_bad_image="skip").fetch(torch.tensor([2]), None)
