"""Error rates of reports: how often they claim a false difference and find a true one.

    python -m tests.measure.error_rates grid        chance of any false claim, by cell
    python -m tests.measure.error_rates methods     comparison with other tests: chance and power
    python -m tests.measure.error_rates families    effects, interactions, ladders, shared models
    python -m tests.measure.error_rates analysis    whole reports against the vectorised form
    python -m tests.measure.error_rates correlated  correlated results of runs with the same seed

Configs are compared with one baseline unless stated otherwise. The unit is the standard deviation
of the other configs over seeds. Prints Markdown, which is included in docs/statistics.md.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
from scipy import stats
from scipy.special import polygamma, stdtr

from dit_lab.report.analysis import Verdict, analyse
from dit_lab.report.results import AnalysisRequest, Result
from dit_lab.statistics.contrasts import Array, Family, Weights, estimate, quantile
from dit_lab.statistics.correction import null_distribution
from dit_lab.statistics.simulation import NOISE, simulate

CONFIGURATIONS = (2, 3, 6, 12, 24, 66)
SEEDS = (2, 3, 4, 5, 8, 10)
BASELINE = (0.05, 0.1, 0.3, 1.0, 3.0, 10.0)
SWEEPS = 20_000
ALPHA = 0.05
METRIC = "eval/two_sample_pixels_held_out_n360"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    for row in (headings, ["--:"] * len(headings), *rows):
        print(f"| {' | '.join(map(str, row))} |")
    print(flush=True)


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def to_baseline(configurations: int, seeds: int) -> Family:
    """Compare every configuration with the first."""
    return Family(
        tuple(((0, -1.0), (n, 1.0)) for n in range(1, configurations)),
        ((True,) * seeds,) * configurations,
        tuple(range(configurations)),
    )


def deviations(configurations: int, baseline: float) -> list[float]:
    return [baseline] + [1.0] * (configurations - 1)


def any_claim(family: Family, scales: Sequence[float], *, noise: str = "normal") -> int:
    critical = null_distribution(family).critical(ALPHA)
    simulated = simulate(family, scales, sweeps=SWEEPS, seed=1, noise=noise)
    return sum(int((found.ratio > critical).any(-1).sum()) for found in simulated)


# ---- the grid ------------------------------------------------------------------------------------


def grid() -> None:
    start, failed, cells = time.perf_counter(), 0, 0
    for noise in NOISE:
        rows = []
        for configurations, seeds in itertools.product(CONFIGURATIONS, SEEDS):
            family = to_baseline(configurations, seeds)
            counts = [
                any_claim(family, deviations(configurations, ratio), noise=noise)
                for ratio in BASELINE
            ]
            # the lower 99.99% bound of Clopper and Pearson (1934)
            bounds = stats.beta.ppf(1e-4, counts, SWEEPS - np.array(counts) + 1)
            above = int((np.nan_to_num(bounds) > ALPHA).sum())
            cells, failed = cells + len(counts), failed + above * (noise == "normal")
            rates = [percent(count / SWEEPS) for count in counts]
            rows.append((configurations, seeds, *rates, above or ""))
        print(f"{noise} noise: sweeps with a false claim, %\n")
        table(("configurations", "seeds", *(f"baseline {r:g}" for r in BASELINE), "above 5%"), rows)
    print(f"{cells} cells of {SWEEPS} sweeps in {time.perf_counter() - start:.0f} s")
    print(f"normal cells whose lower bound is above 5%: {failed}")


# ---- other tests ---------------------------------------------------------------------------------

Method = Callable[[Array], Array]
"""Values (sweeps, configurations, seeds) to claims (sweeps, configurations - 1)."""


def holm(p_values: Array) -> Array:
    """Return which differences are claimed by Holm's (1979) step-down procedure."""
    count = p_values.shape[-1]
    order = np.argsort(p_values, -1)
    ascending = np.take_along_axis(p_values, order, -1)
    kept = np.maximum.accumulate(ascending * np.arange(count, 0, -1) >= ALPHA, -1)
    found = np.empty_like(kept)
    np.put_along_axis(found, order, ~kept, -1)
    return found


def t_test(difference: Array, variance: Array, degrees: Array | float) -> Array:
    return holm(2 * stdtr(degrees, -np.abs(difference) / np.sqrt(variance)))


def moments(values: Array) -> tuple[Array, Array, Array, int]:
    """Return differences, squared errors of the others and the baseline, degrees of freedom."""
    mean, error = values.mean(-1), values.var(-1, ddof=1) / values.shape[-1]
    return mean[:, 1:] - mean[:, :1], error[:, 1:], error[:, :1], values.shape[-1] - 1


