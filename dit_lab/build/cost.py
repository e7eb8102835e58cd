"""What a configuration costs, and how long it will take. Torch-free."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dit_lab.config.objects import to_component
from dit_lab.config.schema import RunConfig
from dit_lab.config.yaml_files import read_config
from dit_lab.core.cost import Cost, TrainingMemory, cost, training_memory
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component
from dit_lab.core.types import Shapes
from dit_lab.models.options import COMPONENTS, DiT
from dit_lab.runs.finding import all_runs
from dit_lab.runs.folder import FINISHED, RunFolder, read_status
from dit_lab.runs.metrics import MetricsRow, read_metrics
from dit_lab.runs.recorded import recorded_shapes

START_SECONDS = 10.0  # of a process: imports, data, the tracker
SHARE_OF_PRODUCT = 0.2  # of the rate of large matrix products, that small models reach
COUNTED = (
    "patch_size", "hidden_size", "depth", "num_heads", "mlp_ratio", "class_dropout_prob", "norm",
    "mlp", "rope", "qk_norm",
)  # fmt: skip
"""The options of the model that decide what it costs."""
MOST_RUNS = 50  # that are looked at for how fast this machine is


def model_cost(config: RunConfig, shapes: Shapes) -> Cost | None:
    """The cost of the configured DiT; None for an architecture of the user's own."""
    return _cost(config.model, shapes, getattr(config.objective, "learn_sigma", False))


def recorded_cost(config: Mapping[str, Any], shapes: Shapes) -> Cost | None:
    """The same of a configuration as a file holds it."""
    if config["model"]["_target_"] not in COMPONENTS["model"]:
        return None
    model = to_component("model", config["model"])
    return _cost(model, shapes, config["objective"].get("learn_sigma", False))


def _cost(model: Component, shapes: Shapes, learn_sigma: bool) -> Cost | None:
    if not isinstance(model, DiT):
        return None
    channels, height, width = shapes.latent
    return cost(
        **{name: getattr(model, name) for name in COUNTED},
        input_size=(height, width),
        in_channels=channels,
        num_classes=shapes.data.num_classes,
        learn_sigma=learn_sigma,
    )


def device_memory(
    config: RunConfig,
    size: Cost,
    *,
    devices: int = 1,
    sharded: bool = False,
    activation_checkpointing: int | str,
) -> TrainingMemory:
    """Of each of `devices` processes that divide the configured batch."""
    training = config.training
    return training_memory(
        size,
        batch_size=training.global_batch_size // (training.accumulation * devices),
        accumulation=training.accumulation,
        ema_copies=len(config.ema.decays) + len(config.ema.power_stds),
        optimizer_copies=config.optimizer.copies,
        bf16=in_bf16(config),
        activation_checkpointing=activation_checkpointing,
        num_devices=devices,
        sharded=sharded,
    )


def in_bf16(config: RunConfig) -> bool:
    """Whether matrix products are in bfloat16, but for those of a training in float8."""
    return config.precision.mixed_precision != "no"


def arithmetic(config: RunConfig) -> str:
    """In which numbers a model computes that is sampled, and whether its blocks are compiled."""
    plain = "tf32" if config.precision.tf32 else "float32"
    compiled = " compiled" if config.sample.compile else ""
    return f"{'bf16 autocast' if in_bf16(config) else plain}{compiled}"


def training_images(config: RunConfig) -> int:
    """Images that a whole training sees, each as often as it is drawn."""
    return config.training.total_steps * config.training.global_batch_size


def training_seconds(rows: Sequence[MetricsRow], *, batch: int) -> float:
    """What a run has spent in optimizer steps of `batch` images, as its metrics tell: evaluations
    left out."""
    seconds, last = 0.0, 0
    for row in rows:
        if row.metrics.get("perf/images_per_second", 0) > 0:
            seconds += (row.step - last) * batch / row.metrics["perf/images_per_second"]
            last = row.step
    return seconds


# ---- an estimate --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """A run that has finished here."""

    flops_per_image: float
    images_per_second: float
    seconds_after: float  # from its last step to its end: samples drawn and measured


class Pace:
    """How fast this machine trains, from the runs below `paths.root` that have finished here, or
    else from a matrix product."""

    def __init__(self, root: Path) -> None:
        self._known = list(filter(None, map(_known, all_runs(root)[-MOST_RUNS:])))
        self._rate = 0.0 if self._known else _product_rate() * SHARE_OF_PRODUCT

    @property
    def source(self) -> str:
        if self._known:
            return "from what finished runs took here"
        return "a rough guess, from a matrix product; what is drawn and measured comes on top"

    def seconds(self, config: RunConfig, shapes: Shapes, *, trained: bool = False) -> float | None:
        """Of one training, None for an architecture that cannot be counted. `trained`: of what is
        measured on it alone."""
        size = model_cost(config, shapes)
        if size is None:
            return None
        flops = float(size.training_flops_per_image)
        images = 0 if trained else training_images(config)
        if not self._known:
            return START_SECONDS + images * flops / self._rate
        near = min(self._known, key=lambda run: abs(math.log(run.flops_per_image / flops)))
        images_per_second = near.images_per_second * near.flops_per_image / flops
        measured = near.seconds_after if config.evaluation.num_images else 0.0
        return START_SECONDS + images / images_per_second + measured


def _known(folder: RunFolder) -> _Known | None:
    try:
        status = read_status(folder)
        config, rows = read_config(folder), read_metrics(folder.metrics)
        size = recorded_cost(config, recorded_shapes(folder))
    except RequestError:
        return None
    trained = [row for row in rows if "perf/images_per_second" in row.metrics]
    if status.get("status") != FINISHED or size is None or not trained:
        return None
    return _Known(
        flops_per_image=size.training_flops_per_image,
        images_per_second=median(row.metrics["perf/images_per_second"] for row in trained),
        seconds_after=max(0.0, rows[-1].seconds - trained[-1].seconds),
    )


def _product_rate() -> float:
    """FLOP/s of a matrix product in float32."""
    import numpy as np

    size = 1024
    matrix = np.ones((size, size), np.float32)

    def seconds() -> float:
        start = time.perf_counter()
        matrix @ matrix
        return time.perf_counter() - start

    return 2 * size**3 / min(seconds() for _ in range(4))


def sweep_seconds(seconds: Sequence[float], *, places: int) -> float:
    """Of jobs that run in `places` device sets: jobs that share one do not get faster by it."""
    return max(max(seconds), sum(seconds) / places)
