"""Reproduction of a named experiment: its configurations, results and verdicts. Torch-free."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dit_lab.config import search_path
from dit_lab.config.axes import (
    label_of,
    product,
    recipe_axes,
    recipe_grid,
    settings_of,
    sweep_overrides,
    values_of,
)
from dit_lab.config.checks.machine import check_root
from dit_lab.config.identity import evaluating_code, evaluating_targets, train_hash
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.core.types import Shapes
from dit_lab.report.runs import Run, measured, without_seeds
from dit_lab.reproduce.expected import (
    ONE,
    Value,
    Verdict,
    judge_metrics,
    judge_probes,
    recorded_metrics,
    recorded_probes,
)
from dit_lab.sweeps.compose import compose_jobs

PROBED_SEED = 0
"""The seed of all probes, so that reproductions with other seeds are comparable."""

Settings = Mapping[str, str]

Label = str
"""A configuration as overrides without the seed, such as `objective=ddpm model=pico`."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of an experiment's configurations."""

    axes: Sequence[str]  # of the recipe
    fixed: Settings  # axes of the recipe that the command sets to one value
    is_part: bool  # whether the command restricts the axes of the recipe

    def of(self, settings: Settings) -> Label:
        """Return the label of a configuration, with the recipe's axes first and in their order."""
        found = {**self.fixed, **without_seeds(settings)}
        return label_of({key: found[key] for key in (*self.axes, *found) if key in found}) or ONE


@dataclass(frozen=True, slots=True)
class Experiment:
    """A named experiment, composed and checked: one configuration, or those of its grid."""

    name: str
    folder: Path
    configs: Mapping[Label, RunConfig]  # with the seed PROBED_SEED
    shapes: Mapping[Label, Shapes]
    seeds: Sequence[int]
    num_jobs: int
    labels: Labels

    @property
    def config(self) -> RunConfig:
        """The config of the first configuration, for keys that all share."""
        return next(iter(self.configs.values()))

    def train_hashes(self) -> dict[Label, str]:
        return {label: train_hash(config) for label, config in self.configs.items()}


def find_experiment(name: str, overrides: Sequence[str], *, num_seeds: int | None) -> Experiment:
    """Compose the experiment of that name, or the part that the overrides select.

    Args:
        name: the name of the experiment.
        overrides: overrides of the command; values of the recipe's axes select a part.
        num_seeds: use seeds 0 to num_seeds - 1; None means the seeds of overrides or recipe.

    Raises:
        RequestError: the experiment does not exist or does not compose.
    """
    folder = search_path.experiment_folder(name)
    typed = typed_for(name, overrides, num_seeds)
    parsed = sweep_overrides(typed)
    composed = compose_jobs(parsed, product(parsed), [], of_recipe=recipe_axes(typed))
    check_root(composed.configs[0])
    axes = [axis for axis in recipe_grid(typed) if axis != "seed"]
    single = {one.key_or_group: one for one in parsed if not one.is_sweep_override()}
    fixed = {axis: values_of(single[axis])[0] for axis in axes if axis in single}
    labels = Labels(axes, fixed, is_part=not recipe_axes(typed).issuperset(axes))
    configs: dict[Label, RunConfig] = {}
    shapes: dict[Label, Shapes] = {}
    for texts, config, of_it in zip(composed.texts, composed.configs, composed.shapes, strict=True):
        label = labels.of(settings_of(texts))
        configs.setdefault(label, replace(config, seed=PROBED_SEED))
        shapes.setdefault(label, of_it)
    seeds = sorted({config.seed for config in composed.configs})
    return Experiment(name, folder, configs, shapes, seeds, len(composed.configs), labels)


def typed_for(name: str, overrides: Sequence[str], num_seeds: int | None) -> list[str]:
    """Return the overrides with which `train` (or `train -m`) trains the experiment."""
    seeds = [] if num_seeds is None else [f"seed={','.join(map(str, range(num_seeds)))}"]
    return [f"experiment={name}", *seeds, *overrides]


# ---- results -------------------------------------------------------------------------------------


