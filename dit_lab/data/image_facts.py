"""Facts about image lists and image folders, without opening an image. Torch-free."""

from __future__ import annotations

from pathlib import Path

from dit_lab.core.errors import QUICKSTART, RequestError
from dit_lab.core.text import counted, local_path
from dit_lab.core.types import DataFacts, DataFindings
from dit_lab.data.fingerprint import fingerprint
from dit_lab.data.folder_listing import digest, notes_on, read_folder, some_files
from dit_lab.data.options import IMAGE_SIZE, ImageSize, is_image_size
from dit_lab.data.split_folders import NOW

MOST_OPENED = 256  # images before training starts; a network disk takes 10 ms per image


def labelled_list_facts(
    *,
    root: str | Path | None,
    image_size: ImageSize,
    horizontal_flip: bool,
    crop: str = "centre",
    exif: str = "ignore",
    on_bad_image: str = "error",
    transparency: str = "drop",
    allow_outside: bool = False,
    num_classes: int | None = None,
) -> DataFacts:
    """Return counts and classes from the lists below `root`, fully checked; see `LabelledList`.

    The fingerprint covers lists, class names and transform, not the bytes of the images.
    """
    from dit_lab.data.list_folder import summarise  # imports numpy, needed here only

    folder = given_folder(root)
    height, width = sides(image_size)
    try:
        summary = summarise(folder, allow_outside=allow_outside, samples=MOST_OPENED)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RequestError(
            f"{error.filename} is missing: give the folder that holds it with "
            f"dataset.root=FOLDER, {QUICKSTART}"
        ) from None
    except OSError as error:
        raise RequestError(
            f"{error.filename}: cannot be read ({error.strerror}); repair it, or give another "
            "dataset.root=FOLDER"
        ) from None
    if num_classes not in (None, 0, summary.num_classes):
        raise RequestError(
            f"dataset.num_classes={num_classes}: {folder} has "
            f"{counted(summary.num_classes, 'class')} ({summary.classes_from}); "
            "leave dataset.num_classes out, or give 0 for no labels"
        )
    unconditional = num_classes == 0
    return DataFacts(
        channels=3,
        height=height,
        width=width,
        num_classes=0 if unconditional else summary.num_classes,
        class_names=() if unconditional else summary.class_names,
        train_images=summary.train_images,
        validation_images=summary.validation_images,
        fingerprint=fingerprint(
            lists=summary.digest,
            image_size=[height, width],
            horizontal_flip=horizontal_flip,
            crop=crop,
            exif=exif,
            on_bad_image=on_bad_image,
            unconditional=unconditional,
            **_if_kept(transparency),
        ),
        absent_classes=() if unconditional else summary.absent_classes,
        first_look=DataFindings(
            notes=() if unconditional else summary.notes,
            doubt=summary.doubt(num_classes),
            lost=summary.lost(folder) if on_bad_image == "error" else "",
            files=summary.files(folder),
        ),
    )


def image_folder_facts(
    *,
    root: str | Path | None,
    image_size: ImageSize,
    horizontal_flip: bool,
    validation_share: float,
    crop: str = "centre",
    exif: str = "ignore",
    on_bad_image: str = "error",
    transparency: str = "drop",
    num_classes: int | None = None,
    reading: int = NOW,
) -> DataFacts:
    """Return counts and classes from the folder and file names below `root`; see `ImageFolder`.

    The fingerprint covers paths, sizes, splits and transform, and the bytes of the images if the
    folder holds less than 64 MiB; see `folder_listing.digest`.
    """
    folder = given_folder(root)
    height, width = sides(image_size)
    listing = read_folder(
        folder, validation_share=validation_share, num_classes=num_classes, reading=reading
    )
    return DataFacts(
        channels=3,
        height=height,
        width=width,
        num_classes=len(listing.class_names),
        class_names=listing.class_names,
        train_images=sum(map(len, listing.train.values())),
        validation_images=sum(map(len, listing.validation.values())),
        fingerprint=fingerprint(
            files=digest(folder, listing),
            image_size=[height, width],
            horizontal_flip=horizontal_flip,
            crop=crop,
            exif=exif,
            on_bad_image=on_bad_image,
            unconditional=not listing.class_names,
            **_if_kept(transparency),
        ),
        reading=reading,
        first_look=DataFindings(
            notes=notes_on(listing),
            files=tuple(str(folder / file.path) for file in some_files(listing, MOST_OPENED)),
        ),
    )


def _if_kept(transparency: str) -> dict[str, str]:
    """Return the fingerprint part of the option, empty at the default.

    Runs recorded before the option existed keep their fingerprints.
    """
    return {} if transparency == "drop" else {"transparency": transparency}


def given_folder(root: str | Path | None) -> Path:
    """Return the folder of a dataset without accessing it; raise RequestError if it is not set."""
    if not root:
        raise RequestError(f"dataset.root is not set: give dataset.root=FOLDER, {QUICKSTART}")
    return local_path(root, "dataset.root=")


def sides(image_size: ImageSize) -> tuple[int, int]:
    """Return (height, width) from `dataset.image_size`, which is one number or two."""
    if not is_image_size(image_size):
        raise RequestError(f"dataset.image_size={image_size}: {IMAGE_SIZE}")
    height, width = [image_size] * 2 if isinstance(image_size, int) else image_size
    return height, width
