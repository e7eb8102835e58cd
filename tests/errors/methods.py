"""Objectives, samplers, couplings and guidance that cannot be combined."""

from __future__ import annotations

import shutil
from pathlib import Path

from dit_lab.data.pair_facts import PairFacts
from tests.errors.case import Case

DDPM = "train dataset=digits codec=identity model=pico"
FLOW = f"{DDPM} objective=rectified_flow"
MATCHING = f"{DDPM} objective=flow_matching"
SAMPLE = "sample run=RUN"
REFLOW = "reflow run=RUN"


def pairs(folder: Path, *, classes: int = 10, at: str = "mine") -> None:
    """A folder that says it holds pairs."""
    (folder / at).mkdir(parents=True)
    PairFacts(
        drawn_by="somebody", sampler={}, guidance={}, seed=1, train_pairs=90, held_out_pairs=10,
        latent_shape=[1, 8, 8], num_classes=classes, codec="identity", dtype="float32",
    ).write(folder / at)  # fmt: skip


def two_of_pairs(folder: Path) -> None:
    """A run with two folders of pairs."""
    for name in "ab":
        pairs(folder, at=f"drawn/pairs/{name}")


def other_objective(folder: Path) -> None:
    """A copy of the run that says it was trained in another way."""
    (run,) = (folder / "outputs/runs").glob("*/*")
    shutil.copytree(run, folder / "other")
    config = folder / "other/config.yaml"
    config.write_text(config.read_text().replace("time_scale: 1000.0", "time_scale: 1.0"))


