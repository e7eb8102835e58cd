"""Shared drawing code of all plots: colours, figures, and their conversion to SVG and PNG.

Figures are drawn without a display and without matplotlib's global figures. Equal numbers give
equal bytes. Colour is never the only cue: markers, line styles or words repeat it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dit_lab.report.analysis import Analysis
from dit_lab.report.results import Configuration

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#1f83c4", "#d55e00", "#009e73", "#b05a8c", "#a87b00", "#3a9bdc", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
LETTER_INCHES, MARK_INCHES = 0.08, 0.6  # widths in a legend: of a letter and of the marker
INK = "#0f0f0e"  # placeholder for the page's text colour; no other element has this colour


@contextmanager
def style(ink: str) -> Iterator[None]:
    """Apply the matplotlib settings of reports; `ink` is the colour of text and axes."""
    import matplotlib

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {
        **dict.fromkeys(inks, ink),
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "text.parse_math": False,  # settings may contain $
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # missing letters are drawn as boxes
        yield


def svg(draw: Callable[[], Figure], salt: str) -> str:
    """Return the drawing as an <svg> element for a page.

    It has no prologue, date or background, and only ids that are referred to. `salt` makes the ids
    reproducible and different from those of other plots.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with style(INK), matplotlib.rc_context({"svg.hashsalt": salt}):
        figure = draw()
        FigureCanvasSVG(figure)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    used = set(re.findall(r"#([\w-]+)", text))
    return re.sub(
        r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text
    ).strip()


def png(draw: Callable[[], Figure]) -> bytes:
    """Return the drawing as a PNG file with a white background."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with style("black"):
        figure = draw()
        figure.set_facecolor("white")
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of a size in inches; a page shows at most 100 pixels per inch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Add a legend below the axes, in as many columns as fit, at least one."""
    widest = LETTER_INCHES * max(map(len, labels)) + MARK_INCHES
    columns = max(1, int(figure.get_figwidth() / widest))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def values_of(configuration: Configuration, metric: str) -> list[float]:
    return [run.metrics[metric] for run in configuration.measured]


def direction(ablation: Analysis) -> str:
    better = "lower" if ablation.question.lower_is_better else "higher"
    return f"{ablation.question.metric} ({better} is better)"


def plain_powers(axis: Axis) -> None:
    """Label powers of ten as 1e13, instead of as matplotlib's formulas."""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter())