def welch(values: Array) -> Array:
    """The earlier test of reports: Satterthwaite's degrees of freedom, Holm's correction."""
    difference, own, base, free = moments(values)
    total = own + base
    return t_test(difference, total, total**2 / ((own**2 + base**2) / free))


def smaller(values: Array) -> Array:
    """The smaller n - 1 as degrees of freedom: safe by convexity (Mickey and Brown 1966)."""
    difference, own, base, free = moments(values)
    return t_test(difference, own + base, float(free))


def paired(values: Array) -> Array:
    """Student's t of the differences by seed."""
    differences = values[:, 1:] - values[:, :1]
    free = values.shape[-1] - 1
    return t_test(differences.mean(-1), differences.var(-1, ddof=1) / (free + 1), float(free))


def pooled(values: Array) -> Array:
    """One variance for all configurations."""
    difference, own, base, free = moments(values)
    every = np.concatenate([base, own], -1)
    return t_test(difference, 2 * every.mean(-1, keepdims=True), float(free * every.shape[-1]))


def moderated(values: Array) -> Array:
    """Variances shrunk towards those of all configurations (Smyth 2004), Holm's correction."""
    difference, own, base, free = moments(values)
    every = np.concatenate([base, own], -1)
    logs = np.log(every)
    excess = logs.var(-1, ddof=1) - polygamma(1, free / 2)
    prior = np.where(excess > 0, 2 * trigamma_inverse(np.maximum(excess, 1e-9)), 1e6)[:, None]
    shift = polygamma(0, prior / 2) - np.log(prior / 2) - polygamma(0, free / 2) + np.log(free / 2)
    middle = np.exp(logs.mean(-1, keepdims=True) + shift)
    drawn = (prior * middle + free * every) / (prior + free)
    total = drawn[:, 1:] + drawn[:, :1]
    degrees = total**2 / ((drawn[:, 1:] ** 2 + drawn[:, :1] ** 2) / (prior + free))
    return t_test(difference, total, degrees)


def trigamma_inverse(value: Array) -> Array:
    y = 0.5 + 1 / value
    for _ in range(20):
        trigamma = polygamma(1, y)
        y = y + trigamma * (1 - trigamma / value) / polygamma(2, y)
    return y


def here(values: Array) -> Array:
    family = to_baseline(*values.shape[1:])
    return estimate(family, values).ratio > null_distribution(family).critical(ALPHA)


def without_floor(values: Array) -> Array:
    """Welch's statistic, against the largest one in simulated sweeps at the worst baseline."""
    return welch_ratio(values) > _critical_without_floor(*values.shape[1:])


def welch_ratio(values: Array) -> Array:
    difference, own, base, free = moments(values)
    total = own + base
    return np.abs(difference) / np.sqrt(total) / quantile(total**2 / ((own**2 + base**2) / free))


@cache
def _critical_without_floor(configurations: int, seeds: int) -> float:
    return max(
        float(np.quantile(np.concatenate([
            welch_ratio(values * np.array(deviations(configurations, ratio))[:, None]).max(-1)
            for values in chunks(configurations, seeds)
        ]), 1 - ALPHA))
        for ratio in (0.0, *BASELINE)
    )  # fmt: skip


METHODS: Mapping[str, Method] = {
    "here": here, "before (Welch, Holm)": welch, "smaller n - 1, Holm": smaller,
    "paired by seed, Holm": paired, "largest t, no floor": without_floor,
    "moderated, Holm": moderated, "pooled, Holm": pooled,
}  # fmt: skip

POWERFUL = ("here", "before (Welch, Holm)", "smaller n - 1, Holm", "paired by seed, Holm",
            "largest t, no floor")  # fmt: skip

