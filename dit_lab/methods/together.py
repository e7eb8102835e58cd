"""The loss of an objective together with those of training methods.

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from dit_lab.core.calls import Asked, Evaluated, ModelCall, Output, Progress, Uniform
from dit_lab.core.interpolants import Interpolant
from dit_lab.core.method import Method
from dit_lab.core.types import Batch, Objective, Prediction


class WithMethods(Objective):
    """The objective of training, with methods.

    What the methods ask of the model is asked in the one evaluation with gradients of the
    objective's loss, so that a method costs no further evaluation unless it makes one itself.
    """

    def __init__(self, objective: Objective, methods: Mapping[str, Method]) -> None:
        """Combine an objective with methods by name."""
        self.objective, self.methods = objective, methods
        self.learn_sigma = objective.learn_sigma
        self.averaged_weights = _any("averaged_weights", objective, *methods.values())
        self.takes_images = _any("takes_images", *methods.values())

    @property
    def interpolant(self) -> Interpolant:
        return self.objective.interpolant

    def time_from_uniform(self, uniform: Tensor) -> Tensor:
        return self.objective.time_from_uniform(uniform)

    def model_time(self, t: float) -> float:
        return self.objective.model_time(t)

    def prediction(self, output: Tensor, x: Tensor, t: float) -> Prediction:
        return self.objective.prediction(output, x, t)

    def draws(self, uniform: Uniform) -> Mapping[str, Tensor]:
        """Return the draws of the objective, and those of each method as `METHOD/NAME`."""
        found = dict(getattr(self.objective, "draws", _no_draws)(uniform))
        for name, method in self.methods.items():
            own = getattr(method, "draws", _no_draws)(_Prefixed(uniform, name))
            found |= {f"{name}/{key}": value for key, value in own.items()}
        return found

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the objective, and those of each method as `METHOD/NAME`.

        Returns:
            Terms (N,) float32. "loss", the sum of all losses, is minimised; "objective" is that of
            the objective alone.
        """
        batches = {name: _own(batch, name) for name in self.methods}
        asked = self._asked(batches, predict.progress)
        watched = _Watched(predict.model, asked)
        terms = self.objective.loss(replace(predict, model=watched), batch)
        assert watched.seen is not None, "the objective evaluated the model without gradients only"
        total, logged = terms["loss"], {**terms, "objective": terms["loss"]}
        for name, method in self.methods.items():
            found = method.terms(watched.seen, predict, batches[name], self.objective)
            total = total + found["loss"]
            logged |= {f"{name}/{key}": value for key, value in found.items()}
        return {**logged, "loss": total}

    def _asked(self, batches: Mapping[str, Batch], progress: Progress) -> Asked:
        joined: Asked = {}
        for name, method in self.methods.items():
            joined = _joined(joined, method.asks(batches[name], progress))
        return joined


class _Watched:
    """A model that is asked for more in its first evaluation with gradients, which is kept."""

    def __init__(self, model: Any, asked: Asked) -> None:
        self._model, self._asked = model, asked
        self.seen: Evaluated | None = None

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor, /, **given: Unpack[Asked]) -> Any:
        if self.seen is not None or not torch.is_grad_enabled():
            return self._model(x, time, labels, **given)
        output = self._model(x, time, labels, **_joined(given, self._asked))
        whole = output if isinstance(output, Output) else Output(output, {}, {})
        self.seen = Evaluated(x, time, whole)
        return whole if "heads" in given or "hidden" in given else whole.main


class _Prefixed:
    """Streams of a method, under its name."""

    def __init__(self, uniform: Uniform, name: str) -> None:
        self._uniform, self._name = uniform, name

    def __call__(self, stream: str, /, *shape: int) -> Tensor:
        return self._uniform(f"{self._name}/{stream}", *shape)


def _joined(one: Asked, other: Asked) -> Asked:
    """Return what both ask for; lists are joined."""
    both: dict[str, Any] = {**one, **other}
    for key in ("heads", "hidden"):
        if key in one and key in other:
            both[key] = [*one[key], *(more for more in other[key] if more not in one[key])]
    return cast(Asked, both)


def _own(batch: Batch, name: str) -> Batch:
    """Return the batch with the draws of a method alone, by their own names."""
    prefix = f"{name}/"
    own = {
        key.removeprefix(prefix): value
        for key, value in batch.draws.items()
        if key.startswith(prefix)
    }
    return replace(batch, draws=own)


def _any(attribute: str, *parts: Any) -> bool:
    return any(getattr(part, attribute, False) for part in parts)


def _no_draws(uniform: Uniform) -> Mapping[str, Tensor]:
    return {}
