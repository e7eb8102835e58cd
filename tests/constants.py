"""Constants behind published numbers that no option, hash or probe covers.

    python -m tests.constants

rewrites the table of docs/reproduction.md with the values in the code. A test compares them with
the values here. It also fails if a constant in the parts that compute numbers is neither here nor
listed in ASIDE, because changing such a constant would silently change results.
"""

from __future__ import annotations

import ast
import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dit_lab"
PAGE = ROOT / "docs/reproduction.md"
START, END = "<!-- written by python -m tests.constants -->\n", "<!-- until here -->\n"


@dataclass(frozen=True)
class Constant:
    """A constant: its place, its required value, and what it determines."""

    place: str  # "evaluation.metrics.two_sample.TREES"
    value: Any
    decides: str

    @property
    def now(self) -> Any:
        """The value in the code."""
        parts = f"dit_lab.{self.place}".split(".")
        for cut in range(len(parts) - 1, 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            for name in parts[cut:]:
                found = getattr(found, name)
            return found
        raise AssertionError(self.place)


PUBLISHED = (
    Constant("evaluation.metrics.two_sample.TREES", 200, "trees of the two-sample test"),
    Constant("evaluation.metrics.two_sample.FOLDS", 5, "folds of its cross-validation"),
    Constant("evaluation.metrics.neighbours.NEIGHBOURS", 5,
             "k of precision, recall, density and coverage"),
    Constant("evaluation.metrics.kernel.SUBSETS", 100, "subsets of a kernel distance"),
    Constant("evaluation.metrics.kernel.SUBSET_IMAGES", 1000, "images of each"),
    Constant("evaluation.metrics.inception_score.SPLITS", 10, "parts of an Inception score"),
    Constant("evaluation.metrics.components.NEAR_COPY_SHARE", 0.01,
             "share of held-out images that pass for near copies"),
    Constant("evaluation.metrics.straightness.STEPS", 100, "Euler steps of a path's straightness"),
    Constant("evaluation.metrics.likelihood.EXACT_DIMENSIONS", 16,
             "numbers of an image up to which the divergence is exact"),
    Constant("evaluation.metrics.likelihood.TOLERANCE", 1e-5, "tolerance of its dopri5"),
    Constant("evaluation.metrics.likelihood.CHUNK_IMAGES", 32, "images that share its steps"),
    Constant("evaluation.draws.DRAWS", 3, "disjoint draws of a metric with a spread"),
    Constant("evaluation.draws.MIN_IMAGES", 10, "fewest images of a draw"),
    Constant("evaluation.features.extractors.MAX_SIDE_PIXELS", 32,
             "side to which images are averaged down before pixels are compared"),
    Constant("evaluation.features.classifier.WIDTHS", (32, 64), "channels of the classifier"),
    Constant("evaluation.features.classifier.NUM_FEATURES", 64, "its features"),
    Constant("evaluation.features.classifier.BATCH_IMAGES", 128, "images of its batches"),
    Constant("evaluation.features.classifier.EPOCHS", 20, "its epochs, at most"),
    Constant("evaluation.features.classifier.MOST_STEPS", 1000, "its steps, at most"),
    Constant("evaluation.features.classifier.LEARNING_RATE", 1e-2, "its learning rate"),
    Constant("evaluation.features.classifier.WEIGHT_DECAY", 1e-2, "its weight decay"),
    Constant("evaluation.features.encoders.IMAGENET_MEAN", (0.485, 0.456, 0.406),
             "mean of the pixels of an encoder whose folder says none"),
    Constant("evaluation.features.encoders.IMAGENET_STD", (0.229, 0.224, 0.225),
             "their standard deviation"),
    Constant("evaluation.features.dinov2.PATCH", 14, "patch of DINOv2"),
    Constant("evaluation.features.dinov2.TRAINED_SIDE", 37, "patches of a side it was trained on"),
    Constant("evaluation.features.dinov2.HEAD_FEATURES", 64, "features of its heads"),
    Constant("evaluation.features.dinov2.EPSILON", 1e-6, "epsilon of its norms"),
    Constant("evaluation.features.dinov2.OFFSET", 0.1, "offset of its interpolated positions"),
    Constant("evaluation.table.COPIES_RATIO", 0.8,
             "distance ratio below which samples are copies"),
    Constant("evaluation.table.COPIES_SHARE", 0.05, "share of copies above which they are"),
    Constant("evaluation.table.UNLIKE_ACCURACY", 0.8,
             "two-sample accuracy above which other numbers do not count"),
    Constant("evaluation.table.FEW_RECALL", 0.5, "recall, of the baseline's, below which as well"),
    Constant("evaluation.table.AIMED_AT", {"distance_ratio": 1, "density": 1},
             "what is best, where that is neither most nor least"),
    Constant("actions.reflow.PATHS", 256, "paths whose straightness is measured"),
    Constant("actions.reflow.HELD_OUT_SHARE", 10, "of the pairs of reflow one is held out"),
    Constant("actions.reflow.MOST_HELD_OUT", 1024, "pairs that are held out, at most"),
    Constant("sampling.generate.CHUNK_IMAGES", 32, "images that are drawn together"),
    Constant("samplers.sde.KEPT", math.exp(-1), "noise that a limited step keeps"),
    Constant("samplers.sde.ROUNDING", 1e-9, "how far above its limit a rate may be"),
    Constant("samplers.multistep.MOST_LOG_SNR", 2 * math.log(1e3),
             "log-SNR to which a grid of equal steps reaches"),
    Constant("objectives.flow.EDGE", 1e-3,
             "flow time left out where a prediction says nothing of one end"),
    Constant("objectives.consistency.SMALLEST", 1e-12,
             "squared norm of an error below which consistency training has no gradient"),
    Constant("objectives.derivative.HALF_STEP", 5e-3,
             "half the flow time of a difference quotient along a trajectory"),
    Constant("objectives.flow_matching.SIGMA_MIN", 1e-4, "noise left at the end of flow matching"),
    Constant("objectives.elementwise.HUBER_C", 0.1, "c of the Huber loss"),
    Constant("objectives.time_sampling.SMALLEST_UNIFORM", 2.0**-54,
             "least number that a logit-normal time is made of"),
    Constant("objectives.time_sampling.SHIFT_DIMENSION", 4096,
             "numbers of a latent whose automatic time shift is 1"),
    Constant("objectives.flow.TO_NOISE_ERROR",
        {"noise": (0, 0, 0), "data": (0, -2, 2), "score": (0, 2, 0), "velocity": (-2, 2, 0)},
        "exponents of the weights of a loss"),
    Constant("objectives.flow.FROM_NOISE_ERROR",
             {"velocity": (2, -2, 0), "likelihood": (1, -2, 0)}, "exponents of the weightings"),
    Constant("core.interpolants.VariancePreserving.BETA_MIN", 0.1, "beta of path=vp at data"),
    Constant("core.interpolants.VariancePreserving.BETA_MAX", 20.0, "and at noise"),
    Constant("core.discrete_diffusion.SMALLEST_ALPHA_BAR", 2.0**-24,
             "share of data in place of none, of zero terminal SNR"),
    Constant("models.layers.NORM_EPS", 1e-6, "epsilon of every norm of the DiT"),
    Constant("models.embeddings.TIME_FEATURES", 256, "sines and cosines of a time"),
    Constant("models.embeddings.LONGEST_PERIOD", 10_000.0, "longest of their periods"),
    Constant("data.images.CROP_RANGE", (0.8, 1.0), "share of an image that a random crop keeps"),
    Constant("data.digits_facts.DIGITS_SPLIT", {"test_size": 360, "random_state": 0},
             "which digits are held out"),
    Constant("codecs.autoencoder.LOG_VARIANCE_RANGE", (-30.0, 20.0),
             "to which a codec's log variance is clamped"),
    Constant("training.optimizers.muon.COEFFICIENTS", (3.4445, -4.775, 2.0315),
             "Newton-Schulz iteration of Muon"),
    Constant("training.optimizers.muon.EPS", 1e-7, "epsilon of its norm"),
    Constant("training.optimizers.muon.FUSED", {"qkv": 3, "w12": 2, "adaLN_modulation": 6},
             "matrices that it takes apart"),
    Constant("training.optimizers.step.CLIP_EPS", 1e-6, "epsilon of gradient clipping"),
    Constant("statistics.contrasts.FLOOR", 0.25, "least share of the pooled spread"),
    Constant("statistics.contrasts.ZERO_VARIANCE", 1e-12, "spread that counts as none"),
    Constant("statistics.correction.RATIOS", (1.0, 0.0, 0.3, 0.6, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0),
             "ratios of spreads that a correction is simulated at"),
    Constant("statistics.correction.FEW", (1 / 3, 1 / 8), "shares of arms with another spread"),
    Constant("statistics.correction.FEW_RATIOS", (0.0, 1.0, 3.0), "ratios of those"),
    Constant("statistics.correction.SWEEPS", (4_000, 20_000), "simulated sweeps of each"),
    Constant("reproduce.tolerance.FALSE_ALARMS", 0.05,
             "how often a reproduction by other seeds is called different"),
)  # fmt: skip

ASIDE = {
    "how much is held or shown at a time": (
        "core.rng._BLOCK", "data.images.SCALED_PIXELS", "data.images.STRIP_PIXELS",
        "sampling.labels.SHOWN", "evaluation.features.extractors.IMAGES_AT_ONCE",
        "evaluation.features.fidelity.IMAGES_AT_ONCE", "evaluation.metrics.neighbours.ROWS_AT_ONCE",
        "evaluation.reference.FETCH_IMAGES", "evaluation.sample_quality.GROUP_IMAGES",
        "sampling.images.CAPTION_PIXELS", "sampling.images.MIN_CELL_PIXELS",
        "sampling.images.PICTURE_CHANNELS",
        "statistics.correction._WORK", "statistics.simulation._AT_ONCE",
        "training.optimizers.muon.AT_ONCE",
    ),
    "what is refused": ("samplers.options.MOST_STEPS",),
    "an option's own default, which is part of hashes": ("samplers.options.CACHE_INTERVAL",),
    "functions, by their names": (
        "objectives.ddpm.ERROR_PER_DATA_ERROR", "samplers.sde.DIFFUSIONS",
        "statistics.simulation.NOISE",
    ),
    "a count of files that are checked": ("data.digits_facts._DIGITS_IMAGES",),
}  # fmt: skip
"""Numbers that change no result -> why."""

SCANNED = (
    "models", "objectives", "samplers", "sampling", "codecs", "evaluation", "statistics",
    "training/optimizers", "core/interpolants.py", "core/discrete_diffusion.py", "core/rng.py",
    "data/images.py", "data/digits_facts.py", "actions/reflow.py", "reproduce/tolerance.py",
)  # fmt: skip
"""Where numbers are computed."""


def in_the_code() -> Iterator[str]:
    """Return the places of all numerical constants of modules and classes."""
    for part in SCANNED:
        path = PACKAGE / part
        for file in [path] if path.suffix else sorted(path.rglob("*.py")):
            module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
            tree = ast.parse(file.read_text())
            yield from (f"{module}.{name}" for name in _constants(tree))
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    yield from (f"{module}.{node.name}.{name}" for name in _constants(node))


def _constants(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets: list[ast.expr] = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        else:
            continue
        assert statement.value is not None
        if any(map(_is_number, ast.walk(statement.value))):
            for target in targets:
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                yield from (
                    name.id
                    for name in names
                    if isinstance(name, ast.Name) and name.id.strip("_").isupper()
                )


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def table() -> str:
    rows = "".join(f"| {one.decides} | {_shown(one.now)} | `{one.place}` |\n" for one in PUBLISHED)
    return f"| what it decides | value | place |\n|---|---|---|\n{rows}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def written(text: str) -> str:
    """Return the page with the present table."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
