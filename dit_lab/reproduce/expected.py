"""Recorded results of an experiment (`expected.yaml`), and comparison with new ones. Torch-free.

    recorded:   date, device, versions, code hash, seeds and duration of the recording, and the
                dates of probes that were added later
    probes:     by configuration and name: value, and tolerance by kind of device
    measured:   by configuration and metric: values of the seeds, their mean and deviation, and the
                tolerance for one more seed
    published:  results of others (source, metric, values by configuration); never compared

An experiment that was never run here may have the part `published` alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, NotRequired, TypedDict

import yaml

from dit_lab.config.yaml_files import read_yaml
from dit_lab.core.errors import RequestError
from dit_lab.core.text import shell_line
from dit_lab.core.typed import Count, Duration, not_empty, read_as, within
from dit_lab.reproduce.tolerance import tolerances
from dit_lab.runs.folder import write_atomically

FILE = "expected.yaml"
PARTS = ("recorded", "probes", "measured", "published")

ONE = "one configuration"
"""The label of an experiment's only configuration."""

TOLERANCES: Mapping[str, Mapping[str, float]] = {
    "losses": {"cpu": 1e-3, "cuda": 2e-2},
    "errors": {"cpu": 1e-3, "cuda": 2e-2},
    "noise": {"cpu": 1e-3, "cuda": 1e-3},
    "weights": {"cpu": 1e-4, "cuda": 1e-3},
    "averages": {"cpu": 1e-4, "cuda": 1e-3},
    "dropped": {"cpu": 1e-6, "cuda": 1e-6},
    "lag": {"cpu": 1e-4, "cuda": 1e-4},
    "images": {"cpu": 1e-3, "cuda": 5e-2},
    "evaluations": {"cpu": 0.0, "cuda": 0.0},
    "times": {"cpu": 1e-5, "cuda": 1e-5},
    "horizon": {"cpu": 1e-4, "cuda": 1e-4},
    "validation": {"cpu": 1e-3, "cuda": 2e-2},
    "table": {"cpu": 5e-3, "cuda": 5e-2},
    "fixed": {"cpu": 1e-4, "cuda": 2e-2},
    "guided": {"cpu": 3e-4, "cuda": 5e-2},
    "ddim": {"cpu": 3e-4, "cuda": 5e-2},
    "stochastic": {"cpu": 3e-4, "cuda": 5e-2},
    "renewed": {"cpu": 3e-4, "cuda": 5e-2},
}
"""Tolerance of each probe by kind of device, relative to its largest absolute value. On CPUs only
rounding differs; on GPUs, bf16 and TF32 have 8 and 11 bits, and 50 training steps amplify that."""

