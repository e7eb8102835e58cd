"""Analysis of reports: configs, verdicts, main effects and interactions.

They are checked by hand and with simulated sweeps.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dit_lab.report.analysis import Analysis, Comparison, Effect, Step, Verdict, analyse
from dit_lab.report.results import AnalysisRequest, Arm, Compute, Expectation, Result, Settings
from dit_lab.statistics.contrasts import Family, estimate
from dit_lab.statistics.correction import null_distribution
from dit_lab.statistics.samples import Sample

METRIC = "eval/two_sample_pixels_held_out_n360"
LOWER = AnalysisRequest(metric=METRIC, lower_is_better=True)
HIGHER = AnalysisRequest(metric=METRIC, lower_is_better=False)


def run(value: float | None, seed: int = 0, status: str = "FINISHED", **settings: str) -> Result:
    label = "-".join(settings.values())
    metrics = {} if value is None else {METRIC: value}
    return Result(
        run=f"runs/{label}-{seed}", settings=settings, seed=seed, status=status, metrics=metrics
    )


def runs(values: Iterable[float], **settings: str) -> list[Result]:
    """Seeds 0, 1, 2 ... of one configuration."""
    return [run(value, seed, **settings) for seed, value in enumerate(values)]


def factorial(value: Callable[..., float], seeds: int = 3, **axes: Sequence[str]) -> list[Result]:
    """Every combination of the levels, each seed's number from `value(*levels)`."""
    return [
        run(value(*cell), seed, **dict(zip(axes, cell, strict=True)))
        for cell in itertools.product(*axes.values())
        for seed in range(seeds)
    ]


def of(ablation: Analysis, **settings: str) -> Comparison:
    """The comparison of one configuration."""
    (found,) = (
        comparison
        for configuration, comparison in zip(
            ablation.configurations, ablation.comparisons, strict=True
        )
        if settings.items() <= configuration.settings.items()
    )
    return found


def effect(ablation: Analysis, axis: str, level: str) -> Effect:
    (found,) = (one for one in ablation.effects if (one.axis, one.level) == (axis, level))
    return found


A, B = [0.60, 0.62, 0.61], [0.50, 0.51, 0.53]


# ---- configurations -----------------------------------------------------------------------------


def test_seeds_of_equal_settings_are_one_configuration() -> None:
    mixed = [*runs(A, model="pico", dataset="digits"), *runs(B, model="nano", dataset="digits")]
    ablation = analyse(mixed[::2] + mixed[1::2], LOWER)
    assert [dict(c.settings)["model"] for c in ablation.configurations] == ["pico", "nano"]
    assert [c.sample for c in ablation.configurations] == [Sample.of(A), Sample.of(B)]
    assert [[r.seed for r in c.results] for c in ablation.configurations] == [[0, 1, 2]] * 2
    assert ablation.axes == ("model",)  # what is the same everywhere is no axis
    assert ablation.configurations[1].label(ablation.axes) == "model=nano"


def test_missing_seeds_are_named_with_their_reason() -> None:
    results = [
        *runs(A, model="pico"),
        run(0.5, 0, model="nano"),
        run(0.4, 1, "FAILED", model="nano"),  # what it measured before it failed does not count
        run(None, 0, model="micro"),
        run(math.nan, 1, model="micro"),
        run(0.5, 2, "KILLED", model="micro"),
    ]
    pico, nano, micro = analyse(results, LOWER).configurations
    assert pico.missing == {}
    assert nano.missing == {1: "FAILED", 2: "no run"}
    assert nano.sample == Sample(1, 0.5, None)
    assert [r.seed for r in nano.measured] == [0]
    assert micro.missing == {0: "not measured", 1: "measured nan", 2: "KILLED"}
    assert micro.sample.n == 0


def test_spread_over_draws_is_apart_from_spread_over_seeds() -> None:
    results = [
        Result(
            run=str(seed), settings={}, seed=seed, status="FINISHED",
            metrics={METRIC: value}, deviations={METRIC: deviation},
        )
        for seed, value, deviation in ((0, 1.0, 0.1), (1, 2.0, 0.3), (2, 3.0, 0.2))
    ]  # fmt: skip
    (only,) = analyse(results, LOWER).configurations
    assert only.sample == Sample(3, 2.0, 1.0)
    assert only.evaluation_spread == pytest.approx(0.2)
    assert analyse(runs(A), LOWER).configurations[0].evaluation_spread is None


