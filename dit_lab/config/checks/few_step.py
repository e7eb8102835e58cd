"""Checks of objectives that ask more of a model than one time. Torch-free."""

from __future__ import annotations

from dit_lab.config.compatibility import active_methods, needs_of_config, needs_of_objective
from dit_lab.config.components import is_registered, load_component
from dit_lab.config.contracts import takes
from dit_lab.config.schema import RunConfig
from dit_lab.core.calls import GUIDANCE
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, target_of


def check_needs(config: RunConfig) -> None:
    """Check model, precision and sharding against the needs of the objective.

    Raises:
        RequestError: The model lacks what the objective needs, or they cannot be combined.
    """
    objective, chosen = config.objective, config.choices
    needs, target = needs_of_config(config), target_of(config.model)
    own = not is_registered("model", target)
    kind = load_component(target, key="model._target_") if own and needs.arguments() else None
    lacking = [name for name in needs.arguments() if not takes(kind, name)] if kind else []
    if lacking:
        raise RequestError(
            f"model={chosen['model']}: takes no {' and no '.join(lacking)}, which "
            f"{_asking(config)} needs; use the lab's DiT, or add it to the constructor and to "
            "forward() (docs/extend.md)"
        )
    own_blocks = getattr(objective, "velocity_blocks", 0)
    if own_blocks > (depth := getattr(config.model, "depth", own_blocks)):
        raise RequestError(
            f"objective.velocity_blocks={own_blocks}: the model has {depth} blocks; give at most "
            "as many"
        )
    if getattr(objective, "derivative", "") == "jvp" and config.precision.mixed_precision == "fp8":
        raise RequestError(
            "objective.derivative=jvp: float8 products have no forward-mode derivative; use "
            "objective.derivative=difference, or precision=bf16"
        )


def _asking(config: RunConfig) -> str:
    """Return what needs something of the model: the objective, or else the methods."""
    if needs_of_objective(config.objective).arguments():
        return f"objective={config.choices['objective']}"
    return f"method=[{','.join(active_methods(config))}]"


def check_guidance(config: RunConfig, objective: Component, *, chosen: str) -> None:
    """Raise RequestError for guidance in sampling that contradicts guidance inside the model.

    Args:
        config: the configuration of sampling.
        objective: the objective of the trained model.
        chosen: its name.
    """
    guidance = config.guidance
    if getattr(objective, "guidance_omega", 1.0) != 1.0 and guidance.scale != 1.0:
        raise RequestError(
            f"guidance.scale={guidance.scale:g}: the model was trained with guidance in its target "
            f"(objective.guidance_omega={objective.guidance_omega:g}); use guidance.scale=1"
        )
    if GUIDANCE not in needs_of_objective(objective).conditions:
        return
    if guidance.scale < 1.0:
        raise RequestError(
            f"guidance.scale={guidance.scale:g}: objective={chosen} was trained with scales from "
            f"1 to {1 + objective.most_guidance:g}; give one of these"
        )
    outside = {"weak_run": None, "channels": "all", "rescale": 0.0, "kind": "cfg"}
    for name, value in outside.items():
        if (given := getattr(guidance, name)) != value:
            raise RequestError(
                f"guidance.{name}={given}: objective={chosen} takes the guidance as an input of "
                f"the model, by scale and interval alone; leave it out"
            )
