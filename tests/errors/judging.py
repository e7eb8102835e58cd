"""Errors of metrics and of reproduced experiments."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.errors.case import Case, heavy
from tests.errors.starts import RECIPE, image, wrote
from tests.errors.sweeping import STEPS

PUBLISHED = (
    "metric=[frechet] metric.frechet.extractor=pixels metric.frechet.reference=imagenet.npz "
    "evaluation.num_images=2048"
)

OF_ANOTHER = """recorded:
  {date: "2026-11-28", device: x86_64, num_threads: 1, versions: {}, code: abcdef,
   train_hashes: {one configuration: abcdef}, seeds: [0, 1, 2], minutes: 1.0}
probes: {one configuration: {dropped: {value: 0.1, tolerance: {}}}}
measured: {one configuration: {}}
published: []
"""
"""The record of an experiment that has since become another."""


def statistics_of_three(folder: Path) -> None:
    np.savez(folder / "imagenet.npz", mu=np.zeros(3), sigma=np.eye(3))


def without_classes(folder: Path) -> None:
    for number in range(8):
        image(folder / f"flat/{number}.png")


# fmt: off
CASES = (
    Case("a metric that there is not", "evaluate run=RUN metric=[two_sampel]",
         r"metric=two_sampel: no such choice; allowed: class_accuracy, .*two_sample\?",
         start="tiny"),
    Case("an option of a metric that is not listed", "evaluate run=RUN metric.kid.extractor=pixels",
         r"metric.kid: not in the list; choose with metric=\[NAME,...\], kid among them",
         start="tiny"),
    Case("features that there are not", "evaluate run=RUN metric.two_sample.extractor=resnet",
         "metric.two_sample.extractor=resnet: expected one of pixels, classifier", start="tiny"),
    heavy("few real images", "evaluate run=RUN evaluation.num_images=90 "
         "evaluation.reference_images=29", "with 29 training and 29 held-out images", start="tiny"),
    heavy("no metric at all", "evaluate run=RUN metric=[] evaluation.num_images=90",
         r"metric=\[\]: nothing is to be measured; two_sample and memorisation say most",
         start="tiny"),
    Case("a covariance of few images", "evaluate run=RUN metric=[frechet] evaluation.num_images=90",
         "metric.frechet: evaluation.num_images=90 are too few for a covariance; use at",
         start="tiny"),
    Case("a covariance of few training images",
         "evaluate run=RUN metric=[frechet] evaluation.num_images=2048",
         "metric.frechet: 1437 training images are too few for a covariance, which needs",
         start="tiny"),
    heavy("published statistics that are not there", f"evaluate run=RUN {PUBLISHED}",
         "FOLDER/imagenet.npz: does not exist", start="tiny"),
    heavy("published statistics of other features", f"evaluate run=RUN {PUBLISHED} sampler.steps=1",
         "FOLDER/imagenet.npz: statistics of 3 features, the extractor pixels gives 64",
         start="tiny", prepare=statistics_of_three,
         leaves=("outputs/runs/tiny/HASH/evaluations*",)),
    heavy("Inception without its weights", "evaluate run=RUN metric=[kid] evaluation.num_images=90",
         "evaluation.weights_path=null: the extractor inception needs a folder", start="tiny"),
    heavy("Inception whose weights are not in the folder",
         "evaluate run=RUN metric=[kid] evaluation.num_images=90 evaluation.weights_path=.",
         r"evaluation.weights_path=FOLDER: weights-inception-.*\.pth cannot be read there",
         start="tiny"),
    heavy("Inception whose weights are none",
         "evaluate run=RUN metric=[kid] evaluation.num_images=90 evaluation.weights_path=.",
         "not the weights of inception, or damaged; get them from https", start="tiny",
         prepare=wrote("weights-inception-2015-12-05-6726825d.pth", "no weights")),
    Case("a classifier of images without classes",
         "train experiment=tiny dataset=image_folder dataset.root=flat dataset.num_classes=0 "
         "metric=[kernel_distance] evaluation.num_images=90",
         "metric.kernel_distance.extractor=classifier: the data has no classes", start="recipe",
         prepare=without_classes),
    Case("many ways that are one", "evaluate -m run=RUN sampler.steps=3",
         "-m: nothing is swept; give several values, such as seed=0,1,2", start="tiny"),
    Case("many runs in many ways", "evaluate -m run=RUN,RUN sampler.steps=1,2",
         "run: several values; give one RUN, or compare several", start="tiny"),
    Case("many ways by two processes",
         "evaluate -m run=RUN sampler.steps=1,2 distributed.num_processes=2",
         "distributed.num_processes: -m measures in this process; leave it out", start="tiny"),
    Case("many ways of multiplying", "evaluate -m run=RUN precision=fp32,tf32",
         "precision: -m cannot mix evaluations with and without TF32; run them separately",
         start="tiny"),
    Case("an experiment that there is not", "reproduce quikstart",
         "quikstart: no such experiment; there are dit, "),
    Case("the numbers of an experiment that there is not", "experiments quikstart",
         "quikstart: no such experiment; there are dit, "),
    Case("an experiment of which only numbers of others are known", "reproduce dit_xl",
         "dit_xl: has only published results, which are not compared; "),
    Case("an experiment of which nothing was recorded", "reproduce tiny",
         "experiments/tiny/expected.yaml: does not exist, so the experiment has no recorded ",
         start="recipe"),
    Case("a record that is not whole", "reproduce tiny --quick",
         "experiments/tiny/expected.yaml: lacks recorded, measured, published; --record",
         start="recipe", prepare=wrote("experiments/tiny/expected.yaml", "probes: {}\n")),
    Case("no seed", "reproduce tiny --seeds 0", "--seeds 0: give 1 or more", start="recipe"),
    Case("probes that are to be added to those of another training",
         "reproduce tiny --record --quick",
         "--record --quick: the configuration differs from the recorded one", start="recipe",
         prepare=wrote("experiments/tiny/expected.yaml", OF_ANOTHER)),
    Case("a part of a sweep that is to be recorded",
         "reproduce grid sampler.steps=1 --record",
         "--record: a part of the experiment; leave out the values of its axes",
         prepare=wrote("experiments/grid/recipe.yaml", RECIPE + STEPS)),
    Case("a spread of the recipe's one seed", "reproduce tiny --record",
         "--record: 1 seed, too few to estimate the variance; give --seeds 3", start="recipe"),
)