def test_compute_and_secondary_metrics_are_means_of_what_was_measured() -> None:
    results = [
        Result(
            run=str(seed), settings={}, seed=seed, status=status,
            metrics={METRIC: 0.5, "eval/recall": recall},
            compute=Compute(parameters=10, seconds=seconds),
        )
        for seed, status, recall, seconds in (
            (0, "FINISHED", 0.4, 10.0), (1, "FINISHED", 0.6, 20.0), (2, "FAILED", 0.9, 1e9),
        )
    ]  # fmt: skip
    question = AnalysisRequest(
        metric=METRIC, lower_is_better=True, secondary=("eval/recall", "other")
    )
    (only,) = analyse(results, question).configurations
    assert only.compute == Compute(parameters=10, seconds=15)
    assert only.secondary["eval/recall"].mean == pytest.approx(0.5)
    assert only.secondary["other"].n == 0


# ---- the baseline -------------------------------------------------------------------------------


def two_axes() -> list[Result]:
    rng = np.random.default_rng(0)
    return factorial(
        lambda *_: rng.normal(), objective=["ddpm", "rectified_flow"], model=["pico", "nano"]
    )


def baseline(**settings: str) -> AnalysisRequest:
    return AnalysisRequest(metric=METRIC, lower_is_better=True, baseline=settings)


def test_the_baseline_is_the_first_configuration_or_the_one_asked_for() -> None:
    assert analyse(two_axes(), LOWER).baseline.settings == {"objective": "ddpm", "model": "pico"}
    asked = analyse(two_axes(), baseline(model="nano", objective="ddpm"))
    assert asked.baseline.settings == {"objective": "ddpm", "model": "nano"}
    assert of(asked, model="nano", objective="ddpm") == Comparison(verdict=Verdict.BASELINE)
    one_axis = [*runs(A, data="digits", model="pico"), *runs(B, data="digits", model="nano")]
    assert analyse(one_axis, baseline(model="nano")).baseline.settings["model"] == "nano"


# ---- verdicts -----------------------------------------------------------------------------------


def test_one_comparison_is_welchs_test_but_for_how_wide_it_is() -> None:
    found = of(analyse([*runs(A, model="pico"), *runs(B, model="nano")], LOWER), model="nano")
    wanted = stats.ttest_ind(B, A, equal_var=False).confidence_interval(0.95)
    assert found.tested is not None
    assert found.difference == pytest.approx(np.mean(B) - np.mean(A))
    assert found.tested.difference == pytest.approx(np.mean(B) - np.mean(A))
    half, welchs = (found.tested.high - found.tested.low) / 2, (wanted.high - wanted.low) / 2
    assert 1.1 < half / welchs < 1.2  # Welch's interval of 3 seeds is too narrow
    assert half < found.tested.detectable < 2 * half


def test_better_and_worse_follow_the_metrics_direction() -> None:
    results = [*runs(A, model="pico"), *runs(B, model="nano"), *runs([0.9, 0.91, 0.93], model="s")]
    lower, higher = analyse(results, LOWER), analyse(results, HIGHER)
    assert of(lower, model="nano").verdict == of(higher, model="s").verdict == Verdict.BETTER
    assert of(lower, model="s").verdict == of(higher, model="nano").verdict == Verdict.WORSE


def test_alpha_decides_and_only_after_the_correction() -> None:
    """A claim alone is none among others."""
    apart = [0.60, 0.62, 0.64], [0.54, 0.565, 0.57]
    alone = [*runs(apart[0], model="pico"), *runs(apart[1], model="nano")]
    found = of(analyse(alone, LOWER), model="nano")
    assert found.tested is not None and 0.02 < found.tested.adjusted_p < 0.05
    assert found.verdict == Verdict.BETTER
    beside = [r for name in ("s", "b", "l", "xl") for r in runs([0.58, 0.67, 0.61], model=name)]
    among = of(analyse([*alone, *beside], LOWER), model="nano")
    assert among.tested is not None
    assert among.tested.adjusted_p > 0.05 and among.verdict == Verdict.NOT_SHOWN
    assert among.tested.detectable > found.tested.detectable
    strict = AnalysisRequest(metric=METRIC, lower_is_better=True, alpha=0.01)
    assert of(analyse(alone, strict), model="nano").verdict == Verdict.NOT_SHOWN


def test_a_claim_is_an_interval_without_0() -> None:
    rng = np.random.default_rng(0)
    results = factorial(lambda m: rng.normal(int(m), 1), seeds=4, model=list("0123456"))
    ablation = analyse(results, LOWER)
    verdicts = set()
    for comparison in ablation.comparisons[1:]:
        assert comparison.tested is not None
        without = not comparison.tested.low <= 0 <= comparison.tested.high
        assert without == (comparison.tested.adjusted_p < 0.05)
        assert without == (comparison.verdict != Verdict.NOT_SHOWN)
        verdicts.add(comparison.verdict)
    assert len(verdicts) == 2


# ---- configurations that share trained models ---------------------------------------------------


