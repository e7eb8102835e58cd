"""Sampling with fewer model evaluations than steps.

The prediction of the data changes slowly over a trajectory. Between evaluations, it is extrapolated
linearly from the last two evaluations, and the noise is computed from it and the current x, so that
noise that the sampler has added is accounted for at every step. Feature caching (Ma et al. 2024,
"DeepCache"; Selvaraju et al. 2024, "FORA"; Liu et al. 2025, "TaylorSeer") stores the activations of
layers of one architecture; this stores predictions and works with any model.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from torch import Tensor

from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import Predict, Prediction


def evaluate_every(interval: int, predict: Predict, interpolant: Interpolant) -> Predict:
    """Return a `predict` that evaluates the model at the first two and every `interval`-th call.

    Calls are counted from the last evaluation; the others extrapolate. All must belong to the same
    images, at ascending flow times. The extrapolation starts anew where guidance begins or ends.
    The variance is that of the last evaluation.
    """
    if interval == 1:
        return predict
    known: list[tuple[float, Prediction]] = []  # the last two evaluations: (t, prediction)
    calls_since = 0

    def ask(x: Tensor, t: float, to: float | None = None) -> Prediction:
        nonlocal calls_since
        calls_since += 1
        if len(known) == 2 and calls_since < interval:
            return _extrapolate(known, x, t, interpolant)
        answer = predict(x, t)
        if known and known[-1][1].guided != answer.guided:
            known.clear()
        known[:] = [*known[-1:], (t, answer)]
        calls_since = 0
        return answer

    return ask


def _extrapolate(
    known: list[tuple[float, Prediction]], x: Tensor, t: float, interpolant: Interpolant
) -> Prediction:
    """Extrapolate the data linearly from two evaluations to t; the noise follows from x."""
    (before, first), (last, second) = known
    share = (t - last) / (last - before)
    data = second.data + share * (second.data - first.data)
    data, noise = interpolant.ends("data", data, x, t)
    return Prediction(data, noise, second.variance_fraction, second.guided)
