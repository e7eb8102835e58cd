"""What a training step and drawing images cost as the work grows, with the exponents of the growth
beside those of theory, and a plot.

    OMP_NUM_THREADS=2 python -m tests.measure.cost_growth --seconds 5 docs/cost-growth.png

Every training is a `dit-lab bench` of its own on latents of noise, so that its peak of memory is
its own too; that of one block, one image and the least width is taken off, as that of the process.
Images are drawn by one process of a small model.
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
from statistics import linear_regression
from typing import Any

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


@dataclass(frozen=True)
class Point:
    seconds: float
    memory_bytes: float
    flops: float


def overrides(work: dict[str, int]) -> list[str]:
    """Tokens are those of square latents in patches of 2, an eighth of the images' side."""
    side = round(work["tokens"] ** 0.5) * 2 * 8
    return [
        *COMMON, f"dataset.image_size={side}", f"model.hidden_size={work['width']}",
        f"model.num_heads={work['width'] // HEAD}", f"model.depth={work['depth']}",
        f"training.global_batch_size={work['batch']}",
    ]  # fmt: skip


def trained(work: dict[str, int], seconds: float) -> Point:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = ["bench", *overrides(work), "--only=training", f"--seconds={seconds}"]
        subprocess.run(
            [sys.executable, "-m", "dit_lab", *command, f"--json={file}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        step = json.loads(file.read_text())["training"]
    return Point(step["seconds"]["median"], step["peak_memory_bytes"], step["flops"])


def drawn(seconds_of: dict[str, list[tuple[int, float]]]) -> None:
    """Whole drawings by 10 steps and of 32 images, unless that is what grows."""
    from dit_lab.bench.noise import with_data
    from dit_lab.bench.sampling import Sampling
    from dit_lab.lab import compose
    from dit_lab.lab.config import compose_train

    for steps, images in [*((steps, IMAGES[0]) for steps in STEPS), *((10, n) for n in IMAGES[1:])]:
        settings = ["sampler=euler", f"sampler.steps={steps}", "guidance.scale=2"]
        config, shapes, _ = with_data(compose_train([*overrides(USUAL), *settings]))
        sampling = Sampling(config, shapes)
        generator = compose.build_generator(sampling.parts, check_stop=lambda: None)
        start = time.perf_counter()
        for _ in generator.images(sampling.labelled, num_images=images, seed=0):
            pass
        took = time.perf_counter() - start
        if images == IMAGES[0]:
            seconds_of["steps"].append((steps, took))
        if steps == 10:
            seconds_of["images"].append((images, took))


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent b of value = a * size ** b, by least squares of the logarithms."""
    x, y = ([math.log(value) for value in column] for column in (sizes, values))
    return linear_regression(x, y).slope


def lines(points: dict[str, list[tuple[int, Point]]], base: float) -> Iterator[str]:
    yield "| what grows | from | to | step, s | exponent | of products | memory, GB | exponent |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, of_it in points.items():
        sizes = [size for size, _ in of_it]
        seconds = [point.seconds for _, point in of_it]
        memory = [point.memory_bytes - base for _, point in of_it]
        products = [point.flops for _, point in of_it]
        yield (
            f"| {name} | {sizes[0]} | {sizes[-1]} | {seconds[0]:.3g} to {seconds[-1]:.3g} | "
            f"{growth(sizes, seconds):.2f} | {growth(sizes, products):.2f} | "
            f"{memory[0] / 1e9:.2f} to {memory[-1] / 1e9:.2f} | {growth(sizes, memory):.2f} |"
        )


def draw(points: dict[str, list[tuple[int, Point]]], file: Path) -> None:
    """The seconds of a step against each size, and the line of its products from the middle."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    for place, (name, of_it) in enumerate(points.items(), start=1):
        axes: Any = figure.add_subplot(1, len(points), place)
        sizes = [size for size, _ in of_it]
        middle = of_it[len(of_it) // 2][1]
        axes.loglog(sizes, [point.seconds for _, point in of_it], "o-", label="a step")
        of_products = [middle.seconds * point.flops / middle.flops for _, point in of_it]
        axes.loglog(sizes, of_products, "--", color="grey", label="its products")
        axes.set_xlabel(name)
        axes.set_ylabel("s" if place == 1 else "")
    axes.legend()
    figure.savefig(file, dpi=100)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plot", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args(arguments)
    base = trained(LEAST, args.seconds).memory_bytes
    points = {
        name: [(size, trained({**USUAL, name: size}, args.seconds)) for size in sizes]
        for name, sizes in GROWING.items()
    }
    print("\n".join(lines(points, base)))
    seconds_of: dict[str, list[tuple[int, float]]] = {"steps": [], "images": []}
    drawn(seconds_of)
    for name, of_it in seconds_of.items():
        sizes, seconds = zip(*of_it, strict=True)
        told = ", ".join(f"{size}: {took:.3g} s" for size, took in of_it)
        print(f"drawing, {name} {told}; exponent {growth(sizes, seconds):.2f}")
    draw(points, args.plot)


if __name__ == "__main__":
    main(sys.argv[1:])
