"""Files with a misleading name or incomplete contents are refused in one line."""

from __future__ import annotations

import io
import os
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lab.core.errors import RequestError
from dit_lab.data.folder_listing import MAX_DEPTH, read_folder
from dit_lab.data.image_check import look
from dit_lab.data.image_folder import ImageFolder
from dit_lab.data.images import Transform
from dit_lab.data.labelled_list import LabelledList

TRANSFORMS = [Transform(height=16, width=16, exif=exif) for exif in ("ignore", "apply")]
ONE_LINE = re.compile(r"[^\n]*: cannot be read as an image \([^\n]+\); replace or remove it")

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 20 20
%%EndComments
newpath 0 0 moveto 20 20 lineto stroke
%%EOF
"""
FAKE_GHOSTSCRIPT = "#!/bin/sh\necho 10.0\ntouch {marker}\n"


def whole(kind: str, **options: Any) -> bytes:
    """Return an image file of 50 x 40 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, exif=exif, **options)
    return content.getvalue()


WHOLE = {
    "png": lambda: whole("PNG"),
    "jpg": lambda: whole("JPEG"),
    "jpg, progressive": lambda: whole("JPEG", progressive=True),
    "webp": lambda: whole("WEBP"),
    "bmp": lambda: whole("BMP"),
    "gif": lambda: whole("GIF"),
    "tiff": lambda: whole("TIFF"),
    "tiff, lzw": lambda: whole("TIFF", compression="tiff_lzw"),
    "tiff, jpeg": lambda: whole("TIFF", compression="jpeg"),
}


def refused_or_read(file: Path, content: bytes) -> bool:
    """Return whether the content is refused by a one-line error; otherwise it must be an image."""
    file.write_bytes(content)
    for transform in TRANSFORMS:
        try:
            assert transform.load(file).shape == (16, 16, 3)
        except RequestError as refusal:
            assert ONE_LINE.fullmatch(str(refusal)), str(refusal)
            return True
    return False


@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_at_any_length(tmp_path: Path, kind: str) -> None:
    content = WHOLE[kind]()
    lengths = {*range(20), *np.linspace(0, len(content) * 0.9, 30, dtype=int).tolist()}
    assert all(refused_or_read(tmp_path / "x.jpg", content[:length]) for length in lengths)
    assert not refused_or_read(tmp_path / "x.jpg", content)


@pytest.mark.parametrize("kind", WHOLE)
def test_with_bytes_changed_at_random(tmp_path: Path, kind: str) -> None:
    draw, content, refused = random.Random(kind), WHOLE[kind](), 0
    for number in range(120):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 2, 8, 40])):
            changed[draw.randrange(min(len(content), draw.choice([30, 200, 10**6])))] ^= (
                draw.randrange(1, 256)
            )
        refused += refused_or_read(tmp_path / f"{number}.jpg", bytes(changed))
    assert refused > 20


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow passes PostScript to Ghostscript, whatever the file name."""
    marker, program = tmp_path / "was-run", tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(FAKE_GHOSTSCRIPT.format(marker=marker))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert refused_or_read(tmp_path / "picture.jpg", EPS)
    assert not marker.exists()


OTHER_FORMATS = ("PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000", "DDS", "IM", "MSP", "XBM")


@pytest.mark.parametrize("kind", OTHER_FORMATS)
def test_only_promised_formats_are_opened(tmp_path: Path, kind: str) -> None:
    content = io.BytesIO()
    mode = {"MSP": "1", "XBM": "1"}.get(kind, "RGB")
    Image.new(mode, (32, 32)).save(content, kind)
    file = tmp_path / "picture.png"
    file.write_bytes(content.getvalue())
    with pytest.raises(RequestError, match=r"\(not PNG, JPEG, WEBP, BMP, GIF or TIFF\)"):
        TRANSFORMS[0].load(file)


def png(width: int, height: int, *, rows: int) -> bytes:
    """Return a black PNG of 1 bit per pixel that declares a size and holds `rows` rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes((width + 7) // 8 + 1) * rows)
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "sides": (lambda: png(2**31 - 1, 2**31 - 1, rows=1), "exceeds limit"),
    "no pixels": (lambda: png(0, 0, rows=1), r"\(.+\)"),
    "tall": (lambda: png(1, 2_000_000, rows=2_000_000), "1 x 2000000 pixels, too long for 16 x 16"),
    "wide": (lambda: png(3_000_000, 2, rows=2), "3000000 x 2 pixels, too long for 16 x 16"),
    "text": (lambda: whole("PNG", pnginfo=text_of(100 * 2**20)), "too large"),
}


def text_of(length: int) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("text", "a" * length, zip=True)
    return info


@pytest.mark.parametrize("bomb", BOMBS)
def test_small_files_that_ask_for_much_memory(tmp_path: Path, bomb: str) -> None:
    make, says = BOMBS[bomb]
    file = tmp_path / "bomb.png"
    file.write_bytes(make())
    assert file.stat().st_size < 400_000
    with pytest.raises(RequestError, match=says) as refused:
        TRANSFORMS[0].load(file)
    assert ONE_LINE.fullmatch(str(refused.value))


def lists(folder: Path, *names: str) -> None:
    folder.joinpath("images").mkdir(parents=True)
    for name in ("train_labels.txt", "val_labels.txt"):
        (folder / name).write_text("".join(f"{image} 0\n" for image in names))


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    lists(tmp_path, "good.png", "pipe.png", "zero.png")
    images = tmp_path / "images"
    Image.new("RGB", (20, 20), (9, 9, 9)).save(images / "good.png")
    os.mkfifo(images / "pipe.png")
    (images / "zero.png").symlink_to("/dev/zero")
    options: dict[str, Any] = {"root": tmp_path, "image_size": 16, "horizontal_flip": False}
    dataset = LabelledList(split="train", on_bad_image="skip", allow_outside=True, **options)
    pixels, _ = dataset.fetch(torch.tensor([1, 2]), None)
    assert ((pixels + 1) * 127.5).round().unique().tolist() == [9]
    for name in ("pipe.png", "zero.png"):
        seen = look(images / name, 0, dataset.transform)
        assert "is neither a file nor a link to one" in seen.problem
    with pytest.raises(RequestError, match=r"images/pipe\.png: is neither a file"):
        ImageFolder(split="train", num_classes=0, **options)


def test_lists_that_are_no_files(tmp_path: Path) -> None:
    lists(tmp_path, "a.png")
    (tmp_path / "val_labels.txt").unlink()
    os.mkfifo(tmp_path / "val_labels.txt")
    with pytest.raises(RequestError, match=r"val_labels\.txt: is not a file of at most"):
        LabelledList(split="train", root=tmp_path, image_size=16, horizontal_flip=False)


def test_folders_in_each_other_without_end(tmp_path: Path) -> None:
    """Nested deeper than Python's recursion limit."""
    deep = tmp_path
    for _ in range(MAX_DEPTH + 5):
        deep = deep / "a"
    deep.mkdir(parents=True)
    with pytest.raises(RequestError, match=f"is nested in {MAX_DEPTH} folders"):
        read_folder(tmp_path, validation_share=0.1, num_classes=0)
