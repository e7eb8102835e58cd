"""Asking the model less often than a sampler steps.

What a model says of the data changes slowly along the way. Between the steps at which it is asked,
its last two predictions of data go on along a straight line, and noise is what x then consists of
besides: fresh noise that the sampler has drawn is accounted for at every step. Feature caching
(Ma et al. 2024, "DeepCache"; Selvaraju et al. 2024, "FORA"; Liu et al. 2025, "TaylorSeer") keeps
what the layers of one architecture say; this keeps what any model says.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from torch import Tensor

from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import Predict, Prediction


def asked_every(interval: int, predict: Predict, interpolant: Interpolant) -> Predict:
    """`predict` that asks at its first two calls and at every `interval`-th from then on.

    Of calls at ascending flow times, for the images of one way from noise to data. Where guidance
    sets in or ends, the line begins anew; the variance is that of the last answer.
    """
    if interval == 1:
        return predict
    known: list[tuple[float, Prediction]] = []  # the last two answers, and when
    calls_since = 0

    def ask(x: Tensor, t: float) -> Prediction:
        nonlocal calls_since
        calls_since += 1
        if len(known) == 2 and calls_since < interval:
            return _on_the_line(known, x, t, interpolant)
        answer = predict(x, t)
        if known and known[-1][1].guided != answer.guided:
            known.clear()
        known[:] = [*known[-1:], (t, answer)]
        calls_since = 0
        return answer

    return ask


def _on_the_line(
    known: list[tuple[float, Prediction]], x: Tensor, t: float, interpolant: Interpolant
) -> Prediction:
    (before, first), (last, second) = known
    share = (t - last) / (last - before)
    data = second.data + share * (second.data - first.data)
    data, noise = interpolant.ends("data", data, x, t)
    return Prediction(data, noise, second.variance_fraction, second.guided)
