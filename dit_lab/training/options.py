"""Options of couplings and schedules, and those of the optimizers. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from dit_lab.core.options import Component, option
from dit_lab.training.optimizers import options as optimizers

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045


@dataclass
class OptimalTransport(Component):
    group_images: int = option(
        32, at_least=2, help="images per group; must divide the micro-batch of a process"
    )
    within_class: bool = option(
        True, help="permute noise within classes only; labelled data need it or force=true"
    )
    force: bool = option(False, help="allow within_class=false for labelled data")


@dataclass
class Reflow(Component):
    pairs: Optional[str] = option(None, help="a folder that dit-lab reflow wrote, or its RUN")


@dataclass
class Constant(Component):
    warmup_steps: int = option(0, at_least=0, help="steps of linear warm-up of the learning rate")


@dataclass
class Cosine(Constant):
    final_factor: float = option(
        0.0, at_least=0, at_most=1, help="learning rate at the last step, as a fraction of lr"
    )


COMPONENTS: dict[str, dict[str, type[Component]]] = {
    "coupling": {
        "dit_lab.training.coupling.Independent": Component,
        "dit_lab.training.coupling.OptimalTransport": OptimalTransport,
        "dit_lab.training.coupling.Reflow": Reflow,
    },
    "optimizer": {**optimizers.COMPONENTS},
    "schedule": {
        "dit_lab.training.schedules.Constant": Constant,
        "dit_lab.training.schedules.Cosine": Cosine,
    },
}
