"""Warnings about settings that are valid one by one but unlikely to be useful together.

They do not stop a training, since a short trial of a long configuration is a good reason for most.
"""

from __future__ import annotations

from dit_lab.config.schema import RunConfig
from dit_lab.core.options import target_of
from dit_lab.core.types import Shapes
from dit_lab.training.average_names import averages_of

MOST_INITIAL = 0.1  # tolerated share of the initial weights in an average
FEW_INITIAL = 0.02  # the same for a proposed decay
DECAYS = (0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99995)
WARMUP_SHARE = 20  # a proposed warm-up takes 1/20 of the training


def setting_warnings(config: RunConfig, shapes: Shapes) -> list[str]:
    """Return warnings, each one line with the keys and a better value."""
    found = _initial_average(config), _endless_warmup(config), _repeated_images(config, shapes)
    return [line for line in found if line]


def _initial_average(config: RunConfig) -> str:
    """Warn if the first average, which is sampled, is mostly the random initial weights."""
    ema, total = config.ema, config.training.total_steps
    kept = averages_of(target_of(config.optimizer), ema.decays)
    if ema.warmup or config.init_from is not None or len(kept) > len(ema.decays):
        return ""
    decay = ema.decays[0]
    share = decay**total
    if share <= MOST_INITIAL:
        return ""
    fitting = [slower for slower in DECAYS if slower**total <= FEW_INITIAL]
    instead = f"ema.warmup=true or ema.decays=[{fitting[-1]}]" if fitting else "ema.warmup=true"
    return (
        f"ema.decays={list(ema.decays)} with training.total_steps={total}: {share:.0%} of "
        f"ema-{decay}, which is sampled, is still the initial weights; use {instead}"
    )


def _endless_warmup(config: RunConfig) -> str:
    warmup, total = getattr(config.schedule, "warmup_steps", 0), config.training.total_steps
    if not warmup or warmup < total:
        return ""
    return (
        f"schedule.warmup_steps={warmup} with training.total_steps={total}: the learning rate is "
        f"still rising at the end; use schedule.warmup_steps={total // WARMUP_SHARE}"
    )


def _repeated_images(config: RunConfig, shapes: Shapes) -> str:
    size, images = config.training.global_batch_size, shapes.data.train_images
    if size <= images:
        return ""
    return (
        f"training.global_batch_size={size} with {images} training images: every batch has images "
        f"several times; use training.global_batch_size={1 << (images.bit_length() - 1)}"
    )
