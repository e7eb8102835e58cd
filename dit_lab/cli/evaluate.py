"""Evaluate samples of a run against real images. Needs the run's data, but no downloads.

  dit-lab evaluate run=outputs/runs/quickstart/HASH
  dit-lab evaluate run=RUN sampler=heun sampler.steps=20 guidance.scale=2
  dit-lab evaluate run=RUN baselines=true        also a memoriser and a Gaussian per class
  dit-lab evaluate -m run=RUN sampler.steps=5,10,25 guidance.scale=1,2 sample.weights=ema,raw
                                                 every combination, with a report
  dit-lab evaluate --compare A B                 differences of two evaluations

RUN is a run folder, one of its checkpoint folders, or the id of its MLflow run. The table and its
evaluation card are written to RUN/evaluations/ and to the MLflow run. A and B are files in that
folder, or RUNs, which stand for their newest evaluation. Exit code 1: they are not comparable.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.actions.workers import on_workers, starts_workers
from dit_lab.cli.arguments import add_config_dir, say_own_choices
from dit_lab.cli.tables import print_comparison, print_evaluations
from dit_lab.config.axes import combinations
from dit_lab.config.compose import given_run, root_option
from dit_lab.config.overrides import option
from dit_lab.config.prepare import PreparedForRun, prepare_for_run
from dit_lab.config.schema import EvaluateConfig, RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.text import say, shell_line
from dit_lab.evaluation.card import Evaluation, find_evaluation
from dit_lab.runs.folder import RunFolder, read_status
from dit_lab.runs.metrics import MetricsRow, add_row
from dit_lab.tracking.addresses import is_local
from dit_lab.tracking.late import log_late
from dit_lab.tracking.spool import finite_metrics
from dit_lab.training.stop import StopSignal

if TYPE_CHECKING:
    from dit_lab.build.trained import Trained

CONFIG = RunConfig
SHOWS_CHOICES = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="show the differences of two evaluations"
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="evaluate each combination of KEY=A,B,..."
    )
    add_config_dir(parser)


def run(args: argparse.Namespace) -> int:
    # tracking.uri=... only allows contact to the address that the run recorded (`core/trust.py`).
    args.overrides = [text for text in args.overrides if not text.startswith("tracking.uri=")]
    if args.compare:
        return _compare(*args.compare, overrides=args.overrides)
    if args.multirun:
        return _measure_all(args)
    return _measure(args)


def _compare(*given: str, overrides: Sequence[str]) -> int:
    """Print the differences of two evaluations; return 1 if they are not comparable."""
    others = [text for text in overrides if not text.startswith("paths.root=")]
    if others:
        raise RequestError(f"{others[0]}: --compare takes no overrides; leave it out")
    first, second = (find_evaluation(name, root=root_option(overrides)) for name in given)
    return 0 if print_comparison(first, second) else 1


def _measure(args: argparse.Namespace) -> int:
    found = _prepared(args.overrides, config_dirs=args.config_dir)
    say_own_choices(args)
    run, root, baselines = found.run, str(found.root), found.chosen.baselines
    if starts_workers(found.config):
        return on_workers("evaluate", found.config, run=run, root=root, baselines=baselines)
    return work(found.config, run=run, root=root, baselines=baselines)


def _measure_all(args: argparse.Namespace) -> int:
    """Evaluate a run with every combination of overrides; all are checked first."""
    jobs = combinations(args.overrides)
    given = given_run(jobs[0][1])
    run, root, folder, _ = given
    configs = [
        (settings, _prepared(overrides, config_dirs=args.config_dir, given=given).config)
        for settings, overrides in jobs
    ]
    if any(config.distributed.num_processes != 1 for _, config in configs):
        raise RequestError("distributed.num_processes: -m measures in this process; leave it out")

    tf32, *others = {config.precision.tf32 for _, config in configs}
    if others:
        raise RequestError(
            "precision: -m cannot mix evaluations with and without TF32; run them separately"
        )

    say_own_choices(args)

    from dit_lab.cli.report import print_report
    from dit_lab.sweeps.evaluations import measure_all  # torch: seconds
    from dit_lab.training.distributed import DistributedContext

    with StopSignal() as stop:
        context = DistributedContext(stop, tf32=tf32)
        ablation, files = measure_all(
            folder,
            configs,
            wanted=run,
            root=str(root),
            device=context.accelerator.device,
            check_stop=stop.check,
            on_message=say,
        )
    print_report(ablation, files)
    return 0


def _prepared(
    overrides: Sequence[str],
    *,
    config_dirs: Sequence[Path],
    given: tuple[str, Path, RunFolder, RunConfig] | None = None,
) -> PreparedForRun[EvaluateConfig]:
    """Compose the evaluation settings over the run's recorded config. Raises RequestError."""
    run, _, folder, _ = given = given or given_run(overrides)
    if folder.is_exported:
        raise RequestError(
            f"run={run}: an exported file has no folder for results; "
            f"{shell_line('dit-lab', 'import', run, '--out', 'RUN')} makes a run folder of it"
        )
    found = prepare_for_run(EvaluateConfig, overrides, config_dirs=config_dirs, given=given)
    _check_chosen(overrides)
    return found


