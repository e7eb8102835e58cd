"""Listing of a folder of images: files, classes and splits. Torch-free.

There are two layouts below `root`:

    <class name>/**/*.png    one folder per class; numbers in names are ordered by value
    *.png                    images only: no classes, for an unconditional model

If `root/train` and `root/val` exist, or folders with similar names (`split_folders.py`), they are
the splits. Each has one of the layouts above, with the same classes; other folders next to them are
not read. Otherwise a share of every class is held out, by a hash of each file's path.

Files are recognised as images by their extension (`ENDINGS`, in either case). Other files are
counted and skipped; names that begin with a dot are ignored. Links are followed, also out of the
folder.

Old runs, recorded before classes were ordered by the numbers in their names, are read by the rules
of that time (`reading=FIRST`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted, listed
from dit_lab.data.split_folders import FIRST, NOW, in_order, splits_among

FIRST_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ENDINGS = (*FIRST_ENDINGS, ".jfif", ".jpe", ".tif", ".tiff", ".gif")
MAX_READ_BYTES = 64 * 2**20  # larger folders are hashed by file sizes, not by contents
MAX_DEPTH = 100  # nested folders
NOT_A_FILE = "is neither a file nor a link to one"

_NO_CLASS = ""  # not a valid folder name


class ImageFile(NamedTuple):
    """The path and size of one image."""

    path: str  # relative to root, with /
    size_bytes: int


ByClass = dict[str, list[ImageFile]]
"""Class name -> its images by path; without classes, a single entry named ""."""


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The images of both splits, which have the same classes in the same order."""

    train: ByClass
    validation: ByClass
    splits: tuple[str, str] | None = None  # folder names of (train, validation)
    left_out: Mapping[str, int] = field(default_factory=dict)  # skipped files by extension
    not_read: tuple[str, ...] = ()  # folders next to the splits

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in the order of their ids; empty for an unconditional folder."""
        return tuple(name for name in self.train if name != _NO_CLASS)


def read_folder(
    root: Path, *, validation_share: float, num_classes: int | None, reading: int = NOW
) -> FolderListing:
    """List the images below `root` by split and class, without opening them.

    Args:
        root: the folder.
        validation_share: share of every class to hold out; unused if the folder defines its splits.
        num_classes: 0 takes all images at any depth, without classes; another number must agree
            with the folder; None accepts any number.
        reading: the version of the reading rules, FIRST or NOW.

    Raises:
        RequestError: if the folder cannot be trained on.
    """
    if not 0 < validation_share < 1:
        raise RequestError(
            f"dataset.validation_share={validation_share}: expected a number above 0 and below 1"
        )
    if not os.path.isdir(root):
        problem = "is a file" if os.path.exists(root) else "does not exist"
        raise RequestError(f"dataset.root={root}: {problem}; give the folder that holds the images")
    reader = _Reader(root, reading, with_classes=num_classes != 0)
    images, folders = reader.level("")
    splits = splits_among(root, folders, reading)
    if splits and images:
        raise RequestError(
            f"{root}: images ({_named(images)}) next to the split folders {splits[0]} and "
            f"{splits[1]}; move them into these folders"
        )
    reader.left_out.clear()  # by_class reads this level again
    if splits:
        train, validation = _given_splits(reader, splits)
    else:
        train, validation = _hold_out(root, reader.by_class(""), validation_share)
    not_read = tuple(sorted(set(folders) - set(splits))) if splits else ()
    listing = FolderListing(train, validation, splits, dict(reader.left_out), not_read)
    _check_declared(root, listing, num_classes)
    return listing


def _left_out(endings: Mapping[str, int]) -> str:
    kinds = sorted(endings.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = listed([f"{count:,} {ending or 'without extension'}" for ending, count in kinds])
    return f"{counted(sum(endings.values()), 'file')} skipped, by extension: {shown}"


def some_files(listing: FolderListing, most: int) -> list[ImageFile]:
    """Return at most `most` images, evenly spaced over both splits."""
    splits = (listing.train, listing.validation)
    all_files = [file for split in splits for files in split.values() for file in files]
    return all_files[:: max(1, -(-len(all_files) // most))]


def notes_on(listing: FolderListing) -> tuple[str, ...]:
    """Return notes for the user on how the folder was read, one per line."""
    notes = []
    if listing.splits:
        train, held_out = listing.splits
        beside = f"; not read: {listed(listing.not_read)}" if listing.not_read else ""
        notes.append(f"training split: {train}; held-out split: {held_out}{beside}")
    if names := listing.class_names:
        notes.append(f"{counted(len(names), 'class')}: {listed(names)}")
    if listing.left_out:
        notes.append(_left_out(listing.left_out))
    return tuple(notes)


def digest(root: Path, listing: FolderListing) -> str:
    """Return a hash of splits, paths and sizes, and of the contents if below `MAX_READ_BYTES`.

    In a larger folder, an image replaced by one of the same name and size is not noticed: reading
    all contents would take too long for a check.
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


def _given_splits(reader: _Reader, splits: tuple[str, str]) -> tuple[ByClass, ByClass]:
    """Return the images of the training and validation folders; their classes must agree."""
    train, validation = (reader.by_class(f"{split}/") for split in splits)
    differences = [
        f"only in {place}: {listed([name or 'images without a class' for name in names])}"
        for place, names in (
            (splits[0], [name for name in train if name not in validation]),
            (splits[1], [name for name in validation if name not in train]),
        )
        if names
    ]
    if differences:
        raise RequestError(
            f"{reader.root}: {splits[0]} and {splits[1]} have different classes "
            f"({'; '.join(differences)}); give both the same class folders"
        )
    return train, validation


