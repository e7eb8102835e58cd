"""All measurements of `dit-lab bench` for one config."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from dit_lab.bench.device import Products, stated_rate, this_device
from dit_lab.bench.loading import measure_loading
from dit_lab.bench.noise import with_data
from dit_lab.bench.record import FIRST_STEP, Bench
from dit_lab.bench.sampling import Sampling
from dit_lab.bench.startup import measure_startup
from dit_lab.bench.training import training_of
from dit_lab.build.cost import in_bf16
from dit_lab.config.schema import RunConfig
from dit_lab.reproduce.probes import device_facts

LOADING_SHARE = 0.2  # of `seconds`; batches are quick
STARTS = 3
TRAINED = {"training", "loading"}  # parts that need a training set-up


def measure(
    config: RunConfig,
    *,
    overrides: Sequence[str],
    config_dirs: Sequence[Path],
    parts: Collection[str],
    seconds: float,
) -> Bench:
    """Measure a config.

    Args:
        config: the config.
        overrides: the overrides that compose it, for start-up times.
        config_dirs: folders of further configs.
        parts: some of "training", "loading", "sampling", "startup".
        seconds: approximate time per part.

    Raises:
        RequestError: if the config cannot be measured.
    """
    config, shapes, assumed = with_data(config)
    found: dict[str, Any] = {}
    if "startup" in parts:
        leave_out = [FIRST_STEP] if assumed else []
        found["startup"] = measure_startup(
            overrides, config_dirs, repeats=STARTS, leave_out=leave_out
        )
    device, bf16 = this_device(), in_bf16(config)
    products = Products(device, bf16=bf16)
    if TRAINED & set(parts):
        with training_of(config, shapes) as training:
            if "training" in parts:
                found["training"] = training.measure(seconds, products)
            if "loading" in parts:
                found["loading"] = measure_loading(training, seconds * LOADING_SHARE)
    if "sampling" in parts:
        found["sampling"] = Sampling(config, shapes).measure(seconds, products)
    return Bench(
        overrides=list(overrides),
        assumed=assumed,
        circumstances={"date": date.today().isoformat(), **device_facts()},
        product_rate=products.rate,
        stated_rate=stated_rate(device, bf16=bf16),
        **found,
    )