def sampled(values: Sequence[Sequence[float]], **changes: str) -> list[Result]:
    """Each row by a sampler of its own, of the same models."""
    return [
        replace(one, training=f"runs/{one.seed}", settings={**one.settings, **changes})
        for name, row in zip(("euler", "heun", "ddim"), values, strict=False)
        for one in runs(row, sampler=name)
    ]


def test_samplers_of_the_same_models_are_compared_seed_by_seed() -> None:
    """Seeds differ by 0.3, samplers by 0.01 at every seed."""
    values = [[0.4, 0.7, 1.0], [0.409, 0.711, 1.01]]
    shared = of(analyse(sampled(values), LOWER), sampler="heun")
    assert shared.verdict == Verdict.WORSE
    apart = [replace(one, training="") for one in sampled(values)]
    assert of(analyse(apart, LOWER), sampler="heun").verdict == Verdict.NOT_SHOWN


def test_the_same_models_measured_six_times_are_not_six_repeats() -> None:
    """Two models of three seeds, each with three samplers that make little difference.

    The models are compared by three seeds, however often each was evaluated.
    """
    rng = np.random.default_rng(0)
    results = []
    for model in ("pico", "nano"):
        of_seeds = rng.normal(size=3)
        for one in sampled([of_seeds + 0.01 * rng.normal(size=3) for _ in range(3)], model=model):
            results.append(replace(one, training=f"{model}-{one.seed}"))
    found = effect(analyse(results, LOWER), "model", "nano").tested
    assert found is not None
    twelve_degrees = (found.high - found.low) / 2 / (2.2 * math.sqrt(2 / 9))
    assert twelve_degrees > 2


def test_shared_models_need_three_seeds_in_common() -> None:
    first, second = (
        sampled([[0.4, 0.7, 1.0, 0.5], [0.3, 0.6, 0.9, 0.4]])[:3],
        sampled([[0.4, 0.7, 1.0, 0.5], [0.3, 0.6, 0.9, 0.4]])[5:],
    )
    ablation = analyse([*first, *second], LOWER)
    assert [c.sample.n for c in ablation.configurations] == [3, 3]
    assert of(ablation, sampler="heun").verdict == Verdict.FEW_SEEDS


@pytest.mark.parametrize("few", ["pico", "nano"])
def test_two_seeds_are_no_claim_however_far_apart(few: str) -> None:
    values = {"pico": [1.0, 1.001, 1.002], "nano": [0.0, 0.001, 0.002]}
    values[few] = values[few][:2]
    ablation = analyse([r for model in values for r in runs(values[model], model=model)], LOWER)
    found = of(ablation, model="nano")
    assert found.verdict == Verdict.FEW_SEEDS
    assert found.tested is None
    assert found.difference == pytest.approx(-1, abs=0.01)
    assert ablation.family == 0


def test_no_number_at_all() -> None:
    results = [*runs(A, model="pico"), run(None, 0, "FAILED", model="nano")]
    assert of(analyse(results, LOWER), model="nano") == Comparison(verdict=Verdict.FEW_SEEDS)


def test_without_any_spread_nothing_is_claimed() -> None:
    """A rate of exactly 0 in every run, against exactly 0.1: no measure of what chance does."""
    results = [*runs([0.1] * 3, model="pico"), *runs([0.0] * 3, model="nano"), *runs(A, model="s")]
    ablation = analyse(results, LOWER)
    assert of(ablation, model="nano").verdict == Verdict.ZERO_VARIANCE
    assert of(ablation, model="s").verdict == Verdict.WORSE  # one spread is enough
    assert ablation.family == 1
    (flag,) = ablation.flags
    assert "all seeds gave the same value with model=pico; model=nano" in flag


# ---- axes ---------------------------------------------------------------------------------------


def test_one_axis_is_not_counted_twice() -> None:
    levels = ["pico", "nano", "micro"]
    rng = np.random.default_rng(0)
    ablation = analyse(factorial(lambda _: rng.normal(), model=levels), LOWER)
    assert ablation.effects == ()
    assert ablation.family == 2


def test_an_axis_is_averaged_over_the_others() -> None:
    rng = np.random.default_rng(0)
    results = factorial(lambda *_: rng.normal(), model=["pico", "nano"], lr=["1", "2", "3"])
    ablation = analyse(results, LOWER)
    found = effect(ablation, "model", "nano")
    pico, nano = ablation.configurations[:3], ablation.configurations[3:]
    means = [np.mean([c.sample.mean for c in group]) for group in (nano, pico)]
    assert found.tested is not None
    assert found.tested.difference == pytest.approx(means[0] - means[1])
    single = of(ablation, model="nano", lr="1").tested
    assert single is not None  # averages of three are known better than one
    assert found.tested.high - found.tested.low < 0.8 * (single.high - single.low)
    assert (found.reference, found.blocks, found.of_blocks) == ("pico", 3, 3)


