"""Few-step objectives: what they cannot be combined with."""

from __future__ import annotations

from tests.errors.case import Case, heavy
from tests.errors.own_parts import MODEL, TRUSTED, own

DIGITS = "train dataset=digits codec=identity model=pico"
MEAN = f"{DIGITS} objective=mean_flow"
IMPROVED = f"{DIGITS} objective=improved_mean_flow"

# fmt: off
CASES = (
    Case("a jump by a model of one time", f"{DIGITS} objective=rectified_flow sampler=jump",
         "sampler=jump: does not fit objective=rectified_flow; allowed: auto, heun, "),
    Case("a chain's sampler for an average velocity", f"{MEAN} sampler=ddpm",
         "sampler=ddpm: does not fit objective=mean_flow; allowed: auto, jump, euler"),
    Case("an integral of no velocity", f"{DIGITS} objective=consistency sampler=heun",
         "sampler=heun: does not fit objective=consistency; allowed: auto, jump$"),
    Case("a likelihood without a velocity",
         f"{DIGITS} objective=consistency evaluation.likelihood_images=8",
         "likelihood_images=8: objective=consistency has no velocity to integrate; use 0"),
    heavy("a second time for a model of one time", f"{MEAN} model=mine {TRUSTED}",
          "model=mine: takes no second_time, which objective=mean_flow needs; use the lab's",
          prepare=own("model", MODEL)),
    Case("guidance beside guidance in the target",
         f"{MEAN} objective.guidance_omega=2 guidance.scale=3",
         r"guidance.scale=3: the model was trained with guidance in its target \(objective."),
    Case("guidance away from the label", f"{IMPROVED} guidance.scale=0.5",
         "guidance.scale=0.5: objective=improved_mean_flow was trained with scales from 1 to 8; "),
    Case("guidance that is no input", f"{IMPROVED} guidance.scale=2 guidance.rescale=0.7",
         "guidance.rescale=0.7: objective=improved_mean_flow takes the guidance as an input of"),
    Case("an interval that is none", f"{MEAN} objective.guidance_interval=[0.5]",
         r"objective.guidance_interval=\[0.5\]: expected \[from, to\] with 0 <= from < to <= 1"),
    Case("a guidance scale below 1 in the target",
         f"{MEAN} objective.guidance_omega=0.2 objective.guidance_kappa=0.5",
         "objective.guidance_omega=0.2: with guidance_kappa=0.5 the guidance scale omega / "),
    Case("a second head of more blocks than the model", f"{IMPROVED} objective.velocity_blocks=9",
         "objective.velocity_blocks=9: the model has 4 blocks; give at most as many"),
    Case("steps that cannot be halved", f"{DIGITS} objective=shortcut objective.finest_steps=100",
         "objective.finest_steps=100: expected a power of 2"),
    Case("forward-mode derivatives of float8", f"{MEAN} precision=fp8",
         "objective.derivative=jvp: float8 products have no forward-mode derivative; use "),
)
# fmt: on
