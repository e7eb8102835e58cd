"""Checks of the kind of guidance against its options and the trained model. Torch-free."""

from __future__ import annotations

from typing import Any

from dit_lab.config.compatibility import needs_of_config
from dit_lab.config.schema import Guidance, RunConfig
from dit_lab.core.calls import EARLY
from dit_lab.core.errors import RequestError

OF_KIND = {
    "parallel": ("apg", 0.0),
    "norm_threshold": ("apg", 0.0),
    "momentum": ("apg", 0.0),
    "zero_until": ("cfg_zero_star", None),
}
"""Option -> the kind of guidance that has it, and its default."""


def check_kind(guidance: Guidance, trained: RunConfig) -> None:
    """Check the kind of guidance. Raises RequestError."""
    for name, (kind, default) in OF_KIND.items():
        value: Any = getattr(guidance, name)
        if value != default and guidance.kind != kind:
            raise RequestError(
                f"guidance.{name}={value}: is an option of guidance.kind={kind}; "
                f"guidance.kind={guidance.kind} ignores it"
            )
    prediction = getattr(trained.objective, "prediction", "velocity")
    if guidance.zero_until is not None and prediction != "velocity":
        raise RequestError(
            f"guidance.zero_until={guidance.zero_until}: sets the velocity to 0, and the model "
            f"predicts {prediction}; leave it out"
        )
    if guidance.kind != "internal":
        return
    if all(head.name != EARLY for head in needs_of_config(trained).heads):
        raise RequestError(
            "guidance.kind=internal: needs an early output, which this model has not; train with "
            "method=[internal_guidance]"
        )
    if guidance.weak_run is not None:
        raise RequestError(
            f"guidance.weak_run={guidance.weak_run}: guidance.kind=internal moves away from the "
            "model's own early output; leave one of them out"
        )
