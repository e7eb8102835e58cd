"""Objectives, samplers, couplings and guidance that do not go together."""

from __future__ import annotations

import shutil
from pathlib import Path

from dit_lab.data.pair_facts import PairFacts
from tests.errors.case import Area, Case

DDPM = "train dataset=digits codec=identity model=pico"
FLOW = f"{DDPM} objective=rectified_flow"
MATCHING = f"{DDPM} objective=flow_matching"
SAMPLE = "sample run=RUN"
REFLOW = "reflow run=RUN"


def pairs(folder: Path, *, classes: int = 10, seed: int = 1) -> None:
    """A folder that says it holds pairs."""
    (folder / "mine").mkdir()
    PairFacts(
        drawn_by="somebody", sampler={}, guidance={}, seed=seed, train_pairs=90, held_out_pairs=10,
        latent_shape=[1, 8, 8], num_classes=classes, codec="identity", dtype="float32",
    ).write(folder / "mine")  # fmt: skip


def other_objective(folder: Path) -> None:
    """A copy of the run that says it was trained in another way."""
    (run,) = (folder / "outputs/runs").glob("*/*")
    shutil.copytree(run, folder / "other")
    config = folder / "other/config.yaml"
    config.write_text(config.read_text().replace("time_scale: 1000.0", "time_scale: 1.0"))


