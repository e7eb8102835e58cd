"""Cost and training time of a configuration. Torch-free."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from dit_lab.config.compatibility import active_methods, needs_of_config, with_methods
from dit_lab.config.components import is_registered
from dit_lab.config.objects import to_component
from dit_lab.config.schema import RunConfig
from dit_lab.config.yaml_files import read_config
from dit_lab.core.calls import LossPasses, ModelNeeds, needs_of
from dit_lab.core.cost import Cost, TrainingMemory, cost, training_memory
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component
from dit_lab.core.types import Shapes
from dit_lab.methods.options import Method
from dit_lab.models.options import COMPONENTS, DiT
from dit_lab.runs.finding import all_runs
from dit_lab.runs.folder import FINISHED, RunFolder, read_status
from dit_lab.runs.metrics import MetricsRow, read_metrics
from dit_lab.runs.recorded import recorded_shapes

START_SECONDS = 10.0  # start of a process: imports, data, the tracker
SHARE_OF_PRODUCT = 0.2  # fraction of the measured matmul throughput that small models reach
COUNTED = (
    "patch_size", "hidden_size", "depth", "num_heads", "mlp_ratio", "class_dropout_prob", "norm",
    "mlp", "rope", "qk_norm",
)  # fmt: skip
"""Options of the model that determine its cost."""
MOST_RUNS = 50  # runs that are read to estimate the speed of this machine


def model_cost(config: RunConfig, shapes: Shapes) -> Cost | None:
    """Return the cost of the configured DiT, or None for a user-defined architecture."""
    methods = active_methods(config).values()
    return _cost(
        config.model, config.objective, shapes, needs=needs_of_config(config), methods=methods
    )


def recorded_cost(config: Mapping[str, Any], shapes: Shapes) -> Cost | None:
    """Return the cost of the DiT of a recorded configuration, or None."""
    if config["model"]["_target_"] not in COMPONENTS["model"]:
        return None
    model, known = to_component("model", config["model"]), config["objective"]
    if is_registered("objective", known["_target_"]):
        objective = to_component("objective", known)
        methods = _recorded_methods(config)
        if methods is None:
            return None
        needs = with_methods(needs_of(objective), methods, model)
        return _cost(model, objective, shapes, needs=needs, methods=methods)
    plain = SimpleNamespace(learn_sigma=known.get("learn_sigma", False))  # its code is not run
    return _cost(model, plain, shapes, needs=ModelNeeds())


def _recorded_methods(config: Mapping[str, Any]) -> list[Component] | None:
    """Return the options of recorded methods, or None if one is user-defined."""
    known = config.get("method", {}).values()
    if not all(is_registered("method", options["_target_"]) for options in known):
        return None
    made = [to_component("method", options) for options in known]
    return [options for options in made if not options.is_off]


def _cost(
    model: Component,
    objective: Any,
    shapes: Shapes,
    *,
    needs: ModelNeeds,
    methods: Iterable[Component] = (),
) -> Cost | None:
    if not isinstance(model, DiT):
        return None
    passes, routed = getattr(objective, "passes", LossPasses()), None
    for method in methods:
        if isinstance(method, Method):
            work = method.work(depth=model.depth)
            passes = replace(passes, plain=passes.plain + work.plain)
            routed = work.routed or routed
    channels, height, width = shapes.latent
    return cost(
        **{name: getattr(model, name) for name in COUNTED},
        input_size=(height, width),
        in_channels=channels,
        num_classes=shapes.data.num_classes,
        learn_sigma=getattr(objective, "learn_sigma", False),
        needs=needs,
        passes=passes,
        routed=routed,
    )


def device_memory(
    config: RunConfig,
    size: Cost,
    *,
    devices: int = 1,
    sharded: bool = False,
    activation_checkpointing: int | str,
) -> TrainingMemory:
    """Return the memory of each of `devices` processes that share the configured batch."""
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
    """Return whether matrix products are in bfloat16 (with fp8: those that are not in float8)."""
    return config.precision.mixed_precision != "no"


def arithmetic(config: RunConfig) -> str:
    """Return the precision of sampling in words, and whether blocks are compiled."""
    plain = "tf32" if config.precision.tf32 else "float32"
    compiled = " compiled" if config.sample.compile else ""
    return f"{'bf16 autocast' if in_bf16(config) else plain}{compiled}"


def training_images(config: RunConfig) -> int:
    """Return the number of images that a whole training processes, with repetitions."""
    return config.training.total_steps * config.training.global_batch_size


def training_seconds(rows: Sequence[MetricsRow], *, batch: int) -> float:
    """Return the time of a run in optimizer steps of `batch` images, without evaluations."""
    seconds, last = 0.0, 0
    for row in rows:
        if row.metrics.get("perf/images_per_second", 0) > 0:
            seconds += (row.step - last) * batch / row.metrics["perf/images_per_second"]
            last = row.step
    return seconds


# ---- estimated time -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """Measured speed of a finished run."""

    flops_per_image: float
    images_per_second: float
    seconds_after: float  # from the last step to the end: sampling and evaluation


class TrainingSpeed:
    """Training speed of this machine.

    It is measured from finished runs below `paths.root`, or else estimated from a matrix product.
    """

    def __init__(self, root: Path) -> None:
        self._known = list(filter(None, map(_known, all_runs(root)[-MOST_RUNS:])))
        self._rate = 0.0 if self._known else _product_rate() * SHARE_OF_PRODUCT

    @property
    def source(self) -> str:
        if self._known:
            return "estimated from finished runs on this machine"
        return "a rough estimate from one matrix product, without sampling and evaluation"

    def seconds(self, config: RunConfig, shapes: Shapes, *, trained: bool = False) -> float | None:
        """Return the seconds of a training, or None for a user-defined architecture.

        With `trained`, return only those of the start and of the evaluation at the end.
        """
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
    """Return the FLOP/s of a float32 matrix product."""
    import numpy as np

    size = 1024
    matrix = np.ones((size, size), np.float32)

    def seconds() -> float:
        start = time.perf_counter()
        matrix @ matrix
        return time.perf_counter() - start

    return 2 * size**3 / min(seconds() for _ in range(4))


def sweep_seconds(seconds: Sequence[float], *, places: int) -> float:
    """Return the seconds of jobs on `places` device sets; jobs that share a set are not faster."""
    return max(max(seconds), sum(seconds) / places)
