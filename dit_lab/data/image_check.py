"""A full check of a dataset's images, which reads every file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dit_lab.data.images import Transform
from dit_lab.data.opening import (
    OPAQUE,
    has_alpha,
    is_several,
    lowest_alpha,
    noted_turn,
    opened,
    regular_file,
)


@dataclass(frozen=True, slots=True)
class Look:
    """The result of reading one image."""

    path: str
    label: int
    problem: str  # "" if readable
    width: int = 0  # stored width, before EXIF orientation
    height: int = 0
    sha256: str = ""  # of the file
    is_turned: bool = False  # has an EXIF orientation other than upright
    is_transparent: bool = False  # in at least one pixel
    is_animated: bool = False  # only the first frame is used


@dataclass(slots=True)
class SplitReport:
    """Problems and counts of one split."""

    images: int = 0
    unreadable: list[dict[str, str]] = field(default_factory=list)  # "path" and "problem"
    too_small: list[str] = field(default_factory=list)  # smaller than image_size, so upscaled
    turned: int = 0  # with an EXIF orientation
    transparent: int = 0
    animated: int = 0
    class_counts: list[int] = field(default_factory=list)  # readable images by class


@dataclass(slots=True)
class Report:
    """Problems and counts of a dataset."""

    splits: dict[str, SplitReport]
    duplicates: list[list[str]]  # paths of files with equal bytes
    in_both_splits: list[list[str]]  # duplicates across splits

    @property
    def unreadable(self) -> int:
        return sum(len(split.unreadable) for split in self.splits.values())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def look(path: Path, label: int, transform: Transform) -> Look:
    """Read one image as training does, and describe it or its problem."""
    try:
        with regular_file(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with opened(path) as image:
            width, height = image.size
            is_turned, is_animated = noted_turn(image) is not None, is_several(image)
            is_transparent = has_alpha(image) and lowest_alpha(image) < OPAQUE
        transform.load(path)
        return Look(
            str(path),
            label,
            "",
            width,
            height,
            sha256,
            is_turned=is_turned,
            is_transparent=is_transparent,
            is_animated=is_animated,
        )
    except OSError as error:
        return Look(str(path), label, str(error.strerror or error))
    except ValueError as error:
        return Look(str(path), label, str(error).removeprefix(f"{path}: "))


def report_on(
    looks: Iterable[tuple[str, Look]], *, num_classes: int, size: tuple[int, int]
) -> Report:
    """Combine the results of all images.

    Args:
        looks: (split, result) of every image.
        num_classes: the number of classes.
        size: (height, width) that images are scaled to.
    """
    splits = {name: SplitReport(class_counts=[0] * max(1, num_classes)) for name in
              ("train", "validation")}  # fmt: skip
    by_content: dict[str, list[tuple[str, str]]] = {}
    for name, seen in looks:
        split = splits[name]
        split.images += 1
        if seen.problem:
            split.unreadable.append({"path": seen.path, "problem": seen.problem})
            continue
        split.class_counts[seen.label] += 1
        split.turned += seen.is_turned
        split.transparent += seen.is_transparent
        split.animated += seen.is_animated
        if seen.height < size[0] or seen.width < size[1]:
            split.too_small.append(seen.path)
        by_content.setdefault(seen.sha256, []).append((name, seen.path))
    alike = [group for group in by_content.values() if len(group) > 1]
    return Report(
        splits=splits,
        duplicates=[_paths(group) for group in alike],
        in_both_splits=[_paths(group) for group in alike if len({name for name, _ in group}) > 1],
    )


def _paths(group: Sequence[tuple[str, str]]) -> list[str]:
    return [path for _, path in group]