def test_one_family_for_rows_and_axes() -> None:
    rng = np.random.default_rng(1)
    results = factorial(lambda *_: rng.normal(), model=["pico", "nano"], lr=["1", "2", "3"])
    ablation = analyse(results, LOWER)
    tested = [c.tested for c in (*ablation.comparisons, *ablation.effects) if c.tested]
    assert ablation.family == len(tested) == 5 + 1 + 2
    alone = analyse([r for r in results if r.settings["lr"] == "1"], LOWER)
    one, all_of_them = (of(a, model="nano", lr="1").tested for a in (alone, ablation))
    assert one is not None and all_of_them is not None
    assert one.difference == pytest.approx(all_of_them.difference)


def test_an_axis_with_one_complete_block_asks_what_a_row_asks() -> None:
    """Only with lr=1 have both models three seeds: the axis is the row, and counts once."""
    rng = np.random.default_rng(1)
    results = factorial(lambda *_: rng.normal(), model=["pico", "nano"], lr=["1", "2"])
    results = [r for r in results if (r.settings, r.seed) != ({"model": "nano", "lr": "2"}, 2)]
    ablation = analyse(results, LOWER)
    found = effect(ablation, "model", "nano")
    assert (found.blocks, found.of_blocks) == (1, 2)
    assert found.tested == of(ablation, model="nano", lr="1").tested
    assert ablation.family == 2  # and lr=2 with pico, which is also the axis lr
    assert ablation.interactions == ()
    assert ablation.untested_pairs == (("model", "lr"),)


def test_an_axis_without_a_complete_block() -> None:
    rng = np.random.default_rng(1)
    results = factorial(lambda *_: rng.normal(), seeds=2, model=["pico", "nano"], lr=["1", "2"])
    ablation = analyse(results, LOWER)
    assert {e.verdict for e in ablation.effects} == {Verdict.FEW_SEEDS}
    assert {(e.blocks, e.of_blocks) for e in ablation.effects} == {(0, 2)}


def test_axes_that_only_change_together_are_not_told_apart() -> None:
    results = [*runs(A, model="pico", lr="1"), *runs(B, model="nano", lr="2")]
    ablation = analyse(results, LOWER)
    assert of(ablation, model="nano").verdict == Verdict.BETTER
    assert [(e.blocks, e.of_blocks, e.verdict) for e in ablation.effects] == [
        (0, 2, Verdict.FEW_SEEDS)
    ] * 2


# ---- interactions -------------------------------------------------------------------------------


def crossed(model: str, objective: str, rng: np.random.Generator) -> float:
    """The flow helps the small model and harms the large one; on average it does nothing."""
    sign = 1 if (model == "nano") == (objective == "flow") else -1
    return sign + rng.normal(0, 0.1)


def test_an_effect_that_depends_on_another_axis_is_flagged() -> None:
    rng = np.random.default_rng(0)
    results = factorial(
        lambda m, o: crossed(m, o, rng), model=["pico", "nano"], objective=["ddpm", "flow"]
    )
    ablation = analyse(results, LOWER)
    (found,) = ablation.interactions
    assert found.flagged
    assert (found.axes, found.levels) == (("model", "objective"), ("nano", "flow"))
    by_cell = {tuple(c.settings.values()): c.sample.mean for c in ablation.configurations}
    wanted = (by_cell["nano", "flow"] - by_cell["pico", "flow"]) - (
        by_cell["nano", "ddpm"] - by_cell["pico", "ddpm"]
    )
    assert found.tested.difference == pytest.approx(wanted)
    assert effect(ablation, "objective", "flow").verdict == Verdict.NOT_SHOWN
    assert effect(ablation, "objective", "flow").depends_on == ("model",)
    assert effect(ablation, "model", "nano").depends_on == ("objective",)


def test_effects_that_add_up_are_not_flagged() -> None:
    rng = np.random.default_rng(0)
    shift = {"pico": 0, "nano": 5, "ddpm": 0, "flow": -3}
    results = factorial(
        lambda m, o: shift[m] + shift[o] + rng.normal(0, 0.1),
        model=["pico", "nano"],
        objective=["ddpm", "flow"],
    )
    ablation = analyse(results, LOWER)
    assert not any(one.flagged for one in ablation.interactions)
    assert effect(ablation, "objective", "flow").verdict == Verdict.BETTER
    assert effect(ablation, "model", "nano").verdict == Verdict.WORSE
    assert effect(ablation, "model", "nano").depends_on == ()


