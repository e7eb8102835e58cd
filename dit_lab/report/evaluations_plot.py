"""The plot of quality against the number of function evaluations (NFE) of each sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lab.report.analysis import Analysis
from dit_lab.report.drawing import (
    COLOURS,
    LINES,
    MARKERS,
    direction,
    legend_below,
    new_figure,
    plain_powers,
)
from dit_lab.report.results import Configuration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 4


def evaluations_vary(ablation: Analysis) -> bool:
    """Return whether the NFE differs between the measured configurations."""
    measured = [c for c in ablation.configurations if c.sample.n]
    return len({c.compute.evaluations for c in measured} - {None}) > 1


def against_evaluations(ablation: Analysis) -> Figure:
    """Draw quality against NFE.

    There is a panel for each value of the first axis that does not belong to the sampler and has at
    most MOST_PANELS values. A line joins configurations that differ in the sampler's options alone.
    """
    panel_axis = _panel_axis(ablation)
    panels: dict[str, dict[str, list[Configuration]]] = {}
    for c in ablation.configurations:
        if c.sample.n and c.compute.evaluations is not None:
            lines = panels.setdefault(c.settings[panel_axis] if panel_axis else "", {})
            lines.setdefault(_line(c, ablation.axes, panel_axis), []).append(c)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    sheet = new_figure(9, 4.8)
    subplots = sheet.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (panel, lines) in zip(subplots, panels.items(), strict=True):
        for name, members in lines.items():
            number = names.index(name)
            members.sort(key=lambda c: c.compute.evaluations or 0.0)
            axes.plot(
                [c.compute.evaluations for c in members],
                [c.sample.mean for c in members],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle=LINES[number // len(COLOURS) % len(LINES)],
                markersize=5,
                label=name,
            )
        axes.set_xscale("log")
        plain_powers(axes.xaxis)
        axes.set_xlabel("function evaluations per image (NFE)")
        axes.set_title(f"{panel_axis}={panel}" if panel_axis else "", size="medium")
        axes.grid(color=COLOURS[-1], alpha=0.25)
    sheet.suptitle(direction(ablation), size="medium")
    handles = {line.get_label(): line for axes in subplots for line in axes.get_lines()}
    if len(names) > 1:
        legend_below(sheet, [handles[name] for name in names], names)
    return sheet


def _panel_axis(ablation: Analysis) -> str:
    few = (
        axis
        for axis in ablation.axes
        if not axis.startswith("sampler")
        and len({c.settings[axis] for c in ablation.configurations}) <= MOST_PANELS
    )
    return next(few, "")


def _line(configuration: Configuration, axes: tuple[str, ...], panel_axis: str) -> str:
    kept = [axis for axis in axes if axis != panel_axis and not axis.startswith("sampler.")]
    return configuration.label(kept) if kept else "all"
