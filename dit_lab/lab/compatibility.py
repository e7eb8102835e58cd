"""Which sampler fits which objective. The one table that documentation, schema and `auto` read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from dit_lab.types import RequestError

SAMPLERS = {
    "dit_lab.objectives.ddpm.DDPM": ("ddpm", "ddim", "euler", "heun"),
    "dit_lab.objectives.rectified_flow.RectifiedFlow": ("heun", "euler"),
    "dit_lab.objectives.flow_matching.FlowMatching": ("heun", "euler"),
}
"""Objective -> names in conf/sampler that fit it, its natural sampler first."""


def samplers_for(objective: str, load: Callable[[str], Any]) -> tuple[str, ...]:
    """Names of the samplers that fit an objective's `_target_`, the natural one first.

    An objective of the user's own says so in a class attribute `samplers`. Without one, what fits
    the lab's objective that it extends fits, and else the samplers that only need an interpolant.
    """
    if objective in SAMPLERS:
        return SAMPLERS[objective]
    own = load(objective)
    parents = inspect.getmro(own) if inspect.isclass(own) else ()
    names = (f"{parent.__module__}.{parent.__qualname__}" for parent in parents)
    inherited = next((SAMPLERS[name] for name in names if name in SAMPLERS), ("euler", "heun"))
    stated = getattr(own, "samplers", inherited)
    if isinstance(stated, str) or not stated:
        raise RequestError(
            f"objective._target_={objective}: samplers = {stated!r}; expected the names of those "
            'that fit, the natural one first, such as ("euler", "heun")'
        )
    return tuple(stated)
