"""What is wrong with the images of a dataset, found by reading them one by one."""

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
    """What one image looked like."""

    path: str
    label: int
    problem: str  # "" where it could be read
    width: int = 0  # as it is stored
    height: int = 0
    sha256: str = ""  # of the file
    is_turned: bool = False  # by an EXIF orientation
    is_transparent: bool = False  # somewhere
    is_animated: bool = False  # of which the first picture is taken


@dataclass(slots=True)
class SplitReport:
    """What was found in one split."""

    images: int = 0
    unreadable: list[dict[str, str]] = field(default_factory=list)  # path and problem
    too_small: list[str] = field(default_factory=list)  # shorter than asked, so enlarged
    turned: int = 0  # with an EXIF orientation
    transparent: int = 0
    animated: int = 0
    class_counts: list[int] = field(default_factory=list)  # of readable images


@dataclass(slots=True)
class Report:
    """What was found in a dataset."""

    splits: dict[str, SplitReport]
    duplicates: list[list[str]]  # paths of files with equal bytes
    in_both_splits: list[list[str]]  # those of them that training and held-out images share

    @property
    def unreadable(self) -> int:
        return sum(len(split.unreadable) for split in self.splits.values())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def look(path: Path, label: int, transform: Transform) -> Look:
    """Read one image as training would."""
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
    """Put together what was seen: (split, look) of every image; `size` is the height and width
    that images are scaled to."""
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
