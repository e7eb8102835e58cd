"""Time a configuration on this machine: training step, sampling, loading and start-up.

FLOP/s are compared with the rate of large matrix products, which is measured in the same run.

  dit-lab bench experiment=quickstart
  dit-lab bench model=s patch=2 precision=bf16 --only training,sampling --json s2.json
  dit-lab bench experiment=quickstart --vs training.compile=true      ratio of two configurations
  dit-lab bench --check s2.json         compare with that file; exit code 1 if slower
  dit-lab bench official --official-path DiT model=s patch=8
                                        compare with the original DiT code, with equal weights

Only one process is timed, whatever `distributed` is. If data or autoencoder are not on this
machine, noise of their declared shape (dataset.num_classes, dataset.image_size) is used.
`--check` divides each time by that of an interleaved reference: matrix products, or normal random
numbers for loading, or the import of torch for start-up. So it also works on another machine.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from dit_lab.actions.describe import described_shapes
from dit_lab.bench.record import SLOWER, checked, read_record
from dit_lab.cli.arguments import add_config_dir, path, say_own_choices
from dit_lab.config.checks.machine import check_file
from dit_lab.config.compose import compose_train
from dit_lab.config.prepare import check_request
from dit_lab.config.recorded import recorded_overrides
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted, say
from dit_lab.report.rounding import quantity
from dit_lab.runs.folder import write_json

if TYPE_CHECKING:
    from dit_lab.bench.figures import Ratio, Timing, Turns
    from dit_lab.bench.record import Bench, Record

SHOWS_CHOICES = True
OFFICIAL = "official"
PARTS = ("training", "loading", "sampling", "startup")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="overrides of the config; with `official` first, compare with the original DiT code",
    )
    parser.add_argument(
        "--official-path", type=path, metavar="FOLDER", help="a checkout of facebookresearch/DiT"
    )
    parser.add_argument(
        "--only", metavar=",".join(PARTS), help="parts to time, separated by commas (default all)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=6.0,
        metavar="S",
        help="approximate duration of each part (default 6)",
    )
    parser.add_argument(
        "--vs",
        nargs="+",
        metavar="KEY=VALUE",
        help="overrides of a second configuration; both are timed interleaved",
    )
    parser.add_argument("--json", type=path, metavar="FILE", help="write all results to FILE")
    parser.add_argument(
        "--check", type=path, metavar="FILE", help="compare with results that --json wrote"
    )
    add_config_dir(parser)


def run(args: argparse.Namespace) -> int:
    if not 0 < args.seconds < math.inf:
        raise RequestError(f"--seconds {args.seconds:g}: expected a number above 0, such as 6")
    if args.official_path or OFFICIAL in args.overrides:
        return _beside_official(args)
    parts = _parts(args)
    record = _record(args)
    recorded = recorded_overrides(record["overrides"], str(args.check)) if record else []
    overrides = [*recorded, *args.overrides]
    notes: list[str] = []
    config = compose_train(overrides, config_dirs=args.config_dir, on_note=notes.append)
    check_request(config, look=described_shapes)
    say_own_choices(args, notes)
    if args.vs:
        return _versus(args, config, parts[0])

    from dit_lab.bench.measure import measure  # torch: seconds

    found = measure(
        config,
        overrides=overrides,
        config_dirs=args.config_dir,
        parts=parts,
        seconds=args.seconds,
    )
    _print(found)
    if args.json:
        write_json(args.json, found.to_json())
        say(f"written: {args.json}")
    return 0 if record is None else _check(record, found)


def _parts(args: argparse.Namespace) -> list[str]:
    chosen = PARTS if args.only is None else args.only.split(",")
    for part in chosen:
        if part not in PARTS:
            raise RequestError(f"--only {args.only}: no part {part!r}; allowed: {', '.join(PARTS)}")
    if args.vs and (args.json or args.check):
        raise RequestError("--vs: writes and checks nothing; leave out --json and --check")
    if args.vs and args.only is not None and chosen not in (["training"], ["sampling"]):
        raise RequestError(f"--only {args.only}: --vs compares one part, training or sampling")
    return list(chosen)


def _record(args: argparse.Namespace) -> Record | None:
    if args.json:
        check_file("--json ", args.json)
    return None if args.check is None else read_record(args.check)


def _versus(args: argparse.Namespace, config: RunConfig, part: str) -> int:
    from dit_lab.bench.versus import versus  # torch: seconds

    notes: list[str] = []
    typed = [*args.overrides, *args.vs]
    other = compose_train(typed, config_dirs=args.config_dir, on_note=notes.append)
    check_request(other, look=described_shapes)
    for note in notes:
        say(f"dit-lab: {note}", sys.stderr)
    found = versus(config, other, part=part, seconds=args.seconds)
    what = "a training step" if part == "training" else "a chunk of images"
    for name, times in (("as given", found.first), (" ".join(args.vs), found.second)):
        say(f"{name}: {what} takes {_spread(times)}")
    say(f"the second takes {_ratio(found.ratio)} of the first's time")
    return 0


def _beside_official(args: argparse.Namespace) -> int:
    for option in ("only", "vs", "json", "check"):
        if getattr(args, option):
            raise RequestError(f"bench official: takes no --{option}; leave it out")
    if args.official_path is None or args.overrides[:1] != [OFFICIAL]:
        raise RequestError(
            "bench official: give `dit-lab bench official --official-path FOLDER [KEY=VALUE ...]`, "
            "FOLDER a checkout of facebookresearch/DiT"
        )

    from dit_lab.bench.beside_official import as_the_original, beside_official  # torch: seconds

    notes: list[str] = []
    typed = as_the_original(args.overrides[1:])
    config = compose_train(typed, config_dirs=args.config_dir, on_note=notes.append)
    check_request(config, look=described_shapes)
    say_own_choices(args, notes)
    found = beside_official(config, args.official_path, seconds=args.seconds)
    say(f"losses differ by {found.loss_difference:.1e} at most, relative to the original's")
    say(
        f"images after {counted(found.drawn_steps, 'step')} of the same noise differ by "
        f"{found.image_difference:.1e} of their root mean square at most"
    )
    for what, both in (("a training step", found.training), ("a sampling step", found.sampling)):
        say(f"{what}: original {_spread(both.first)}, here {_spread(both.second)}")
        say(f"{what} here takes {_ratio(both.ratio)} of the original's time")
    return 0


def _ratio(ratio: Ratio) -> str:
    over = f"over {ratio.blocks} blocks in turn"
    if ratio.interval is None:
        return f"{ratio.median:.3f} ({over})"
    low, high = ratio.interval
    return f"{ratio.median:.3f} [{low:.3f}, {high:.3f}] ({over}, 95% interval of the median)"


def _print(found: Bench) -> None:
    """Print a table of times, throughput, and FLOP/s as a fraction of the device's peak."""
    from dit_lab.tracking.screen import Screen, table

    console = Screen()
    console.print(_device_line(found))
    for said in found.assumed:
        console.print(f"assumed: {said}")
    headings = ["", "takes", "spread", "images/s", "FLOP/s", "of matmul rate"]
    headings += ["of data sheet"] * (found.stated_rate is not None)
    console.print(table(headings, _rows(found)))
    if found.training:
        console.print(f"peak memory {found.training.peak_memory_bytes / 2**30:.2f} GiB")


