"""Compatibility of samplers and objectives, for validation, `sampler=auto` and the docs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from dit_lab.config.components import is_registered, load_component
from dit_lab.config.schema import RunConfig
from dit_lab.core.calls import ModelNeeds, needs_of
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, target_of
from dit_lab.core.types import Shapes

ANY_PATH = (
    "euler", "midpoint", "heun", "rk4", "dopri5", "euler_maruyama", "ddim", "dpm_solver", "unipc",
)  # fmt: skip
"""Names in conf/sampler of the samplers that only need an interpolant."""


def _first(name: str) -> tuple[str, ...]:
    return (name, *(other for other in ANY_PATH if other != name))


SAMPLERS = {
    "dit_lab.objectives.ddpm.DDPM": _first("ddpm"),
    "dit_lab.objectives.rectified_flow.RectifiedFlow": _first("heun"),
    "dit_lab.objectives.flow_matching.FlowMatching": _first("heun"),
    "dit_lab.objectives.mean_flow.MeanFlow": ("jump", *ANY_PATH),
    "dit_lab.objectives.improved_mean_flow.ImprovedMeanFlow": ("jump", *ANY_PATH),
    "dit_lab.objectives.shortcut.Shortcut": ("jump", *ANY_PATH),
    "dit_lab.objectives.consistency.Consistency": ("jump",),
}
"""Objective -> names in conf/sampler of the compatible samplers, the default first."""


def needs_of_objective(objective: Component) -> ModelNeeds:
    """Return what an objective needs of its model, by its options or its user-defined class."""
    return needs_of(_stating("objective", objective))


def active_methods(config: RunConfig) -> dict[str, Component]:
    """Return the training methods that are on, by name: those of a strength above zero."""
    return {
        name: options
        for name, options in config.method.items()
        if not getattr(options, "is_off", False)
    }


def needs_of_config(config: RunConfig) -> ModelNeeds:
    """Return what the objective and the training methods need of the model."""
    needs = needs_of_objective(config.objective)
    for name, options in active_methods(config).items():
        if is_registered("method", target_of(options)):
            needs = with_methods(needs, [options], config.model)
        else:
            needs = needs.with_those(needs_of(_stating(f"method.{name}", options)))
    return needs


def with_methods(needs: ModelNeeds, methods: Iterable[Component], model: Component) -> ModelNeeds:
    """Return needs together with those of the package's methods for a model."""
    width, depth = getattr(model, "hidden_size", 0), getattr(model, "depth", 0)
    for options in methods:
        needs = needs.with_those(options.needs_of(width=width, depth=depth))
    return needs


def model_size(config: RunConfig, shapes: Shapes) -> dict[str, int]:
    """Return width, depth and number of tokens of the model, as far as its options say them."""
    known = {"width": "hidden_size", "depth": "depth"}
    size = {
        name: getattr(config.model, key)
        for name, key in known.items()
        if hasattr(config.model, key)
    }
    if patch := getattr(config.model, "patch_size", None):
        _, height, width = shapes.latent
        size["tokens"] = (height // patch) * (width // patch)
    return size


def depends_on_end(path: str, component: Component) -> bool:
    """Return whether the loss of a step depends on the number of steps.

    `path` is the key of an objective or a training method.
    """
    return bool(getattr(_stating(path, component), "depends_on_end", False))


def _stating(path: str, component: Component) -> Any:
    """Return what has the attributes of a component: its options, or its user-defined class."""
    target = target_of(component)
    if is_registered(path.partition(".")[0], target):
        return component
    return load_component(target, key=f"{path}._target_")


def draws_noise(sampler: Component) -> bool:
    """Return whether a sampler of this package is stochastic with these options."""
    name = target_of(sampler).rpartition(".")[2]
    return (
        name in ("DDPMSampler", "EulerMaruyama")
        or getattr(sampler, "eta", 0.0) > 0
        or getattr(sampler, "solver", None) == "sde"
        or getattr(sampler, "renew_noise", False)
    )


def samplers_for(objective: str, load: Callable[[str], Any]) -> tuple[str, ...]:
    """Return the names of the samplers that fit an objective's `_target_`, the default first.

    A user-defined objective lists them in a class attribute `samplers`. Without it, they are those
    of the package's objective that the class extends, or else all samplers that only need an
    interpolant.
    """
    if objective in SAMPLERS:
        return SAMPLERS[objective]
    own = load(objective)
    parents = inspect.getmro(own) if inspect.isclass(own) else ()
    names = (f"{parent.__module__}.{parent.__qualname__}" for parent in parents)
    inherited = next((SAMPLERS[name] for name in names if name in SAMPLERS), ANY_PATH)
    stated = getattr(own, "samplers", inherited)
    if isinstance(stated, str) or not stated:
        raise RequestError(
            f"objective._target_={objective}: samplers = {stated!r}; expected the names of those "
            'that fit, the natural one first, such as ("euler", "heun")'
        )
    return tuple(stated)


def samplers_of(objective: Component) -> tuple[str, ...]:
    """Return the names of the samplers that fit an objective, the default first."""
    return samplers_for(
        target_of(objective),
        lambda name: load_component(name, key="objective._target_"),
    )
