"""Do a named experiment again, and say of every recorded number whether it came back.

  dit-lab reproduce quickstart                        probes, training, metrics; exit code 0 or 1
  dit-lab reproduce quickstart --quick                probes alone: a minute
  dit-lab reproduce quickstart --seeds 3              the mean of three seeds is compared
  dit-lab reproduce quickstart --record --seeds 3     write experiments/quickstart/expected.yaml

Probes are what must not depend on chance: losses of the first 50 steps, order, noise and dropped
labels, norms of weights and averages, the sampler's grid and eight of its images. Metrics are
compared within a tolerance that comes from the spread of the recorded seeds. Runs go to a new
folder, outputs/reproductions/NAME-DATE-HEX. KEY=VALUE is for training, such as dataset.root=FOLDER.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.types import RequestError

if TYPE_CHECKING:
    from dit_lab.lab.expected import Value
    from dit_lab.lab.reproduce import Experiment, Outcome

LEAST_SEEDS = 3  # of a recording: two differ by chance as much as they like


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="dit-lab experiments lists them")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for training")
    parser.add_argument("--seeds", type=int, metavar="K", help="how many; 1 unless given")
    parser.add_argument("--quick", action="store_true", help="probes alone")
    parser.add_argument("--record", action="store_true", help="write what is expected")


def run(args: argparse.Namespace) -> int:
    from dit_lab.lab.expected import read_expected
    from dit_lab.lab.reproduce import (
        Outcome,
        clean_root,
        find_experiment,
        metrics_by_label,
        runs_in,
    )

    _check(args)
    experiment = find_experiment(args.experiment, args.overrides, num_seeds=args.seeds)
    if args.record and len(experiment.seeds) < LEAST_SEEDS:
        raise RequestError(
            f"--record: {len(experiment.seeds)} are too few seeds for a spread; give --seeds "
            f"{LEAST_SEEDS} or more"
        )
    expected = None if args.record else read_expected(experiment.folder)
    root = clean_root(experiment)
    probes, circumstances = _probes(experiment)
    metrics: Mapping[str, Sequence[Mapping[str, float]]] = {}
    started = time.monotonic()
    if not args.quick:
        if code := _train(experiment, args, root):
            print(f"not all of it was trained: {root}; nothing is compared", file=sys.stderr)
            return code
        metrics = metrics_by_label(runs_in(root))
    outcome = Outcome(probes, metrics, circumstances)
    if expected is None:
        return _record(experiment, outcome, seconds=time.monotonic() - started)
    return _judge(expected, outcome, root, tracking=experiment.config["tracking"])


def _check(args: argparse.Namespace) -> None:
    if args.seeds is not None and args.seeds < 1:
        raise RequestError(f"--seeds {args.seeds}: give 1 or more")
    if args.record and args.quick:
        raise RequestError("--record --quick: what is recorded are metrics too; leave out --quick")


def _probes(
    experiment: Experiment,
) -> tuple[dict[str, Mapping[str, Value]], dict[str, Any]]:
    """Of every configuration, and where they were computed."""
    from dit_lab.lab.probes import device_facts, probe  # torch: seconds
    from dit_lab.lab.reproduce import circumstances

    found: dict[str, Mapping[str, Value]] = {}
    for label, config in experiment.configs.items():
        print(f"probes of {label} ...", flush=True)
        found[label] = probe(config, experiment.shapes[label])
    return found, circumstances(experiment, device=device_facts())


def _train(experiment: Experiment, args: argparse.Namespace, root: Path) -> int:
    """Train everything in a new folder; the exit code."""
    from dit_lab.cli import train
    from dit_lab.lab.reproduce import typed_for

    usual = [text for text in args.overrides if not text.startswith("paths.root=")]
    places = [f"paths.root={root}"]
    if not any(text.startswith("tracking") for text in usual):
        places.append(f"tracking.uri={experiment.config['tracking']['uri']}")
    given = typed_for(experiment.name, [*usual, *places], args.seeds)
    several = experiment.num_jobs > 1
    return train.run(argparse.Namespace(overrides=given, multirun=several, cfg=None, config_dir=[]))


def _record(experiment: Experiment, outcome: Outcome, *, seconds: float) -> int:
    from dit_lab.lab.expected import write_expected
    from dit_lab.lab.reproduce import as_recorded

    file = write_expected(experiment.folder, as_recorded(experiment, outcome, seconds=seconds))
    print(f"recorded: {file}")
    return 0


def _judge(
    expected: Mapping[str, Any], outcome: Outcome, root: Path, *, tracking: Mapping[str, Any]
) -> int:
    """Print the table, and keep it where there are runs; the exit code."""
    from dit_lab.cli.tables import print_verdicts
    from dit_lab.lab.reproduce import differences, log_verdict, verdicts, write_verdict

    judged = verdicts(expected, outcome)
    said = differences(expected["recorded"], outcome.circumstances)
    good = print_verdicts(judged, said)
    if outcome.metrics:
        file = write_verdict(root, judged, said)
        print(f"written: {file}")
        if tracking["backend"] == "mlflow" and (
            trouble := log_verdict(tracking["uri"], root, file)
        ):
            print(f"MLflow did not take it ({trouble}); the file has everything")
    return 0 if good else 1
