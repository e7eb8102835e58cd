"""Summary of a folder's lists: classes, counts and suspicious entries. Torch-free."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted, listed
from dit_lab.data.list_file import (
    CLASS_NAMES,
    IMAGES_FOLDER,
    MAX_LIST_BYTES,
    TRAIN_LIST,
    VALIDATION_LIST,
    ImageList,
    file_of,
    read_class_names,
    read_list,
    refuse,
)

MOST_CLASSES_EACH, FREE_CLASSES = 10, 100
"""A class id of at least 10 times the number of occurring classes plus 100 is an error."""


@dataclass(frozen=True, slots=True)
class FolderSummary:
    """The contents of a folder's lists, without most paths."""

    num_classes: int
    class_names: tuple[str, ...]  # (num_classes,); the ids if there is no class_names.txt
    train_images: int
    validation_images: int
    digest: str  # hash of both lists and the class names
    classes_from: str  # source of num_classes, for messages
    absent_classes: tuple[int, ...]  # classes without a training image
    contradiction: str  # message about a path with two class ids, or ""
    stray_id: str  # message about a suspiciously large class id, or ""
    samples: tuple[tuple[str, str], ...]  # sampled (`file: line 3`, path)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, one per line."""
        if not self.absent_classes:
            return ()
        names = listed([self.class_names[at] for at in self.absent_classes])
        return (
            f"{len(self.absent_classes):,} of {counted(self.num_classes, 'class')} have no training"
            f" image ({names}): they are sampled only if sample.labels names them",
        )

    def files(self, root: Path) -> tuple[str, ...]:
        """Return the files of the sampled lines."""
        return tuple(str(file_of(root / IMAGES_FOLDER, path)) for _, path in self.samples)

    def doubt(self, num_classes: int | None) -> str:
        """Return why the class ids are suspicious, or "" if they are not.

        `num_classes` is the number that the user declared, if any; a declared number permits large
        ids.
        """
        return self.contradiction or (self.stray_id if num_classes is None else "")

    def lost(self, root: Path) -> str:
        """Return a message about the first sampled image that does not exist, or ""."""
        images = root / IMAGES_FOLDER
        for line, written in self.samples:
            if not file_of(images, written).exists():
                return (
                    f"{root / line}: {file_of(images, written)} is not there; write paths relative "
                    f"to {IMAGES_FOLDER}/, or to the folder of the list"
                )
        return ""


def summarise(root: Path, *, allow_outside: bool = False, samples: int = 0) -> FolderSummary:
    """Return the summary of a folder, cached in the process until a file's size or time changes.

    Args:
        root: the folder.
        allow_outside: whether paths may leave `images/`.
        samples: number of lines to sample from the lists.

    Raises:
        OSError: if a file cannot be read; names the file.
        RequestError: if a list is invalid.
    """
    names = root / CLASS_NAMES
    summary = _summarise(
        _stamp(root / TRAIN_LIST),
        _stamp(root / VALIDATION_LIST),
        _stamp(names) if names.exists() else None,
        allow_outside,
        samples,
    )
    (root / IMAGES_FOLDER).stat()
    return summary


_Stamp = tuple[str, int, int]  # path, size in bytes, modification time in nanoseconds


def _stamp(file: Path) -> _Stamp:
    status = file.stat()
    if not (file.is_file() or file.is_dir()) or status.st_size > MAX_LIST_BYTES:
        raise RequestError(
            f"{file}: is not a file of at most {MAX_LIST_BYTES:,} bytes; write one image a line"
        )
    return str(file), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _summarise(
    train: _Stamp, validation: _Stamp, names: _Stamp | None, allow_outside: bool, samples: int
) -> FolderSummary:
    files = [Path(stamp[0]) for stamp in (train, validation)]
    lists = {file: read_list(file, allow_outside=allow_outside) for file in files}
    if names is None:
        num_classes = 1 + max(int(images.class_ids.max()) for images in lists.values())
        class_names = tuple(map(str, range(num_classes)))
        source = f"the largest class id in {TRAIN_LIST} and {VALIDATION_LIST} is {num_classes - 1}"
    else:
        class_names = read_class_names(Path(names[0]))
        num_classes = len(class_names)
        source = f"{CLASS_NAMES} has {counted(num_classes, 'line')}"
        for file, images in lists.items():
            _check_range(file, images, num_classes, source)
    digest = hashlib.sha256()
    for images in lists.values():
        digest.update(hashlib.sha256(images.data).digest())
    digest.update("\n".join(class_names).encode())
    train_images, validation_images = map(len, lists.values())
    seen = np.bincount(lists[files[0]].class_ids, minlength=num_classes)
    return FolderSummary(
        num_classes,
        class_names,
        train_images,
        validation_images,
        digest.hexdigest(),
        source,
        absent_classes=tuple(np.flatnonzero(seen == 0).tolist()),
        contradiction=_contradiction(lists),
        stray_id=_stray_id(lists) if names is None else "",
        samples=tuple(
            sample for file, images in lists.items() for sample in _some(file, images, samples // 2)
        ),
    )


def _some(file: Path, images: ImageList, most: int) -> list[tuple[str, str]]:
    """Return at most `most` evenly spaced rows, as (`file: line 3`, path)."""
    places = np.unique(np.linspace(0, len(images) - 1, most).astype(np.int64)).tolist()
    return [(f"{file.name}: line {images.lines[at]}", images.path(at)) for at in places]


def _contradiction(lists: Mapping[Path, ImageList]) -> str:
    """Describe two rows that give one path different class ids, or return ""."""
    hashes = np.fromiter(
        (hash(path) for images in lists.values() for path in images.paths()),
        np.int64,
        count=sum(map(len, lists.values())),
    )
    ids = np.concatenate([images.class_ids for images in lists.values()])
    order = np.lexsort((ids, hashes))
    hashes, ids = hashes[order], ids[order]
    suspects = np.flatnonzero((hashes[1:] == hashes[:-1]) & (ids[1:] != ids[:-1]))
    first = len(next(iter(lists.values())))
    for place in suspects.tolist():
        found = []
        for row in sorted(order[place : place + 2].tolist()):
            file, images = list(lists.items())[int(row >= first)]
            at = row - first * (row >= first)
            found.append(
                (images.path(at), f"{file}: line {images.lines[at]}", images.class_ids[at])
            )
        (path, line, class_id), (same, again, other) = found
        if path == same:
            return (
                f"{again}: {path} has class id {other}, and {class_id} in {line}; keep one of them"
            )
    return ""


def _stray_id(lists: Mapping[Path, ImageList]) -> str:
    """Describe a class id far above the number of classes that occur, or return ""."""
    used = np.unique(np.concatenate([images.class_ids for images in lists.values()]))
    largest = int(used[-1])
    if largest < MOST_CLASSES_EACH * len(used) + FREE_CLASSES:
        return ""
    file, images = next((f, of) for f, of in lists.items() if largest in of.class_ids)
    line = images.lines[int(np.argmax(images.class_ids == largest))]
    return (
        f"{file}: line {line}: class id {largest} makes {largest + 1:,} classes, and "
        f"{counted(len(used), 'class')} of them occur; number classes from 0, or give "
        f"dataset.num_classes={largest + 1} if that is meant"
    )


def _check_range(file: Path, images: ImageList, num_classes: int, source: str) -> None:
    outside = images.class_ids >= num_classes
    found = zip(images.lines[outside].tolist(), images.class_ids[outside].tolist(), strict=True)
    text = f"is not below {num_classes} ({source})"
    refuse(file, [(line, f"class id {class_id} {text}") for line, class_id in found])
