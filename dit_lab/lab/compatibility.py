"""Which sampler fits which objective. The one table that documentation, schema and `auto` read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SAMPLERS = {
    "dit_lab.objectives.ddpm.DDPM": ("ddpm", "ddim", "euler", "heun"),
    "dit_lab.objectives.rectified_flow.RectifiedFlow": ("euler", "heun"),
    "dit_lab.objectives.flow_matching.FlowMatching": ("euler", "heun"),
}
"""Objective -> names in conf/sampler that fit it, its natural sampler first."""


def samplers_for(objective: str, load: Callable[[str], Any]) -> tuple[str, ...]:
    """Names of the samplers that fit an objective's `_target_`, the natural one first.

    An objective of the user's own says so in a class attribute `samplers`; without one, the
    samplers that only need an interpolant fit.
    """
    if objective in SAMPLERS:
        return SAMPLERS[objective]
    return tuple(getattr(load(objective), "samplers", ("euler", "heun")))
