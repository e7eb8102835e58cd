"""Real-vs-real baselines: metrics of real images against other real images, cached on disk.

    <folder>/floor-<hash>.json      mean and deviation of a metric

The hash covers everything that determines the values: the features, the metric, its seed, the code
of the evaluation package, and the versions of the numerical libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import numpy as np

from dit_lab.core.typed import read_as
from dit_lab.evaluation.features.extractors import Features
from dit_lab.runs.folder import digest, read_json, write_json
from dit_lab.runs.source_code import code_files, code_hash

Measure = Callable[[Features, Features], float]
"""(samples (N, D), real images (N, D)) -> the metric."""

Pairs = Sequence[tuple[Features, Features]]


class _Kept(TypedDict):
    mean: float
    deviation: float


class RealBaseline:
    """Mean and standard deviation of metrics over pairs of sets of real images.

    Without a folder, they are cached for this process only.
    """

    def __init__(self, folder: Path | None, *, seed: int) -> None:
        self._folder, self._known = folder, dict[str, tuple[float, float]]()
        libraries = {name: version(name) for name in ("numpy", "scikit-learn", "scipy")}
        code = code_hash(code_files(("evaluation",), {}))
        self._circumstances = digest({"seed": seed, "code": code, "libraries": libraries})

    def floor(self, metric: str, measure: Measure, pairs: Pairs) -> tuple[float, float]:
        key = digest(
            f"{metric} {self._circumstances}".encode()
            + b"".join(digest(features.tobytes()).encode() for pair in pairs for features in pair)
        )
        if key not in self._known:
            self._known[key] = self._read_or_make(key, metric, measure, pairs)
        return self._known[key]

    def _read_or_make(
        self, key: str, metric: str, measure: Measure, pairs: Pairs
    ) -> tuple[float, float]:
        # a user-defined metric may change while keeping its name
        if self._folder is None or not _is_ours(measure):
            return mean_and_deviation([measure(*pair) for pair in pairs])
        file = self._folder / f"floor-{key}.json"
        if not file.exists():
            mean, deviation = mean_and_deviation([measure(*pair) for pair in pairs])
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(file, {"metric": metric, "mean": mean, "deviation": deviation})
        found = read_as(_Kept, read_json(file), where=file)
        return found["mean"], found["deviation"]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (N - 1); the deviation of a single value is 0."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return float(np.mean(values)), float(deviation)


def _is_ours(measure: Measure) -> bool:
    return str(getattr(measure, "__module__", "")).startswith("dit_lab.")