def metrics_by_label(
    experiment: Experiment, runs: Sequence[Run]
) -> dict[Label, list[dict[str, float]]]:
    """Return the metrics of each configuration's runs, in the order of their seeds."""
    found: dict[Label, list[dict[str, float]]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        found[experiment.labels.of(run.settings)].append(measured(run))
    return dict(found)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a reproduction; no metrics if only probes were requested."""

    probes: Mapping[Label, Mapping[str, Value]]
    metrics: Mapping[Label, Sequence[Mapping[str, float]]]
    circumstances: Mapping[str, Any]


def circumstances(experiment: Experiment, *, device: Mapping[str, Any]) -> dict[str, Any]:
    """Return date, device, code hash and train hashes; `device` comes from `device_facts`."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        **device,
        "code": evaluating_code(evaluating_targets(to_tree(experiment.config))),
        "train_hashes": experiment.train_hashes(),
    }


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each difference of recipe, code, versions and device."""
    said = [
        f"recipe of {label}: differs from the recorded one"
        for label, known in recorded["train_hashes"].items()
        if now["train_hashes"].get(label) != known
    ]
    if recorded["code"] != now["code"]:
        said.append(f"code: {recorded['code']}, now {now['code']}")
    for name, version in recorded["versions"].items():
        if now["versions"].get(name) != version:
            said.append(f"{name}: {version}, now {now['versions'].get(name, 'not installed')}")
    for key in ("device", "num_threads"):
        if recorded[key] != now[key]:
            said.append(f"{key}: {recorded[key]}, now {now[key]}")
    return said


@dataclass(frozen=True, slots=True)
class Judgement:
    """All verdicts by configuration, and the differences in recipe, code, versions and device."""

    numbers: Mapping[Label, Sequence[Verdict]]
    differences: Sequence[str]

    @property
    def unknown(self) -> list[str]:
        """The names of the probes that have no recorded value."""
        named = (one.name for of in self.numbers.values() for one in of if not one.known)
        return list(dict.fromkeys(named))

    @property
    def wrong(self) -> list[tuple[Label, str]]:
        """The configuration and name of each value that was not reproduced."""
        return [
            (label, one.name) for label, of in self.numbers.items() for one in of if not one.good
        ]


def _part_of(expected: Mapping[str, Any], outcome: Outcome) -> tuple[dict[str, Any], Outcome]:
    """Restrict the recorded results and the outcome to what both have.

    If several configurations share a training, only the first recorded one has all probes.
    """
    hashes, known = expected["recorded"]["train_hashes"], expected["probes"]
    labels = outcome.probes.keys()
    of_part = {
        **expected,
        "recorded": {
            **expected["recorded"],
            "train_hashes": {label: of for label, of in hashes.items() if label in labels},
        },
        "probes": {label: of for label, of in known.items() if label in labels},
    }
    probes = {
        label: {name: value for name, value in found.items() if name in known.get(label, found)}
        for label, found in outcome.probes.items()
    }
    return of_part, replace(outcome, probes=probes)


def judge(expected: Mapping[str, Any], outcome: Outcome, *, is_part: bool = False) -> Judgement:
    """Compare all values of all configurations; with `is_part`, only of the obtained ones."""
    if is_part:
        expected, outcome = _part_of(expected, outcome)
    kind = outcome.circumstances["kind"]
    numbers: dict[Label, list[Verdict]] = {}
    for label in dict.fromkeys((*expected["probes"], *outcome.probes)):
        judged = judge_probes(
            expected["probes"].get(label, {}), outcome.probes.get(label, {}), kind=kind
        )
        if outcome.metrics:
            known = expected["measured"].get(label, {})
            judged += judge_metrics(known, outcome.metrics.get(label, [{}]))
        numbers[label] = judged
    return Judgement(numbers, differences(expected["recorded"], outcome.circumstances))


def as_recorded(experiment: Experiment, outcome: Outcome, *, seconds: float) -> dict[str, Any]:
    """Return the content of a new expected.yaml; `seconds` is the duration of all runs."""
    return {
        "recorded": {
            **outcome.circumstances,
            "seeds": list(experiment.seeds),
            "minutes": round(seconds / 60, 1),
        },
        "probes": {label: recorded_probes(found) for label, found in outcome.probes.items()},
        "measured": recorded_metrics(outcome.metrics),
    }


def with_new_probes(expected: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Return the content of expected.yaml with missing probes added, dated today."""
    known, added, probes = expected["probes"], dict[str, str](), {}
    for label, found in outcome.probes.items():
        before = known.get(label, {})
        new = {name: value for name, value in found.items() if name not in before}
        both = {**before, **recorded_probes(new)}
        probes[label] = {name: both[name] for name in dict.fromkeys((*found, *before))}
        added |= dict.fromkeys(new, outcome.circumstances["date"])
    recorded = expected["recorded"]
    dates = {**recorded.get("probes_added", {}), **added}
    return {**expected, "recorded": {**recorded, "probes_added": dates}, "probes": probes}