def test_interactions_of_three_axes_are_averaged_over_the_third() -> None:
    rng = np.random.default_rng(0)
    results = factorial(
        lambda m, o, _: crossed(m, o, rng),
        model=["pico", "nano"],
        objective=["ddpm", "flow"],
        lr=["1", "2", "3"],
    )
    ablation = analyse(results, LOWER)
    assert [(one.axes, one.levels[1], one.blocks) for one in ablation.interactions] == [
        (("model", "objective"), "flow", 3),
        (("model", "lr"), "2", 2),
        (("model", "lr"), "3", 2),
        (("objective", "lr"), "2", 2),
        (("objective", "lr"), "3", 2),
    ]
    assert [one.flagged for one in ablation.interactions] == [True] + [False] * 4


# ---- settings that some configurations do not have -----------------------------------------------

NESTED = {
    ("ddpm", "1"): [0.60, 0.62, 0.61],
    ("ddpm", "5"): [0.50, 0.51, 0.53],
    ("rectified_flow", "-"): [0.40, 0.42, 0.43],
}


def nested(*models: str, shift: float = 0.2) -> list[Result]:
    """`gamma` is an option of ddpm; `-` says that rectified_flow has none."""
    return [
        one
        for place, model in enumerate(models or ["pico"])
        for (objective, gamma), values in NESTED.items()
        for one in runs(
            [value - shift * place for value in values],
            objective=objective, gamma=gamma, model=model,
        )
    ]  # fmt: skip


def test_an_option_of_one_objective_has_blocks_where_it_is_set() -> None:
    ablation = analyse(nested("pico", "nano"), LOWER)
    found = effect(ablation, "gamma", "5")
    assert (found.reference, found.blocks, found.of_blocks) == ("1", 2, 2)
    assert found.tested is not None
    assert found.tested.difference == pytest.approx(np.mean([0.50, 0.51, 0.53]) - 0.61)
    assert found.nested == ()
    assert {one.level for one in ablation.effects if one.axis == "gamma"} == {"5"}  # and not "-"
    assert not any("missing" in flag for flag in ablation.flags)


def test_an_objective_is_averaged_over_its_own_option() -> None:
    """(ddpm at 1 + ddpm at 5) / 2 against rectified_flow, at each model."""
    ablation = analyse(nested("pico", "nano"), LOWER)
    found = effect(ablation, "objective", "rectified_flow")
    assert (found.blocks, found.of_blocks, found.nested) == (2, 2, ("gamma",))
    assert found.tested is not None
    of_ddpm = (np.mean(NESTED["ddpm", "1"]) + np.mean(NESTED["ddpm", "5"])) / 2
    wanted = np.mean(NESTED["rectified_flow", "-"]) - of_ddpm
    assert found.tested.difference == pytest.approx(wanted)
    assert found.verdict == Verdict.BETTER
    model = effect(ablation, "model", "nano")  # a block is one objective with one of its options
    assert (model.blocks, model.of_blocks, model.nested) == (3, 3, ())


def test_a_missing_seed_of_one_option_leaves_its_block_out() -> None:
    lost = {"objective": "ddpm", "gamma": "5", "model": "nano"}
    results = [r for r in nested("pico", "nano") if (r.settings, r.seed) != (lost, 2)]
    found = effect(analyse(results, LOWER), "objective", "rectified_flow")
    assert (found.blocks, found.of_blocks) == (1, 2)


def test_an_option_interacts_where_it_is_set_only() -> None:
    """gamma with model, over ddpm; gamma with objective is no question, and so not untested."""
    ablation = analyse(nested("pico", "nano"), LOWER)
    assert ablation.untested_pairs == ()
    pairs = {one.axes: (one.blocks, one.of_blocks) for one in ablation.interactions}
    assert pairs == {("objective", "model"): (1, 1), ("gamma", "model"): (1, 1)}


def test_the_baseline_may_lack_an_option_that_others_have() -> None:
    question = baseline(objective="rectified_flow")
    ablation = analyse(nested(), question)
    assert effect(ablation, "gamma", "5").reference == "1"
    assert ablation.baseline.label(ablation.axes) == "objective=rectified_flow"
    assert ablation.configurations[0].label(ablation.axes) == "objective=ddpm, gamma=1"
    assert ablation.family == 2 + 1 + 1  # rows, ddpm over its options, gamma


# ---- named arms ---------------------------------------------------------------------------------

ARMS = {
    "base": Arm(stands_on=None, changes=()),
    "logit": Arm(stands_on="base", changes=("objective.time_sampling=logit_normal",)),
    "beta": Arm(stands_on="logit", changes=("optimizer.betas=[0.9,0.99]",)),
    "warm": Arm(stands_on="base", changes=("schedule=warmup",)),
}
WORTH = {"base": 0.0, "logit": -1.0, "beta": -3.0, "warm": 0.5}


