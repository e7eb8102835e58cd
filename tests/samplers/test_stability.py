"""Euler-Maruyama is stable at any noise rate, and no sampler diverges from the path.

For Gaussian data N(0, STD^2) ideal predictions are linear in x, so a sampler is a linear
combination of its noises. Every image below is one of these noises alone: the norm over all images
is the exact standard deviation of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion, linear_betas, make_betas
from dit_lab.core.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from dit_lab.core.types import Predict, Prediction
from dit_lab.evaluation.metrics.likelihood import log_density
from dit_lab.samplers.adaptive import Dopri5
from dit_lab.samplers.ancestral import DDIMSampler
from dit_lab.samplers.multistep import DPMSolver, UniPC
from dit_lab.samplers.ode import RK4, Euler, Heun, Midpoint
from dit_lab.samplers.sde import DIFFUSIONS, LAST_STEPS, EulerMaruyama
from tests.mixture import shares

PATHS: dict[str, Interpolant] = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "vp": VariancePreserving(),
    "flow matching": Linear(0.1),
    "edges": Linear(t_min=1e-3, t_max=1 - 1e-3),
    "chain": DiscreteDiffusion(linear_betas()),
    "zero SNR": DiscreteDiffusion(make_betas("linear", 1000, zero_terminal_snr=True)),
}
IN_NOISE_ALONE = ("linear", "trigonometric", "flow matching", "zero SNR")


def predictor(path: Interpolant, std: float, log: list[tuple[float, float]]) -> Predict:
    """Ideal predictions; `log` records each time with the deviation of x relative to the path's."""

    def predict(x: Tensor, t: float) -> Prediction:
        alpha, sigma = shares(path, t)
        variance = (alpha * std) ** 2 + sigma**2
        log.append((t, x.norm().item() / math.sqrt(variance)))
        return Prediction(data=alpha * std**2 / variance * x, noise=sigma / variance * x)

    return predict


def deviations(
    path: Interpolant, std: float, steps: int, **options: Any
) -> tuple[list[float], float]:
    """Return the deviations of x at each evaluation, relative to the path's, and of the samples."""

    def only(place: int) -> Tensor:
        return torch.eye(steps + 1, dtype=torch.float64)[place].reshape(-1, 1, 1, 1)

    log: list[tuple[float, float]] = []
    out = EulerMaruyama(steps=steps, **options).sample(
        predictor(path, std, log),
        only(0),
        interpolant=path,
        draw_noise=lambda step: only(step + 1),
    )
    return [deviation for _, deviation in log], out.norm().item()


@pytest.mark.parametrize(("steps", "within"), [(10, 0.08), (50, 0.02), (250, 0.02)])
@pytest.mark.parametrize("path", PATHS)
def test_sbdm_has_the_deviation_of_the_data(path: str, steps: int, within: float) -> None:
    """At the end within what few steps and the last one cost. On the way within the square root of
    two, which Euler-Maruyama has where a step takes all of the noise, and not hundreds of times."""
    on_the_way, at_the_end = deviations(PATHS[path], 1.0, steps, diffusion="sbdm")
    assert at_the_end == pytest.approx(1, abs=within)
    assert all(0.9 < deviation < math.sqrt(2) + 0.01 for deviation in on_the_way)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
@pytest.mark.parametrize("norm", [1, 10, 1000])
def test_no_rate_grows_from_step_to_step(path: str, diffusion: str, norm: float) -> None:
    """Few steps at a large rate are not exact, but as large as the data is."""
    for steps in (5, 50):
        on_the_way, at_the_end = deviations(
            PATHS[path], 1.0, steps, diffusion=diffusion, diffusion_norm=norm
        )
        assert all(0.6 < deviation < 1.5 for deviation in [*on_the_way, at_the_end])


