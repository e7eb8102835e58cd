"""Compare the configurations of sweeps or runs: differences with confidence intervals.

  dit-lab report outputs/sweeps/NAME
  dit-lab report NAME report.baseline=objective=ddpm,model=pico
  dit-lab report NAME report.metric=eval/recall_pixels_held_out_n360
  dit-lab report NAME report.only=objective=ddpm,rectified_flow,seed=0,1     some of the runs
  dit-lab report SWEEP SWEEP RUN ...   out=FOLDER
  dit-lab report runs=RUN,RUN,...      out=FOLDER
  dit-lab report filter="params.seed = '0'"     runs in MLflow, by MLflow's filter syntax
  dit-lab report NAME --frame results.parquet   also write a table of all runs (or results.csv)

SWEEP and RUN are folders, names below paths.root, or ids of runs in MLflow. They may be mixed, and
duplicates count once. The report (HTML, Markdown, CSV and LaTeX) of a whole sweep is written into
its folder; any other report is written to out=FOLDER.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.cli.arguments import path
from dit_lab.config.checks.machine import check_file, check_folder
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.files import may_write
from dit_lab.core.text import counted, local_path, say
from dit_lab.report.arm_sentences import new_steps
from dit_lab.report.arms import arms_of
from dit_lab.report.frame import FORMATS, frame_of, write_frame
from dit_lab.report.question import report_on, report_on_sweep
from dit_lab.report.selection import chosen, find, runs_of
from dit_lab.report.sentences import judged, sections
from dit_lab.report.values import split
from dit_lab.runs.folder import RunFolder, digest
from dit_lab.runs.manifest import SweepFolder
from dit_lab.tracking.late import find_folders
from dit_lab.tracking.screen import Screen, table

if TYPE_CHECKING:
    from dit_lab.report.analysis import Analysis

OPTIONS = (
    "runs",
    "filter",
    "out",
    "report.metric",
    "report.baseline",
    "report.only",
    "paths.root",
    "tracking.uri",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("given", nargs="*", metavar="SWEEP | RUN | KEY=VALUE")
    parser.add_argument(
        "--frame", type=path, metavar="FILE", action="append", default=[],
        help="also write a table of all runs: .parquet or .csv",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    named, options = _taken_apart(args.given)
    if not (named or "runs" in options or "filter" in options):
        raise RequestError(
            "dit-lab report: give a SWEEP, a RUN, runs=RUN,RUN,... or filter=TEXT, or several of "
            "these"
        )
    root = local_path(options.get("paths.root", "outputs"), "paths.root=").absolute()
    for file in args.frame:
        _check_frame(file)
    metric, baseline = options.get("report.metric"), _baseline(options)
    only = _settings("report.only", options.get("report.only"))
    names = [*named, *(split(options["runs"]) if "runs" in options else [])]
    found = [find(name, root=root) for name in names]
    sweeps = list(dict.fromkeys(one for one in found if isinstance(one, SweepFolder)))
    folders = [one for one in found if isinstance(one, RunFolder)]
    for place in [root, *(sweep.paths_root for sweep in sweeps)]:
        trust.trust_own_store(place)
    if "filter" in options:
        uri = options.get("tracking.uri", trust.default_store(root))
        folders += [RunFolder(path) for path in find_folders(uri, options["filter"])]

    folders = list(dict.fromkeys(folders))
    runs = chosen(runs_of(sweeps, folders), only)
    frame = frame_of(runs) if args.frame else None
    for file in args.frame:
        write_frame(frame, file)
        say(f"written: {file}, {counted(len(runs), 'row')}")
    trouble = ""
    if len(sweeps) == 1 and not (folders or only or "out" in options) and _is_own(sweeps[0]):
        ablation, files, trouble = report_on_sweep(sweeps[0], metric=metric, baseline=baseline)
    else:
        of_each = sorted(f"{run.folder.root} {run.name}" for run in runs)
        default = root / "reports" / digest({"runs": of_each})
        out = local_path(options.get("out") or default, "out=").absolute()
        check_folder("out", out)
        ablation, files = report_on(
            runs,
            out,
            title=_title(sweeps, len(runs), alone=len(folders)),
            metric=metric,
            baseline=baseline,
            arms=arms_of((sweep.root.name, sweep.read()) for sweep in sweeps),
        )
    print_report(ablation, files)
    if trouble:
        say(f"MLflow could not be updated ({trouble}); the files above are complete")
    return 0


def _is_own(sweep: SweepFolder) -> bool:
    """Return whether this user may write the report into the sweep's folder."""
    return may_write(sweep.report) and all(map(may_write, sweep.report.glob("*")))


def _taken_apart(given: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split the arguments into sweeps and runs, and options. Raises RequestError."""
    named, options = [], {}
    for text in given:
        key, equals, value = text.partition("=")
        if key in OPTIONS:
            options[key] = value
        elif equals and not local_path(text, "").exists():
            raise RequestError(f"{text}: no such option; allowed: {', '.join(OPTIONS)}")
        else:
            named.append(text)
    return named, options


def _check_frame(file: Path) -> None:
    if file.suffix not in FORMATS:
        raise RequestError(f"--frame {file}: give a name that ends in {' or '.join(FORMATS)}")
    check_file("--frame ", file)


def _title(sweeps: Sequence[SweepFolder], runs: int, *, alone: int) -> str:
    if alone and sweeps:
        return f"{' and '.join(one.root.name for one in sweeps)} and {alone} more"
    return " and ".join(one.root.name for one in sweeps) or f"{counted(runs, 'run')}"


def _baseline(options: Mapping[str, str]) -> dict[str, str] | None:
    given = options.get("report.baseline")
    if given is None:
        return None
    found = _settings("report.baseline", given)
    if several := [key for key, values in found.items() if len(values) > 1]:
        raise RequestError(
            f"report.baseline={given}: {several[0]} has several values; a baseline has one of each"
        )
    return {key: values[0] for key, values in found.items()}


def _settings(option: str, given: str | None) -> dict[str, list[str]]:
    """Return the values of each key in a text such as `objective=ddpm,rectified_flow,seed=0`."""
    found: dict[str, list[str]] = {}
    key = ""
    for part in split(given) if given is not None else []:
        name, equals, value = part.partition("=")
        key = name if equals else key
        if not key or not (value if equals else part):
            raise RequestError(
                f"{option}={given}: expected settings, such as objective=ddpm,model=pico"
            )
        found.setdefault(key, []).append(value if equals else part)
    return found


def print_report(ablation: Analysis, files: Sequence[Path]) -> None:
    """Print the answer, the table, warnings, and where the files are."""
    answer, *rest = sections(ablation)
    console = Screen()
    for line in [*answer.lines, *new_steps(ablation)]:
        console.print(line)
    found = judged(ablation)
    console.print(table(found.headings, found.rows, left=found.left))
    for section in rest:
        if section.title == "Warnings":
            for line in section.lines:
                console.print(f"warning: {line}")
    say(f"written: {', '.join(path.name for path in files)} in {files[0].parent}")
