"""Time grids of the ODE and SDE samplers. Torch-free, to check the configuration.

A rule spreads the steps over [0, 1]; the grid scales them to the flow times that a sampler covers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted

RULES = ("uniform", "quadratic", "shifted", "given")


class TimeGrid:
    """Grid of `steps` steps in flow time.

    Args:
        steps: number of steps, at least 1.
        time_grid: the rule. "uniform": equal steps in t. "quadratic": 1 - t falls quadratically,
            with more steps near the data (Song et al. 2020, DDIM, appendix D.2). "shifted": equal
            steps, moved by `time_shift`. "given": exactly `times`.
        time_shift: above 1, moves the steps towards noise (Esser et al. 2024, eq. 23).
        times: `steps` + 1 ascending flow times, for "given".

    Raises:
        RequestError: an option is invalid or conflicts with another.
    """

    def __init__(
        self,
        *,
        steps: int,
        time_grid: str = "uniform",
        time_shift: float = 1.0,
        times: Sequence[float] | None = None,
    ) -> None:
        if steps < 1:
            raise RequestError(f"steps: {steps} is not at least 1")
        check_grid(steps=steps, time_grid=time_grid, time_shift=time_shift, times=times)
        self.steps = steps
        self._rule: Callable[[float], float] | None = {
            "uniform": lambda u: u,
            "quadratic": lambda u: 1 - (1 - u) ** 2,
            "shifted": lambda u: u / (u + time_shift * (1 - u)),
        }.get(time_grid)
        self._times = times

    def over(self, low: float, high: float) -> list[float]:
        """Return the steps + 1 ascending times from `low` to `high`; given times are clamped."""
        if self._times is not None:
            return [min(max(t, low), high) for t in self._times]
        assert self._rule is not None
        inner = (low + (high - low) * self._rule(k / self.steps) for k in range(1, self.steps))
        return [low, *inner, high]


def check_grid(
    *,
    steps: int,
    time_grid: str,
    time_shift: float,
    times: Sequence[float] | None,
    rules: Sequence[str] = RULES,
    after: int = 0,
) -> None:
    """Raise RequestError if options of a time grid are invalid or conflict; see `TimeGrid`.

    `rules` are the names that `time_grid` can have. `after` is 1 if the last step starts at the
    last of `times`, and 0 if it ends there.
    """
    if time_grid not in rules:
        raise RequestError(f"time_grid: unknown {time_grid!r}; use {', '.join(rules)}")
    if time_shift <= 0 or (time_shift != 1 and time_grid != "shifted"):
        raise RequestError(
            f"time_shift={time_shift:g}: expected a number above 0, and time_grid=shifted"
        )
    if (times is None) == (time_grid == "given"):
        raise RequestError(
            f"time_grid={time_grid}: give times with time_grid=given, and only with that"
        )
    if times is None:
        return
    if len(times) != steps + 1 - after:
        raise RequestError(
            f"steps={steps}: needs {counted(steps + 1 - after, 'time')}, times has {len(times)}; "
            "give as many, or change steps"
        )
    rising = all(a < b for a, b in pairwise(times))
    if not rising or not times[0] >= 0 or not times[-1] <= 1:
        raise RequestError(
            f"times={list(times)}: expected flow times that rise from 0 (noise) to 1 (data)"
        )


def noisy_steps(steps: int, last_step: str) -> int:
    """Return how many of the `steps` evaluations of an SDE solver are followed by noise."""
    if last_step == "none":
        return steps
    if steps < 2:
        raise RequestError(f"steps={steps}: the last step draws no noise; use 2 or more")
    return steps - 1
