"""Construction of the training methods, and of the objective together with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dit_lab.build.parts import Parts
from dit_lab.config.compatibility import active_methods, model_size
from dit_lab.config.components import load_component
from dit_lab.core.method import Method
from dit_lab.core.options import accepted, arguments_of, target_of
from dit_lab.core.types import Objective
from dit_lab.methods.alignment import Teacher
from dit_lab.methods.together import WithMethods


def training_objective(parts: Parts, teacher: Callable[[str, int], Teacher]) -> Objective:
    """Return the objective of training: with the methods, if there are any.

    `teacher` makes an encoder by its name and the width of its features.
    """
    methods = build_methods(parts, teacher)
    return WithMethods(parts.objective, methods) if methods else parts.objective


def build_methods(parts: Parts, teacher: Callable[[str, int], Teacher]) -> dict[str, Method]:
    """Return the methods that are on, by name."""
    config, found = parts.config, {}
    for name, options in active_methods(config).items():
        kind = load_component(target_of(options), key=f"method.{name}._target_")
        given: dict[str, Any] = dict(model_size(config, parts.shapes))
        arguments = arguments_of(options)
        if "teacher" in arguments:
            width = options.feature_width
            given |= {"features": width, "teacher": teacher(arguments["teacher"], width)}
        found[name] = kind(**{**arguments, **accepted(kind, given)})
    return found
