"""Growth of the cost of a training step and of sampling, with exponents and a plot.

    OMP_NUM_THREADS=2 python -m tests.measure.cost_growth --seconds 4 docs/cost-growth.png

Every training is a separate `dit-lab bench` on random latents, so that peak memory is separate. The
peak of one block, one image and the smallest width is subtracted as that of the process. Samples
are drawn by one process with a small model. Measured exponents are compared with theory: the number
of matrix products for time, the predicted bytes of tensors for memory.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from dit_lab.bench.noise import with_data
from dit_lab.bench.sampling import Sampling
from dit_lab.build.cost import device_memory, model_cost
from dit_lab.build.parts import build_generator
from dit_lab.config.compose import compose_train

COMMON = [
    "objective=rectified_flow", "precision=fp32", "dataset.num_classes=10", "patch=2",
    "tracking=none",
]  # fmt: skip
USUAL = {"tokens": 64, "width": 192, "depth": 6, "batch": 32}
GROWING = {
    "tokens": [16, 64, 144, 256, 576],
    "width": [64, 128, 256, 512],
    "depth": [2, 4, 8, 16],
    "batch": [8, 16, 32, 64, 128],
}
HEAD = 64  # the width of one
LEAST = {"tokens": 16, "width": 64, "depth": 1, "batch": 1}
STEPS, IMAGES = [5, 10, 20, 40], [32, 64, 128, 256]
DRAWN_ROUNDS = 3
SECONDS, MEMORY = "seconds", "GB"


@dataclass(frozen=True)
class Growth:
    """Measurements over sizes, in `unit`, and the theoretical values up to a factor."""

    of: str
    unit: str
    sizes: Sequence[int]
    measured: Sequence[float]
    theory: Sequence[float]

    def exponent(self, values: Sequence[float]) -> float:
        """b of value = a * size ** b, by least squares of the logarithms."""
        x, y = ([math.log(number) for number in column] for column in (self.sizes, values))
        return linear_regression(x, y).slope


def overrides(work: dict[str, int]) -> list[str]:
    """Return overrides of a size; tokens are those of square latents in patches of 2."""
    side = round(work["tokens"] ** 0.5) * 2 * 8
    return [
        *COMMON, f"dataset.image_size={side}", f"model.hidden_size={work['width']}",
        f"model.num_heads={work['width'] // HEAD}", f"model.depth={work['depth']}",
        f"training.global_batch_size={work['batch']}",
    ]  # fmt: skip


def benched(work: dict[str, int], seconds: float) -> dict[str, Any]:
    """Return the training step of `dit-lab bench`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = ["bench", *overrides(work), "--only=training", f"--seconds={seconds}"]
        subprocess.run(
            [sys.executable, "-m", "dit_lab", *command, f"--json={file}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return json.loads(file.read_text())["training"]


def predicted_bytes(work: dict[str, int]) -> float:
    config, shapes, _ = with_data(compose_train(overrides(work)))
    size = model_cost(config, shapes)
    assert size is not None
    memory = device_memory(config, size, sharded=False, activation_checkpointing="none")
    return float(memory.total_bytes)


def trainings(seconds: float) -> Iterator[Growth]:
    """Return, for each size parameter, the growth of step time and then of memory."""
    process = benched(LEAST, seconds)["peak_memory_bytes"]
    for name, sizes in GROWING.items():
        works = [{**USUAL, name: size} for size in sizes]
        steps = [benched(work, seconds) for work in works]
        times = [step["seconds"]["median"] for step in steps]
        yield Growth(name, SECONDS, sizes, times, [step["flops"] for step in steps])
        peaks = [(step["peak_memory_bytes"] - process) / 1e9 for step in steps]
        yield Growth(name, MEMORY, sizes, peaks, [predicted_bytes(work) / 1e9 for work in works])


def drawings() -> Iterator[Growth]:
    """Return medians of sampling times: over steps, and over images with STEPS[1] steps."""
    by_steps = [median(draw_times(steps, IMAGES[0])) for steps in STEPS]
    yield Growth("sampler steps", SECONDS, STEPS, by_steps, STEPS)
    of_images = [by_steps[1], *(median(draw_times(STEPS[1], images)) for images in IMAGES[1:])]
    yield Growth("images drawn", SECONDS, IMAGES, of_images, IMAGES)


def draw_times(steps: int, images: int) -> list[float]:
    """Return the seconds of each round."""
    settings = ["sampler=euler", f"sampler.steps={steps}", "guidance.scale=2"]
    config, shapes, _ = with_data(compose_train([*overrides(USUAL), *settings]))
    sampling = Sampling(config, shapes)
    generator = build_generator(sampling.parts, check_stop=lambda: None)
    found = []
    for _ in range(DRAWN_ROUNDS):
        start = time.perf_counter()
        for _ in generator.images(sampling.labelled, num_images=images, seed=0):
            pass
        found.append(time.perf_counter() - start)
    return found


def lines(found: Sequence[Growth]) -> Iterator[str]:
    yield "| what grows | from | to | | from | to | exponent | in theory |"
    yield "|---|---|---|---|---|---|---|---|"
    for growth in found:
        yield (
            f"| {growth.of} | {growth.sizes[0]} | {growth.sizes[-1]} | {growth.unit} | "
            f"{growth.measured[0]:.3g} | {growth.measured[-1]:.3g} | "
            f"{growth.exponent(growth.measured):.2f} | {growth.exponent(growth.theory):.2f} |"
        )


def draw(trained: Sequence[Growth], drawn: Sequence[Growth], file: Path) -> None:
    """Plot training time above, memory below, and sampling in the last column.

    Each panel has the theoretical line through the middle size.
    """
    from matplotlib.figure import Figure

    rows = [[growth for growth in trained if growth.unit == unit] for unit in (SECONDS, MEMORY)]
    placed = [*rows[0], drawn[0], *rows[1], drawn[1]]
    columns = len(GROWING) + 1
    figure = Figure(figsize=(2.4 * columns, 5), layout="constrained")
    places: Any = figure.subplots(2, columns)
    for axes, growth in zip(places.flat, placed, strict=True):
        middle = len(growth.sizes) // 2
        scale = growth.measured[middle] / growth.theory[middle]
        axes.loglog(growth.sizes, growth.measured, "o-", label="measured")
        in_theory = [scale * value for value in growth.theory]
        axes.loglog(growth.sizes, in_theory, "--", color="grey", label="theory")
        axes.set_xticks(growth.sizes, [str(size) for size in growth.sizes])
        axes.minorticks_off()
        axes.tick_params(labelsize="small")
        axes.set_xlabel(growth.of)
        axes.set_title(
            f"{growth.unit}: {growth.exponent(growth.measured):.2f}, "
            f"theory {growth.exponent(growth.theory):.2f}",
            fontsize="small",
        )
    places.flat[0].legend(fontsize="small")
    figure.savefig(file, dpi=100)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plot", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args(arguments)
    trained, drawn = list(trainings(args.seconds)), list(drawings())
    print("\n".join(lines([*trained, *drawn])))
    draw(trained, drawn, args.plot)


if __name__ == "__main__":
    main(sys.argv[1:])
