"""A folder of images: which files it holds, of which class, in which split. Torch-free.

Two layouts below `root`, told apart by what lies there:

    <class name>/**/*.png    one folder for each class; classes in sorted order of folder name
    *.png                    images and no folders: no classes, for an unconditional model

Where `root/train` and `root/val` both exist, they are the splits: each is laid out as above, with
the same classes, and other folders beside them are not read. Otherwise a share of every class is
held out, by a hash of each file's path.

Files count as images by their ending (`ENDINGS`, in either case); other files, and everything
whose name begins with a dot, are passed over. Links are followed, out of the folder too.
"""

from __future__ import annotations

import hashlib
import os
import stat
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dit_lab.core.errors import RequestError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_READ_BYTES = 64 * 2**20  # a larger folder is known by its file sizes, not by its contents
MAX_DEPTH = 100  # folders in each other
NOT_A_FILE = "is neither a file nor a link to one"

_SPLITS = {"train", "val"}
_SPLIT_NAMES = _SPLITS | {"valid", "validation", "test", "dev", "eval"}
_NO_CLASS = ""  # no folder has this name
_SHOWN_NAMES = 5


class ImageFile(NamedTuple):
    """One image, without opening it."""

    path: str  # relative to root, with /
    size_bytes: int


ByClass = dict[str, list[ImageFile]]
"""Class name -> its images in order of path; one entry named "" where there are no classes."""


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The images of both splits; both have the same classes in the same order."""

    train: ByClass
    validation: ByClass

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class 0 first; empty for an unconditional folder."""
        return tuple(name for name in self.train if name != _NO_CLASS)


def read_folder(root: Path, *, validation_share: float, num_classes: int | None) -> FolderListing:
    """List the images below `root` by split and class; opens none of them.

    `num_classes` 0 takes all images at any depth and no classes; another number must agree with
    the folder. `validation_share` is not used where the folder has splits of its own.

    Raises `RequestError` for a folder that cannot be trained on.
    """
    if not 0 < validation_share < 1:
        raise RequestError(
            f"dataset.validation_share={validation_share}: expected a number above 0 and below 1"
        )
    if not os.path.isdir(root):
        problem = "is a file" if os.path.exists(root) else "does not exist"
        raise RequestError(f"dataset.root={root}: {problem}; give the folder that holds the images")
    images, folders = _level(root, "")
    if set(folders) >= _SPLITS:
        if images:
            raise RequestError(
                f"{root}: images ({_named(images)}) beside train and val, which are the splits; "
                "move them into these folders"
            )
        listing = _given_splits(root, with_classes=num_classes != 0)
    elif folders and set(folders) <= _SPLIT_NAMES:
        raise RequestError(
            f"{root}: {', '.join(sorted(folders))}: this looks like splits, not classes; name two "
            "of them train and val, or give the one to train on as dataset.root"
        )
    else:
        by_class = _by_class(root, "", with_classes=num_classes != 0)
        listing = _hold_out(root, by_class, validation_share)
    _check_declared(root, listing, num_classes)
    return listing


def digest(root: Path, listing: FolderListing) -> str:
    """A hash of splits, paths and sizes, and of the contents in folders below `MAX_READ_BYTES`.

    In a larger folder, an image that is replaced by another of the same name and the same size in
    bytes goes unnoticed: reading everything would take longer than a check may.
    """
    splits = [listing.train, listing.validation]
    all_bytes = sum(
        file.size_bytes for split in splits for files in split.values() for file in files
    )
    found = hashlib.sha256()
    for split in splits:
        found.update(b"split\0")
        for file in (file for files in split.values() for file in files):
            found.update(os.fsencode(file.path) + b"\0%d\0" % file.size_bytes)
            if all_bytes < MAX_READ_BYTES:
                found.update(hashlib.sha256(_read(root / file.path)).digest())
    return found.hexdigest()


# ---- splits -------------------------------------------------------------------------------------


def _given_splits(root: Path, *, with_classes: bool) -> FolderListing:
    """`root/train` and `root/val`, with the same classes."""
    train = _by_class(root, "train/", with_classes=with_classes)
    validation = _by_class(root, "val/", with_classes=with_classes)
    differences = [
        f"only in {place}: {_listed([name or 'images without a class' for name in names])}"
        for place, names in (
            ("train", [name for name in train if name not in validation]),
            ("val", [name for name in validation if name not in train]),
        )
        if names
    ]
    if differences:
        raise RequestError(
            f"{root}: train and val have different classes ({'; '.join(differences)}); give both "
            "the same class folders"
        )
    return FolderListing(train, validation)


