"""What a sweep says: which configuration is better, by how much, and how surely.

  dit-lab report outputs/sweeps/NAME
  dit-lab report NAME report.baseline=objective=ddpm,model=pico
  dit-lab report NAME report.metric=eval/recall_pixels_held_out_n360
  dit-lab report SWEEP SWEEP ...   out=FOLDER
  dit-lab report runs=RUN,RUN,...  out=FOLDER
  dit-lab report filter="params.seed = '0'"     runs of the tracker, by its own filter

SWEEP is a sweep's folder, its name, or the id of its run in MLflow. The report is written into the
sweep's folder, of several sweeps or runs into out=FOLDER, as a page, Markdown, CSV and LaTeX.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.config.checks.machine import check_folder
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.text import local_path, say
from dit_lab.report.arm_sentences import STEPS
from dit_lab.report.question import report_on, report_on_sweep
from dit_lab.report.runs import runs_of_folders, runs_of_sweeps
from dit_lab.report.sentences import results, sections
from dit_lab.runs.folder import RunFolder, digest, find_run
from dit_lab.runs.manifest import find_sweep
from dit_lab.tracking.late import find_folders

if TYPE_CHECKING:
    from dit_lab.report.analysis import Ablation
    from dit_lab.runs.folder import RunFolder

OPTIONS = (
    "runs",
    "filter",
    "out",
    "report.metric",
    "report.baseline",
    "paths.root",
    "tracking.uri",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("given", nargs="*", metavar="SWEEP | KEY=VALUE")


def run(args: argparse.Namespace) -> int:
    sweeps = [text for text in args.given if text.partition("=")[0] not in OPTIONS]
    options = dict(text.partition("=")[::2] for text in args.given if text not in sweeps)
    if bool(sweeps) + ("runs" in options) + ("filter" in options) != 1:
        raise RequestError("dit-lab report: give one of SWEEP, runs=RUN,RUN,... or filter=TEXT")
    root = local_path(options.get("paths.root", "outputs"), "paths.root=").absolute()
    if "out" in options:
        check_folder("out", local_path(options["out"], "out=").absolute())
    metric, baseline = options.get("report.metric"), _baseline(options)
    folders = [find_sweep(given, root=root) for given in sweeps]
    trouble = ""
    for place in [root, *(folder.paths_root for folder in folders)]:
        trust.trust_own_store(place)
    if len(folders) == 1:
        ablation, files, trouble = report_on_sweep(folders[0], metric=metric, baseline=baseline)
    else:
        if folders:
            runs, title = runs_of_sweeps(folders), " and ".join(one.root.name for one in folders)
        else:
            runs = runs_of_folders(_folders(options, root))
            title = f"{len(runs)} runs"
        key = digest({"runs": sorted(f"{run.folder.root} {run.name}" for run in runs)})
        out = local_path(options.get("out") or root / "reports" / key, "out=").absolute()
        ablation, files = report_on(runs, out, title=title, metric=metric, baseline=baseline)
    print_report(ablation, files)
    if trouble:
        say(f"MLflow did not take it ({trouble}); the files above are whole")
    return 0


def _baseline(options: Mapping[str, str]) -> dict[str, str] | None:
    given = options.get("report.baseline")
    if given is None:
        return None
    parts = [part.strip() for part in given.split(",")]
    if not all("=" in part for part in parts):
        raise RequestError(
            f"report.baseline={given}: expected settings, such as objective=ddpm,model=pico"
        )
    return dict(part.partition("=")[::2] for part in parts)


def _folders(options: Mapping[str, str], root: Path) -> list[RunFolder]:
    if "runs" in options:
        names = [name.strip() for name in options["runs"].split(",")]
        return list(dict.fromkeys(find_run(name, root=root)[0] for name in names))
    uri = options.get("tracking.uri", trust.default_store(root))
    return [RunFolder(path) for path in find_folders(uri, options["filter"])]


def print_report(ablation: Ablation, files: Sequence[Path]) -> None:
    """The answer, the table, and where the rest is."""
    from dit_lab.tracking.screen import Screen, table

    answer, *rest = sections(ablation)
    console = Screen()
    for line in answer.lines:
        console.print(line)
    found = results(ablation)
    shown = found.headings.index("verdict") + 1  # what follows is in the files
    rows = [row[:shown] for row in found.rows]
    console.print(table(found.headings[:shown], rows, left=found.left[:shown]))
    for section in rest:
        if section.title == STEPS:
            for line in section.lines:
                console.print(line)
        if section.title == "Careful":
            for line in section.lines:
                console.print(f"careful: {line}")
    say(f"written: {', '.join(path.name for path in files)} in {files[0].parent}")
