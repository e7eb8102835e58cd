"""Facts of a dataset, which are known without loading its images. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DataFindings:
    """Findings about data that are reported or refused before a run first trains on it."""

    notes: tuple[str, ...] = ()  # lines to show
    doubt: str = ""  # why the data is refused, in one line; "" if it is not
    lost: str = ""  # error about a missing image, in one line; "" if none is known
    files: tuple[str, ...] = ()  # paths of some of the images, whose headers are checked


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Properties of a dataset that are known without loading it."""

    channels: int
    height: int
    width: int
    num_classes: int  # 0 for unlabelled data
    class_names: tuple[str, ...]
    train_images: int
    validation_images: int
    fingerprint: str  # hash that changes with the data
    levels: int = 256  # number of values of a pixel channel
    reading: int = 1  # version of the rules for folders; 1 if a run recorded none
    absent_classes: tuple[int, ...] = ()  # without training images; sampled only on request
    first_look: DataFindings = DataFindings()  # not recorded

    @property
    def default_classes(self) -> tuple[int, ...]:
        """Classes that are sampled by default; (0,) for unlabelled data."""
        return default_classes(self.num_classes, self.absent_classes)

    def recorded(self) -> dict[str, Any]:
        """Return the facts as a dictionary for JSON.

        Leaves out `first_look`, and `reading` and `absent_classes` at their defaults, so that files
        of earlier versions stay equal.
        """
        known = {**asdict(self), "class_names": list(self.class_names)}
        del known["first_look"]
        if self.reading == 1:
            del known["reading"]
        known["absent_classes"] = list(self.absent_classes)
        if not self.absent_classes:
            del known["absent_classes"]
        return known

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> DataFacts:
        """Create the facts from the dictionary of a file, which must have been checked."""
        names = ("class_names", "absent_classes")
        return cls(**{**recorded, **{key: tuple(recorded.get(key, ())) for key in names}})


def default_classes(num_classes: int, absent_classes: Iterable[int]) -> tuple[int, ...]:
    """Return the classes that are sampled by default; (0,) for unlabelled data."""
    absent = set(absent_classes)
    return tuple(at for at in range(max(1, num_classes)) if at not in absent)
