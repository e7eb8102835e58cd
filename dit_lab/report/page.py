"""A report as one self-contained HTML file, with styles, plots and pictures embedded."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dit_lab.report.analysis import Analysis
from dit_lab.report.plots import plots, shown
from dit_lab.report.results import Configuration, Result
from dit_lab.report.sentences import sections

TEMPLATE = Path(__file__).with_name("page.html.j2")

MOST_GRIDS = 24
GRID_PIXELS = 768  # longest side of an embedded grid; larger grids are shrunk
JPEG_QUALITY = 88
FRONT = ("Answer", "Warnings")  # sections before the first plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    caption: str
    source: str  # data: address; "" if the file cannot be read


def page(ablation: Analysis, *, title: str) -> str:
    """Return the HTML document.

    The template escapes all text except the plots, whose text matplotlib escapes.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    every = sections(ablation)
    overview, *more = plots(ablation)
    return template.render(
        title=title,
        front=[section for section in every if section.title in FRONT],
        overview=overview,
        sections=[section for section in every if section.title not in FRONT],
        plots=more,
        pictures=_pictures(ablation),
        pictures_note=_pictures_note(ablation),
        ablation=ablation,
    )


def _with_grid(configuration: Configuration) -> Result | None:
    """Return the first measured run that has a sample grid, or None."""
    return next((run for run in configuration.measured if run.grid), None)


def _chosen(ablation: Analysis) -> list[Configuration]:
    """Return the configurations of which a sample grid is shown."""
    return [c for c in shown(ablation, MOST_GRIDS) if _with_grid(c)]


def _pictures(ablation: Analysis) -> Iterator[Picture]:
    """Yield the sample grids, one at a time since a page may have many."""
    for configuration in _chosen(ablation):
        run = _with_grid(configuration)
        if run and run.grid:
            caption = f"{configuration.label(ablation.axes)}, seed {run.seed}"
            yield Picture(caption=caption, source=_embedded(run.grid))


def _pictures_note(ablation: Analysis) -> str:
    """Return the note on the sample grids; empty if there are none."""
    chosen, every = _chosen(ablation), [c for c in ablation.configurations if _with_grid(c)]
    if not every:
        return ""
    left_out = (
        f" Shown are the baseline and the best, {len(chosen)} of {len(every)} configurations."
        if len(chosen) < len(every)
        else ""
    )
    return (
        "Samples of the first run of each configuration, with the same seeds and labels." + left_out
    )


def _embedded(file: Path) -> str:
    """Return the `data:` address of a PNG file; "" if it cannot be read.

    Grids larger than GRID_PIXELS become a JPEG of that size.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=["PNG"]) as image:
            if max(image.size) <= GRID_PIXELS:
                return _address("image/png", file.read_bytes())
            small = image.convert("RGB")
    except Exception:  # decoders raise exceptions of many types for damaged files
        return ""
    small.thumbnail((GRID_PIXELS, GRID_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return _address("image/jpeg", buffer.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
