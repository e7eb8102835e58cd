"""Options of the datasets. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, option

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045

CROP = ("centre", "random")
EXIF = ("ignore", "apply")
TRANSPARENCY = ("drop", "white", "black")
ON_BAD_IMAGE = ("error", "skip")
MOST_WORKERS = 1_024
MOST_PIXELS = 16_384  # per side

ImageSize = int | Sequence[int]
"""Pixels of a square's side, or [height, width]."""

IMAGE_SIZE = f"give the pixels of a square's side, 1 to {MOST_PIXELS:,}, or [height,width]"


def is_image_size(size: Any) -> bool:
    """Return whether `size` is an `ImageSize`: a whole number, or two of them."""
    given = list(size) if isinstance(size, list | tuple) else [size, size]
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in given)
    return len(given) == 2 and whole and all(1 <= side <= MOST_PIXELS for side in given)


@dataclass
class Dataset(Component):
    """Options of every dataset: loader workers, and declarations to check against the data."""

    num_workers: int = option(
        0, at_least=0, at_most=MOST_WORKERS, help="processes that decode images"
    )
    num_classes: Optional[int] = option(
        None,
        at_least=0,
        help="declared and checked; 0 trains an unconditional model",
        transfers=False,
    )
    image_size: Any = option(
        None, help="a number, or [height,width]; declared and checked", transfers=False
    )

    def check_together(self) -> None:
        if not is_image_size(self.image_size) and self.image_size != type(self).image_size:
            shown = "null" if self.image_size is None else self.image_size
            raise RequestError(f"image_size={shown}: {IMAGE_SIZE}")


@dataclass
class ImageFiles(Dataset):
    root: Optional[str] = option(
        None, help="folder of the images, or of the latents", transfers=False
    )
    image_size: Any = option(256, help="size after a central crop, as a number or [height,width]")
    horizontal_flip: bool = option(False, help="true: mirror half of the training images")
    crop: str = option(
        "centre", choices=CROP, help="random: crop 0.8 to 1 of a training image, at a random place"
    )
    exif: str = option(
        "ignore", choices=EXIF, help="apply: rotate images by their EXIF orientation"
    )
    transparency: str = option(
        "drop",
        choices=TRANSPARENCY,
        later=True,
        help="white or black: background of transparent images; drop: ignore transparency",
    )
    on_bad_image: str = option(
        "error",
        choices=ON_BAD_IMAGE,
        help="skip: replace an unreadable image by the next one",
    )


@dataclass
class LabelledList(ImageFiles):
    num_workers: int = option(
        4, at_least=0, at_most=MOST_WORKERS, help="processes that decode images"
    )
    allow_outside: bool = option(False, help="true: allow paths and links to files outside images/")


@dataclass
class ImageFolder(ImageFiles):
    image_size: Any = option(32, help="size after a central crop, as a number or [height,width]")
    validation_share: float = option(
        0.1,
        above=0,
        below=1,
        help="share of each class that is held out; unused with folders train and val",
    )


@dataclass
class TorchvisionSet(Dataset):
    root: Optional[str] = option(None, help="folder with the files of the dataset", transfers=False)
    download: bool = option(False, help="true: download the files with torchvision")
    horizontal_flip: bool = option(False, help="true: mirror half of the training images")


@dataclass
class Latents(Dataset):
    num_workers: int = option(
        2, at_least=0, at_most=MOST_WORKERS, help="processes that read images"
    )
    root: Optional[str] = option(
        None, help="folder of the images, or of the latents", transfers=False
    )
    images_root: Optional[str] = option(
        None,
        help="folder of the encoded images, for evaluation; null: where they were",
        transfers=False,
    )


@dataclass
class Noise(Dataset):
    shape: list[int] = option(help="channels, height and width of the latents")


COMPONENTS: dict[str, dict[str, type[Component]]] = {
    "dataset": {
        "dit_lab.data.digits.Digits": Dataset,
        "dit_lab.data.labelled_list.LabelledList": LabelledList,
        "dit_lab.data.image_folder.ImageFolder": ImageFolder,
        "dit_lab.data.torchvision_sets.MNIST": TorchvisionSet,
        "dit_lab.data.torchvision_sets.FashionMNIST": TorchvisionSet,
        "dit_lab.data.torchvision_sets.CIFAR10": TorchvisionSet,
        "dit_lab.data.latents.Latents": Latents,
        "dit_lab.data.noise.Noise": Noise,
    }
}
