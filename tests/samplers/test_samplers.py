"""Samplers: their evaluation times, and closed forms of their results.

The closed form is for Gaussian data N(MEAN, STD^2): the ideal predictor is linear in x, and the
probability flow carries x at constant z-score from the noise end to the data end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion, linear_betas, make_betas
from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from dit_lab.core.types import Predict, Prediction
from dit_lab.samplers.ancestral import DDIMSampler, DDPMSampler
from dit_lab.samplers.multistep import DPMSolver, UniPC
from dit_lab.samplers.ode import RK4, Euler, FixedStep, Heun, Midpoint
from dit_lab.samplers.respacing import even, stride
from dit_lab.samplers.sde import EulerMaruyama

MEAN, STD = 0.3, 0.5
CHAIN = DiscreteDiffusion(linear_betas())
PATHS: list[Interpolant] = [
    Linear(),
    Linear(1e-2),
    Linear(t_min=1e-3, t_max=1 - 1e-3),
    Trigonometric(),
    VariancePreserving(),
    CHAIN,
    DiscreteDiffusion(make_betas("linear", 1000, zero_terminal_snr=True)),
]
COUNTED: list[tuple[Any, Interpolant, int]] = [
    *((Euler(steps=5), path, 5 + (path.final_sigma() > 0)) for path in PATHS),
    *((Midpoint(steps=5), path, 10 + (path.final_sigma() > 0)) for path in PATHS),
    *((Heun(steps=5), path, 10 + (path.final_sigma() > 0)) for path in PATHS),
    *((RK4(steps=5), path, 20 + (path.final_sigma() > 0)) for path in PATHS),
    *((DDIMSampler(steps=5), path, 5) for path in PATHS),
    *((DDIMSampler(steps=5, eta=1.0), path, 5) for path in PATHS),
    *((EulerMaruyama(steps=5), path, 5) for path in PATHS),
    *((EulerMaruyama(steps=5, last_step="none"), path, 5) for path in PATHS),
    *((DPMSolver(steps=5), path, 5) for path in PATHS),
    *((DPMSolver(steps=5, solver="sde"), path, 5) for path in PATHS),
    *((UniPC(steps=5), path, 5) for path in PATHS),
    (DDPMSampler(steps=6), CHAIN, 6),
]
"""Samplers, and how often each asks for a prediction."""


def draw(step: int, dtype: torch.dtype = torch.float64) -> Tensor:
    source = torch.Generator().manual_seed(100 + step)
    return torch.randn(16, 2, 2, 2, generator=source, dtype=torch.float64).to(dtype)


NOISE = draw(-1)


def no_draw(step: int) -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


def gaussian_predictor(
    path: Interpolant, fraction: float = 0.0, log: list[float] | None = None
) -> Predict:
    """The ideal prediction for Gaussian data; `log` collects the times that were asked for."""

    def predict(x: Tensor, t: float) -> Prediction:
        if log is not None:
            log.append(t)
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = path.alpha(time), path.sigma(time)
        surprise = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return Prediction(
            data=MEAN + alpha * STD**2 * surprise,
            noise=sigma * surprise,
            variance_fraction=fraction,
        )

    return predict


def gaussian_flow(path: Interpolant, x: Tensor) -> Tensor:
    """Where the exact flow takes x, with the noise-free prediction at its end."""
    shares = []
    for t in (path.t_min, path.t_max):
        time = torch.tensor(t, dtype=torch.float64)
        shares.append((path.alpha(time), path.sigma(time)))
    widths = [(alpha**2 * STD**2 + sigma**2).sqrt() for alpha, sigma in shares]
    score = (x - shares[0][0] * MEAN) / widths[0]
    end = shares[1][0] * MEAN + widths[1] * score
    if path.final_sigma() > 0:
        return gaussian_predictor(path)(end, path.t_max).data
    return end


# All samplers


@pytest.mark.parametrize(("sampler", "path", "evaluations"), COUNTED)
def test_counts_dtype_and_progress(sampler: Any, path: Interpolant, evaluations: int) -> None:
    """Predictions are counted; x stays float32 and finite; steps are reported in order."""
    asked: list[float] = []
    done: list[int] = []
    predict = gaussian_predictor(path, log=asked)

    def checked(x: Tensor, t: float) -> Prediction:
        assert x.dtype == torch.float32 and isinstance(t, float)
        assert path.t_min <= t <= path.t_max
        return predict(x, t)

    out = sampler.sample(
        checked,
        NOISE.float(),
        interpolant=path,
        draw_noise=lambda step: draw(step, torch.float32),
        on_step=done.append,
    )
    assert out.dtype == torch.float32 and out.shape == NOISE.shape and bool(out.isfinite().all())
    assert len(asked) == evaluations
    assert done == list(range(len(done))) and len(done) in (5, 6, 4)
    assert asked == sorted(asked)


def test_ddpm_needs_a_chain() -> None:
    with pytest.raises(RequestError, match="not on Linear; ddim with eta=1 does the same"):
        DDPMSampler(steps=10).sample(
            gaussian_predictor(Linear()), NOISE, interpolant=Linear(), draw_noise=draw
        )


def test_impossible_sampler_settings_are_refused() -> None:
    with pytest.raises(RequestError, match="steps: 0"):
        Euler(steps=0)
    with pytest.raises(RequestError, match=r"eta: 1\.5"):
        DDIMSampler(eta=1.5)


# ODE samplers


def ode_error(sampler: FixedStep, path: Interpolant) -> float:
    out = sampler.sample(gaussian_predictor(path), NOISE, interpolant=path, draw_noise=no_draw)
    return (out - gaussian_flow(path, NOISE)).abs().max().item()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("kind", "order"), [(Euler, 1), (Heun, 2)])
def test_order_of_convergence(kind: Callable[..., FixedStep], order: int, path: Any) -> None:
    """Twice the steps, 2^order times less error, within 15 % of the next order's term.

    On the chain the steps end on timesteps, where the slope of the log-SNR jumps.
    """
    steps = 80
    if isinstance(path, DiscreteDiffusion):
        path, steps = DiscreteDiffusion(linear_betas(200)), 199
    errors = [ode_error(kind(steps=n), path) for n in (steps, 2 * steps)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)
    assert errors[0] < (1e-3 if order == 2 else 0.05)


def test_ode_times_are_equal_steps_and_a_last_prediction() -> None:
    asked: list[float] = []
    Euler(steps=4).sample(
        gaussian_predictor(Linear(1e-2), log=asked),
        NOISE,
        interpolant=Linear(1e-2),
        draw_noise=no_draw,
    )
    assert asked == [0.0, 0.25, 0.5, 0.75, 1.0]
    asked.clear()
    Heun(steps=2).sample(
        gaussian_predictor(Linear(), log=asked), NOISE, interpolant=Linear(), draw_noise=no_draw
    )
    assert asked == [0.0, 0.5, 0.5, 1.0]


def test_one_euler_step_is_exact_on_straight_lines() -> None:
    """Data at one point: every path is a line, so a single step arrives."""

    def predict(x: Tensor, t: float) -> Prediction:
        data = torch.full_like(x, MEAN)
        return Prediction(data=data, noise=(x - t * data) / (1 - t))

    out = Euler(steps=1).sample(predict, NOISE, interpolant=Linear(), draw_noise=no_draw)
    torch.testing.assert_close(out, torch.full_like(out, MEAN), rtol=0, atol=1e-12)


# Ancestral samplers


def test_ancestral_samplers_visit_their_timesteps_from_noise_to_data() -> None:
    for sampler, timesteps in (
        (DDPMSampler(steps=8), even(1000, 8)),
        (DDIMSampler(steps=8, spacing="even"), even(1000, 8)),
        (DDIMSampler(steps=10), stride(1000, 10)),
    ):
        asked: list[float] = []
        sampler.sample(
            gaussian_predictor(CHAIN, log=asked), NOISE, interpolant=CHAIN, draw_noise=draw
        )
        model_times = torch.tensor([CHAIN.timestep(t) for t in asked], dtype=torch.float32)
        assert model_times.tolist() == timesteps[::-1]


def test_ddim_with_full_noise_is_ddpm_with_the_posterior_variance() -> None:
    """Song et al. 2020, section 4.1: the same step, given the same draws."""
    ddpm = DDPMSampler(steps=20).sample(
        gaussian_predictor(CHAIN), NOISE, interpolant=CHAIN, draw_noise=draw
    )
    ddim = DDIMSampler(steps=20, eta=1.0, spacing="even").sample(
        gaussian_predictor(CHAIN), NOISE, interpolant=CHAIN, draw_noise=draw
    )
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1e-9)


def test_ddim_noise_is_proportional_to_eta() -> None:
    """Song et al. 2020, eq. 16; seen as what one draw of ones adds to the next x."""
    added = []
    for eta in (0.5, 1.0):
        seen: list[Tensor] = []
        for size in (0.0, 1.0):

            def predict(x: Tensor, t: float, seen: list[Tensor] = seen) -> Prediction:
                seen.append(x)
                return Prediction(data=torch.zeros_like(x), noise=torch.zeros_like(x))

            DDIMSampler(steps=2, eta=eta, spacing="even").sample(
                predict,
                NOISE,
                interpolant=CHAIN,
                draw_noise=lambda step, size=size: torch.full_like(NOISE, size),
            )
        added.append((seen[3] - seen[1]).mean().item())
    short = CHAIN.respaced(even(1000, 2))
    assert added[1] ** 2 == pytest.approx(short.log_variance(0.0, NOISE, 1).exp().item())
    assert added[0] == pytest.approx(added[1] / 2)


def ddpm_moments(steps: int, fraction: float) -> tuple[float, float]:
    """Mean and variance of DDPM samples of Gaussian data, step by step through the linear maps."""
    timesteps = even(1000, steps)
    short = CHAIN.respaced(timesteps)
    mean, variance = 0.0, 1.0
    for place in reversed(range(steps)):
        points = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
        prediction = gaussian_predictor(CHAIN)(points, CHAIN.flow_time(timesteps[place]))
        low, high = short.posterior_mean(prediction.data, points, place).flatten().tolist()
        mean, variance = low + (high - low) * mean, (high - low) ** 2 * variance
        if place > 0:
            added = short.log_variance(torch.full_like(points, fraction), points, place)
            variance += added[0].exp().item()
    return mean, variance


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_ddpm_noise_has_the_learned_variance(fraction: float) -> None:
    """Moments of 40,000 numbers against the exact recursion, five standard errors allowed."""
    count, steps = 40_000, 10
    source = torch.Generator().manual_seed(0)

    def fresh(step: int) -> Tensor:
        return torch.randn(count, 1, 1, 1, generator=source, dtype=torch.float64)

    out = DDPMSampler(steps=steps).sample(
        gaussian_predictor(CHAIN, fraction), fresh(-1), interpolant=CHAIN, draw_noise=fresh
    )
    mean, variance = ddpm_moments(steps, fraction)
    assert abs(out.mean().item() - mean) < 5 * (variance / count) ** 0.5
    assert abs(out.var().item() - variance) < 5 * variance * (2 / count) ** 0.5


def test_ddim_follows_the_flow() -> None:
    """DDIM is a first-order solver of the same flow: three times the steps, a third of the error.

    334 timesteps are every third of 1000, ends included; 15 % for the next order's term.
    """
    errors = []
    for steps in (334, 1000):
        out = DDIMSampler(steps=steps, spacing="even").sample(
            gaussian_predictor(CHAIN), NOISE, interpolant=CHAIN, draw_noise=no_draw
        )
        errors.append((out - gaussian_flow(CHAIN, NOISE)).abs().max().item())
    assert errors[1] < 5e-3
    assert errors[0] / errors[1] == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("kind", [DDPMSampler, DDIMSampler])
def test_clipping_bounds_the_result_and_is_off_by_default(kind: Any) -> None:
    def far_off(x: Tensor, t: float) -> Prediction:
        data = torch.full_like(x, 3.0)
        return Prediction(data=data, noise=CHAIN.ends("data", data, x, t)[1])

    for clip_data, end in ((True, 1.0), (False, 3.0)):
        out = kind(steps=10, clip_data=clip_data).sample(
            far_off, NOISE, interpolant=CHAIN, draw_noise=draw
        )
        torch.testing.assert_close(out, torch.full_like(out, end), rtol=0, atol=1e-9)


def test_ddim_clipping_keeps_noise_consistent() -> None:
    """With the noise recomputed from clipped data, x stays on the path to that data."""
    seen: list[tuple[Tensor, float]] = []

    def predict(x: Tensor, t: float) -> Prediction:
        seen.append((x, t))
        data = torch.full_like(x, 5.0)
        return Prediction(data=data, noise=CHAIN.ends("data", data, x, t)[1])

    DDIMSampler(steps=10, clip_data=True).sample(
        predict, NOISE, interpolant=CHAIN, draw_noise=no_draw
    )
    clipped = torch.ones_like(NOISE)
    ends = [CHAIN.ends("data", clipped, x, t)[1] for x, t in seen]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-9)
