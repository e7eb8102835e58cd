"""The plots of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dit_lab.report.analysis import Analysis
from dit_lab.report.compute_plot import MOST_LEVELS, against_compute, compute_varies
from dit_lab.report.drawing import (
    COLOURS,
    LINES,
    direction,
    legend_below,
    new_figure,
    plain_powers,
    svg,
    values_of,
)
from dit_lab.report.evaluations_plot import against_evaluations, evaluations_vary
from dit_lab.report.grid import MIN_SEEDS
from dit_lab.report.results import NOT_SET, Configuration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 40  # configurations in the overview
MOST_CURVES = 10  # configurations in one plot of curves; more are hard to tell apart
MOST_POINTS = 200  # of one curve; longer curves are thinned
LOG_FROM = 20  # ratio of the highest to the lowest mean above which the scale is logarithmic


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    title: str
    svg: str  # an <svg> element; its text takes the font and colour of the page
    note: str  # what is shown, and how many configurations were left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A plot that is written as a PNG file."""

    name: str
    caption: str
    draw: Callable[[], Figure]


def plots(ablation: Analysis) -> Iterator[Plot]:
    """Yield the plots of a page for which the runs have values, one at a time."""
    rows = shown(ablation, MOST_ROWS)
    yield Plot(
        title="Every run",
        svg=svg(lambda: _overview(ablation, rows), "overview"),
        note="A ring is one run, a diamond the mean with its 95% interval where there are "
        f"{MIN_SEEDS} seeds or more; the line is the baseline." + _left_out(ablation, rows),
    )
    axes = [axis for axis in ablation.axes if _levels(ablation, axis) <= MOST_LEVELS]
    if len(ablation.axes) > 1 and axes:
        yield Plot(
            title="By axis",
            svg=svg(lambda: _by_axis(ablation, axes), "axes"),
            note="A ring is one run at this level of the axis; a bar is the mean of these runs.",
        )
    if compute_varies(ablation):
        yield Plot(
            title="Quality against compute",
            svg=svg(lambda: against_compute(ablation), "compute"),
            note="Means over seeds; bars are the standard deviation; a dashed line is a power law.",
        )
    if evaluations_vary(ablation):
        yield Plot(
            title="Quality against NFE",
            svg=svg(lambda: against_evaluations(ablation), "evaluations"),
            note="Number of function evaluations (NFE) per generated image. Means over seeds; a "
            "line joins settings that differ only in the sampler's options.",
        )
    curves = shown(ablation, MOST_CURVES)
    for name in sorted({name for c in curves for run in c.measured for name in run.curves}):
        yield Plot(
            title=f"{name} in training",
            svg=svg(partial(_curves, ablation, curves, name), name),
            note="Mean over seeds, and a band of one standard deviation."
            + _left_out(ablation, curves),
        )


def pictures(ablation: Analysis) -> Iterator[Picture]:
    """Yield the plots of the Markdown report."""
    yield Picture(
        name="report.png",
        caption="every run, and means with their intervals",
        draw=lambda: _overview(ablation, shown(ablation, MOST_ROWS)),
    )
    if compute_varies(ablation):
        yield Picture(
            name="compute.png",
            caption="quality against training compute",
            draw=lambda: against_compute(ablation),
        )
    if evaluations_vary(ablation):
        yield Picture(
            name="evaluations.png",
            caption="quality against the number of function evaluations (NFE)",
            draw=lambda: against_evaluations(ablation),
        )


def shown(ablation: Analysis, most: int) -> list[Configuration]:
    """Return the baseline and the best by mean, `most` in all, in the order of the report."""
    sign = 1 if ablation.question.lower_is_better else -1
    measured = [c for c in ablation.configurations if c.sample.n]
    measured.sort(key=lambda c: (c is not ablation.baseline, sign * c.sample.mean))
    kept = {id(c) for c in measured[:most]}
    return [c for c in ablation.configurations if id(c) in kept]


def _left_out(ablation: Analysis, kept: Sequence[Configuration]) -> str:
    measured = sum(c.sample.n > 0 for c in ablation.configurations)
    if len(kept) == measured:
        return ""
    return f" Shown are the baseline and the best, {len(kept)} of {measured} configurations."


