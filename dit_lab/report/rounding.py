"""Numbers as text, with the digits that their uncertainty leaves."""

from __future__ import annotations

import math

MOST_DECIMALS = 8
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SMALLEST_P = 0.0001


def rounded(value: float, uncertainty: float | None) -> str:
    """Return the value to two significant digits of its uncertainty, or to four without one."""
    if not math.isfinite(value):
        return str(value)
    if not uncertainty or not math.isfinite(uncertainty):
        return f"{value:.4g}"
    decimals = _decimals(uncertainty)
    return f"{value:.3e}" if decimals > MOST_DECIMALS else f"{value:z.{decimals}f}"


def _decimals(uncertainty: float) -> int:
    return max(0, 1 - math.floor(math.log10(uncertainty)))


def plus_minus(value: float, uncertainty: float | None) -> str:
    """Return the value with its uncertainty: `0.583 ± 0.012`."""
    if uncertainty is None:
        return rounded(value, None)
    return f"{rounded(value, uncertainty)} ± {rounded(uncertainty, uncertainty)}"


def between(value: float, low: float, high: float) -> str:
    """Return the value with its interval: `-0.05 [-0.06, -0.04]`."""
    reach = (high - low) / 2
    return f"{rounded(value, reach)} [{rounded(low, reach)}, {rounded(high, reach)}]"


def p_value(p: float) -> str:
    if p < SMALLEST_P:
        return f"below {SMALLEST_P}"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


def quantity(value: float) -> str:
    """Return a count or an amount: `512`, `2.01 M`, `1.20e+15`."""
    if value >= 1e15:
        return f"{value:.2e}"
    for size, prefix in PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.4g}"