def of_arms(question: AnalysisRequest = LOWER, **axes: Sequence[str]) -> Analysis:
    rng = np.random.default_rng(0)
    design = {"arm": list(ARMS), **axes}
    results = factorial(lambda arm, *_: WORTH[arm] + rng.normal(0, 0.01), **design)
    return analyse(results, replace(question, arms=ARMS))


def step(ablation: Analysis, arm: str, reference: str) -> Step:
    (found,) = (one for one in ablation.steps if (one.arm, one.reference) == (arm, reference))
    return found


def test_each_arm_is_held_against_what_it_stands_on_and_the_base() -> None:
    ablation = of_arms()
    pairs = [(one.arm, one.reference, one.stands_on_it) for one in ablation.steps]
    assert pairs == [
        ("logit", "base", True), ("beta", "logit", True), ("beta", "base", False),
        ("warm", "base", True),
    ]  # fmt: skip
    means = {c.settings["arm"]: c.sample.mean for c in ablation.configurations}
    for one in ablation.steps:
        assert one.tested is not None
        wanted = means[one.arm] - means[one.reference]
        assert one.tested.difference == pytest.approx(wanted)
        assert one.verdict == (Verdict.WORSE if one.arm == "warm" else Verdict.BETTER)
    assert ablation.effects == ()
    assert ablation.family == 4  # three rows, which three of the steps repeat, and beta on logit
    for arm in ("logit", "beta", "warm"):
        assert step(ablation, arm, "base").tested == of(ablation, arm=arm).tested


def test_steps_are_averaged_over_complete_blocks_and_add_up() -> None:
    rng = np.random.default_rng(0)
    results = factorial(
        lambda arm, model: WORTH[arm] + (model == "nano") + rng.normal(0, 0.01),
        arm=list(ARMS), model=["pico", "nano", "micro"],
    )  # fmt: skip
    lost = {"arm": "warm", "model": "micro"}
    results = [r for r in results if (r.settings, r.seed) != (lost, 0)]
    ablation = analyse(results, replace(LOWER, arms=ARMS))
    assert {(one.blocks, one.of_blocks) for one in ablation.steps} == {(2, 3)}
    means = {tuple(c.settings.values()): c.sample.mean for c in ablation.configurations}
    wanted = np.mean([means["beta", m] - means["logit", m] for m in ("pico", "nano")])
    found = [step(ablation, *pair).tested for pair in
             (("beta", "logit"), ("logit", "base"), ("beta", "base"))]  # fmt: skip
    differences = [one.difference for one in found if one]
    assert differences[0] == pytest.approx(wanted)
    assert differences[0] + differences[1] == pytest.approx(differences[2])
    assert {one.axis for one in ablation.effects} == {"model"}
    assert ablation.family == 10 + 4 + 2  # rows that can be tested, steps, models


def test_steps_and_rows_are_corrected_as_one_family() -> None:
    """The p-values of the contrasts base, base to logit, logit to beta, base to warm by hand."""
    ablation = of_arms()
    rows = tuple(((0, -1.0), (n, 1.0)) for n in (1, 2, 3))
    family = Family((*rows, ((1, -1.0), (2, 1.0))), ((True,) * 3,) * 4, tuple(range(4)))
    values = np.array([[r.metrics[METRIC] for r in c.measured] for c in ablation.configurations])
    null, ratios = null_distribution(family), estimate(family, values).ratio
    pairs = [("logit", "base"), ("beta", "base"), ("warm", "base"), ("beta", "logit")]
    for pair, ratio in zip(pairs, ratios, strict=True):
        tested = step(ablation, *pair).tested
        assert tested is not None
        assert tested.adjusted_p == null.adjusted_p(ratio)


def test_the_baseline_is_the_arm_that_stands_on_none() -> None:
    rng = np.random.default_rng(0)
    results = factorial(lambda _: rng.normal(), arm=["beta", "warm", "base", "logit"])
    ablation = analyse(results, replace(LOWER, arms=ARMS))
    assert ablation.baseline.settings == {"arm": "base"}


def test_another_baseline_is_the_base_and_no_hypothesis_is_asked_twice() -> None:
    """base against logit is logit against base: one hypothesis, shown from both sides."""
    ablation = of_arms(baseline(arm="logit"))
    pairs = [(one.arm, one.reference) for one in ablation.steps]
    assert pairs == [
        ("base", "logit"), ("logit", "base"), ("beta", "logit"), ("warm", "base"),
        ("warm", "logit"),
    ]  # fmt: skip
    one, other = (step(ablation, *pair).tested for pair in pairs[:2])
    assert one is not None and other is not None
    assert (one.difference, one.low, one.high) == (-other.difference, -other.high, -other.low)
    assert one.adjusted_p == other.adjusted_p
    assert ablation.family == 3 + 1