@pytest.mark.parametrize("last_step", LAST_STEPS)
@pytest.mark.parametrize("path", ["linear", "flow matching"])
def test_of_noise_alone_any_rate_has_the_paths_own(path: str, last_step: str) -> None:
    """Data that is one point: at a rate above its limit every step is exact, and the last one
    leaves no more noise than it finds."""
    on_the_way, at_the_end = deviations(
        PATHS[path], 0.0, 10, diffusion="constant", diffusion_norm=1e6, last_step=last_step
    )
    assert on_the_way == pytest.approx([1.0] * len(on_the_way), abs=1e-12)
    assert at_the_end <= shares(PATHS[path], 0.96)[1] + 1e-12


@pytest.mark.parametrize("path", IN_NOISE_ALONE)
def test_sbdm_starts_where_the_path_does(path: str) -> None:
    """Where it has no bound, and asks the model where no noise is taken for data."""
    log: list[tuple[float, float]] = []
    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    EulerMaruyama(steps=4, diffusion="sbdm").sample(
        predictor(PATHS[path], 1.0, log),
        noise,
        interpolant=PATHS[path],
        draw_noise=lambda step: noise,
    )
    assert log[0][0] == PATHS[path].t_min == 0


@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_no_noise_is_none_at_any_rate(diffusion: str) -> None:
    """`diffusion_norm=0` is Euler's method, where w has no bound as well."""
    path, steps = PATHS["linear"], 6
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)

    def drawn(sampler: Any) -> Tensor:
        found: Tensor = sampler.sample(
            predictor(path, 0.5, []),
            noise,
            interpolant=path,
            draw_noise=lambda step: torch.full_like(noise, 9),
        )
        return found

    silent = EulerMaruyama(steps=steps, diffusion=diffusion, diffusion_norm=0, last_step="none")
    torch.testing.assert_close(drawn(silent), drawn(Euler(steps=steps)), rtol=0, atol=1e-14)


# ---- the path -----------------------------------------------------------------------------------

SAMPLERS: dict[str, Callable[[], Any]] = {
    "euler": lambda: Euler(steps=7),
    "midpoint": lambda: Midpoint(steps=7),
    "heun": lambda: Heun(steps=7),
    "rk4": lambda: RK4(steps=7),
    "ddim": lambda: DDIMSampler(steps=7),
    "dpm_solver": lambda: DPMSolver(steps=7),
    "unipc": lambda: UniPC(steps=7),
    "euler_maruyama": lambda: EulerMaruyama(steps=7, diffusion="sbdm"),
    "dopri5": lambda: Dopri5(rtol=1e-3, atol=1e-3),
}
SPEEDS = {"still": 0.0, "slow": 1e-3, "as data": 1.0, "fast": 1e3}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", SPEEDS)
def test_no_sampler_leaves_the_path(sampler: str, path: str, size: str) -> None:
    """However small or large a velocity is, by which solvers guess how far they may go."""
    interpolant = PATHS[path]
    asked: list[float] = []

    def predict(x: Tensor, t: float) -> Prediction:
        asked.append(t)
        return Prediction(data=torch.full_like(x, SPEEDS[size]), noise=SPEEDS[size] * x)

    out = SAMPLERS[sampler]().sample(
        predict,
        torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(-1, 1, 1, 1),
        interpolant=interpolant,
        draw_noise=lambda step: torch.zeros(8, 1, 1, 1, dtype=torch.float64),
    )
    assert interpolant.t_min <= min(asked) and max(asked) <= interpolant.t_max
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", ["still", "slow"])
def test_no_likelihood_leaves_the_path(path: str, size: str) -> None:
    """Which is integrated the other way."""
    interpolant = PATHS[path]
    asked: list[float] = []

    def predict(x: Tensor, t: float) -> Prediction:
        asked.append(t)
        return Prediction(data=SPEEDS[size] * x, noise=SPEEDS[size] * x)

    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(-1, 1, 1, 1)
    density = log_density(predict, x, interpolant, probe=None)
    assert interpolant.t_min <= min(asked) and max(asked) <= interpolant.t_max
    assert bool(density.isfinite().all())
