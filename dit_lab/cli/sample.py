"""Draw images from a run: its newest checkpoint, averaged weights, its own sampler unless told.

  dit-lab sample run=outputs/runs/quickstart/HASH out=digits.png sample.num_images=100
  dit-lab sample run=RUN out=images.npz sampler=heun sampler.steps=20 guidance.scale=2

RUN is a run folder, one of its checkpoint folders, or the id of its MLflow run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_lab.core.errors import RequestError

SHOWS_CHOICES = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="groups and keys to set")
    parser.add_argument(
        "--config-dir", type=Path, action="append", default=[], help="a folder of your own groups"
    )


def run(args: argparse.Namespace) -> int:
    from dit_lab.actions.workers import on_workers, starts_workers
    from dit_lab.config.checks.machine import check_copies, with_processes
    from dit_lab.config.checks.sampling import check_conditioning, check_sampling
    from dit_lab.config.compose import compose_for_run, given_run
    from dit_lab.runs.recorded import recorded_shapes

    wanted, root, folder, recorded = given_run(args.overrides)
    config = with_processes(
        compose_for_run("sample", args.overrides, recorded=recorded, config_dirs=args.config_dir)
    )
    check_copies(config)
    shapes = recorded_shapes(folder)
    check_sampling(config, trained=recorded, run=folder)
    check_conditioning(config, shapes, model=recorded["model"])
    _check_output(Path(config["out"]))
    if starts_workers(config):
        return on_workers("sample", config, wanted=wanted, root=str(root))
    return work(config, wanted=wanted, root=str(root))


def work(config: Mapping[str, Any], *, wanted: str, root: str) -> int:
    """Draw what was asked for, alone or as one of several processes."""
    from dit_lab.build.trained import load
    from dit_lab.sampling.generate import Passes  # torch: seconds
    from dit_lab.sampling.images import grid_columns, write_images
    from dit_lab.training.distributed import DistributedContext
    from dit_lab.training.stop import StopSignal

    passes, out, asked = Passes(), Path(config["out"]), config["sample"]
    with StopSignal() as stop:
        context = DistributedContext(stop, tf32=config["precision"]["tf32"])
        trained = load(
            wanted,
            root=root,
            weights=asked["weights"],
            trusted_modules=config["trusted_modules"],
            device=context.accelerator.device,
        )
        groups = trained.images(
            asked["labels"],
            num_images=asked["num_images"],
            seed=asked["seed"],
            settings=config,
            team=context.team,
            check_stop=stop.check,
            on_pass=passes,
        )
        if not context.leads:
            for _ in groups:  # draws its part of them
                pass
            return 0
        count = asked["num_images"]
        labels = len(set(asked["labels"] or range(trained.parts.shapes.data.num_classes)))
        columns = grid_columns(count, min(count, labels))
        write_images(out, groups, num_images=count, columns=columns)
    print(
        f"{count} images from {trained.weights} at step {trained.step}, "
        f"{passes.per_image(count):g} evaluations an image: {out}"
    )
    return 0


def _check_output(out: Path) -> None:
    """Refuse an `out` that cannot be written, before anything is computed."""
    from dit_lab.config.checks.machine import check_parent

    if out.suffix not in ("", ".png", ".npz"):
        raise RequestError(
            f"out={out}: unknown ending {out.suffix}; give NAME.png (a grid), NAME.npz "
            "(ADM-style arrays) or a name without an ending (a folder of PNGs)"
        )
    if out.exists() and out.is_dir() != (out.suffix == ""):
        what = "a folder" if out.is_dir() else "a file"
        raise RequestError(f"out={out}: is {what} already; choose another name, or move it away")
    check_parent("out=", out)
