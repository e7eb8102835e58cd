"""Options of the samplers and checks of their combinations. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from dit_lab.core.options import Component, option
from dit_lab.samplers.grid import check_grid, noisy_steps

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045

SPACING = ("even", "stride")
GRID = ("uniform", "quadratic", "shifted", "given")
MULTISTEP_GRID = ("log_snr", "uniform", "quadratic", "shifted", "given")
DIFFUSION = ("constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing")
LAST_STEP = ("mean", "tweedie", "euler", "none")
SOLVER = ("ode", "sde")
GUIDANCE_KIND = ("cfg", "apg", "cfg_zero_star", "internal")

MOST_STEPS = 100_000

CACHE_INTERVAL: Any = option(
    1,
    at_least=1,
    help="n: the model is evaluated at every n-th step and extrapolated in between",
)


@dataclass
class Ancestral(Component):
    steps: int = option(250, at_least=1, at_most=MOST_STEPS, help="number of timesteps visited")
    spacing: str = option(
        "even", choices=SPACING, help="timesteps are spaced evenly, or every k-th is taken"
    )
    clip_data: bool = option(False, help="clamp predicted data to [-1, 1]")
    cache_interval: int = CACHE_INTERVAL


@dataclass
class DDIM(Ancestral):
    steps: int = option(50, at_least=1, at_most=MOST_STEPS, help="number of timesteps visited")
    spacing: str = option(
        "stride", choices=SPACING, help="timesteps are spaced evenly, or every k-th is taken"
    )
    eta: float = option(
        0.0, at_least=0, at_most=1, help="0: DDIM, deterministic; 1: as much noise as DDPM"
    )


@dataclass
class Stepped(Component):
    steps: int = option(25, at_least=1, at_most=MOST_STEPS, help="number of steps")
    time_shift: float = option(1.0, above=0, help="shift of time_grid=shifted")
    times: Optional[list[float]] = option(None, help="flow times of time_grid=given")


@dataclass
class FixedStep(Stepped):
    time_grid: str = option("uniform", choices=GRID, help="spacing of the steps over flow time")

    def check_together(self) -> None:
        _check_grid(self)


@dataclass
class Euler(FixedStep):
    steps: int = option(50, at_least=1, at_most=MOST_STEPS, help="number of steps")


@dataclass
class Jump(FixedStep):
    steps: int = option(1, at_least=1, at_most=MOST_STEPS, help="number of jumps, one NFE each")
    renew_noise: bool = option(
        False, help="true: multistep consistency sampling, with new noise after each jump"
    )


@dataclass
class RK4(FixedStep):
    steps: int = option(12, at_least=1, at_most=MOST_STEPS, help="number of steps")


@dataclass
class EulerMaruyama(FixedStep):
    steps: int = option(
        250, at_least=1, at_most=MOST_STEPS, help="evaluations, the last of which draws no noise"
    )
    diffusion: str = option(
        "sigma", choices=DIFFUSION, help="form of the rate w(t) at which noise is renewed"
    )
    diffusion_norm: float = option(1.0, at_least=0, help="factor of w(t)")
    last_step: str = option(
        "mean", choices=LAST_STEP, help="form of the last step, which adds no noise"
    )
    last_step_size: float = option(
        0.04, above=0, below=1, help="size of the last step in flow time"
    )
    cache_interval: int = CACHE_INTERVAL

    def check_together(self) -> None:
        _check_grid(self, after=self.steps - noisy_steps(self.steps, self.last_step))


@dataclass
class Multistep(Stepped):
    steps: int = option(20, at_least=1, at_most=MOST_STEPS, help="number of steps")
    time_grid: str = option(
        "log_snr", choices=MULTISTEP_GRID, help="spacing of the steps over flow time"
    )

    def check_together(self) -> None:
        _check_grid(self, rules=MULTISTEP_GRID, after=1)


@dataclass
class DPMSolver(Multistep):
    solver: str = option(
        "ode", choices=SOLVER, help="ode: DPM-Solver++; sde: its stochastic variant"
    )


@dataclass
class Dopri5(Component):
    rtol: float = option(1e-5, above=0, help="relative tolerance")
    atol: float = option(1e-5, above=0, help="absolute tolerance")


@dataclass
class Guidance:
    scale: float = option(
        at_least=0, filled=True, help="s in uncond + s (cond - uncond); 1 is no guidance"
    )
    weight: Optional[float] = option(at_least=-1, help="the other convention, s = 1 + w")
    interval: list[float] = option(help="flow times at which guidance acts; 0 is noise, 1 is data")
    channels: Any = option(
        help="channels that are guided: all, or the first k; the original DiT guides 3 of 4"
    )
    rescale: float = option(
        at_least=0,
        at_most=1,
        help="1: guided outputs are rescaled to the standard deviation of unguided ones",
    )
    weak_run: Optional[str] = option(
        help="RUN, a smaller model or an earlier checkpoint to guide away from (autoguidance)"
    )
    kind: str = option(
        "cfg",
        choices=GUIDANCE_KIND,
        later=True,
        help="cfg; apg: projected differences; cfg_zero_star; internal: away from an early output",
    )
    parallel: float = option(
        0.0, later=True, help="kind=apg: share kept of the part parallel to the output (eta)"
    )
    norm_threshold: float = option(
        0.0, at_least=0, later=True, help="kind=apg: largest norm of a difference (r); 0: no bound"
    )
    momentum: float = option(
        0.0, above=-1, below=1, later=True,
        help="kind=apg: weight of the differences at earlier times (beta)",
    )  # fmt: skip
    zero_until: Optional[float] = option(
        None, at_least=0, at_most=1, later=True,
        help="kind=cfg_zero_star: flow time up to which the velocity is 0; null: never",
    )  # fmt: skip


COMPONENTS: dict[str, dict[str, type[Component]]] = {
    "sampler": {
        "dit_lab.samplers.ancestral.DDPMSampler": Ancestral,
        "dit_lab.samplers.ancestral.DDIMSampler": DDIM,
        "dit_lab.samplers.ode.Euler": Euler,
        "dit_lab.samplers.ode.Midpoint": FixedStep,
        "dit_lab.samplers.ode.Heun": FixedStep,
        "dit_lab.samplers.ode.RK4": RK4,
        "dit_lab.samplers.jump.Jump": Jump,
        "dit_lab.samplers.adaptive.Dopri5": Dopri5,
        "dit_lab.samplers.sde.EulerMaruyama": EulerMaruyama,
        "dit_lab.samplers.multistep.DPMSolver": DPMSolver,
        "dit_lab.samplers.multistep.UniPC": Multistep,
    }
}


def _check_grid(sampler: FixedStep | Multistep, **how: Any) -> None:
    check_grid(
        steps=sampler.steps,
        time_grid=sampler.time_grid,
        time_shift=sampler.time_shift,
        times=sampler.times,
        **how,
    )
