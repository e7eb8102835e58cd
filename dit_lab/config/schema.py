"""Typed schema of the configuration: types and ranges. The values are in conf/.

The options of components are in the `options.py` of each package. Nothing here imports torch, so a
wrong key is refused within a second.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import MISSING

from dit_lab.core.options import Component, option
from dit_lab.samplers.options import Guidance as Guidance

# OmegaConf 2.3 evaluates these annotations; it supports Optional[...] but not X | None.
# ruff: noqa: UP045

MOST_IMAGES = 100_000_000  # to sample or to evaluate
MOST_AT_ONCE = 10_000_000  # images per batch
MOST_PROCESSES = 1_024  # on one machine

DROP_OPTION = "drop_option"
"""Value of `sweep.on_refusal` with which jobs drop overrides of options that their members lack."""


@dataclass
class EMA:
    decays: list[float] = option(help="EMA decays; the first EMA is sampled and evaluated")
    warmup: bool = option(help="decay (1 + n) / (10 + n) up to ema.decays: for short runs")
    power_stds: list[float] = option(
        help="widths of power-function EMAs (EDM2), such as [0.05,0.1], for post-hoc EMA"
    )
    snapshot_every_steps: int = option(
        at_least=0, help="steps between snapshots for post-hoc EMA; 0: none"
    )


@dataclass
class Sample:
    num_images: int = option(at_least=1, at_most=MOST_IMAGES, help="images to draw")
    labels: Optional[list[int | str]] = option(
        help="classes, by name or number, repeated cyclically; null: all classes"
    )
    batch_size: int = option(
        at_least=1, at_most=MOST_AT_ONCE, help="images per batch; does not affect the images"
    )
    seed: int = option(at_least=0, help="seed of the noise")
    weights: str = option(
        help="weights: ema, ema:0.9999, raw or schedule_free; power:0.1 for a run's post-hoc EMA"
    )
    compile: bool = option(False, help="torch.compile of the blocks in dit-lab sample and evaluate")


@dataclass
class Training:
    total_steps: int = option(at_least=1, help="optimizer steps")
    global_batch_size: int = option(
        at_least=1,
        at_most=MOST_AT_ONCE,
        help="images per step, over all processes and accumulated micro-batches",
    )
    accumulation: int = option(at_least=1, help="micro-batches per step")
    compile: bool = option(
        help="torch.compile of the blocks: minutes at the start, faster steps on GPUs"
    )
    clip_norm: Optional[float] = option(above=0, help="maximum gradient norm; null: no clipping")
    log_every_steps: int = option(at_least=1, help="steps between logged rows")
    checkpoint_every_steps: int = option(
        at_least=0, help="steps between checkpoints; 0: only at the end"
    )
    keep_last: Optional[int] = option(at_least=1, help="newest checkpoints to keep; null: all")
    keep_every_steps: int = option(
        at_least=0, help="also keep the checkpoints at multiples of this step; 0: none"
    )
    keep_finished: Optional[int] = option(
        None,
        at_least=1,
        later=True,
        help="newest checkpoints to keep once the run is finished; null: all",
    )
    sample_every_steps: int = option(
        at_least=0, help="steps between sample grids; 0: only at the end"
    )
    validate_every_steps: int = option(
        at_least=0, help="steps between held-out losses; 0: only at the end"
    )
    evaluate_every_steps: int = option(
        at_least=0, help="steps between evaluations of samples; 0: only at the end"
    )
    max_skipped_in_a_row: int = option(
        at_least=1, help="non-finite steps are skipped; the run fails after so many in a row"
    )
    hang_after_seconds: Optional[float] = option(
        above=0,
        at_most=10**7,
        help="seconds without progress after which the run fails; null: never",
    )
    system_metrics: bool = option(
        True, later=True, help="log the load of processor, memory and GPU"
    )


@dataclass
class Precision:
    mixed_precision: str = option(
        choices=("no", "bf16", "fp8"),
        help="precision of matrix products: bfloat16 by autocast, or float8 (torchao)",
    )
    tf32: bool = option(help="TensorFloat-32 for float32 products on GPUs")


@dataclass
class Distributed:
    num_processes: Any = option(help="number of processes; auto: one per GPU, or those of torchrun")
    sharded: bool = option(help="shard parameters, optimizer state and averages (FSDP2)")
    processes_per_copy: Optional[int] = option(
        at_least=1, help="processes that share one sharded copy (hybrid sharding); null: all"
    )
    cpu_offload: bool = option(help="keep shards and optimizer steps on the CPU; slower")


@dataclass
class Evaluation:
    loss_images: int = option(
        at_least=1,
        at_most=MOST_IMAGES,
        help="maximum number of held-out images for the validation loss",
    )
    num_images: int = option(
        at_least=0,
        at_most=MOST_IMAGES,
        help="generated images to compare with real ones; 0: none",
    )
    # options with a default were added after runs had been recorded without them
    num_seeds: int = option(
        1, at_least=1, at_most=10_000, help="number of sampling seeds, from sample.seed on"
    )
    labels: str = option(
        "training",
        choices=("training", "balanced", "random"),
        help="labels of generated images: as frequent as in training, balanced, or random",
    )
    reference_images: int = option(
        at_least=1, at_most=MOST_IMAGES, help="maximum number of training images to compare with"
    )
    likelihood_images: int = option(
        at_least=0,
        at_most=MOST_IMAGES,
        help="held-out images whose bits per dimension are measured; slow; 0: none",
    )
    weights_path: Optional[str] = option(
        None, help="FOLDER with the weights of inception and dinov2, as torch-fidelity names them"
    )
    seed: int = option(at_least=0, help="seed of the trees, folds and draws of the metrics")


@dataclass
class Tracking:
    backend: str = option(choices=("mlflow", "none"), help="where runs are tracked")
    uri: str = option(filled=True, help="MLflow store; null: sqlite:///<paths.root>/mlflow.db")
    experiment: str = option(filled=True, help="MLflow experiment; null: the run's name")
    send: str = option(
        choices=("now", "later"), help="later: send when the sweep ends, or by dit-lab doctor"
    )


@dataclass
class Sweep:
    name: Optional[str] = option(
        help="name of the folder and of the MLflow experiment; null: the named experiment or axes"
    )
    slots: Any = option(
        help="where jobs run: auto (every GPU, or the CPU) or device sets, [0,1] or ['0,1',cpu]"
    )
    jobs_per_slot: int = option(at_least=1, help="jobs at once in a slot")
    on_failure: str = option(
        choices=("continue", "stop"), help="stop: no further job once one has failed"
    )
    on_refusal: str = option(
        choices=("stop", "skip", DROP_OPTION),
        help="skip refused jobs, or leave out the options that a job's members lack",
    )
    retries: int = option(at_least=0, help="retries of a failed job")
    trials: int = option(
        at_least=1, at_most=1_000_000, help="jobs of a search (hydra/sweeper=optuna)"
    )
    trials_at_once: Optional[int] = option(
        at_least=1, help="trials proposed at once; null: one per slot"
    )
    metric: Optional[str] = option(help="objective of a search; null: the report's primary metric")
    failed_value: Optional[float] = option(help="objective of a failed trial; null: it is ignored")


@dataclass
class Paths:
    root: str = option(help="the folder of runs, sweeps and the MLflow store")


@dataclass
class RunConfig:
    """The configuration that a run records. A component has the options class of its `_target_`."""

    seed: int = option(at_least=0, help="seed of all randomness in training")
    name: str = option(
        filled=True, help="name of the run folder; null: the named experiment, or the groups"
    )
    resume: str = option(
        help="auto: continue; never: train again; force: continue even if code or data changed; "
        "RUN or force:RUN: extend that run"
    )
    init_from: Optional[str] = option(None, help="RUN or an exported file with the initial weights")
    model: Component = MISSING
    objective: Component = MISSING
    method: dict[str, Component] = option({}, later=True)
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
    tags: dict[str, str] = option(
        {}, later=True, help="tags of the run in MLflow: tags={topic: guidance}"
    )
    note: Optional[str] = option(
        None, later=True, help="description of the run in MLflow, in Markdown"
    )
    paths: Paths = MISSING
    choices: dict[str, str] = dataclasses.field(default_factory=dict)  # group -> member


@dataclass
class TrainConfig(RunConfig):
    """`conf/train.yaml` and its groups."""

    sweep: Sweep = MISSING


@dataclass
class SampleConfig:
    """`conf/sample.yaml`: the settings for sampling from a trained run."""

    run: str = option(help="run folder, checkpoint, exported file or MLflow run id")
    out: str = option(
        help="NAME.png: a grid; NAME.npz: ADM's arrays; a name without ending: a folder of PNGs"
    )
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
    """`conf/evaluate.yaml`: the settings for evaluating a trained run."""

    run: str = option(help="run folder, checkpoint, exported file or MLflow run id")
    baselines: bool = option(help="also a memoriser and a Gaussian for each class")
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
    """`conf/encode.yaml`: the images to encode, the codec, and the folder of the latents."""

    out: str = option(help="folder to write")
    dtype: str = option(
        choices=("float16", "float32"), help="precision of the means and log-variances"
    )
    shard_images: int = option(
        at_least=1, at_most=MOST_IMAGES, help="images in one file; a multiple of codec.chunk_images"
    )
    num_processes: int = option(
        at_least=1,
        at_most=MOST_PROCESSES,
        help="processes on this machine, each on its own GPU if there are any",
    )
    dataset: Component = MISSING
    codec: Component = MISSING
    choices: dict[str, str] = dataclasses.field(default_factory=dict)  # group -> member


@dataclass
class CheckConfig:
    """`conf/check.yaml`: the images to check."""

    out: Optional[str] = option(help="JSON file of the whole report")
    num_processes: Optional[int] = option(
        at_least=1, at_most=MOST_PROCESSES, help="number of processes; null: one per core"
    )
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
"""Key that is added by composition and cannot be set."""