def _levels(ablation: Analysis, axis: str) -> int:
    return len({c.settings[axis] for c in ablation.configurations})


# ---- drawings -----------------------------------------------------------------------------------


def _overview(ablation: Analysis, rows: Sequence[Configuration]) -> Figure:
    """Draw one line per configuration, from the top: its runs, mean and interval."""
    figure = new_figure(9, 1.2 + 0.34 * len(rows))
    axes = figure.subplots()
    verdicts = {
        id(c): str(comparison.verdict)
        for c, comparison in zip(ablation.configurations, ablation.comparisons, strict=True)
    }
    if ablation.baseline.sample.n:
        axes.axvline(ablation.baseline.sample.mean, color=COLOURS[-1], linestyle="--", linewidth=1)
    for y, c in enumerate(rows):
        colour = COLOURS[-1] if c is ablation.baseline else COLOURS[0]
        values = values_of(c, ablation.question.metric)
        axes.plot(values, [y] * len(values), "o", color=colour, fillstyle="none", markersize=6)
        if c.sample.n >= MIN_SEEDS:
            low, high = c.sample.interval()
            axes.plot([low, high], [y, y], "-", color=colour, linewidth=1.5)
        if c.sample.n > 1:
            axes.plot([c.sample.mean], [y], "D", color=colour, markersize=5)
    axes.set_yticks(
        range(len(rows)), [f"{c.label(ablation.axes)}: {verdicts[id(c)]}" for c in rows]
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(direction(ablation), loc="right")
    axes.grid(axis="x", color=COLOURS[-1], alpha=0.25)
    return figure


def _by_axis(ablation: Analysis, names: Sequence[str]) -> Figure:
    """Draw one panel per axis, three in a row, with a shared scale."""
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure = new_figure(9, 3.2 * down)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for panel in panels[len(names) :]:
        panel.remove()
    for panel, axis in zip(panels, names, strict=False):
        levels: dict[str, list[float]] = {}
        for c in ablation.configurations:
            if c.settings[axis] != NOT_SET:
                values = values_of(c, ablation.question.metric)
                levels.setdefault(c.settings[axis], []).extend(values)
        for x, values in enumerate(levels.values()):
            if not values:
                continue  # no run of this level has finished
            # fixed horizontal offsets keep equal values apart
            places = x + np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [x]
            panel.plot(places, values, "o", color=COLOURS[0], fillstyle="none", markersize=5)
            panel.plot([x - 0.3, x + 0.3], [np.mean(values)] * 2, "-", color=COLOURS[1])
        panel.set_xticks(range(len(levels)), list(levels), rotation=20, ha="right")
        panel.set_xlim(-0.5, len(levels) - 0.5)
        panel.set_title(axis)
    figure.suptitle(direction(ablation), size="medium")
    return figure


def _curves(ablation: Analysis, rows: Sequence[Configuration], name: str) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    lowest, highest = np.inf, -np.inf
    for number, c in enumerate(rows):
        steps, values = _curve(c, name)
        if not len(steps):
            continue
        mean = values.mean(0)
        spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
        colour = COLOURS[number % len(COLOURS)]
        line = LINES[number % len(LINES)]  # 4 styles and 7 colours: 28 distinct pairs
        axes.plot(steps, mean, color=colour, linestyle=line, label=c.label(ablation.axes))
        axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
        lowest, highest = min(lowest, mean.min()), max(highest, mean.max())
    if lowest > 0 and highest > LOG_FROM * lowest:
        axes.set_yscale("log", nonpositive="mask")
        plain_powers(axes.yaxis)
    axes.set_xlabel("optimizer steps")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(name)
    axes.grid(color=COLOURS[-1], alpha=0.25)
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def _curve(configuration: Configuration, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps (S,) that all seeds have, thinned, and the values (seeds, S)."""
    curves = [dict(run.curves[name]) for run in configuration.measured if name in run.curves]
    common = sorted(set.intersection(*map(set, curves))) if curves else []
    steps = common[:: -(-len(common) // MOST_POINTS) or 1]
    if common and steps[-1] != common[-1]:
        steps.append(common[-1])
    return np.array(steps), np.array([[curve[step] for step in steps] for curve in curves])