def test_an_arm_whose_parent_is_not_in_the_report() -> None:
    rng = np.random.default_rng(0)
    results = factorial(lambda _: rng.normal(), arm=["base", "beta"])
    ablation = analyse(results, replace(LOWER, arms=ARMS))
    assert [(one.arm, one.reference, one.stands_on_it) for one in ablation.steps] == [
        ("beta", "base", False)
    ]
    assert ablation.family == 1


# ---- expected agreements ------------------------------------------------------------------------


def expecting(*members: Settings) -> AnalysisRequest:
    expectation = Expectation(members=members, reason="sigma_min is 1e-4")
    return AnalysisRequest(metric=METRIC, lower_is_better=True, expected_equal=[expectation])


FLOWS = [{"objective": "rectified_flow"}, {"objective": "flow_matching"}]


@pytest.mark.parametrize("apart", [False, True])
def test_expected_agreements(apart: bool) -> None:
    values = [0.5, 0.52, 0.51], [0.515, 0.5, 0.525]
    results = [
        *runs(A, objective="ddpm"),
        *runs(values[0], objective="rectified_flow"),
        *runs([v + apart for v in values[1]], objective="flow_matching"),
    ]
    ablation = analyse(results, expecting(*FLOWS))
    (found,) = ablation.agreements
    assert found.agrees is not apart
    assert found.first.settings == FLOWS[0] and found.second.settings == FLOWS[1]
    assert found.tested is not None
    assert found.tested.difference == pytest.approx(np.mean(values[1]) + apart - 0.51)


def test_three_that_should_agree_are_two_pairs_of_one_family() -> None:
    rng = np.random.default_rng(0)
    results = factorial(lambda _: rng.normal(), objective=list("abc"))
    ablation = analyse(results, expecting(*({"objective": name} for name in "abc")))
    assert [(a.first.settings["objective"], a.second.settings["objective"])
            for a in ablation.agreements] == [("a", "b"), ("a", "c")]  # fmt: skip
    intervals = [a.tested and (a.tested.low, a.tested.high) for a in ablation.agreements]
    rows = [c.tested and (c.tested.low, c.tested.high) for c in ablation.comparisons[1:]]
    assert intervals == rows  # here the same family


def test_expectations_of_what_is_not_there_or_not_measured() -> None:
    ablation = analyse([*runs(A, objective="ddpm"), *runs(B, **FLOWS[0])], expecting(*FLOWS))
    assert ablation.agreements == ()
    few = [*runs(A, **FLOWS[0]), *runs(B[:2], **FLOWS[1])]
    (found,) = analyse(few, expecting(*FLOWS)).agreements
    assert found.agrees is None and found.tested is None


# ---- flags --------------------------------------------------------------------------------------


def made_by(model: str, seed: int, **hashes: str) -> Result:
    return Result(
        run=f"{model}-{seed}", settings={"model": model}, seed=seed, status="FINISHED",
        metrics={METRIC: 0.1 * seed}, **hashes,
    )  # fmt: skip


@pytest.mark.parametrize("what", ["code", "data", "protocol"])
def test_runs_that_something_else_made_are_flagged(what: str) -> None:
    results = [made_by(model, seed, **{what: "a" * 64}) for model in "ABC" for seed in range(3)]
    assert analyse(results, LOWER).flags == ()
    results[4] = made_by("B", 1, **{what: "b" * 64})
    results[6:] = [made_by("C", seed, **{what: "c" * 64}) for seed in range(3)]
    (flag,) = analyse(results, LOWER).flags
    assert f"different {what.replace('protocol', 'evaluation protocol')}: 5 runs" in flag
    assert "aaaaaaaa, unlike seed 1 of model=B; model=C;" in flag


def test_unknown_hashes_accuse_nobody() -> None:
    results = [made_by("A", seed, code="a" if seed else "") for seed in range(4)]
    assert analyse(results, LOWER).flags == ()
    results[1] = made_by("A", 1, code="b")
    (flag,) = analyse(results, LOWER).flags
    assert "2 runs have hash a, unlike seed 1 of all runs;" in flag


def test_runs_without_a_number_accuse_nobody_and_long_lists_are_cut() -> None:
    names = [f"m{n}" for n in range(20)]
    results = [made_by(name, s, code="a" if n < 10 else name) for n, name in enumerate(names)
               for s in range(3)]  # fmt: skip
    (flag,) = analyse(results, LOWER).flags
    assert "model=m15 and 4 more" in flag and "m16" not in flag
    failed = Result(run="x", settings={"model": "m0"}, seed=3, status="FAILED", code="z")
    assert "z" not in analyse([*results, failed], LOWER).flags[0]


