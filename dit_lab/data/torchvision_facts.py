"""Facts about MNIST, Fashion-MNIST and CIFAR-10, read from their files. Torch-free.

The files are those that torchvision downloads, in its folders, or directly in `dataset.root`, as
some distributions pack them; plain or compressed with gzip.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import math
import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dit_lab.core.errors import RequestError
from dit_lab.core.types import DataFacts
from dit_lab.data.fingerprint import fingerprint
from dit_lab.data.image_facts import given_folder

if TYPE_CHECKING:
    import numpy as np

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "validation": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CLASS_NAMES = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                     "Sneaker", "Bag", "Ankle boot"),
}  # fmt: skip
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
               "truck")  # fmt: skip
CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
_CIFAR_COUNTS = (50_000, 10_000)
_UNSIGNED_BYTES = 8  # the idx type code


class IdxFile(NamedTuple):
    """The contents of an idx file of bytes, and its hash."""

    shape: tuple[int, ...]
    values: bytes
    sha256: str


def mnist_facts(
    *, root: str | Path | None, download: bool = False, horizontal_flip: bool = False
) -> DataFacts:
    """Return the facts of MNIST: 70,000 digits of 28 x 28 pixels (LeCun et al. 1998)."""
    return idx_facts("MNIST", root=root, download=download, horizontal_flip=horizontal_flip)


def fashion_mnist_facts(
    *, root: str | Path | None, download: bool = False, horizontal_flip: bool = False
) -> DataFacts:
    """Return the facts of Fashion-MNIST: 70,000 images of 28 x 28 pixels (Xiao et al. 2017)."""
    return idx_facts("FashionMNIST", root=root, download=download, horizontal_flip=horizontal_flip)


def idx_facts(
    family: str, *, root: str | Path | None, download: bool = False, horizontal_flip: bool = False
) -> DataFacts:
    """Return the facts of "MNIST" or "FashionMNIST"."""
    folder = given_folder(root)
    wanted = [idx_file(folder, family, name) for pair in IDX_FILES.values() for name in pair]
    if missing := [file for file in wanted if not file.is_file()]:
        if not download:
            raise _missing(missing[0])
        _download(family, folder)
        wanted = [idx_file(folder, family, file.name) for file in wanted]
    headers = {file: _idx_header(str(file), *_stamp(file)) for file in wanted}
    counts = []
    for images, labels in (wanted[:2], wanted[2:]):
        image_shape, label_shape = headers[images][0], headers[labels][0]
        if len(image_shape) != 3 or label_shape != image_shape[:1]:
            raise RequestError(
                f"{labels}: has {_shape(label_shape)} labels for {_shape(image_shape)} images in "
                f"{images.name}; download both again"
            )
        counts.append(image_shape[0])
    shape = headers[wanted[0]][0]
    return _facts(
        shape=(*shape[1:], 1),
        class_names=CLASS_NAMES[family],
        counts=(counts[0], counts[1]),
        content=[sha256 for _, sha256 in headers.values()],
        horizontal_flip=horizontal_flip,
    )


def cifar10_facts(
    *, root: str | Path | None, download: bool = False, horizontal_flip: bool = False
) -> DataFacts:
    """Return the facts of CIFAR-10: 60,000 photographs of 32 x 32 pixels (Krizhevsky 2009).

    Files are only hashed here; torchvision checks their contents when it reads them.
    """
    folder = given_folder(root)
    files = [folder / CIFAR_FOLDER / name for name in CIFAR_FILES]
    missing = [file for file in files if not file.is_file()]
    if missing:
        if not download:
            raise _missing(missing[0])
        _download("CIFAR10", folder)
    return _facts(
        shape=(32, 32, 3),
        class_names=CIFAR_NAMES,
        counts=_CIFAR_COUNTS,
        content=[_hash(str(file), *_stamp(file)) for file in files],
        horizontal_flip=horizontal_flip,
    )


def idx_file(root: Path, family: str, name: str) -> Path:
    """Return the path of one of the four files of a family ("MNIST", ...).

    If the file does not exist, this is the path to which torchvision would download it.
    """
    places = (root / family / "raw" / name, root / name, root / "raw" / name)
    packed = [place.with_name(f"{name}.gz") for place in places]
    return next((place for place in (*places, *packed) if place.is_file()), places[0])


def idx_values(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return all numbers of an idx file, as uint8 of the given shape."""
    import numpy as np

    return np.frombuffer(_read_idx(file).values, np.uint8).reshape(shape)


@lru_cache(maxsize=8)
def _idx_header(file: str, size: int, modified: int) -> tuple[tuple[int, ...], str]:
    """Return (shape, hash) of a file, cached until the file changes."""
    found = _read_idx(Path(file))
    return found.shape, found.sha256


def _facts(
    *,
    shape: tuple[int, ...],
    class_names: tuple[str, ...],
    counts: tuple[int, int],
    content: list[str],
    horizontal_flip: bool,
) -> DataFacts:
    height, width, channels = shape
    return DataFacts(
        channels=channels,
        height=height,
        width=width,
        num_classes=len(class_names),
        class_names=class_names,
        train_images=counts[0],
        validation_images=counts[1],
        fingerprint=fingerprint(content=content, horizontal_flip=horizontal_flip),
    )


def _read_idx(file: Path) -> IdxFile:
    """Read a file of bytes in the idx format of LeCun's data sets.

    The format: 0, 0, type, number of dimensions, each dimension as 4 bytes, and the numbers.
    """
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{file}: cannot be read ({reason}); download it again") from None
    if len(data) < 4 or data[:3] != bytes((0, 0, _UNSIGNED_BYTES)):
        raise RequestError(f"{file}: no idx file of bytes; download it again")
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4))
    expected = start + math.prod(shape)
    if len(data) != expected:
        raise RequestError(
            f"{file}: has {len(data):,} bytes where its header asks for {expected:,}; download it "
            "again"
        )
    return IdxFile(shape, data[start:], hashlib.sha256(data).hexdigest())


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)
def _hash(file: str, size: int, modified: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _missing(file: Path) -> RequestError:
    return RequestError(
        f"{file} is missing: give the folder of the files with dataset.root=FOLDER, or download "
        "them with dataset.download=true"
    )


def _download(family: str, root: Path) -> None:
    """Download a torchvision dataset ("MNIST", ...) into `root`, without output.

    Raises `RequestError` if that fails.
    """
    from torchvision import datasets  # imports torch, needed for downloads only

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            getattr(datasets, family)(root, download=True)
    except (RuntimeError, OSError) as error:
        raise RequestError(
            f"dataset.download=true: {family} cannot be downloaded "
            f"({' '.join(str(error).split())[:200]}); put the files into {root} yourself"
        ) from None
