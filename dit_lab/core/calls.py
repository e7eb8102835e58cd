"""The call contract of models: what a loss or a sampler may ask of a model. Torch-free.

A model of one time is called as `model(x, time, labels)` and returns a tensor. Richer models also
take what `Asked` lists; an objective says in its `needs` what its model must have.

Shapes: N images, C channels, K output channels (C, or 2C with learn_sigma), H x W pixels or latent
cells, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypedDict, Unpack, cast

if TYPE_CHECKING:
    from torch import Tensor

HEADS = "heads."
"""Prefix of the names of the parameters of heads."""

VELOCITY = "velocity"
"""Name of the head that predicts the velocity."""

EARLY = "early"
"""Name of the head of internal guidance."""

GUIDANCE = "guidance"
"""Name of the scalar input of a model that was trained with guidance inside."""


class Output(NamedTuple):
    """The result of a model that was asked for more than its main output."""

    main: Tensor  # (N, K, H, W); (0,) with main=False
    heads: dict[str, Tensor]  # by name, images (N, K, H, W) or tokens (N, T, Z)
    hidden: dict[int, Tensor]  # by the number of the block from 1, tokens (N, T, D) after it


class Route(NamedTuple):
    """Blocks that compute only a part of the tokens."""

    first: int  # from 1
    last: int
    kept: Tensor  # (N, K) int64, ascending: the tokens that they compute


class Asked(TypedDict, total=False):
    """What a model may be asked for besides (x, time, labels)."""

    to: Tensor  # (N,), the second time, in the unit of `time`
    conditions: Mapping[str, Tensor]  # further scalar inputs by name, each (N,)
    heads: Sequence[str]  # heads whose output is wanted
    hidden: Sequence[int]  # blocks whose tokens are wanted, from 1
    main: bool  # False: only heads or hidden tokens, without the blocks after the last one needed
    route: Route  # blocks that compute only a part of the tokens


class Uniform(Protocol):
    """Gives the numbers from U[0, 1) of a stream, by its name, as functions of seed and image."""

    def __call__(self, stream: str, /, *shape: int) -> Tensor:
        """Return float64 numbers (N, *shape) on the CPU."""


class LabelledCall(Protocol):
    """A model as a function: (x (N, C, H, W), time (N,), labels (N,)) -> (N, K, H, W).

    It returns an `Output` if it is asked for heads or hidden tokens.
    """

    def __call__(
        self, x: Tensor, time: Tensor, labels: Tensor, /, **asked: Unpack[Asked]
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class HeadNeed:
    """A further output of a model, computed from the tokens of an inner block.

    A head of images has `blocks` blocks of its own and a final layer, as the main output has. A
    head of tokens has linear layers of these `widths` with SiLU between them, or one convolution.
    """

    name: str
    after: int  # the block whose tokens it takes, from 1; 0 and below count back from the last one
    blocks: int = 0
    widths: tuple[int, ...] = ()  # () for an image
    kernel: int = 1  # above 1: one convolution over the grid of tokens, with this side
    sampled: bool = False  # whether sampling uses it too

    def begins(self, depth: int) -> int:
        """Return the block whose tokens it takes, from 1; 0: the embedded patches."""
        return self.after if self.after > 0 else depth + self.after


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """What an objective or a method needs of its model besides (x, time, labels).

    Those that are not at their default are passed to the constructor of the model.
    """

    second_time: bool = False
    conditions: tuple[str, ...] = ()  # names of further scalar inputs
    heads: tuple[HeadNeed, ...] = ()
    fusion: tuple[int, int] | None = None  # first and last block of a route of SPRINT

    def with_those(self, other: ModelNeeds) -> ModelNeeds:
        """Return both needs together."""
        return ModelNeeds(
            second_time=self.second_time or other.second_time,
            conditions=(*self.conditions, *other.conditions),
            heads=(*self.heads, *other.heads),
            fusion=self.fusion or other.fusion,
        )

    def in_sampling(self) -> ModelNeeds:
        """Return the needs of sampling: without the heads that only training uses."""
        return replace(self, heads=tuple(head for head in self.heads if head.sampled))

    def arguments(self) -> dict[str, Any]:
        """Return the needs as arguments of the model's constructor."""
        plain = type(self)()
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != getattr(plain, field.name)
        }


