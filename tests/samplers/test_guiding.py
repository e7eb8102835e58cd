"""Kinds of guidance against diffusers' guiders, and the momentum of projected differences."""

from __future__ import annotations

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from torch import Tensor

from dit_lab.samplers.guidance import Guidance, guide, mover
from dit_lab.samplers.guiding import Projected, ProjectedGuidance

SCALE = 3.5


def pair(seed: int) -> tuple[Tensor, Tensor]:
    """The outputs for labels and for the null label, which resemble each other."""
    draw = torch.Generator().manual_seed(seed)
    output = torch.randn(6, 4, 8, 8, generator=draw)
    return output, output + 0.3 * torch.randn(6, 4, 8, 8, generator=draw)


def guided(guidance: Guidance, pairs: list[tuple[Tensor, Tensor]], times: list[float]) -> Tensor:
    """The last guided output along a trajectory."""
    move, found = mover(guidance), torch.empty(0)
    for (output, other), t in zip(pairs, times, strict=True):
        found = guide(output, other, scale=SCALE, channels=4, t=t, move=move)
    return found


@pytest.mark.parametrize(
    "options",
    [Projected(), Projected(0.3), Projected(0.0, 5.0), Projected(0.2, 5.0, -0.5)],
)
def test_projected_differences_are_those_of_diffusers(options: Projected) -> None:
    """Its scale counts from the output, as in the paper: that of the lab less 1."""
    pairs = [pair(seed) for seed in range(3)]
    found = guided(Guidance(kind="apg", projected=options), pairs, [0.0, 0.3, 0.7])
    buffer = MomentumBuffer(options.momentum) if options.momentum else None
    for output, other in pairs:
        expected = normalized_guidance(
            output,
            other,
            SCALE - 1,
            buffer,
            options.parallel,
            options.norm_threshold,
            use_original_formulation=True,
            norm_dim=(1, 2, 3),
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_all_of_the_difference_is_plain_guidance() -> None:
    apg, cfg = Guidance(kind="apg", projected=Projected(parallel=1.0)), Guidance()
    found, plain = (guided(one, [pair(0)], [0.5]) for one in (apg, cfg))
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


def test_two_evaluations_at_one_time_are_one_step_of_the_average() -> None:
    """Heun's method evaluates the end of a step, and the next step begins there."""
    options = Projected(momentum=-0.5)
    once, twice = ProjectedGuidance(options), ProjectedGuidance(options)
    for t, seeds in ((0.0, [0]), (0.5, [1, 2]), (0.9, [3])):
        for seed in seeds:
            of_two = twice.guided(*pair(seed), scale=SCALE, t=t)
        of_one = once.guided(*pair(seeds[-1]), scale=SCALE, t=t)
    assert torch.equal(of_one, of_two)


def test_cfg_zero_star_is_that_of_diffusers() -> None:
    output, other = pair(4)
    factor = cfg_zero_star_scale(output.flatten(1), other.flatten(1)).reshape(-1, 1, 1, 1)
    expected = other * factor + SCALE * (output - other * factor)
    found = guided(Guidance(kind="cfg_zero_star"), [(output, other)], [0.5])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("t", "still"), [(0.0, True), (0.04, True), (0.05, False)])
def test_the_velocity_is_zero_at_first(t: float, still: bool) -> None:
    found = guided(Guidance(kind="cfg_zero_star", zero_until=0.04), [pair(4)], [t])
    assert bool((found == 0).all()) is still