def _device_line(found: Bench) -> str:
    facts = found.circumstances
    stated = f", {_amount(found.stated_rate)}FLOP/s by its data sheet" if found.stated_rate else ""
    threads = f", {facts['num_threads']} threads" if facts["kind"] == "cpu" else ""
    return (
        f"{facts['device']}{threads}, torch {facts['versions']['torch']}: large matrix products "
        f"run at {_amount(found.product_rate)}FLOP/s{stated}"
    )


def _rows(found: Bench) -> Iterator[tuple[str, ...]]:
    if step := found.training:
        seconds = step.seconds.median
        rate = step.flops and step.flops / seconds
        yield _row("a training step", seconds, step.seconds, step.images / seconds, rate, found)
        whole = sum(step.parts.values())
        for name, seconds in sorted(step.parts.items(), key=lambda part: -part[1]):
            yield f"  {name}", time_text(seconds), f"{seconds / whole:.0%}"
    if load := found.loading:
        seconds = load.seconds.median
        yield _row("its batch alone", seconds, load.seconds, load.images / seconds, None, found)
    if draw := found.sampling:
        rate = draw.flops and draw.flops / draw.mean_seconds
        name = f"a sampling step ({draw.evaluations:g} x {counted(draw.images, 'image')})"
        yield _row(name, draw.mean_seconds, draw.seconds, None, rate, found)
        total = draw.mean_seconds * draw.steps
        yield f"  {draw.steps} of them", time_text(total), "", f"{draw.images_per_second:.3g}"
    for name, starts in (found.startup or {}).items():
        yield f"until {name}", time_text(median(starts))


def _row(
    name: str,
    seconds: float,
    times: Timing,
    per_second: float | None,
    rate: float | None,
    found: Bench,
) -> tuple[str, ...]:
    """Return a row of the table; `rate` in FLOP/s is also shown as a fraction of the peak rates."""
    cells = (
        name,
        time_text(seconds),
        f"{time_text(times.low)} to {time_text(times.high)}",
        "" if per_second is None else f"{per_second:,.4g}",
    )
    if rate is None:
        return cells
    most = (found.product_rate, found.stated_rate)
    return (*cells, _amount(rate), *(f"{rate / limit:.1%}" for limit in most if limit))


def _amount(value: float) -> str:
    return quantity(value)


def _spread(times: Timing) -> str:
    return f"{time_text(times.median)} ({time_text(times.low)} to {time_text(times.high)})"


def time_text(seconds: float) -> str:
    """Return a duration as `1.23 s`, `45.6 ms` or `789 µs`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _check(record: Record, found: Bench) -> int:
    """Print which parts are slower than recorded; return 1 if any is, else 0."""
    slower = False
    for cost in checked(record, found):
        slower |= cost.is_slower
        word = "slower" if cost.is_slower else "as fast"
        now, recorded = _turns(cost.now), _turns(cost.recorded)
        say(f"{cost.name}: {now} times its reference, recorded {recorded}: {word}")
    verdict = "slower than" if slower else "as fast as"
    say(f"{verdict} recorded (slower: over {SLOWER:g} times the recorded median, and no overlap)")
    return int(slower)


def _turns(cost: Turns) -> str:
    return f"{cost.median:.3g} ({cost.least:.3g} to {cost.most:.3g})"