def _hold_out(root: Path, by_class: ByClass, share: float) -> FolderListing:
    """Hold out a share of every class."""
    single = [name for name, files in by_class.items() if len(files) == 1]
    if single:
        where = "" if single == [_NO_CLASS] else f" in class {_listed(single)}"
        raise RequestError(
            f"{root}: only one image{where}; at least two are needed, one to train on and one to "
            "hold out: add more"
        )
    divided = {name: _divide(files, share) for name, files in by_class.items()}
    return FolderListing(
        train={name: kept for name, (kept, _) in divided.items()},
        validation={name: held_out for name, (_, held_out) in divided.items()},
    )


def _divide(files: list[ImageFile], share: float) -> tuple[list[ImageFile], list[ImageFile]]:
    """(kept, held out) of two or more images, at least one each.

    Each file has a place in [0, 1) that depends on its own path alone, and those below `share`
    are held out, so another file changes nothing for it. Only where that would leave one side
    empty, the file next to the limit is taken, and it gives way once another file is there.
    """
    by_place = sorted((_place(file.path), file) for file in files)
    count = bisect_left(by_place, (share,))
    count = min(max(count, 1), len(files) - 1)
    return (
        sorted(file for _, file in by_place[count:]),
        sorted(file for _, file in by_place[:count]),
    )


def _place(path: str) -> float:
    """A number in [0, 1) that depends on the path alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:6], "big") / 2**48


# ---- folders ------------------------------------------------------------------------------------


def _by_class(root: Path, below: str, *, with_classes: bool) -> ByClass:
    """The images below `root/below`, by class folder; `below` is "" or ends with /."""
    place = root / below
    if with_classes:
        images, folders = _level(root, below)
        if images and folders:
            raise RequestError(
                f"{place}: images ({_named(images)}) beside folders ({_listed(sorted(folders))}); "
                "move the images into class folders, or give dataset.num_classes=0 to train on "
                "all of them without classes"
            )
        found = {name: _walk(root, f"{below}{name}/") for name in sorted(folders)}
        found = found or {_NO_CLASS: images}
    else:
        found = {_NO_CLASS: _walk(root, below)}
    kinds = ", ".join(ending[1:] for ending in ENDINGS)
    empty = [name for name, files in found.items() if not files]
    if len(empty) == len(found):
        raise RequestError(
            f"{place}: holds no images ({kinds}); put them there, in one folder for each class or "
            "without folders for no classes"
        )
    if empty:
        raise RequestError(
            f"{place}: no images ({kinds}) in class folder {_listed(empty)}; add some, or take the "
            "folder away"
        )
    return {name: sorted(files) for name, files in found.items()}


def _walk(
    root: Path, below: str, above: frozenset[tuple[int, int]] = frozenset()
) -> list[ImageFile]:
    """All images below `root/below`, at any depth. `above` are the folders on the way there."""
    try:
        status = os.stat(root / below)
    except OSError as error:
        raise _unreadable(error) from None
    this = (status.st_dev, status.st_ino)
    if this in above:
        raise RequestError(
            f"{root / below}: a link to a folder that it lies in; take the link away"
        )
    if len(above) == MAX_DEPTH:
        raise RequestError(
            f"{root / below}: lies in {MAX_DEPTH} folders; move the images to a higher one"
        )
    images, folders = _level(root, below)
    for name in folders:
        images += _walk(root, f"{below}{name}/", above | {this})
    return images


def _level(root: Path, below: str) -> tuple[list[ImageFile], list[str]]:
    """The images directly in `root/below`, and the names of the folders there."""
    images, folders = [], []
    try:
        with os.scandir(root / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.name.lower().endswith(ENDINGS):
                    status = entry.stat()
                    if not stat.S_ISREG(status.st_mode):
                        raise RequestError(f"{entry.path}: {NOT_A_FILE}; take it away")
                    images.append(ImageFile(below + entry.name, status.st_size))
    except OSError as error:
        raise _unreadable(error) from None
    return images, folders


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> RequestError:
    return RequestError(
        f"{error.filename}: cannot be read ({error.strerror}); repair it or take it away"
    )


# ---- messages -----------------------------------------------------------------------------------


def _check_declared(root: Path, listing: FolderListing, num_classes: int | None) -> None:
    names = listing.class_names
    if num_classes in (None, 0, len(names)):
        return
    has = f"{len(names)} classes ({_listed(list(names))})" if names else "no class folders"
    instead = ", or give 0 to train without classes" if names else ""
    raise RequestError(
        f"dataset.num_classes={num_classes}: {root} has {has}; leave dataset.num_classes out"
        f"{instead}"
    )


def _named(images: list[ImageFile]) -> str:
    return _listed(sorted(Path(file.path).name for file in images))


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")