UNEQUAL: Mapping[str, Callable[[int], list[float]]] = {
    "equal": lambda k: [1.0] * k,
    "baseline 0.1": lambda k: deviations(k, 0.1),
    "baseline 3": lambda k: deviations(k, 3.0),
    "one other 5": lambda k: [1.0] * (k - 1) + [5.0],
    "half of the others 2": lambda k: [1.0] * (k - k // 2) + [2.0] * (k // 2),
}


def chunks(configurations: int, seeds: int) -> Iterator[Array]:
    rng = np.random.default_rng(2)
    for _ in range(10):
        yield rng.standard_normal((SWEEPS // 10, configurations, seeds))


def methods() -> None:
    designs = list(itertools.product((3, 12, 24), (3, 5)))
    rows: list[list[object]] = [[name] for name in METHODS]
    for configurations, seeds in designs:
        scales = {
            **{f"baseline {ratio:g}": deviations(configurations, ratio) for ratio in BASELINE},
            **{name: of(configurations) for name, of in UNEQUAL.items()},
        }
        for row, method in zip(rows, METHODS.values(), strict=True):
            rates = [
                np.mean([
                    method(values * np.array(of)[:, None]).any(-1).mean()
                    for values in chunks(configurations, seeds)
                ])
                for of in scales.values()
            ]  # fmt: skip
            row.append(percent(max(rates)))
    print("Sweeps with a false claim, %, at the worst of eleven patterns of deviations\n")
    table(("test", *(f"{k} x {n}" for k, n in designs)), rows)

    rows = []
    for configurations, seeds in itertools.product((2, 3, 12, 24), (3, 5, 10)):
        for case, of in UNEQUAL.items():
            if configurations == 2 and case not in ("equal", "baseline 0.1", "baseline 3"):
                continue
            scale, cells = np.array(of(configurations))[:, None], []
            for name in POWERFUL:
                power = [
                    np.mean([
                        METHODS[name](with_effect(values * scale, effect))[:, 0].mean()
                        for values in chunks(configurations, seeds)
                    ])
                    for effect in (1.0, 2.0, 4.0)
                ]  # fmt: skip
                cells.append(" / ".join(f"{100 * one:.0f}" for one in power))
            rows.append([configurations, seeds, case, *cells])
    print("Effects of 1 / 2 / 4 that are found, %, of one configuration of deviation 1\n")
    table(("configurations", "seeds", "deviations", *POWERFUL), rows)


def with_effect(values: Array, effect: float) -> Array:
    values[:, 1] += effect
    return values


# ---- other families ------------------------------------------------------------------------------


def factorial(
    levels: Sequence[int], seeds: int, *, shared: bool
) -> tuple[list[tuple[int, ...]], dict[str, Family]]:
    """A full factorial design with interactions.

    Its cells, comparisons with the first, and main effects form one family. shared: cells with
    equal first levels share their models.
    """
    cells = list(itertools.product(*map(range, levels)))
    place = {cell: n for n, cell in enumerate(cells)}
    trained = tuple(cell[0] if shared else n for n, cell in enumerate(cells))

    def averaged(axes: Sequence[int], signs: Mapping[tuple[int, ...], int]) -> Weights:
        blocks = len(cells) / np.prod([levels[axis] for axis in axes])
        chosen = {cell: signs.get(tuple(cell[axis] for axis in axes), 0) for cell in cells}
        return tuple((place[cell], sign / blocks) for cell, sign in chosen.items() if sign)

    rows = [((0, -1.0), (n, 1.0)) for n in range(1, len(cells))]
    effects = [
        averaged([axis], {(level,): 1, (0,): -1})
        for axis, count in enumerate(levels)
        for level in range(1, count)
    ]
    interactions = [
        averaged([one, other], {(a, b): 1, (0, b): -1, (a, 0): -1, (0, 0): 1})
        for one, other in itertools.combinations(range(len(levels)), 2)
        for a, b in itertools.product(range(1, levels[one]), range(1, levels[other]))
    ]
    measured = ((True,) * seeds,) * len(cells)
    return cells, {
        "comparisons and effects": Family(tuple(dict.fromkeys(rows + effects)), measured, trained),
        "interactions": Family(tuple(interactions), measured, trained),
    }


def ladder(configurations: int, seeds: int) -> Family:
    """Every configuration against the previous one and against the first."""
    base = [((0, -1.0), (n, 1.0)) for n in range(1, configurations)]
    before = [((n - 1, -1.0), (n, 1.0)) for n in range(2, configurations)]
    return Family(
        tuple(base + before),
        ((True,) * seeds,) * configurations,
        tuple(range(configurations)),
    )


def drawn_deviations(count: int, *, seed: int) -> Iterator[list[float]]:
    """Patterns without a plan: wide, narrow, few that vary, many alike beside another baseline."""
    rng = np.random.default_rng(seed)
    for number in range(60):
        kinds = (
            np.exp(rng.normal(0, rng.uniform(0.3, 2), count)),
            np.where(rng.random(count) < rng.random(), 1, rng.uniform(0, 0.5)),
            np.where(rng.random(count) < 0.3, rng.uniform(1, 6), 1),
            np.linspace(1, rng.uniform(1, 8), count),
        )
        found = kinds[number % 4]
        if number % 2:
            found[0] = rng.uniform(0, 6)
        yield found.tolist()


def families() -> None:
    every: dict[str, Family] = {}
    for levels, seeds in (((4, 3), 3), ((4, 3), 5), ((3, 3, 2), 3), ((3, 8), 3)):
        for shared in (False, True):
            for name, family in factorial(levels, seeds, shared=shared)[1].items():
                design = " x ".join(map(str, levels)) + f", {seeds} seeds"
                models = ", models shared along the first axis" if shared else ""
                every[f"{name} of {design}{models}"] = family
    for configurations, seeds in ((5, 3), (8, 3), (5, 5)):
        every[f"{configurations} arms against parent and base, {seeds} seeds"] = ladder(
            configurations, seeds
        )
    for configurations in (6, 24):
        measured = ((True,) * 9, *((True,) * 3 + (False,) * 6,) * (configurations - 1))
        family = to_baseline(configurations, 9)
        every[f"{configurations} configurations of 3 seeds, a baseline of 9"] = Family(
            family.contrasts, measured, family.trained
        )
    rows = []
    for name, family in every.items():
        rates = [
            any_claim(family, scales) / SWEEPS
            for scales in drawn_deviations(len(family.measured), seed=len(family.contrasts))
        ]
        rows.append((name, len(family.contrasts), percent(np.median(rates)), percent(max(rates))))
    print("Sweeps with a false claim, %, over 60 drawn patterns of deviations\n")
    table(("family", "contrasts", "median", "most"), rows)


# ---- whole reports -------------------------------------------------------------------------------


def runs(values: Array) -> list[Result]:
    """Convert (configurations, seeds) to runs."""
    return [
        Result(
            run=f"{n}-{seed}", settings={"model": str(n)}, seed=seed, status="FINISHED",
            metrics={METRIC: value},
        )
        for n, row in enumerate(values.tolist())
        for seed, value in enumerate(row)
    ]  # fmt: skip


def analysis() -> None:
    """Compare claims and p-values of whole reports, one by one, with the vectorised form."""
    question = AnalysisRequest(metric=METRIC, lower_is_better=True)
    compared = different = 0
    start = time.perf_counter()
    for configurations, seeds in itertools.product((2, 3, 6, 12, 24), (3, 4, 5, 8)):
        family = to_baseline(configurations, seeds)
        null = null_distribution(family)
        baseline = BASELINE[(configurations + seeds) % len(BASELINE)]
        rng = np.random.default_rng(configurations + 100 * seeds)
        values = rng.standard_normal((200, configurations, seeds))
        values = values * np.array(deviations(configurations, baseline))[:, None]
        values[:, 1:] += rng.choice([0, 0, 4], (200, configurations - 1, 1))
        ratios = estimate(family, values).ratio
        claimed = ratios > null.critical(ALPHA)
        for sweep, expected, wanted in zip(values, claimed, ratios, strict=True):
            comparisons = analyse(runs(sweep), question).comparisons[1:]
            for comparison, claim, ratio in zip(comparisons, expected, wanted, strict=True):
                made = comparison.verdict in (Verdict.BETTER, Verdict.WORSE)
                assert comparison.tested is not None
                same = made == claim and comparison.tested.adjusted_p == null.adjusted_p(ratio)
                compared, different = compared + 1, different + (not same)
    seconds = time.perf_counter() - start
    print(f"{compared} comparisons of 4,000 reports, {different} different, {seconds:.0f} s")


# ---- trainings of one seed that are alike --------------------------------------------------------


def correlated() -> None:
    """A share of the variance belongs to the seed: of all trainings, or of those of one level."""
    cells, every = factorial((4, 3), 3, shared=False)
    rows = []
    for name, family in every.items():
        critical = null_distribution(family).critical(ALPHA)
        for share in (0.0, 0.1, 0.3, 0.6):
            rates = []
            for levels in ([0] * 12, [cell[1] for cell in cells]):
                rng, claimed = np.random.default_rng(3), 0
                for _ in range(10):
                    own = rng.standard_normal((SWEEPS // 10, 12, 3))
                    common = rng.standard_normal((SWEEPS // 10, 3, 3))[:, levels]
                    values = np.sqrt(1 - share) * own + np.sqrt(share) * common
                    claimed += int((estimate(family, values).ratio > critical).any(-1).sum())
                rates.append(percent(claimed / SWEEPS))
            rows.append((name, share, *rates))
    print("Sweeps of 4 x 3 configurations and 3 seeds with a false claim, %\n")
    table(("family", "share of the seed", "of all", "of each level of the second axis"), rows)


if __name__ == "__main__":
    {"grid": grid, "methods": methods, "families": families, "correlated": correlated,
     "analysis": analysis}[sys.argv[1]]()  # fmt: skip