def _check_chosen(overrides: Sequence[str]) -> None:
    """Raise RequestError for overrides that have no effect on an evaluation."""
    for key in ("sample.labels", "sample.num_images"):
        if option(overrides, key) is not None:
            raise RequestError(
                f"{key}: not used here; evaluation.num_images=N images are drawn, with labels as "
                "frequent as in the training images"
            )


def work(config: RunConfig, *, run: str, root: str, baselines: bool) -> int:
    """Evaluate, alone or as one of several processes; return the exit code."""
    from dit_lab.actions.evaluate import (  # torch: seconds
        evaluate_baselines,
        evaluate_run,
        with_data,
    )
    from dit_lab.build.trained import load
    from dit_lab.training.distributed import DistributedContext

    with StopSignal() as stop:
        context = DistributedContext(stop, tf32=config.precision.tf32)
        trained = load(
            run,
            root=root,
            weights=config.sample.weights,
            codec_path=getattr(config.codec, "path", None),
            device=context.accelerator.device,
        )
        trained = with_data(trained, config)
        evaluation, stored = evaluate_run(
            trained,
            config,
            process_group=context.process_group,
            check_stop=stop.check,
            on_message=say,
        )
        if not context.is_main_process:
            return 0
        compared = []
        if baselines:
            compared = evaluate_baselines(trained, config, check_stop=stop.check)
    print_evaluations([evaluation, *compared])
    path = trained.folder.evaluation(evaluation.card.eval_hash)
    say(f"{'measured before' if stored else 'written'}: {path}")
    if not stored:
        _track(config, trained, evaluation, path)
    return 0


def _track(config: RunConfig, trained: Trained, evaluation: Evaluation, path: Path) -> None:
    """Log the metrics to the run in MLflow; a failure is only printed."""
    from dit_lab.actions.evaluate import tracked_metrics

    run_id = read_status(trained.folder).get("tracking_run_id")
    if config.tracking.backend != "mlflow" or run_id is None:
        return
    if trained.folder.elsewhere and is_local(config.tracking.uri):
        return  # this user's local store, which does not contain the run
    found = tracked_metrics(trained, evaluation)
    row = MetricsRow(evaluation.card.step, time.time(), finite_metrics(found))
    if trouble := log_late(config.tracking.uri, run_id, row, artifact=path):
        later = ", and `dit-lab doctor` sends it"
        if trained.folder.elsewhere:
            later = ""  # `dit-lab doctor` examines only runs below this user's paths.root
        else:
            add_row(trained.folder.pending_metrics, row)
        say(f"MLflow could not be updated ({trouble}); the file above has everything{later}")
