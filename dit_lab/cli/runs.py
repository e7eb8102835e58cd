"""List the runs and their disk usage; remove superfluous checkpoints, or whole runs.

  dit-lab runs list                            all runs below outputs, newest first
  dit-lab runs list photos --sort size
  dit-lab runs prune '*' --keep 2 --dry-run    show what would be removed, and how much it frees
  dit-lab runs prune outputs/runs/photos
  dit-lab runs remove photos/6a66 --dry-run
  dit-lab runs remove SWEEP                    with all its runs

RUN is NAME, NAME/HASH, the beginning of a hash, a folder, the id of its MLflow run, or a quoted
pattern for several runs, such as 'photos/*'. SWEEP means all its runs. `prune` removes checkpoints
of finished runs only. Runs that a process writes to are not changed. Runs that others need (as weak
model, as initial weights, as job of a sweep) are removed only with --force. `remove` also deletes
the runs in MLflow.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from dit_lab.actions.prune import Pruned, prune
from dit_lab.actions.references import References
from dit_lab.actions.remove import Places, refuse_held, remove, who_needs, with_jobs
from dit_lab.cli.arguments import path
from dit_lab.config.checks.machine import check_file
from dit_lab.config.compose import root_option
from dit_lab.config.recorded import root_of
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted, say
from dit_lab.report.selection import find
from dit_lab.runs.folder import RunFolder, write_json
from dit_lab.runs.keeping import MEGABYTE, Listed, freed_by, listed, name_of, runs_below, size_of
from dit_lab.tracking.screen import Screen, table

ACTIONS = ("list", "prune", "remove")
SORTED = {
    "date": lambda run: -run.updated,
    "size": lambda run: -run.bytes,
    "name": lambda run: run.run,
}
FEWEST_DIGITS = 4  # of the beginning of a hash that identifies a run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("given", nargs="*", metavar="RUN | SWEEP | paths.root=FOLDER")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show what prune or remove would do, and change nothing",
    )
    parser.add_argument(
        "--keep", type=int, metavar="N", help="prune: number of checkpoints to keep (default 2)"
    )
    parser.add_argument(
        "--force", action="store_true", help="remove: also runs that other runs or sweeps need"
    )
    parser.add_argument("--sort", choices=SORTED, help="list: sort key (default date)")
    parser.add_argument("--json", type=path, metavar="FILE", help="list: write the table to FILE")


def run(args: argparse.Namespace) -> int:
    _refuse_other_options(args)
    options = [text for text in args.given if text.startswith(("paths.root=", "tracking.uri="))]
    named = [text for text in args.given if text not in options]
    root = root_option(options).absolute()
    if args.action == "list":
        return _list(named, root, sort=args.sort or "date", file=args.json)
    if not named:
        raise RequestError(
            f"dit-lab runs {args.action}: give a RUN, a SWEEP or a pattern such as 'photos/*'"
        )
    chosen = [one for text in named for one in _selected(text, root)]
    if args.action == "prune":
        return _prune(with_jobs(chosen)[0], keep=2 if args.keep is None else args.keep,
                      dry_run=args.dry_run)  # fmt: skip
    return _remove(chosen, dry_run=args.dry_run, force=args.force)


def _refuse_other_options(args: argparse.Namespace) -> None:
    belongs = {"keep": "prune", "force": "remove", "sort": "list", "json": "list"}
    for name, action in belongs.items():
        if getattr(args, name) not in (None, False) and args.action != action:
            raise RequestError(f"--{name}: is for dit-lab runs {action}, not {args.action}")
    if args.dry_run and args.action == "list":
        raise RequestError("--dry-run: list changes nothing; leave it out")
    if args.keep is not None and args.keep < 1:
        raise RequestError(f"--keep {args.keep}: give 1 or more; `remove` removes whole runs")
    if args.json:
        check_file("--json ", args.json)


# ---- selection ----------------------------------------------------------------------------------


def _selected(given: str, root: Path) -> Places:
    """Return the runs or the sweep that an argument names; several runs only for a pattern.

    Unlike where a run is read, runs with a checkpoint take no precedence. Raises RequestError.
    """
    found = _matching(given, root)
    if any(sign in given for sign in "*?["):
        if not found:
            raise RequestError(f"{given}: matches no run below {root / 'runs'}")
        return found
    found = found or [RunFolder(file.parent) for file in Path(given).glob("*/config.yaml")]
    if len(found) > 1:
        names = ", ".join(sorted(map(name_of, found)))
        raise RequestError(
            f"{given}: means {counted(len(found), 'run')} ({names}); name one of them, or give a "
            "pattern"
        )
    try:
        return [find(given, root=root)]
    except RequestError:
        if not found:
            raise
        return found


def _matching(given: str, root: Path) -> list[RunFolder]:
    """Return the runs whose name, hash or NAME/HASH matches a text, pattern or start of a hash."""
    begin, _, digits = given.rpartition("/")

    def fits(run: RunFolder) -> bool:
        name, _, train_hash = name_of(run).rpartition("/")
        if any(fnmatchcase(text, given) for text in (name_of(run), name, train_hash)):
            return True
        is_start = len(digits) >= FEWEST_DIGITS and train_hash.startswith(digits)
        return is_start and begin in ("", name)

    return [run for run in runs_below(root) if fits(run)]


# ---- list ---------------------------------------------------------------------------------------


def _list(named: Sequence[str], root: Path, *, sort: str, file: Path | None) -> int:
    if not (root / "runs").is_dir():
        raise RequestError(f"paths.root={root}: holds no runs; give the folder that does")
    runs = runs_below(root)
    if named:
        places = [one for text in named for one in _matching(text, root) or _selected(text, root)]
        runs = with_jobs(places)[0]
    found = sorted(map(listed, runs), key=SORTED[sort])
    _print(found)
    total = size_of(run.root for run in runs)
    say(f"{counted(len(found), 'run')}, {_megabytes(total)}")
    if file:
        write_json(file, {"runs": [asdict(one) for one in found], "bytes": total})
        say(f"written: {file}")
    return 0


def _print(found: Sequence[Listed]) -> None:
    rows = [
        (one.run, one.status, f"{one.step:,}", f"{one.bytes / MEGABYTE:,.1f}", _date(one.updated))
        for one in found
    ]
    headings = ("run", "status", "step", "MB", "last update")
    Screen().print(table(headings, rows, left=[True, True, False, False, True]))


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "?"


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.1f} MB"


# ---- prune and remove ---------------------------------------------------------------------------


def _prune(runs: Sequence[RunFolder], *, keep: int, dry_run: bool) -> int:
    references = cache(lambda: References(map(root_of, runs)))
    verb, total, steps = ("would remove" if dry_run else "removed"), 0, 0
    for run in runs:
        done = prune(run, keep=keep, references=references, dry_run=dry_run)
        say(f"{name_of(run)}: {_told(done, verb)}")
        total, steps = total + done.bytes, steps + len(done.removed)
    say(f"{verb}: {counted(steps, 'checkpoint')}, {_megabytes(total)}")
    return 0


def _told(done: Pruned, verb: str) -> str:
    if done.left:
        return f"not changed: {done.left}"
    if not done.removed:
        return "nothing to remove"
    needed = f" (needed by {', '.join(done.needed)})" if done.needed else ""
    return (
        f"{verb} {_steps(done.removed)}, {_megabytes(done.bytes)}; {_steps(done.stay)} "
        f"{'stays' if len(done.stay) == 1 else 'stay'}{needed}"
    )


def _steps(steps: Sequence[int]) -> str:
    return f"step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps))}"


def _remove(chosen: Places, *, dry_run: bool, force: bool) -> int:
    runs, sweeps = with_jobs(chosen)
    for root in {root_of(run) for run in runs} | {sweep.paths_root for sweep in sweeps}:
        trust.trust_own_store(root)
    refuse_held(runs, sweeps)
    needed = who_needs(runs, sweeps)
    if needed and not (force or dry_run):
        name, by = next(iter(needed.items()))
        more = f" (and {len(needed) - 1} more runs are needed)" if len(needed) > 1 else ""
        raise RequestError(
            f"{name}: is needed by {', '.join(by)}{more}; leave it out, or give --force"
        )
    places = [run.root for run in runs] + [sweep.root for sweep in sweeps]
    verb, freed = ("would remove" if dry_run else "removed"), freed_by(places)
    lines = [
        *(f"{verb}: runs/{one.run}, {one.status} at step {one.step}, {_megabytes(one.bytes)}"
          for one in map(listed, runs)),
        *(f"{verb}: sweeps/{sweep.root.name}" for sweep in sweeps),
    ]  # fmt: skip
    said = [] if dry_run else remove(runs, sweeps)
    for line in lines:
        say(line)
    for name, by in needed.items():
        say(f"{name}: is needed by {', '.join(by)}")
    what = counted(len(runs), "run") + (f" and {counted(len(sweeps), 'sweep')}" if sweeps else "")
    say(f"{verb}: {what}, {_megabytes(freed)}")
    for line in said:
        say(line)
    return 0