def needs_of(objective: Any) -> ModelNeeds:
    """Return the needs of an objective or of its options; those without `needs` have none."""
    needs: ModelNeeds = getattr(objective, "needs", ModelNeeds())
    return needs


@dataclass(frozen=True, slots=True)
class LossPasses:
    """Evaluations of the model per training image, besides the one with a backward pass."""

    plain: float = 0.0  # without gradient
    derivatives: float = 0.0  # along a trajectory, each at the cost of two evaluations


@dataclass(frozen=True, slots=True)
class Routed:
    """Blocks that compute only a part of the tokens in training."""

    blocks: int = 0
    left_out: float = 0.0  # share of the tokens
    steps: float = 1.0  # share of the training steps


class Progress(NamedTuple):
    """Position of a training: finished steps and the number of steps of the whole."""

    step: int = 0
    total_steps: int = 1

    @property
    def share(self) -> float:
        """Finished share of the training, in [0, 1]."""
        return self.step / self.total_steps


class Evaluated(NamedTuple):
    """The evaluation of a loss with gradients: what the model was given, and its output."""

    x: Tensor  # (N, C, H, W)
    time: Tensor  # (N,), in the unit of the model
    output: Output  # with what they asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCall:
    """The model as a loss calls it: `predict(x, time)`, with the labels of the batch.

    Within `torch.no_grad()` it computes outside of the processes' gradient exchange, with the same
    arithmetic, and lets forward-mode derivatives pass.
    """

    model: LabelledCall
    labels: Tensor  # (N,), after label dropout
    progress: Progress
    null_label: int | None = None  # None: training drops no labels
    averaged: LabelledCall | None = None  # the first average of the weights

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        *,
        to: Tensor | None = None,
        labels: Tensor | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        weights: Literal["current", "average"] = "current",
    ) -> Tensor:
        """Return the raw output (N, K, H, W).

        Args:
            x: noisy images or latents (N, C, H, W).
            time: (N,), in the unit of `Objective.model_time`.
            to: the second time (N,), in the same unit; for models with `ModelNeeds.second_time`.
            labels: labels (N,) in place of the batch's, for a part of it or for `null_label`.
            conditions: further scalar inputs by name, each (N,).
            weights: "average" for the first average of the weights, without gradients.
        """
        return self._ask(x, time, labels, weights, **_given(to=to, conditions=conditions))

    def output(
        self,
        x: Tensor,
        time: Tensor,
        *,
        to: Tensor | None = None,
        labels: Tensor | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        weights: Literal["current", "average"] = "current",
        heads: Sequence[str] | None = None,
        hidden: Sequence[int] | None = None,
        main: bool = True,
    ) -> Output:
        """Return the raw output with heads, by name, and the tokens after blocks, by number.

        With `main=False` only those, and the blocks after the last one needed are not computed.
        """
        without = None if main else False
        asked = _given(to=to, conditions=conditions, heads=heads, hidden=hidden, main=without)
        answer: Any = self._ask(x, time, labels, weights, **asked)
        return answer if isinstance(answer, Output) else Output(answer, {}, {})

    def _ask(
        self,
        x: Tensor,
        time: Tensor,
        labels: Tensor | None,
        weights: str,
        **asked: Unpack[Asked],
    ) -> Tensor:
        model = self.model
        if weights == "average":
            assert self.averaged is not None, "the objective did not say averaged_weights"
            model = self.averaged
        return model(x, time, self.labels if labels is None else labels, **asked)


def _given(**asked: Any) -> Asked:
    """Return what is asked for, without what is not: one-time models do not take it."""
    return cast(Asked, {name: value for name, value in asked.items() if value is not None})


# ---- sampling -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prediction:
    """Clean data and noise as predicted from a batch of noisy images."""

    data: Tensor  # (N, C, H, W)
    noise: Tensor  # (N, C, H, W)
    # reverse variance, from 0 (posterior's) to 1 (beta), on a log scale; (N, C, H, W) if learned
    variance_fraction: Tensor | float = 0.0
    guided: bool = False  # whether classifier-free guidance or autoguidance was applied


class Predict(Protocol):
    """The argument of samplers: (x_t (N, C, H, W), flow time t of the batch) -> Prediction.

    With `to`, a later flow time, a model of two times predicts the straight line that joins x_t
    with the point at `to` of the same trajectory; other models ignore it.
    """

    def __call__(self, x: Tensor, t: float, /, to: float | None = None) -> Prediction: ...
