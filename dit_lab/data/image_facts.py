"""What lists and folders of images say of themselves; no image is opened. Torch-free."""

from __future__ import annotations

from pathlib import Path

from dit_lab.core.errors import QUICKSTART, RequestError
from dit_lab.core.text import local_path
from dit_lab.core.types import DataFacts
from dit_lab.data.fingerprint import fingerprint
from dit_lab.data.folder_listing import digest, read_folder
from dit_lab.data.options import IMAGE_SIZE, ImageSize, is_image_size


def labelled_list_facts(
    *,
    root: str | Path | None,
    image_size: ImageSize,
    horizontal_flip: bool,
    crop: str = "centre",
    exif: str = "ignore",
    on_bad_image: str = "error",
    allow_outside: bool = False,
    num_classes: int | None = None,
) -> DataFacts:
    """Counts and classes from the lists below `root`, fully checked; see `LabelledList`.

    The fingerprint covers lists, names and transform, not the bytes of the images.
    """
    from dit_lab.data.list_file import IMAGES_FOLDER, summarise  # numpy, for this dataset only

    folder = given_folder(root)
    height, width = sides(image_size)
    try:
        summary = summarise(folder, allow_outside=allow_outside)
        (folder / IMAGES_FOLDER).stat()
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
            f"dataset.num_classes={num_classes}: {folder} has {summary.num_classes} classes "
            f"({summary.classes_from}); leave dataset.num_classes out, or give 0 for no labels"
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
    num_classes: int | None = None,
) -> DataFacts:
    """Counts and classes from the folders and file names below `root`; see `ImageFolder`.

    The fingerprint covers paths, sizes, split and transform, and the bytes of the images where
    the folder holds less than 64 MB; see `folder_listing.digest`.
    """
    folder = given_folder(root)
    height, width = sides(image_size)
    listing = read_folder(folder, validation_share=validation_share, num_classes=num_classes)
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
        ),
    )


def given_folder(root: str | Path | None) -> Path:
    """The folder of a dataset, refused where it is not named; nothing is looked up."""
    if not root:
        raise RequestError(f"dataset.root is not set: give dataset.root=FOLDER, {QUICKSTART}")
    return local_path(root, "dataset.root=")


def sides(image_size: ImageSize) -> tuple[int, int]:
    """(height, width) of `dataset.image_size`, which is one number or two."""
    if not is_image_size(image_size):
        raise RequestError(f"dataset.image_size={image_size}: {IMAGE_SIZE}")
    height, width = [image_size] * 2 if isinstance(image_size, int) else image_size
    return height, width