def test_missing_seeds_are_flagged() -> None:
    two = [*runs(A, model="pico"), *runs(B[:2], model="nano")]
    (flag,) = analyse(two, LOWER).flags
    assert "1 of 2 configurations: there are no runs of them" in flag
    (flag,) = analyse([*two, run(None, 2, "FAILED", model="nano")], LOWER).flags
    assert "1 of 2 configurations: if the settings made these runs fail" in flag


# ---- many sweeps, and large ones ----------------------------------------------------------------

DESIGN = {"objective": ["ddpm", "rectified_flow", "flow_matching"],
          "model": ["pico", "nano", "micro"], "schedule": ["constant", "cosine"]}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("baseline", "others", "tries"), [(0.1, 1.0, 800), (1.0, 1.0, 300), (3.0, 1.0, 300)]
)
def test_sweeps_where_nothing_differs_claim_something_once_in_twenty_at_most(
    baseline: float, others: float, tries: int
) -> None:
    """12 configurations x 3 seeds, the baseline's deviation another than that of the rest.

    At a true rate of 0.05 the count is binomial, and beyond the bound once in 10,000 tries. Welch's
    test with Holm's correction claims in 11% where the baseline varies least.
    """
    rng = np.random.default_rng(0)
    deviation = dict.fromkeys("abcdefghijkl", others) | {"a": baseline}
    claims = 0
    for _ in range(tries):
        results = factorial(lambda m: rng.normal(0, deviation[m]), model=list(deviation))
        verdicts = {c.verdict for c in analyse(results, LOWER).comparisons}
        claims += bool(verdicts & {Verdict.BETTER, Verdict.WORSE})
    assert claims <= stats.binom.isf(1e-4, tries, 0.05)


@pytest.mark.slow
def test_effects_and_interactions_claim_something_once_in_twenty_at_most() -> None:
    """18 configurations x 3 seeds of 3 axes, all one normal distribution."""
    rng = np.random.default_rng(0)
    claims = flagged = 0
    for _ in range(400):
        ablation = analyse(factorial(lambda *_: rng.normal(), **DESIGN), LOWER)
        verdicts = {c.verdict for c in (*ablation.comparisons, *ablation.effects)}
        claims += bool(verdicts & {Verdict.BETTER, Verdict.WORSE})
        flagged += any(one.flagged for one in ablation.interactions)
    most = stats.binom.isf(1e-4, 400, 0.05)
    assert claims <= most
    assert flagged <= most
    assert ablation.family == 17 + 2 + 2 + 1


@pytest.mark.slow
def test_whole_reports_claim_what_all_sweeps_at_once_do() -> None:
    rng = np.random.default_rng(0)
    contrasts = tuple(((0, -1.0), (n, 1.0)) for n in range(1, 6))
    family = Family(contrasts, ((True,) * 4,) * 6, tuple(range(6)))
    null, values = null_distribution(family), rng.normal(size=(40, 6, 4))
    values[:, 1:3] += 3
    ratios = estimate(family, values).ratio
    for sweep, wanted in zip(values.tolist(), ratios, strict=True):
        results = [r for name, row in zip("abcdef", sweep, strict=True) for r in runs(row, m=name)]
        for comparison, ratio in zip(analyse(results, LOWER).comparisons[1:], wanted, strict=True):
            assert comparison.tested is not None
            assert comparison.tested.adjusted_p == null.adjusted_p(ratio)
            made = comparison.verdict in (Verdict.BETTER, Verdict.WORSE)
            assert made == (ratio > null.critical(0.05))


def test_what_is_five_deviations_better_is_found() -> None:
    """One in 12 misses at most, alone; along an axis of 18 configurations it is all but certain."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        results = factorial(lambda m: rng.normal(-5.0 * (m == "nano")), model=["pico", "nano"])
        found += of(analyse(results, LOWER), model="nano").verdict == Verdict.BETTER
    assert found >= 183
    for _ in range(20):
        ablation = analyse(
            factorial(lambda o, *_: rng.normal(-5.0 * (o == "flow_matching")), **DESIGN), LOWER
        )
        assert effect(ablation, "objective", "flow_matching").verdict == Verdict.BETTER


@pytest.mark.slow
def test_a_thousand_runs_take_seconds() -> None:
    """Some 3 s, in which sweeps of this design are simulated; then 0.1 s. The bounds allow for a
    busy machine."""
    rng = np.random.default_rng(0)
    levels = [str(n) for n in range(7)]
    results = factorial(lambda *_: rng.normal(), a=levels, b=levels, c=levels)
    for most in (30, 3):
        start = time.perf_counter()
        ablation = analyse(results, LOWER)
        assert time.perf_counter() - start < most
    assert len(results) == 1029
    assert ablation.family == 342 + 18
