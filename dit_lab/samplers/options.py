"""The options of the samplers, and which of them go together. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Optional

from dit_lab.core.options import Component, option
from dit_lab.samplers.grid import check_grid, noisy_steps

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045

Spacing = Enum("Spacing", ["even", "stride"])
Grid = Enum("Grid", ["uniform", "quadratic", "shifted", "given"])
MultistepGrid = Enum("MultistepGrid", ["log_snr", "uniform", "quadratic", "shifted", "given"])
Diffusion = Enum(
    "Diffusion", ["constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"]
)
LastStep = Enum("LastStep", ["mean", "tweedie", "euler", "none"])
Solver = Enum("Solver", ["ode", "sde"])

CACHE_INTERVAL: Any = option(
    1,
    at_least=1,
    help="n: the model is evaluated at every n-th step and extrapolated in between",
)


@dataclass
class Ancestral(Component):
    steps: int = option(250, at_least=1)
    spacing: Spacing = option(Spacing.even, help="or stride")
    clip_data: bool = option(False)
    cache_interval: int = CACHE_INTERVAL


@dataclass
class DDIM(Ancestral):
    steps: int = option(50, at_least=1)
    spacing: Spacing = option(Spacing.stride, help="or even")
    eta: float = option(0.0, at_least=0, at_most=1)


@dataclass
class Stepped(Component):
    steps: int = option(25, at_least=1)
    time_shift: float = option(1.0, above=0)
    times: Optional[list[float]] = option(None)


@dataclass
class FixedStep(Stepped):
    time_grid: Grid = option(
        Grid.uniform, help="quadratic, shifted (by time_shift) or given (as times)"
    )

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        _check_grid(options)


@dataclass
class Euler(FixedStep):
    steps: int = option(50, at_least=1)


@dataclass
class RK4(FixedStep):
    steps: int = option(12, at_least=1)


@dataclass
class EulerMaruyama(FixedStep):
    steps: int = option(250, at_least=1, help="evaluations, the last of which draws no noise")
    diffusion: Diffusion = option(
        Diffusion.sigma, help="constant, sbdm, linear, decreasing or increasing_decreasing"
    )
    diffusion_norm: float = option(1.0, at_least=0)
    last_step: LastStep = option(LastStep.mean, help="tweedie, euler or none")
    last_step_size: float = option(0.04, above=0, below=1, help="of flow time")
    cache_interval: int = CACHE_INTERVAL

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        noisy = noisy_steps(options["steps"], options["last_step"])
        _check_grid(options, after=options["steps"] - noisy)


@dataclass
class Multistep(Stepped):
    steps: int = option(20, at_least=1)
    time_grid: MultistepGrid = option(
        MultistepGrid.log_snr,
        help="uniform, quadratic, shifted (time_shift) or given (times)",
    )

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        _check_grid(options, rules=[rule.name for rule in MultistepGrid], after=1)


@dataclass
class DPMSolver(Multistep):
    solver: Solver = option(Solver.ode, help="or sde")


@dataclass
class Dopri5(Component):
    rtol: float = option(1e-5, above=0)
    atol: float = option(1e-5, above=0)


COMPONENTS = {
    "dit_lab.samplers.ancestral.DDPMSampler": Ancestral,
    "dit_lab.samplers.ancestral.DDIMSampler": DDIM,
    "dit_lab.samplers.ode.Euler": Euler,
    "dit_lab.samplers.ode.Midpoint": FixedStep,
    "dit_lab.samplers.ode.Heun": FixedStep,
    "dit_lab.samplers.ode.RK4": RK4,
    "dit_lab.samplers.adaptive.Dopri5": Dopri5,
    "dit_lab.samplers.sde.EulerMaruyama": EulerMaruyama,
    "dit_lab.samplers.multistep.DPMSolver": DPMSolver,
    "dit_lab.samplers.multistep.UniPC": Multistep,
}


def _check_grid(options: Mapping[str, Any], **how: Any) -> None:
    names = ("steps", "time_grid", "time_shift", "times")
    check_grid(**{name: options[name] for name in names}, **how)
