"""Every sampler with every objective it supports, on data with a known ideal prediction.

    python -m tests.measure.sampler_table

samples a Gaussian mixture on the plane, with its ideal prediction instead of a model, and rewrites
the tables in docs/objectives-and-samplers.md: the distance of the samples to the mixture, which is
the error of the sampler. Two minutes on one core.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_lab.config.compatibility import SAMPLERS
from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import Prediction
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.flow_matching import FlowMatching
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.samplers.adaptive import Dopri5
from dit_lab.samplers.ancestral import DDIMSampler, DDPMSampler
from dit_lab.samplers.multistep import DPMSolver, UniPC
from dit_lab.samplers.ode import RK4, Euler, Heun, Midpoint
from dit_lab.samplers.sde import EulerMaruyama
from tests.mixture import normal, three_spots

PAGE = Path(__file__).resolve().parents[2] / "docs/objectives-and-samplers.md"
BEGIN, END = "<!-- measured: sampler_table -->\n", "<!-- end -->"

EVALUATIONS = (10, 20, 50, 250)
SAMPLES = 50_000

OBJECTIVES: dict[str, Any] = {
    "ddpm": DDPM(),
    "rectified_flow": RectifiedFlow(),
    "flow_matching": FlowMatching(),
    "flow_matching path=trigonometric": FlowMatching(path="trigonometric"),
    "flow_matching path=vp": FlowMatching(path="vp"),
}


PER_STEP = {Euler: 1, Midpoint: 2, Heun: 2, RK4: 4}
"""Evaluations of the model in a step of each single-step sampler."""


def _single_step(kind: Any) -> Callable[[int, bool], Any]:
    """Return the steps within a budget, of which one evaluation is for the last noise."""
    each = PER_STEP[kind]
    return lambda budget, left: kind(steps=max(1, (budget - left) // each))


def _reusing(kind: Any, **options: Any) -> Callable[[int, bool], Any]:
    """Return the steps within a budget if the model is evaluated at every third step."""
    return lambda budget, left: kind(steps=2 + 3 * (budget - 2), cache_interval=3, **options)


BUILD: dict[str, dict[str, Callable[[int, bool], Any]]] = {
    "ddpm": {
        "ddpm": lambda budget, left: DDPMSampler(steps=budget),
        "ddpm cache_interval=3": _reusing(DDPMSampler),
    },
    "ddim": {
        "ddim": lambda budget, left: DDIMSampler(steps=budget, spacing="even"),
        "ddim cache_interval=3": _reusing(DDIMSampler, spacing="even"),
        "ddim eta=1": lambda budget, left: DDIMSampler(steps=budget, eta=1.0, spacing="even"),
        "ddim eta=1 cache_interval=3": _reusing(DDIMSampler, eta=1.0, spacing="even"),
    },
    "euler": {"euler": _single_step(Euler)},
    "midpoint": {"midpoint": _single_step(Midpoint)},
    "heun": {"heun": _single_step(Heun)},
    "rk4": {"rk4": _single_step(RK4)},
    "euler_maruyama": {
        "euler_maruyama": lambda budget, left: EulerMaruyama(steps=budget),
        "euler_maruyama cache_interval=3": _reusing(EulerMaruyama),
    },
    "dpm_solver": {
        "dpm_solver": lambda budget, left: DPMSolver(steps=budget),
        "dpm_solver solver=sde": lambda budget, left: DPMSolver(steps=budget, solver="sde"),
    },
    "unipc": {"unipc": lambda budget, left: UniPC(steps=budget)},
}
"""Name in conf/sampler -> how it is written in the table -> the sampler within a budget."""


@dataclass(frozen=True, slots=True)
class Cell:
    distance: float
    evaluations: int


def measure(sampler: Any, path: Interpolant, *, samples: int = SAMPLES) -> Cell:
    """Sample the mixture with the ideal prediction, and return the distance and the NFE."""
    mixture, asked = three_spots(), 0
    predict = mixture.predictor(path)

    def counted(x: Any, t: float) -> Prediction:
        nonlocal asked
        asked += 1
        return predict(x, t)

    out = sampler.sample(
        counted,
        normal(samples, mixture.shape, seed=0),
        interpolant=path,
        draw_noise=lambda step: normal(samples, mixture.shape, seed=1 + step),
    )
    return Cell(mixture.distance(out), asked)


def rows_of(name: str, budgets: tuple[int, ...] = EVALUATIONS) -> Iterator[tuple[str, list[Cell]]]:
    """Return the table rows of an objective by sampler, for all that support it."""
    objective = OBJECTIVES[name]
    path = objective.interpolant
    target = f"{type(objective).__module__}.{type(objective).__qualname__}"
    for sampler in SAMPLERS[target]:
        for label, build in BUILD.get(sampler, {}).items():
            left = path.final_sigma() > 0
            yield label, [measure(build(budget, left), path) for budget in budgets]
    yield "dopri5", [measure(Dopri5(), path)]


def table(name: str) -> str:
    """Return Markdown; smaller NFE than the budget are in brackets."""
    lines = [
        f"`{name}`" if " " not in name else f"`{name.replace(' ', ' objective.')}`",
        "",
        f"| sampler | {' | '.join(f'{budget} NFE' for budget in EVALUATIONS)} |",
        f"|---|{'---|' * len(EVALUATIONS)}",
    ]
    for label, cells in rows_of(name):
        if label == "dopri5":
            (cell,) = cells
            shown = [f"{cell.distance:.4f} ({cell.evaluations})", *[""] * (len(EVALUATIONS) - 1)]
        else:
            pairs = zip(cells, EVALUATIONS, strict=True)
            shown = [_shown(cell, budget) for cell, budget in pairs]
        lines.append(f"| `{label}` | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _shown(cell: Cell, budget: int) -> str:
    fewer = "" if cell.evaluations == budget else f" ({cell.evaluations})"
    return f"{cell.distance:.4f}{fewer}"


def main() -> None:
    floor = three_spots().floor(SAMPLES)
    tables = "\n".join(table(name) for name in OBJECTIVES)
    text = f"{SAMPLES:,} exact samples are at {floor:.4f}.\n\n{tables}"
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}", page, re.DOTALL)
    assert found, f"{PAGE} lacks the marks"
    page = page.replace(found[0], f"{BEGIN}\n{text}\n{END}")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