Value = float | str | Sequence[float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The comparison of one recorded value with the new one."""

    name: str
    recorded: str
    obtained: str
    difference: float | None  # None for texts, or if there is nothing to compare with
    tolerance: float
    good: bool
    known: bool = True  # False if there is no recorded value, since the probe is newer

    @property
    def word(self) -> str:
        if not self.known:
            return "not recorded"
        return "reproduced" if self.good else "NOT reproduced"


@dataclass(frozen=True, slots=True)
class Published:
    """A published result; the configuration is given by overrides of the experiment, or is ONE."""

    configuration: str
    metric: str
    value: float
    source: str


class Recorded(TypedDict):
    """When and how an experiment was recorded."""

    date: str
    device: str
    num_threads: Count
    versions: dict[str, str]
    code: str
    train_hashes: dict[str, str]
    probes_added: NotRequired[dict[str, str]]
    seeds: list[int]
    minutes: Duration


class Tolerance(TypedDict):
    """Relative tolerance by kind of device."""

    cpu: NotRequired[Annotated[float, within(0)]]
    cuda: NotRequired[Annotated[float, within(0)]]


class Probe(TypedDict):
    """The recorded value of a deterministic probe: a number, a text or a list of numbers."""

    value: float | str | Annotated[list[float], not_empty]
    tolerance: Tolerance


class Measured(TypedDict):
    """The values of a metric for the recorded seeds."""

    mean: float
    deviation: float
    tolerance: float
    values: Annotated[list[float], not_empty]


class Group(TypedDict):
    """Published values of a metric by configuration."""

    source: str
    metric: str
    values: dict[str, float]


class Expected(TypedDict):
    """expected.yaml; every part is optional."""

    recorded: NotRequired[Recorded]
    probes: NotRequired[dict[str, dict[str, Probe]]]
    measured: NotRequired[Annotated[dict[str, dict[str, Measured]], not_empty]]
    published: NotRequired[list[Group]]


def _read(folder: Path) -> Expected:
    """Return the content of expected.yaml, or {} if there is none. Raises RequestError."""
    file = folder / FILE
    if not file.exists():
        return {}
    return read_as(Expected, read_yaml(file), where=file, instead="repair it or delete it")


def read_published(folder: Path) -> list[Published]:
    """Return the published results of an experiment, in the order of the file."""
    groups = _read(folder).get("published", [])
    return [
        Published(configuration, group["metric"], value, group["source"])
        for group in groups
        for configuration, value in group["values"].items()
    ]


def is_measured(folder: Path) -> bool:
    """Return whether an experiment has recorded results of its own."""
    return "measured" in _read(folder)


def read_expected(folder: Path) -> dict[str, Any]:
    """Return the content of expected.yaml.

    Raises:
        RequestError: there is no such file, or it lacks parts.
    """
    file = folder / FILE
    if not file.exists():
        raise RequestError(
            f"{file}: does not exist, so the experiment has no recorded results; "
            f"{_recording(folder)} --seeds 3 records them"
        )
    found = dict(_read(folder))
    if list(found) == ["published"]:
        raise RequestError(
            f"{folder.name}: has only published results, which are not compared; "
            f"{_recording(folder)} --seeds 3 records own results"
        )
    if lacking := [part for part in PARTS if part not in found]:
        raise RequestError(f"{file}: lacks {', '.join(lacking)}; --record writes it anew")
    return found


def _recording(folder: Path) -> str:
    return shell_line("dit-lab", "reproduce", folder.name, "--record")


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_expected(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write expected.yaml and keep its published results; return its path."""
    file = folder / FILE
    published = _read(folder).get("published", [])
    text = yaml.dump(
        {**content, "published": published},
        Dumper=_WithoutAliases,
        sort_keys=False,
        default_flow_style=None,
        width=100,
    )
    write_atomically(file, f"# Written by {_recording(folder)}.\n{text}")
    return file


# ---- probes --------------------------------------------------------------------------------------


def recorded_probes(probes: Mapping[str, Value]) -> dict[str, Any]:
    """Return each probe with its tolerance, as expected.yaml holds it."""
    return {
        name: {"value": _rounded(value), "tolerance": dict(TOLERANCES.get(name, {}))}
        for name, value in probes.items()
    }


def _rounded(value: Value) -> Value:
    """Round to seven significant digits, the precision of float32."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return [float(f"{one:.7g}") for one in value]
    return float(f"{value:.7g}")


def judge_probes(
    recorded: Mapping[str, Any], obtained: Mapping[str, Value], *, kind: str
) -> list[Verdict]:
    """Compare every recorded or obtained probe.

    Args:
        recorded: the probes of expected.yaml by name.
        obtained: the new values by name.
        kind: the kind of device, "cpu" or "cuda", whose tolerances apply.
    """
    return [
        _judge_probe(name, recorded.get(name), obtained.get(name), kind)
        for name in dict.fromkeys((*obtained, *recorded))
    ]


def _judge_probe(name: str, recorded: Any, obtained: Value | None, kind: str) -> Verdict:
    if obtained is None:
        return Verdict(name, _shown(recorded["value"]), "-", None, 0.0, good=False)
    if recorded is None:
        return Verdict(name, "-", _shown(obtained), None, 0.0, good=True, known=False)
    before = recorded["value"]
    if isinstance(before, str) or isinstance(obtained, str):
        return Verdict(name, str(before), str(obtained), None, 0.0, good=before == obtained)
    old, new = _listed(before), _listed(obtained)
    tolerance = recorded["tolerance"].get(kind, 0.0) * max(map(abs, old))
    if len(old) != len(new):
        return Verdict(name, f"{len(old)} numbers", f"{len(new)} numbers", None, tolerance, False)
    apart = [abs(a - b) if math.isfinite(b) else math.inf for a, b in zip(old, new, strict=True)]
    worst = max(range(len(apart)), key=apart.__getitem__)
    place = f"#{worst + 1}: " if len(old) > 1 else ""
    before, now = (f"{place}{numbers[worst]:.6g}" for numbers in (old, new))
    good = apart[worst] <= tolerance + 1e-6 * max(map(abs, old))  # recorded values are rounded
    return Verdict(name, before, now, apart[worst], tolerance, good)


def _listed(value: Any) -> list[float]:
    return list(value) if isinstance(value, Sequence) else [value]


def _shown(value: Value) -> str:
    if isinstance(value, str):
        return value
    return f"{len(value)} numbers" if isinstance(value, Sequence) else f"{value:.6g}"


# ---- metrics -------------------------------------------------------------------------------------


def recorded_metrics(
    runs: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, dict[str, Any]]:
    """Return values, mean, deviation and tolerance of each metric that all seeds have.

    Args:
        runs: by configuration, the metrics of one run for each seed.
    """
    values = {
        (label, name): [run[name] for run in of]
        for label, of in runs.items()
        for name in of[0]
        if all(name in run for run in of)
    }
    found: dict[str, dict[str, Any]] = {label: {} for label in runs}
    for (label, name), tolerance in tolerances(values).items():
        seeds = values[label, name]
        found[label][name] = {
            "mean": float(f"{fmean(seeds):.6g}"),
            "deviation": float(f"{stdev(seeds) if len(seeds) > 1 else 0.0:.4g}"),
            "tolerance": float(f"{tolerance:.4g}"),
            "values": [float(f"{value:.6g}") for value in seeds],
        }
    return found


def judge_metrics(
    recorded: Mapping[str, Any], runs: Sequence[Mapping[str, float]]
) -> list[Verdict]:
    """Compare each recorded metric with its mean over new runs, one for each seed."""
    verdicts = []
    for name, known in recorded.items():
        before = f"{known['mean']:.6g} ± {known['deviation']:.2g}"
        values = [run[name] for run in runs if name in run]
        if len(values) < len(runs):
            verdicts.append(Verdict(name, before, "not measured", None, known["tolerance"], False))
            continue
        count, mean = len(known["values"]), fmean(values)
        # the mean of several seeds varies less than one seed, for which the tolerance holds
        nearer = math.sqrt((1 / len(values) + 1 / count) / (1 + 1 / count))
        tolerance, apart = known["tolerance"] * nearer, abs(mean - known["mean"])
        good = apart <= tolerance + 1e-6 * abs(known["mean"])
        verdicts.append(Verdict(name, before, f"{mean:.6g}", apart, tolerance, good))
    return verdicts