AREA = Area(
    title="Objectives, samplers, couplings and guidance",
    cases=(
        Case(
            title="noise predicted where there is nothing else",
            command=f"{DDPM} objective.zero_terminal_snr=true",
            says="objective.prediction=noise: with zero_terminal_snr the last timestep is noise",
        ),
        Case(
            title="a timestep without signal and without weight",
            command=f"{DDPM} objective.zero_terminal_snr=true objective.prediction=v "
            "objective.min_snr_gamma=5",
            says="objective.min_snr_gamma=5: gives a timestep without signal no weight",
        ),
        Case(
            title="a variance both learned and fixed",
            command=f"{DDPM} objective.fixed_variance=large",
            says="objective.fixed_variance=large: not with learn_sigma=true",
        ),
        Case(
            title="a bound that is not in the loss",
            command=f"{DDPM} objective.learn_sigma=false objective.rescale_bound=true",
            says="objective.rescale_bound=true: there is no bound in the loss",
        ),
        Case(
            title="a width that belongs to another path",
            command=f"{MATCHING} objective.path=vp objective.sigma_min=0.1",
            says="objective.sigma_min=0.1: belongs to path=linear; path=vp has none",
        ),
        Case(
            title="a shift that is no number",
            command=f"{FLOW} objective.time_shift=much",
            says="objective.time_shift=much: expected a number above 0, or auto",
        ),
        Case(
            title="a direction in one channel",
            command=f"{FLOW} objective.direction_weight=1",
            says="objective.direction_weight=1: the model sees one channel",
        ),
        Case(
            title="a discrete sampler for a flow",
            command=f"{MATCHING} sampler=ddpm",
            says="sampler=ddpm: does not fit objective=flow_matching; allowed: auto, heun, ",
        ),
        Case(
            title="a shift of a grid that is not shifted",
            command=f"{FLOW} sampler=euler sampler.time_shift=3",
            says="sampler.time_shift=3: expected a number above 0, and time_grid=shifted",
        ),
        Case(
            title="times that are not given",
            command=f"{FLOW} sampler=euler sampler.time_grid=given",
            says="sampler.time_grid=given: give times with time_grid=given, and only with that",
        ),
        Case(
            title="more steps than given times",
            command=f"{FLOW} sampler=euler sampler.time_grid=given sampler.times=[0,0.5,1]",
            says="sampler.steps=50: 3 times make 2 steps; give both alike",
        ),
        Case(
            title="times that fall",
            command=f"{FLOW} sampler=euler sampler.steps=2 sampler.time_grid=given "
            "sampler.times=[1,0.5,0]",
            says=r"sampler.times=\[1.0, 0.5, 0.0\]: expected flow times that rise from 0",
        ),
        Case(
            title="noise in a single step",
            command=f"{FLOW} sampler=euler_maruyama sampler.steps=1",
            says="sampler.steps=1: the last step draws no noise; use 2 or more",
        ),
        Case(
            title="coupled noise where it has to be independent",
            command=f"{DDPM} coupling=optimal_transport",
            says="coupling=optimal_transport: not with objective=ddpm, whose steps back take",
        ),
        Case(
            title="a sampler that needs independent noise",
            command=f"{FLOW} coupling=optimal_transport sampler=euler_maruyama",
            says="sampler=euler_maruyama: draws noise on the way, which needs a model whose",
        ),
        Case(
            title="groups that no batch is made of",
            command=f"{FLOW} coupling=optimal_transport coupling.group_images=48",
            says="coupling.group_images=48: does not divide the 256 images .* use 8, 16, 32, 64",
        ),
        Case(
            title="noise exchanged between classes",
            command=f"{FLOW} coupling=optimal_transport coupling.within_class=false",
            says="coupling.within_class=false: the data has 10 classes, each of which would get",
        ),
        Case(
            title="no pairs named",
            command=f"{FLOW} coupling=reflow",
            says="coupling.pairs: not given; dit-lab reflow run=RUN draws pairs",
        ),
        Case(
            title="no pairs there",
            command=f"{FLOW} coupling=reflow coupling.pairs=nowhere",
            says="coupling.pairs=.*nowhere: holds no whole pairs",
        ),
        Case(
            title="pairs of other images",
            command=f"{FLOW} coupling=reflow coupling.pairs=mine",
            prepare=lambda folder: pairs(folder, classes=3),
            says="coupling.pairs=.*mine: holds 1 x 8 x 8 in 3 classes; the model sees 1 x 8 x 8",
        ),
        Case(
            title="samples from noise that was trained on",
            command=f"{FLOW} coupling=reflow coupling.pairs=mine sample.seed=1",
            prepare=pairs,
            says="sample.seed=1: the pairs were drawn with that seed",
        ),
        Case(
            title="pairs for a bent path",
            command=f"{MATCHING} objective.path=trigonometric coupling=reflow coupling.pairs=mine",
            prepare=pairs,
            says="objective.path=trigonometric: coupling=reflow straightens paths; use linear",
        ),
        Case(
            title="reflow of no run",
            command="reflow",
            says="run: missing; give run=RUN",
        ),
        Case(
            title="pairs drawn with noise on the way",
            command=f"{REFLOW} pairs.sampler=euler_maruyama",
            start="tiny",
            says="pairs.sampler=euler_maruyama: draws noise on the way",
        ),
        Case(
            title="too few pairs",
            command=f"{REFLOW} pairs.sample.num_images=9",
            start="tiny",
            says="pairs.sample.num_images=9: too few to train on most and hold some out; use 10",
        ),
        Case(
            title="an unknown key of the pairs",
            command=f"{REFLOW} pairs.sampler.stepz=1",
            start="tiny",
            says="pairs.sampler.stepz: no such key; did you mean sampler.steps",
        ),
        Case(
            title="a weak run that is not there",
            command=f"{SAMPLE} guidance.scale=2 guidance.weak_run=nowhere",
            start="tiny",
            says="guidance.weak_run=nowhere: does not exist; give a run folder",
        ),
        Case(
            title="a weak run and no guidance",
            command=f"{SAMPLE} guidance.weak_run=RUN",
            start="tiny",
            says="guidance.weak_run=.*: guidance.scale=1 is no guidance",
        ),
        Case(
            title="a weak run that was trained for something else",
            command=f"{SAMPLE} guidance.scale=2 guidance.weak_run=other",
            start="tiny",
            prepare=other_objective,
            says="guidance.weak_run=other: was trained with objective.time_scale=1.0, not 1000.0",
        ),
        Case(
            title="bits of images from a model of latents",
            command="evaluate run=RUN evaluation.likelihood_images=10",
            start="latent",
            says="evaluation.likelihood_images=10: the model sees latents",
        ),
        Case(
            title="every job of a sweep refused",
            command=f"{FLOW} -m sampler=ddpm seed=0,1 sweep.on_refusal=skip",
            says="all 2 jobs are refused: sampler=ddpm: does not fit",
        ),
    ),
)
