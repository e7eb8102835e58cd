"""The report of a recording, next to the recipe: `results.md` with plots, and `samples.png`."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.config.axes import label_of
from dit_lab.report.drawing import png
from dit_lab.report.question import report_on
from dit_lab.report.results import Arm
from dit_lab.report.runs import Run, configuration
from dit_lab.runs.folder import is_deciding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = "results.md"
SAMPLES = "samples.png"
COLUMNS = 4


def write_results(
    runs: Sequence[Run], experiment: Path, *, arms: Mapping[str, Arm] | None = None
) -> list[Path]:
    """Write the report of a recording's runs into the experiment's folder; return the files."""
    written = []
    with tempfile.TemporaryDirectory() as place:
        _, files = report_on(runs, Path(place), title=experiment.name, arms=arms)
        for file in files:
            if file.suffix in (".md", ".png"):
                name = RESULTS if file.suffix == ".md" else file.name
                written.append(Path(shutil.copyfile(file, experiment / name)))
    if grids := _grids(runs):
        (experiment / SAMPLES).write_bytes(png(lambda: _sheet(grids)))
        written.append(experiment / SAMPLES)
    return written


def _grids(runs: Sequence[Run]) -> dict[str, Path]:
    """Return the last sample grid of each model of the first seed, by the model's label."""
    first = min(run.config["seed"] for run in runs)
    found: dict[str, Path] = {}
    for run in runs:
        settings = {key: text for key, text in configuration(run).items() if is_deciding(key)}
        grids = sorted(run.folder.samples.glob("step-*.png"))
        if grids and run.config["seed"] == first:
            found.setdefault(label_of(settings), grids[-1])
    return found


def _sheet(grids: Mapping[str, Path]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    columns = min(COLUMNS, len(grids))
    rows = math.ceil(len(grids) / columns)
    figure = Figure(figsize=(3 * columns, 3.2 * rows), layout="constrained")
    for place, (label, file) in enumerate(grids.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(imread(file), cmap="gray", interpolation="nearest")
        axes.set_title(label, fontsize=8)
        axes.set_axis_off()
    return figure
