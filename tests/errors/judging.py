"""What is asked of metrics, and of experiments that are done again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.errors.case import Area, Case
from tests.errors.starts import image, wrote

PUBLISHED = (
    "metric=[frechet] metric.frechet.extractor=pixels metric.frechet.reference=imagenet.npz "
    "evaluation.num_images=2048"
)


def statistics_of_three(folder: Path) -> None:
    np.savez(folder / "imagenet.npz", mu=np.zeros(3), sigma=np.eye(3))


def without_classes(folder: Path) -> None:
    for number in range(8):
        image(folder / f"flat/{number}.png")


AREA = Area(
    title="Metrics, and experiments done again",
    cases=(
        Case(
            title="a metric that there is not",
            command="evaluate run=RUN metric=[two_sampel]",
            start="tiny",
            says=r"metric=two_sampel: no such choice; allowed: class_accuracy, .*two_sample\?",
        ),
        Case(
            title="an option of a metric that is not listed",
            command="evaluate run=RUN metric.kid.extractor=pixels",
            start="tiny",
            says=r"metric.kid: not in the list; choose with metric=\[NAME,...\], kid among them",
        ),
        Case(
            title="features that there are not",
            command="evaluate run=RUN metric.two_sample.extractor=resnet",
            start="tiny",
            says="metric.two_sample.extractor=resnet: expected one of pixels, classifier",
        ),
        Case(
            title="no metric at all",
            command="evaluate run=RUN metric=[] evaluation.num_images=90",
            start="tiny",
            slow=True,
            says=r"metric=\[\]: nothing is to be measured; two_sample and memorisation say most",
        ),
        Case(
            title="a covariance of few images",
            command="evaluate run=RUN metric=[frechet] evaluation.num_images=90",
            start="tiny",
            says="metric.frechet: evaluation.num_images=90 are too few for a covariance, 2048 are",
        ),
        Case(
            title="a covariance of few training images",
            command="evaluate run=RUN metric=[frechet] evaluation.num_images=2048",
            start="tiny",
            says="metric.frechet: 1437 training images are too few for a covariance, 2048 are",
        ),
        Case(
            title="published statistics that are not there",
            command=f"evaluate run=RUN {PUBLISHED}",
            start="tiny",
            slow=True,
            says="FOLDER/imagenet.npz: does not exist",
        ),
        Case(
            title="published statistics of other features",
            command=f"evaluate run=RUN {PUBLISHED} sampler.steps=1",
            start="tiny",
            prepare=statistics_of_three,
            slow=True,
            leaves=("outputs/runs/tiny/HASH/evaluations*",),
            says="FOLDER/imagenet.npz: statistics of 3 features, the extractor pixels gives 64",
        ),
        Case(
            title="Inception without its weights",
            command="evaluate run=RUN metric=[kid] evaluation.num_images=90",
            start="tiny",
            slow=True,
            says="evaluation.weights_path=null: the extractor inception needs a folder",
        ),
        Case(
            title="Inception whose weights are not in the folder",
            command="evaluate run=RUN metric=[kid] evaluation.num_images=90 "
            "evaluation.weights_path=.",
            start="tiny",
            slow=True,
            says=r"evaluation.weights_path=FOLDER: weights-inception-.*\.pth cannot be read there",
        ),
        Case(
            title="Inception whose weights are none",
            command="evaluate run=RUN metric=[kid] evaluation.num_images=90 "
            "evaluation.weights_path=.",
            start="tiny",
            prepare=wrote("weights-inception-2015-12-05-6726825d.pth", "no weights"),
            slow=True,
            says="not the weights of inception, or damaged; get them from https",
        ),
        Case(
            title="a classifier of images without classes",
            command="train experiment=tiny dataset=image_folder dataset.root=flat "
            "dataset.num_classes=0 metric=[kernel_distance] evaluation.num_images=90",
            start="recipe",
            prepare=without_classes,
            says="metric.kernel_distance.extractor=classifier: the data has no classes",
        ),
        Case(
            title="many ways that are one",
            command="evaluate -m run=RUN sampler.steps=3",
            start="tiny",
            says="-m: nothing is swept; give several values, such as seed=0,1,2",
        ),
        Case(
            title="many runs in many ways",
            command="evaluate -m run=RUN,RUN sampler.steps=1,2",
            start="tiny",
            says="run: one run in many ways; dit-lab report compares several",
        ),
        Case(
            title="many ways by two processes",
            command="evaluate -m run=RUN sampler.steps=1,2 distributed.num_processes=2",
            start="tiny",
            says="distributed.num_processes: -m measures in this process; leave it out",
        ),
        Case(
            title="many ways of multiplying",
            command="evaluate -m run=RUN precision=fp32,tf32",
            start="tiny",
            says="precision: with tf32 and without at once; measure these one after the other",
        ),
        Case(
            title="an experiment that there is not",
            command="reproduce quikstart",
            says="quikstart: no such experiment; there are dit, ",
        ),
        Case(
            title="the numbers of an experiment that there is not",
            command="experiments quikstart",
            says="quikstart: no such experiment; there are dit, ",
        ),
        Case(
            title="an experiment of which only numbers of others are known",
            command="reproduce dit_xl",
            says="dit_xl: only numbers of others are known of it, and nothing is compared with ",
        ),
        Case(
            title="an experiment of which nothing was recorded",
            command="reproduce tiny",
            start="recipe",
            says="experiments/tiny/expected.yaml: does not exist, so nothing was recorded of this",
        ),
        Case(
            title="a record that is not whole",
            command="reproduce tiny --quick",
            start="recipe",
            prepare=wrote("experiments/tiny/expected.yaml", "probes: {}\n"),
            says="experiments/tiny/expected.yaml: lacks recorded, measured, published; --record",
        ),
        Case(
            title="no seed",
            command="reproduce tiny --seeds 0",
            start="recipe",
            says="--seeds 0: give 1 or more",
        ),
        Case(
            title="probes that are to be recorded alone",
            command="reproduce tiny --record --quick",
            start="recipe",
            says="--record --quick: what is recorded are metrics too; leave out --quick",
        ),
        Case(
            title="a spread of two seeds",
            command="reproduce tiny --record --seeds 2",
            start="recipe",
            says="--record: 2 are too few seeds for a spread; give --seeds 3 or more",
        ),
        Case(
            title="a spread of the recipe's one seed",
            command="reproduce tiny --record",
            start="recipe",
            says="--record: 1 are too few seeds for a spread; give --seeds 3 or more",
        ),
    ),
)
