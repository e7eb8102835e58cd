"""Power-function averages of the parameters: profiles and their linear combination (EDM2).

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3
and appendix C. After t updates, the parameters of update tau have a weight proportional to
tau ** gamma. The *profile* of an average is this density on [0, t],
p(tau) = (gamma + 1) tau ** gamma / t ** (gamma + 1). Its width `std` is the standard deviation of
tau / t, so that one width is the same fraction of any training. An average of another width is a
linear combination of stored averages, as accurate as its profile is the same combination of theirs.

Updates are counted from 1, in optimizer steps that were not skipped. Torch-free; NumPy is imported
only when needed, because the checks of every command import this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WIDEST = 1 / math.sqrt(12)
"""Width of gamma = 0, the plain mean of all parameters; widths are below it."""

ROUNDING = 1e-14  # of a sum of squares near 1: some dozens of float64 epsilons


def is_width(std: float) -> bool:
    """Return whether an average of this width exists."""
    return 0 < std < WIDEST


def name_of(std: float) -> str:
    """Return the name of an average in files and model cards, `power-0.1`."""
    return f"power-{std}"


def gamma_of(std: float) -> float:
    """Return the exponent gamma of a width (appendix C.1).

    It is the positive root of gamma^3 + 7 gamma^2 + (16 - std^-2) gamma + (12 - std^-2), which
    follows from std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
    """
    import numpy as np

    assert is_width(std), std
    inverse = std**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


@dataclass(frozen=True, slots=True)
class Profile:
    """Weight of every update in an average."""

    updates: float  # t, number of updates so far; above 0
    gamma: float


def inner_products(left: Sequence[Profile], right: Sequence[Profile]) -> NDArray[np.float64]:
    """Return the integrals of p_i p_j over tau (appendix C.3), (len(left), len(right)).

    With t_i <= t_j: (gamma_i + 1) (gamma_j + 1) (t_i / t_j) ** gamma_j
    / ((gamma_i + gamma_j + 1) t_j).
    """
    import numpy as np

    t, gamma = _columns(left)
    u, delta = (column.T for column in _columns(right))
    ratio = np.minimum(t, u) / np.maximum(t, u)
    shape = (gamma + 1) * (delta + 1) / (gamma + delta + 1)
    return shape * ratio ** np.where(t <= u, delta, gamma) / np.maximum(t, u)


def _columns(profiles: Sequence[Profile]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the columns t and gamma, (n, 1) each."""
    import numpy as np

    found = np.array([(profile.updates, profile.gamma) for profile in profiles], dtype=np.float64)
    return found[:, :1], found[:, 1:]


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile as a linear combination of others."""

    coefficients: list[float]  # one for each profile
    relative_error: float  # |sum - wanted| / |wanted|, of functions of tau


def fit(wanted: Profile, kept: Sequence[Profile]) -> Fit:
    """Return the linear combination of stored profiles closest to the wanted one, by least squares.

    Solves A x = b for their inner products (appendix C.3), with every profile at length 1, under
    the constraint that the coefficients sum to 1. The paper, which has many snapshots, does not
    need the constraint. With few, parameters that hardly change would shrink by the fit error.
    """
    import numpy as np

    gram, products = inner_products(kept, kept), inner_products(kept, [wanted])[:, 0]
    length = math.sqrt(inner_products([wanted], [wanted])[0, 0])
    lengths = np.sqrt(np.diag(gram))
    gram, products, share = gram / np.outer(lengths, lengths), products / lengths, 1 / lengths
    most = share.max()
    with_multiplier = np.block([[gram, share[:, None] / most], [share / most, np.zeros(1)]])
    wanted_of_it = np.append(products / length, 1 / (length * most))
    found = np.linalg.lstsq(with_multiplier, wanted_of_it, rcond=None)[0][:-1]
    # |sum - wanted|^2 / length^2, a difference of numbers near 1
    rest = 1 - 2 * found @ products / length + found @ gram @ found
    return Fit(
        coefficients=(found * length * share).tolist(),
        relative_error=math.sqrt(rest) if rest > ROUNDING else 0.0,
    )
