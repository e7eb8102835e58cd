"""Cached mean and covariance of the features of a whole training split.

    <folder>/<extractor>-statistics-<hash>.npz      in the format of ADM's evaluator
    <folder>/<extractor>-statistics-<hash>.json     description: data, split, size, extractor

Shapes: n images per batch, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dit_lab.core.types import Dataset
from dit_lab.evaluation.features.extractors import IMAGES_AT_ONCE, Extractor, Features, finite
from dit_lab.evaluation.features.statistics import Statistics, read_statistics, write_statistics
from dit_lab.runs.folder import digest, write_json
from dit_lab.sampling.images import to_uint8


def kept_statistics(
    dataset: Dataset,
    extractor: Extractor,
    *,
    described: Mapping[str, Any],
    levels: int,
    folder: Path,
    check_stop: Callable[[], None],
) -> Statistics:
    """Return the statistics of all images of a split, without augmentation, cached in `folder`.

    Args:
        dataset: the split.
        extractor: the feature extractor.
        described: what identifies the images: data set, split, transform and size.
        levels: number of pixel values in the data.
        folder: the cache.
        check_stop: raises if the process is asked to stop.
    """
    of = {**described, "extractor": extractor.name, "extractor_fingerprint": extractor.fingerprint}
    file = folder / f"{extractor.name}-statistics-{digest(of)}.npz"
    if not file.exists():
        sums = Sums()
        for indices in torch.arange(len(dataset)).split(IMAGES_AT_ONCE):
            check_stop()
            images, _ = dataset.fetch(indices, None)
            sums.add(finite(extractor.features(to_uint8(images, levels)), by=extractor.name))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file.with_suffix(".json"), of)
        write_statistics(file, sums.statistics())
    return read_statistics(file)


class Sums:
    """Running sums for mean and covariance, for more features than fit in memory.

    Features are centred on the mean of the first batch to avoid cancellation of large squares.
    """

    def __init__(self) -> None:
        self._count = 0

    def add(self, features: Features) -> None:
        """Add features (n, D)."""
        wide = features.astype(np.float64)
        if not self._count:
            self._origin = wide.mean(axis=0)
            self._sum = np.zeros_like(self._origin)
            self._products = np.zeros((len(self._origin), len(self._origin)))
        wide -= self._origin
        self._count += len(wide)
        self._sum += wide.sum(axis=0)
        self._products += wide.T @ wide

    def statistics(self) -> Statistics:
        """Return mean and covariance of all added features, at least two rows."""
        mean = self._sum / self._count
        spread = self._products - self._count * np.outer(mean, mean)
        return Statistics(self._origin + mean, spread / (self._count - 1))
