"""The plot of quality and loss against training compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lab.report.analysis import Analysis
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

MOST_LEVELS = 24  # values of an axis in one plot; more are hard to tell apart
LEAST_FACTOR = 1.2  # ratio of most to least compute; below it a plot shows nothing


def compute_varies(ablation: Analysis) -> bool:
    """Return whether the training compute of measured configurations varies enough for a plot."""
    compute = (c.compute.training_flops for c in ablation.configurations if c.sample.n)
    known = [flops for flops in compute if flops is not None]
    return bool(known) and max(known) > LEAST_FACTOR * min(known)


def against_compute(ablation: Analysis) -> Figure:
    """Draw a panel for the metric and for each other loss, with a power law if one fits."""
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


def _points(ablation: Analysis, name: str, axes: Axes) -> None:
    """Draw means with standard deviations; colour and marker encode the first axis."""
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


def _law(ablation: Analysis, name: str, axes: Axes) -> None:
    law = power_law(ablation, name)
    if law is None:
        return
    axes.plot(law.flops, [law.loss(flops) for flops in law.flops], color=COLOURS[-1], ls="--")
    axes.set_yscale("log")
    plain_powers(axes.yaxis)
    law_text = f"FLOPs ^ -{law.exponent:.3f}"
    # The line falls, so the top right corner is free.
    axes.text(0.97, 0.93, law_text, ha="right", transform=axes.transAxes)