# fmt: off
CASES = (
    Case("noise predicted where there is nothing else", f"{DDPM} objective.zero_terminal_snr=true",
         "objective.prediction=noise: with zero_terminal_snr the last timestep is pure"),
    Case("a timestep without signal and without weight",
         f"{DDPM} objective.zero_terminal_snr=true objective.prediction=v "
         "objective.min_snr_gamma=5",
         "objective.min_snr_gamma=5: gives weight 0 to a timestep without signal"),
    Case("a variance both learned and fixed", f"{DDPM} objective.fixed_variance=large",
         "objective.fixed_variance=large: not with learn_sigma=true"),
    Case("a bound that is not in the loss",
         f"{DDPM} objective.learn_sigma=false objective.rescale_bound=true",
         "objective.rescale_bound=true: there is no bound in the loss"),
    Case("a width that belongs to another path",
         f"{MATCHING} objective.path=vp objective.sigma_min=0.1",
         "objective.sigma_min=0.1: belongs to path=linear; path=vp has none"),
    Case("a constant of a loss that has none", f"{FLOW} objective.huber_c=0.5",
         "objective.huber_c=0.5: belongs to loss=huber; give both, or neither"),
    Case("another loss", f"{FLOW} objective.loss=l1",
         "objective.loss=l1: expected one of squared, huber"),
    Case("two weightings", f"{MATCHING} objective.weighting=velocity objective.min_snr_gamma=5",
         "objective.min_snr_gamma=5: is a weighting itself; use it or weighting=velocity"),
    Case("a shift that is no number", f"{FLOW} objective.time_shift=much",
         "objective.time_shift=much: expected a number above 0, or auto"),
    Case("a direction in one channel", f"{FLOW} objective.direction_weight=1",
         "objective.direction_weight=1: needs latents or images of several channels"),
    Case("a shift of a grid that is not shifted", f"{FLOW} sampler=euler sampler.time_shift=3",
         "sampler.time_shift=3: expected a number above 0, and time_grid=shifted"),
    Case("times that are not given", f"{FLOW} sampler=euler sampler.time_grid=given",
         "sampler.time_grid=given: give times with time_grid=given, and only with that"),
    Case("more steps than given times",
         f"{FLOW} sampler=euler sampler.time_grid=given sampler.times=[0,0.5,1]",
         "sampler.steps=50: needs 51 times, times has 3; give as many, or change steps"),
    Case("times that fall",
         f"{FLOW} sampler=euler sampler.steps=2 sampler.time_grid=given " "sampler.times=[1,0.5,0]",
         r"sampler.times=\[1.0, 0.5, 0.0\]: expected flow times that rise from 0"),
    Case("noise in a single step", f"{FLOW} sampler=euler_maruyama sampler.steps=1",
         "sampler.steps=1: the last step draws no noise; use 2 or more"),
    Case("coupled noise where it has to be independent", f"{DDPM} coupling=optimal_transport",
         "coupling=optimal_transport: not with objective=ddpm, whose reverse steps"),
    Case("a sampler that needs independent noise",
         f"{FLOW} coupling=optimal_transport sampler=euler_maruyama",
         "sampler=euler_maruyama: is a stochastic sampler, which needs a model whose"),
    Case("groups that no batch is made of",
         f"{FLOW} coupling=optimal_transport coupling.group_images=48",
         "coupling.group_images=48: does not divide the micro-batch of 256 .* use 8, 16, 32, 64"),
    Case("noise exchanged between classes",
         f"{FLOW} coupling=optimal_transport coupling.within_class=false",
         "coupling.within_class=false: the data has 10 classes, and the noise of each"),
    Case("no pairs named", f"{FLOW} coupling=reflow",
         "coupling.pairs: not given; dit-lab reflow run=RUN draws pairs"),
    Case("no pairs there", f"{FLOW} coupling=reflow coupling.pairs=nowhere",
         "coupling.pairs=.*nowhere: holds no complete pairs"),
    Case("two folders of pairs", f"{FLOW} coupling=reflow coupling.pairs=drawn",
         r"coupling.pairs=.*drawn: holds 2 folders of pairs \(pairs/a, pairs/b\); name one",
         prepare=two_of_pairs),
    Case("pairs of other images", f"{FLOW} coupling=reflow coupling.pairs=mine",
         "coupling.pairs=.*mine: holds 1 x 8 x 8 in 3 classes; the model sees 1 x 8 x 8",
         prepare=lambda folder: pairs(folder, classes=3)),
    Case("samples from noise that was trained on",
         f"{FLOW} coupling=reflow coupling.pairs=mine sample.seed=1",
         "sample.seed=1: the pairs were drawn with seed 1 by an earlier version", prepare=pairs),
    Case("pairs for a bent path",
         f"{MATCHING} objective.path=trigonometric coupling=reflow coupling.pairs=mine",
         "objective.path=trigonometric: coupling=reflow straightens paths; use linear",
         prepare=pairs),
    Case("reflow of no run", "reflow", "run: missing; give run=RUN"),
    Case("pairs drawn with noise on the way", f"{REFLOW} pairs.sampler=euler_maruyama",
         "pairs.sampler=euler_maruyama: is a stochastic sampler", start="tiny"),
    Case("too few pairs", f"{REFLOW} pairs.sample.num_images=9",
         "pairs.sample.num_images=9: too few to train on most and hold some out; use 10",
         start="tiny"),
    Case("an unknown key of the pairs", f"{REFLOW} pairs.sampler.stepz=1",
         "pairs.sampler.stepz: no such key; did you mean sampler.steps", start="tiny"),
    Case("a weak run that is not there", f"{SAMPLE} guidance.scale=2 guidance.weak_run=nowhere",
         "guidance.weak_run=nowhere: does not exist; give a run folder", start="tiny"),
    Case("a weak run and no guidance", f"{SAMPLE} guidance.weak_run=RUN",
         "guidance.weak_run=.*: guidance.scale=1 is no guidance", start="tiny"),
    Case("a weak run that was trained for something else",
         f"{SAMPLE} guidance.scale=2 guidance.weak_run=other",
         "guidance.weak_run=other: was trained with objective.time_scale=1.0, not 1000.0",
         start="tiny", prepare=other_objective),
    Case("bits of images from a model of latents",
         "evaluate run=RUN evaluation.likelihood_images=10",
         "evaluation.likelihood_images=10: bits per dimension need the", start="latent"),
    Case("every job of a sweep refused", f"{FLOW} -m sampler=ddpm seed=0,1 sweep.on_refusal=skip",
         "all 2 jobs are refused: sampler=ddpm: does not fit"),
)
