"""Run a named experiment again and compare every result with the recorded one.

  dit-lab reproduce quickstart                        probes and metrics
  dit-lab reproduce quickstart --quick                only probes; takes about a minute
  dit-lab reproduce quickstart --seeds 3              compare the mean of three seeds
  dit-lab reproduce times objective.time_sampling=uniform seed=0    a part of the experiment
  dit-lab reproduce quickstart --record --seeds 3     write experiments/quickstart/expected.yaml
  dit-lab reproduce quickstart --record --quick       add new probes, if the others are reproduced

Probes are deterministic: losses of the first 50 steps; order, noise and dropped labels of their
batches; norms of the weights and EMAs, validation loss and sample metrics after these steps; the
sampler's time grid; and eight images of each of several samplers. Metrics come from full training
runs, and are compared within a tolerance from the spread of the recorded seeds. Runs are written to
outputs/reproductions/NAME-DATE-HEX. After an interruption, the same command resumes. KEY=VALUE is
passed to training, such as dataset.root=FOLDER. Exit code 1: a result was not reproduced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.cli import train
from dit_lab.cli.tables import print_judgement
from dit_lab.config import search_path
from dit_lab.core.errors import RequestError, StopRequested
from dit_lab.core.text import counted, key_value, say
from dit_lab.reproduce.expected import read_expected, read_published, write_expected
from dit_lab.reproduce.experiment import (
    Outcome,
    as_recorded,
    circumstances,
    find_experiment,
    judge,
    metrics_by_label,
    typed_for,
    with_new_probes,
)
from dit_lab.reproduce.folder import reproduction_folder
from dit_lab.reproduce.report import write_results

if TYPE_CHECKING:
    from dit_lab.reproduce.expected import Value
    from dit_lab.reproduce.experiment import Experiment, Outcome
    from dit_lab.reproduce.folder import ReproductionFolder

LEAST_SEEDS = 3  # of a recording; the variance of two seeds is too uncertain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="dit-lab experiments lists them")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides for training")
    parser.add_argument(
        "--seeds", type=int, metavar="K", help="use seeds 0 to K - 1 (default those of the recipe)"
    )
    parser.add_argument("--quick", action="store_true", help="only probes")
    parser.add_argument(
        "--record", action="store_true", help="write expected.yaml; with --quick, only new probes"
    )


def run(args: argparse.Namespace) -> int:
    _check(args)
    named = search_path.experiment_folder(args.experiment)
    read_published(named)  # raises for a damaged file before hours of training
    anew = args.record and not args.quick
    expected = None if anew else read_expected(named)
    experiment = find_experiment(args.experiment, args.overrides, num_seeds=args.seeds)
    if args.record and experiment.labels.is_part:
        raise RequestError(
            "--record: a part of the experiment; leave out the values of its axes, which are in "
            "recipe.yaml"
        )
    if anew and len(experiment.seeds) < LEAST_SEEDS:
        raise RequestError(
            f"--record: {counted(len(experiment.seeds), 'seed')}, too few to estimate the "
            f"variance; give --seeds {LEAST_SEEDS} or more"
        )
    if args.record and expected and _trains_otherwise(experiment, expected):
        raise RequestError(
            "--record --quick: the configuration differs from the recorded one, so probes cannot "
            "be added; leave out --quick to record anew"
        )
    probes, circumstances = _probes(experiment)
    if args.quick:
        assert expected is not None
        outcome = Outcome(probes, {}, circumstances)
        code = _judge(experiment, expected, outcome)
        return code if code or not args.record else _add(experiment, expected, outcome)
    folder = _folder(experiment, args, circumstances)
    if code := _train(experiment, args, folder):
        return code
    outcome = Outcome(probes, metrics_by_label(experiment, folder.runs()), circumstances)
    if expected is None:
        _record(experiment, outcome, folder)
        code = 0
    else:
        code = _judge(experiment, expected, outcome, folder)
    folder.finish()
    return code


def _check(args: argparse.Namespace) -> None:
    if args.seeds is not None and args.seeds < 1:
        raise RequestError(f"--seeds {args.seeds}: give 1 or more")


def _probes(
    experiment: Experiment,
) -> tuple[dict[str, Mapping[str, Value]], dict[str, Any]]:
    """Compute the probes of every configuration; return them and the circumstances.

    Configurations that share a training have its probes only once.
    """
    from dit_lab.reproduce.probes import device_facts, probe  # torch: seconds

    found: dict[str, Mapping[str, Value]] = {}
    probed: set[str] = set()
    for label, trained in experiment.train_hashes().items():
        say(f"probes of {label} ...")
        config, shapes = experiment.configs[label], experiment.shapes[label]
        found[label] = probe(config, shapes, training=trained not in probed)
        probed.add(trained)
    return found, circumstances(experiment, device=device_facts())


def _folder(
    experiment: Experiment, args: argparse.Namespace, circumstances: Mapping[str, Any]
) -> ReproductionFolder:
    places = Path(experiment.config.paths.root)
    typed = typed_for(experiment.name, args.overrides, args.seeds)
    folder, goes_on = reproduction_folder(places, experiment.name, typed, circumstances)
    if goes_on:
        say(f"resuming {folder.root}, which was interrupted")
    return folder


def _train(experiment: Experiment, args: argparse.Namespace, folder: ReproductionFolder) -> int:
    """Train the experiment in the folder; return the exit code."""
    usual = [text for text in args.overrides if not text.startswith("paths.root=")]
    places = [key_value("paths.root", folder.root)]
    if not any(text.startswith("tracking") for text in usual):
        places.append(key_value("tracking.uri", experiment.config.tracking.uri))
    given = typed_for(experiment.name, [*usual, *places], args.seeds)
    several = experiment.num_jobs > 1
    typed = argparse.Namespace(overrides=given, multirun=several, cfg=None, config_dir=[])
    unfinished = f"training is incomplete: {folder.root}; the same command resumes it"
    try:
        with folder.timed():
            code = train.run(typed)
    except StopRequested:
        say(unfinished, sys.stderr)
        raise
    if code:
        say(unfinished, sys.stderr)
    return code


def _record(experiment: Experiment, outcome: Outcome, folder: ReproductionFolder) -> None:
    content = as_recorded(experiment, outcome, seconds=folder.seconds)
    written = [
        *write_results(folder.runs(), experiment.folder, arms=folder.arms()),
        write_expected(experiment.folder, content),
    ]
    for file in written:
        say(f"recorded: {file}")


def _trains_otherwise(experiment: Experiment, expected: Mapping[str, Any]) -> bool:
    recorded: dict[str, str] = expected["recorded"]["train_hashes"]
    return recorded != experiment.train_hashes()


def _add(experiment: Experiment, expected: Mapping[str, Any], outcome: Outcome) -> int:
    """Add probes that are not recorded yet to expected.yaml; return the exit code."""
    content = with_new_probes(expected, outcome)
    if content["probes"] == expected["probes"]:
        say("all probes are recorded already; nothing was written")
    else:
        say(f"recorded: {write_expected(experiment.folder, content)}")
    return 0


def _judge(
    experiment: Experiment,
    expected: Mapping[str, Any],
    outcome: Outcome,
    folder: ReproductionFolder | None = None,
) -> int:
    """Print the comparison, store it in the folder if there is one, and return the exit code."""
    found = judge(expected, outcome, is_part=experiment.labels.is_part)
    print_judgement(found)
    if folder is not None:
        folder.write_verdict(found)
        say(f"written: {folder.verdict}")
        if trouble := folder.log_verdict():
            say(f"MLflow could not be updated ({trouble}); the file has everything")
    return 1 if found.wrong else 0
