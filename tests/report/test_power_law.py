"""The power law of losses over compute in a report, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from dit_lab.report.analysis import Analysis, analyse
from dit_lab.report.compute_plot import compute_varies
from dit_lab.report.plots import pictures
from dit_lab.report.power_law import power_law
from dit_lab.report.results import AnalysisRequest, Compute, Result
from dit_lab.report.sentences import sections

QUALITY, LOSS = "eval/two_sample_pixels_held_out_n360", "eval/loss"
FLOPS = (1e12, 3e12, 1e13, 4e13, 9e13)


def ablation(
    losses: Sequence[float], *, seeds: int = 3, compute: Sequence[float] = FLOPS
) -> Analysis:
    """One configuration for each loss, the same by every seed, at growing compute."""
    results = [
        Result(
            run=f"runs/{number}-{seed}",
            settings={"model": f"size {number}"},
            seed=seed,
            status="FINISHED",
            metrics={QUALITY: 0.6 + seed / 100, LOSS: loss},
            compute=Compute(training_flops=flops),
        )
        for number, (flops, loss) in enumerate(zip(compute, losses, strict=False))
        for seed in range(seeds)
    ]
    return analyse(
        results, AnalysisRequest(metric=QUALITY, lower_is_better=True, secondary=(LOSS,))
    )


def test_an_exact_law_is_found() -> None:
    law = power_law(ablation([5.0 * flops**-0.07 for flops in FLOPS]), LOSS)
    assert law is not None
    assert law.exponent == pytest.approx(0.07, rel=1e-9)
    assert law.factor == pytest.approx(5.0, rel=1e-9)
    assert law.explained == pytest.approx(1.0)
    assert law.standard_error < 1e-9
    assert law.loss(2e13) == pytest.approx(5.0 * 2e13**-0.07)
    assert (law.flops, law.configurations) == ((1e12, 9e13), 5)


def test_the_standard_error_is_that_of_least_squares() -> None:
    """As numpy's own fit of the logarithms has it."""
    noise = np.random.default_rng(0).normal(0, 0.02, len(FLOPS))
    losses = [5.0 * flops**-0.07 * math.exp(by) for flops, by in zip(FLOPS, noise, strict=True)]
    law = power_law(ablation(losses), LOSS)
    (slope, _), covariance = np.polyfit(np.log(FLOPS), np.log(losses), 1, cov=True)
    assert law is not None
    assert law.exponent == pytest.approx(-slope)
    assert law.standard_error == pytest.approx(math.sqrt(covariance[0, 0]))


def test_three_points_make_no_law() -> None:
    assert power_law(ablation([1.0, 0.9, 0.8]), LOSS) is None


def test_the_report_says_and_draws_it() -> None:
    found = ablation([5.0 * flops**-0.07 for flops in FLOPS])
    (section,) = (one for one in sections(found) if one.title == "Compute")
    assert section.lines == [
        "eval/loss falls with training compute as FLOPs ^ -0.070 ± 0.000 (standard error), from "
        "1 T to 90 TFLOP, fitted to 5 configurations (R squared of the logarithms: 1.000)."
    ]
    assert compute_varies(found)
    (picture,) = (one for one in pictures(found) if one.name == "compute.png")
    quality, loss = picture.draw().axes
    assert loss.get_yscale() == "log"
    assert loss.get_title() == LOSS
    assert quality.get_title() == f"{QUALITY} (lower is better)"


@pytest.mark.parametrize(("most", "drawn"), [(1.0e12, False), (1.1e12, False), (1.5e12, True)])
def test_compute_that_hardly_differs_is_not_drawn(most: float, drawn: bool) -> None:
    """A variance that is predicted too costs DDPM some thousandths: points in two columns."""
    found = ablation([1.0, 0.9], compute=(1e12, most))
    assert any(one.name == "compute.png" for one in pictures(found)) is drawn


def test_quality_has_no_law_of_its_own() -> None:
    """An accuracy has a floor; a power law would be a wrong one."""
    found = ablation([5.0 * flops**-0.07 for flops in FLOPS])
    runs = [run for one in found.configurations for run in one.results]
    without = analyse(runs, AnalysisRequest(metric=QUALITY, lower_is_better=True))
    assert not [one for one in sections(without) if one.title == "Compute"]


def test_losses_that_are_all_the_same_have_none() -> None:
    assert power_law(ablation([0.5] * 5), LOSS) is None
