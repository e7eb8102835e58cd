"""The typed shape of the configuration. Types and ranges only: the values live in conf/.

The options of components are in the `options.py` of each part. Nothing here imports torch, so a
wrong key is refused in a second.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import MISSING

from dit_lab.core.options import Component, option

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045

MOST_IMAGES = 100_000_000  # to draw or to measure
MOST_AT_ONCE = 10_000_000  # images of a batch
MOST_PROCESSES = 1_024  # on one machine

DROP_OPTION = "drop_option"
"""`sweep.on_refusal` where jobs leave out the typed options that their members do not have."""


@dataclass
class EMA:
    decays: list[float] = MISSING
    warmup: bool = MISSING
    power_stds: list[float] = MISSING
    snapshot_every_steps: int = option(at_least=0)


@dataclass
class Guidance:
    scale: float = option(at_least=0, filled=True)
    weight: Optional[float] = option(at_least=-1)
    interval: list[float] = MISSING
    channels: Any = MISSING  # "all" or a count
    rescale: float = option(at_least=0, at_most=1)
    weak_run: Optional[str] = MISSING


@dataclass
class Sample:
    num_images: int = option(at_least=1, at_most=MOST_IMAGES)
    labels: Optional[list[int | str]] = MISSING
    batch_size: int = option(at_least=1, at_most=MOST_AT_ONCE)
    seed: int = option(at_least=0)
    weights: str = MISSING
    compile: bool = False  # older runs recorded none


@dataclass
class Training:
    total_steps: int = option(at_least=1)
    global_batch_size: int = option(at_least=1, at_most=MOST_AT_ONCE)
    accumulation: int = option(at_least=1)
    compile: bool = MISSING
    clip_norm: Optional[float] = option(above=0)
    log_every_steps: int = option(at_least=1)
    checkpoint_every_steps: int = option(at_least=0)
    keep_last: Optional[int] = option(at_least=1)
    keep_every_steps: int = option(at_least=0)
    keep_finished: Optional[int] = option(None, at_least=1, later=True)
    sample_every_steps: int = option(at_least=0)
    validate_every_steps: int = option(at_least=0)
    evaluate_every_steps: int = option(at_least=0)
    max_skipped_in_a_row: int = option(at_least=1)
    hang_after_seconds: Optional[float] = option(above=0, at_most=10**7)
    system_metrics: bool = option(True, later=True)


@dataclass
class Precision:
    mixed_precision: str = option(choices=("no", "bf16", "fp8"))
    tf32: bool = MISSING


@dataclass
class Distributed:
    num_processes: Any = MISSING  # a count, or "auto"
    sharded: bool = MISSING
    processes_per_copy: Optional[int] = option(at_least=1)
    cpu_offload: bool = MISSING


@dataclass
class Evaluation:
    loss_images: int = option(at_least=1, at_most=MOST_IMAGES)
    num_images: int = option(at_least=0, at_most=MOST_IMAGES)
    # what has a default was not there when older runs were recorded
    num_seeds: int = option(1, at_least=1, at_most=10_000)
    labels: str = option("training", choices=("training", "balanced", "random"))
    reference_images: int = option(at_least=1, at_most=MOST_IMAGES)
    likelihood_images: int = option(at_least=0, at_most=MOST_IMAGES)
    weights_path: Optional[str] = None
    seed: int = option(at_least=0)


@dataclass
class Tracking:
    backend: str = option(choices=("mlflow", "none"))
    uri: str = option(filled=True)
    experiment: str = option(filled=True)
    send: str = option(choices=("now", "later"))


@dataclass
class Sweep:
    name: Optional[str] = MISSING
    slots: Any = MISSING  # "auto" or a list of device sets
    jobs_per_slot: int = option(at_least=1)
    on_failure: str = option(choices=("continue", "stop"))
    on_refusal: str = option(choices=("stop", "skip", DROP_OPTION))
    retries: int = option(at_least=0)
    trials: int = option(at_least=1, at_most=1_000_000)
    trials_at_once: Optional[int] = option(at_least=1)
    metric: Optional[str] = MISSING
    failed_value: Optional[float] = MISSING


@dataclass
class Paths:
    root: str = MISSING


@dataclass
class RunConfig:
    """What a run records. Each component has the options class that its `_target_` names."""

    seed: int = option(at_least=0)
    name: str = option(filled=True)
    resume: str = MISSING  # auto, never, force, RUN or force:RUN
    init_from: Optional[str] = None  # RUN
    model: Component = MISSING
    objective: Component = MISSING
    coupling: Component = MISSING
    sampler: Component = MISSING
    dataset: Component = MISSING
    codec: Component = MISSING
    optimizer: Component = MISSING
    schedule: Component = MISSING
    ema: EMA = MISSING
    guidance: Guidance = MISSING
    sample: Sample = MISSING
    training: Training = MISSING
    precision: Precision = MISSING
    distributed: Distributed = MISSING
    evaluation: Evaluation = MISSING
    metric: dict[str, Component] = dataclasses.field(default_factory=dict)
    hook: dict[str, Component] = option({}, later=True)
    tracking: Tracking = MISSING
    tags: dict[str, str] = option({}, later=True)  # of the run in the tracker
    note: Optional[str] = option(None, later=True)  # its description
    paths: Paths = MISSING
    choices: dict[str, str] = dataclasses.field(default_factory=dict)  # group -> member


@dataclass
class TrainConfig(RunConfig):
    """`conf/train.yaml` and its groups."""

    sweep: Sweep = MISSING


@dataclass
class SampleConfig:
    """`conf/sample.yaml`: what may be chosen anew for a trained run."""

    run: str = MISSING
    out: str = MISSING
    sampler: Component = MISSING
    codec: Component = MISSING
    guidance: Guidance = MISSING
    sample: Sample = MISSING
    precision: Precision = MISSING
    distributed: Distributed = MISSING
    paths: Paths = MISSING
    choices: dict[str, str] = dataclasses.field(default_factory=dict)  # group -> member


@dataclass
class EvaluateConfig:
    """`conf/evaluate.yaml`: what may be chosen anew when a trained run is measured."""

    run: str = MISSING
    baselines: bool = MISSING
    sampler: Component = MISSING
    dataset: Component = MISSING
    codec: Component = MISSING
    guidance: Guidance = MISSING
    sample: Sample = MISSING
    precision: Precision = MISSING
    distributed: Distributed = MISSING
    evaluation: Evaluation = MISSING
    metric: dict[str, Component] = dataclasses.field(default_factory=dict)
    paths: Paths = MISSING
    choices: dict[str, str] = dataclasses.field(default_factory=dict)  # group -> member


@dataclass
class EncodeConfig:
    """`conf/encode.yaml`: which images become which latents, and where they are kept."""

    out: str = MISSING
    dtype: str = option(choices=("float16", "float32"))
    shard_images: int = option(at_least=1, at_most=MOST_IMAGES)
    num_processes: int = option(at_least=1, at_most=MOST_PROCESSES)
    dataset: Component = MISSING
    codec: Component = MISSING
    choices: dict[str, str] = dataclasses.field(default_factory=dict)  # group -> member


@dataclass
class CheckConfig:
    """`conf/check.yaml`: which images are looked at."""

    out: Optional[str] = MISSING
    num_processes: Optional[int] = option(at_least=1, at_most=MOST_PROCESSES)
    dataset: Component = MISSING
    choices: dict[str, str] = dataclasses.field(default_factory=dict)  # group -> member


ROOTS: dict[str, Any] = {
    "run": RunConfig,
    "train": TrainConfig,
    "sample": SampleConfig,
    "evaluate": EvaluateConfig,
    "encode": EncodeConfig,
    "check": CheckConfig,
}

ADDED = "choices"
"""What composing adds to a configuration, and no key sets."""
