"""Quality and loss against training compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lab.report.analysis import Ablation
from dit_lab.report.drawing import (
    COLOURS,
    MARKERS,
    direction,
    legend_below,
    new_figure,
    plain_powers,
)
from dit_lab.report.power_law import losses, power_law, samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LEVELS = 24  # values of an axis that can be told apart
LEAST_FACTOR = 1.2  # between most and least compute; below it, points stand in one column or two


def compute_varies(ablation: Ablation) -> bool:
    """Whether measured configurations took amounts of compute that differ enough to show."""
    compute = (c.compute.training_flops for c in ablation.configurations if c.sample.n)
    known = [flops for flops in compute if flops is not None]
    return bool(known) and max(known) > LEAST_FACTOR * min(known)


def against_compute(ablation: Ablation) -> Figure:
    """A panel for the metric and one for each loss beside it; a line where a power law fits."""
    metric = ablation.question.metric
    names = [metric, *(name for name in losses(ablation) if name != metric)]
    figure = new_figure(9, 4.5)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, panels, strict=True):
        _points(ablation, name, axes)
        if name in losses(ablation):
            _law(ablation, name, axes)
        axes.set_xscale("log")
        plain_powers(axes.xaxis)
        axes.set_xlabel("training FLOPs")
        axes.set_title(direction(ablation) if name == metric else name, size="medium")
        axes.grid(color=COLOURS[-1], alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) <= MOST_LEVELS:
        legend_below(figure, handles, labels)
    return figure


def _points(ablation: Ablation, name: str, axes: Axes) -> None:
    """Means and deviations; colour and marker by the first axis."""
    first = ablation.axes[0]
    levels = dict.fromkeys(c.settings[first] for c in ablation.configurations)
    for number, level in enumerate(levels):
        points = [
            (flops, sample.mean, sample.sd or 0.0)
            for one, flops, sample in samples(ablation, name)
            if one.settings[first] == level
        ]
        if points:
            x, y, spread = zip(*points, strict=True)
            axes.errorbar(
                x, y, spread, fmt=MARKERS[number % len(MARKERS)], capsize=3, markersize=7,
                color=COLOURS[number % len(COLOURS)], label=f"{first}={level}",
            )  # fmt: skip


def _law(ablation: Ablation, name: str, axes: Axes) -> None:
    law = power_law(ablation, name)
    if law is None:
        return
    axes.plot(law.flops, [law.loss(flops) for flops in law.flops], color=COLOURS[-1], ls="--")
    axes.set_yscale("log")
    plain_powers(axes.yaxis)
    law_text = f"FLOPs ^ -{law.exponent:.3f}"
    axes.text(0.97, 0.93, law_text, ha="right", transform=axes.transAxes)  # a falling line is away
