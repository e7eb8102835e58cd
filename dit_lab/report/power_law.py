"""Power law of a loss over training compute, fitted to the configurations of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dit_lab.report.analysis import Analysis
from dit_lab.report.results import Configuration
from dit_lab.statistics.samples import Sample

LEAST_POINTS = 4  # a line fits two points always, and three almost


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """A fit of `loss = factor * FLOPs ** -exponent`, by least squares of the logarithms."""

    metric: str
    factor: float
    exponent: float
    standard_error: float  # of the exponent
    explained: float  # R squared of the logarithms
    flops: tuple[float, float]  # range of the fit
    configurations: int

    def loss(self, flops: float) -> float:
        return float(self.factor * flops**-self.exponent)


def losses(ablation: Analysis) -> list[str]:
    """Return the losses among the metrics of a report."""
    names = (ablation.question.metric, *ablation.question.secondary)
    return [name for name in names if name.endswith("/loss")]


def samples(ablation: Analysis, metric: str) -> list[tuple[Configuration, float, Sample]]:
    """Return (configuration, training FLOPs, metric over seeds) where both numbers are known."""
    found = []
    for one in ablation.configurations:
        values = [run.metrics[metric] for run in one.measured if metric in run.metrics]
        if values and one.compute.training_flops:
            found.append((one, one.compute.training_flops, Sample.of(values)))
    return found


def power_law(ablation: Analysis, metric: str) -> PowerLaw | None:
    """Fit a power law to the means of a metric.

    Returns None if there are fewer than LEAST_POINTS different amounts of compute, if the means are
    all equal, or if one of them is not positive.
    """
    points = [(flops, sample.mean) for _, flops, sample in samples(ablation, metric)]
    if len({flops for flops, _ in points}) < LEAST_POINTS or min(y for _, y in points) <= 0:
        return None
    x, y = np.log(np.array(points).T)
    if np.ptp(y) == 0:
        return None
    centred, count = x - x.mean(), len(points)
    slope = float(centred @ y / (centred @ centred))
    left = y - y.mean() - slope * centred
    spread = float(left @ left)
    return PowerLaw(
        metric=metric,
        factor=math.exp(float(y.mean() - slope * x.mean())),
        exponent=-slope,
        standard_error=math.sqrt(spread / (count - 2) / float(centred @ centred)),
        explained=1 - spread / float(((y - y.mean()) ** 2).sum()),
        flops=(min(flops for flops, _ in points), max(flops for flops, _ in points)),
        configurations=count,
    )
