"""Throughput of data loading: cached latents, JPEG files, and memory use of latents.

  python -m tests.measure.loading latents --rounds 5
  python -m tests.measure.loading jpegs --rounds 5
  python -m tests.measure.loading memory

`latents` compares batches of 4 x 32 x 32 latents, with noise, times, label dropout and posterior
samples from per-image streams, to reading rows of a memory map. `jpegs` compares to torchvision's
ImageFolder with the same crop, as batches of float tensors. `memory` does not train: it takes
batches from 10,000 and from 1,000,000 latents (sparse files) and prints the anonymous resident
memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate

from dit_lab.codecs.cached import Cached
from dit_lab.core.types import DataFacts
from dit_lab.data.latent_facts import Manifest, Plan
from dit_lab.data.latents import Latents
from dit_lab.data.order import SampleOrder
from dit_lab.training.batches import Draws, TrainingBatches
from dit_lab.training.coupling import Independent

BATCH = 256
SHAPE = (4, 32, 32)
SHARD_IMAGES = 4096
FIRST_ROW = 512  # bytes of length and header


class Posterior:
    """The sampling part of an autoencoder's codec, without a network."""

    fingerprint, draws = "posterior", True

    def latents(self, moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        mean, log_variance = moments.float().chunk(2, dim=1)
        return (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise) * 0.18215

    def latent_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        return SHAPE

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


def write_latents(folder: Path, count: int) -> None:
    """Write `count` zero latents as sparse files, which take no disk space."""
    facts = DataFacts(
        channels=3, height=256, width=256, num_classes=10, class_names=tuple("0123456789"),
        train_images=count, validation_images=16, fingerprint="zeros",
    )  # fmt: skip
    plan = Plan(
        data=asdict(facts), codec="posterior", mirrors=2, moments_shape=[8, 32, 32],
        dtype="float16", shard_images=SHARD_IMAGES, chunk_images=16,
    )  # fmt: skip
    shards = {}
    for split in ("train", "validation"):
        left = plan.images(split)
        for name in plan.shards(split):
            images = min(left, SHARD_IMAGES)
            left -= images
            shape = [images, 2, *plan.moments_shape]
            size = int(np.prod(shape)) * 2
            header = json.dumps({
                "moments": {"dtype": "F16", "shape": shape, "data_offsets": [0, size]},
                "labels": {"dtype": "I64", "shape": [images],
                           "data_offsets": [size, size + 8 * images]},
            }).encode().ljust(FIRST_ROW - 8)  # fmt: skip
            with open(folder / name, "wb") as file:
                file.write(len(header).to_bytes(8, "little") + header)
                file.truncate(FIRST_ROW + size + 8 * images)
            shards[name] = {"bytes": (folder / name).stat().st_size, "sha256": ""}
    Manifest(plan=plan, shards=shards, source={}).write(folder)


def batches_of(dataset: Latents, workers: int) -> TrainingBatches:
    return TrainingBatches(
        dataset=dataset,
        order=SampleOrder(0, len(dataset)),
        draws=Draws(
            seed=0,
            purpose="train",
            latent_shape=SHAPE,
            time_from_uniform=lambda uniform: uniform.float(),
            label_drop_prob=0.1,
            posterior=True,
        ),
        codec=Cached(Posterior()),  # type: ignore[arg-type]
        coupling=Independent(),
        device=torch.device("cpu"),
        global_batch_size=BATCH,
        accumulation=1,
        process_index=0,
        num_processes=1,
        num_workers=workers,
    )


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(ways: dict[str, Callable[[], object]], count: int, rounds: int) -> None:
    """Return interleaved images per second of each variant: medians, and ratios to the first."""
    for way in ways.values():
        way()  # fills caches
    rates = {name: [] for name in ways}  # type: dict[str, list[float]]
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(count / seconds(way))
    first = next(iter(rates.values()))
    for name, found in rates.items():
        ratios = [a / b for a, b in zip(found, first, strict=True)]
        print(f"{name}: {statistics.median(found):,.0f} a second (of the first: "
              f"{statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f})",
              flush=True)  # fmt: skip


def measure_latents(rounds: int) -> None:
    steps = 40
    with tempfile.TemporaryDirectory() as place:
        write_latents(Path(place), 20_000)
        dataset = Latents(split="train", root=place)
        indices = torch.randperm(len(dataset))[: steps * BATCH].split(BATCH)

        def rows() -> None:
            for part in indices:
                dataset.fetch(part, None)

        def plain() -> None:
            mapped = np.memmap(
                Path(place, "train-00000.safetensors"), np.float16, "r", offset=FIRST_ROW,
                shape=(SHARD_IMAGES, 2, 8, 32, 32),
            )  # fmt: skip
            for part in indices:
                mapped[part.numpy() % SHARD_IMAGES, 0]

        def take(workers: int) -> Callable[[], object]:
            endless = batches_of(dataset, workers).from_step(0)
            return lambda: deque(islice(endless, steps), maxlen=0)

        ways = {"numpy's read of the rows": plain, "Latents.fetch": rows}
        ways |= {f"batches, {workers} workers": take(workers) for workers in (0, 1, 2)}
        compare(ways, steps * BATCH, rounds)


def measure_jpegs(rounds: int) -> None:
    from torchvision.datasets import ImageFolder as TorchvisionFolder
    from torchvision.transforms import Compose, Normalize, ToTensor

    from dit_lab.data.image_folder import ImageFolder
    from dit_lab.data.images import centre_crop

    random = np.random.default_rng(0)
    count = 300
    with tempfile.TemporaryDirectory() as place:
        for number in range(count):
            path = Path(place) / f"{number % 2}/{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            height, width = random.integers(300, 600, 2)
            y, x = np.mgrid[0:height, 0:width]
            wave = 128 + 60 * np.sin(x / 20 + number) + 60 * np.cos(y / 30)
            pixels = np.stack([wave] * 3, -1) + random.normal(0, 12, (height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
        theirs = TorchvisionFolder(
            place,
            transform=Compose(
                [lambda image: centre_crop(image, 256, 256), ToTensor(), Normalize(0.5, 0.5)]
            ),
        )

        def of_torchvision() -> None:
            for part in range(0, count, 32):
                default_collate([theirs[index] for index in range(part, min(count, part + 32))])

        def ours() -> None:
            dataset = ImageFolder(
                split="train",
                root=place,
                image_size=256,
                horizontal_flip=False,
                validation_share=0.01,
            )
            for part in torch.arange(len(dataset)).split(32):
                dataset.fetch(part, None)

        compare({"torchvision's ImageFolder": of_torchvision, "ours": ours}, count, rounds)


def measure_memory() -> None:
    for count in (10_000, 1_000_000):
        with tempfile.TemporaryDirectory() as place:
            write_latents(Path(place), count)
            dataset = Latents(split="train", root=place)
            for _ in islice(batches_of(dataset, 0).from_step(0), 100):
                pass
            (line,) = (
                text for text in Path("/proc/self/status").read_text().splitlines()
                if text.startswith("RssAnon")
            )  # fmt: skip
            print(f"{count:,} latents, after 100 batches: {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("latents", "jpegs", "memory"))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "memory":
        measure_memory()
    else:
        {"latents": measure_latents, "jpegs": measure_jpegs}[given.what](given.rounds)


if __name__ == "__main__":
    main()