def _hold_out(root: Path, by_class: ByClass, share: float) -> tuple[ByClass, ByClass]:
    """Hold out a share of every class and return the images of both splits."""
    single = [name for name, files in by_class.items() if len(files) == 1]
    if single:
        where = "" if single == [_NO_CLASS] else f" in class {listed(single)}"
        raise RequestError(
            f"{root}: only one image{where}; at least two are needed, one to train on and one to "
            "hold out: add more"
        )
    divided = {name: _divide(files, share) for name, files in by_class.items()}
    return (
        {name: kept for name, (kept, _) in divided.items()},
        {name: held_out for name, (_, held_out) in divided.items()},
    )


def _divide(files: list[ImageFile], share: float) -> tuple[list[ImageFile], list[ImageFile]]:
    """Divide two or more images into (training, held out), with at least one in each.

    `_place` maps each path to a number in [0, 1) and paths below `share` are held out, so adding a
    file does not move the others. The exception: if one side would be empty, it gets the file
    nearest to the limit, until another file belongs there.
    """
    by_place = sorted((_place(file.path), file) for file in files)
    count = bisect_left(by_place, (share,))
    count = min(max(count, 1), len(files) - 1)
    return (
        sorted(file for _, file in by_place[count:]),
        sorted(file for _, file in by_place[:count]),
    )


def _place(path: str) -> float:
    """Return a number in [0, 1) that depends only on the path."""
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:6], "big") / 2**48


# ---- folders ------------------------------------------------------------------------------------


class _Reader:
    """Reader of the folders below `root` by one version of the rules; counts the skipped files."""

    def __init__(self, root: Path, reading: int, *, with_classes: bool) -> None:
        self.root = root
        self.left_out: Counter[str] = Counter()
        self._reading, self._with_classes = reading, with_classes
        self._endings = FIRST_ENDINGS if reading == FIRST else ENDINGS

    def by_class(self, below: str) -> ByClass:
        """Return the images below `root/below` by class folder; `below` is "" or ends with /."""
        place = self.root / below
        if self._with_classes:
            images, folders = self.level(below)
            if images and folders:
                raise RequestError(
                    f"{place}: images ({_named(images)}) beside folders ({listed(sorted(folders))})"
                    "; move the images into class folders, or give dataset.num_classes=0 to train "
                    "on all of them without classes"
                )
            names = in_order(folders, self._reading)
            found = {name: self.walk(f"{below}{name}/") for name in names} or {_NO_CLASS: images}
        else:
            found = {_NO_CLASS: self.walk(below)}
        self._refuse_empty(place, found)
        return {name: sorted(files) for name, files in found.items()}

    def _refuse_empty(self, place: Path, found: ByClass) -> None:
        kinds = ", ".join(ending[1:] for ending in self._endings)
        empty = [name for name, files in found.items() if not files]
        there = f"; {_left_out(self.left_out)}" if self.left_out else ""
        if len(empty) == len(found):
            raise RequestError(
                f"{place}: holds no images ({kinds}){there}; put them there, in one folder for "
                "each class or without folders for no classes"
            )
        if empty:
            raise RequestError(
                f"{place}: no images ({kinds}) in class folder {listed(empty)}{there}; add some, "
                "or remove the folder"
            )

    def walk(self, below: str, above: frozenset[tuple[int, int]] = frozenset()) -> list[ImageFile]:
        """Return all images below `root/below` at any depth; `above` are the parent folders."""
        try:
            status = os.stat(self.root / below)
        except OSError as error:
            raise _unreadable(error) from None
        this = (status.st_dev, status.st_ino)
        if this in above:
            raise RequestError(
                f"{self.root / below}: a link to one of its parent folders; remove the link"
            )
        if len(above) == MAX_DEPTH:
            raise RequestError(
                f"{self.root / below}: is nested in {MAX_DEPTH} folders; move the images up"
            )
        images, folders = self.level(below)
        for name in folders:
            images += self.walk(f"{below}{name}/", above | {this})
        return images

    def level(self, below: str) -> tuple[list[ImageFile], list[str]]:
        """Return the images directly in `root/below` and the names of its subfolders."""
        images, folders = [], []
        try:
            with os.scandir(self.root / below) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.name.lower().endswith(self._endings):
                        status = entry.stat()
                        if not stat.S_ISREG(status.st_mode):
                            raise RequestError(f"{entry.path}: {NOT_A_FILE}; remove it")
                        images.append(ImageFile(below + entry.name, status.st_size))
                    else:
                        self.left_out[os.path.splitext(entry.name)[1].lower()] += 1
        except OSError as error:
            raise _unreadable(error) from None
        return images, folders


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> RequestError:
    return RequestError(f"{error.filename}: cannot be read ({error.strerror}); repair or remove it")


# ---- messages -----------------------------------------------------------------------------------


def _check_declared(root: Path, listing: FolderListing, num_classes: int | None) -> None:
    names = listing.class_names
    if num_classes in (None, 0, len(names)):
        return
    has = f"{counted(len(names), 'class')} ({listed(names)})" if names else "no class folders"
    instead = ", or give 0 to train without classes" if names else ""
    raise RequestError(
        f"dataset.num_classes={num_classes}: {root} has {has}; leave dataset.num_classes out"
        f"{instead}"
    )


def _named(images: list[ImageFile]) -> str:
    return listed(sorted(Path(file.path).name for file in images))
