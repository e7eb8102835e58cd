"""Draw images from a run, by default with its newest checkpoint, EMA and configured sampler.

  dit-lab sample run=outputs/runs/quickstart/HASH out=digits.png sample.num_images=100
  dit-lab sample run=RUN out=images.npz sampler=heun sampler.steps=20 guidance.scale=2

RUN is a run folder, one of its checkpoint folders, or the id of its MLflow run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dit_lab.actions.workers import on_workers, starts_workers
from dit_lab.cli.arguments import add_overrides, say_own_choices
from dit_lab.config.checks.machine import check_folder, check_parent
from dit_lab.config.prepare import prepare_for_run
from dit_lab.config.schema import RunConfig, SampleConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted, say
from dit_lab.training.stop import StopSignal

CONFIG = RunConfig
SHOWS_CHOICES = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    found = prepare_for_run(SampleConfig, args.overrides, config_dirs=args.config_dir)
    _check_output(Path(found.chosen.out))
    say_own_choices(args)
    given = {"run": found.run, "root": str(found.root), "out": found.chosen.out}
    if starts_workers(found.config):
        return on_workers("sample", found.config, **given)
    return work(found.config, **given)


def work(config: RunConfig, *, run: str, root: str, out: str) -> int:
    """Draw the images, alone or as one of several processes; return the exit code."""
    from dit_lab.actions.sample import draw_into  # torch: seconds

    with StopSignal() as stop:
        said = draw_into(Path(out), config, run=run, root=root, stop=stop)
    if said:
        say(said)
    return 0


def _check_output(out: Path) -> None:
    """Raise RequestError if `out` cannot be written, before anything is computed."""
    if out.suffix not in ("", ".png", ".npz"):
        raise RequestError(
            f"out={out}: unknown ending {out.suffix}; give NAME.png (a grid), NAME.npz "
            "(ADM-style arrays) or a name without an ending (a folder of PNGs)"
        )
    if out.exists() and out.is_dir() != (out.suffix == ""):
        what = "a folder" if out.is_dir() else "a file"
        raise RequestError(f"out={out}: is {what} already; choose another name, or move it away")
    if out.suffix == "":
        check_folder("out", out)
    if out.is_dir() and (held := sum(1 for _ in out.iterdir())):
        raise RequestError(
            f"out={out}: holds {counted(held, 'file')}, among which new images would lie; choose "
            "another name, or move it away"
        )
    check_parent("out=", out)
