"""Reflow: noise-sample pairs drawn from a trained run, and the straightness of its paths.

A second model that is trained on the pairs learns straighter paths. Source: Liu et al. 2022,
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from dit_lab.build.cost import arithmetic
from dit_lab.build.parts import build_generator
from dit_lab.build.trained import Trained, load_weak
from dit_lab.config.identity import as_hashed
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.core import rng
from dit_lab.core.tensor_file import save_tensors
from dit_lab.core.types import LabelledCall
from dit_lab.data.pair_facts import FACTS, SHARD_PAIRS, PairFacts, pair_noise, shard
from dit_lab.evaluation.metrics.straightness import path_deviation
from dit_lab.runs.lock import Lease
from dit_lab.sampling.generate import CHUNK_IMAGES, Generator

HELD_OUT_SHARE, MOST_HELD_OUT = 10, 1024  # 1/10 of the pairs is held out, at most 1024
PATHS = 256  # number of paths whose straightness is measured


def facts_of(trained: Trained, settings: RunConfig) -> PairFacts:
    """Return the facts of the pairs that `settings` define, before they are drawn."""
    parts = replace(trained.parts, config=settings)
    count = settings.sample.num_images
    held_out = min(MOST_HELD_OUT, count // HELD_OUT_SHARE)
    weak = load_weak(parts)
    return PairFacts(
        drawn_by=trained.name,
        sampler=as_hashed(to_tree(settings))["sampler"],
        guidance={**asdict(settings.guidance), "weak_run": weak.name if weak else None},
        seed=settings.sample.seed,
        train_pairs=count - held_out,
        held_out_pairs=held_out,
        latent_shape=list(parts.shapes.latent),
        num_classes=parts.shapes.data.num_classes,
        codec=parts.codec.fingerprint,
        dtype=arithmetic(settings),
        noise=pair_noise(trained.name),
    )


def draw_pairs(
    trained: Trained,
    facts: PairFacts,
    settings: RunConfig,
    *,
    check_stop: Callable[[], None],
    on_message: Callable[[str], None],
) -> Path:
    """Draw the pairs that do not exist yet; return their folder, `RUN/pairs/<fingerprint>`.

    Labels cycle through the classes. Interrupted drawing resumes after the last complete file.
    """
    folder = trained.folder.results / "pairs" / facts.fingerprint
    if (folder / FACTS).exists():
        on_message(f"the {facts.num_pairs} pairs are there already")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator, model = _generator(trained, settings, check_stop)
    with Lease(folder / "lease"):
        _draw_shards(folder, generator, model, facts, on_message)
        facts.write(folder)
    return folder


def _draw_shards(
    folder: Path,
    generator: Generator,
    model: LabelledCall,
    facts: PairFacts,
    on_message: Callable[[str], None],
) -> None:
    for first in range(0, facts.num_pairs, SHARD_PAIRS):
        file = shard(folder, first // SHARD_PAIRS)
        count = min(SHARD_PAIRS, facts.num_pairs - first)
        if not file.exists():
            chunks = range(first, first + count, CHUNK_IMAGES)
            data = [_latents(generator, model, facts, at).cpu() for at in chunks]
            labels = generator.labels(torch.arange(first, first + count), None)
            beside = file.with_suffix(".writing")
            save_tensors({"data": torch.cat(data)[:count], "labels": labels}, beside)
            beside.replace(file)
        on_message(f"drawn: {first + count} of {facts.num_pairs} pairs")


def _latents(generator: Generator, model: LabelledCall, facts: PairFacts, first: int) -> Tensor:
    """Return the data of a chunk of pairs, (CHUNK_IMAGES, C, H, W)."""
    assert facts.noise is not None  # `facts_of` sets it
    return generator.latents(model, first=first, seed=facts.seed, purpose=facts.noise)


def straightness(trained: Trained, settings: RunConfig, *, check_stop: Callable[[], None]) -> float:
    """Return the mean squared deviation of the flow's paths from straight lines; 0 is straight.

    It is relative to the mean squared length of the paths (see `path_deviation`).
    """
    generator, model = _generator(trained, settings, check_stop)
    seed = settings.sample.seed
    sums = torch.zeros(2, dtype=torch.float64)
    for first in range(0, PATHS, CHUNK_IMAGES):
        check_stop()
        indices = torch.arange(first, first + CHUNK_IMAGES)
        noise = rng.normal(seed, rng.SAMPLE_NOISE, indices, generator.latent_shape)
        predict = generator.predictor(model, generator.labels(indices, None))
        found = path_deviation(predict, noise.to(generator.device), generator.objective.interpolant)
        sums += torch.stack([part.sum().cpu() for part in found])
    return (sums[0] / sums[1]).item()


def _generator(
    trained: Trained, settings: RunConfig, check_stop: Callable[[], None]
) -> tuple[Generator, LabelledCall]:
    parts = replace(trained.parts, config=settings)
    weak = load_weak(parts)
    generator = build_generator(
        parts,
        check_stop=check_stop,
        weak=weak.labelled(parts.config) if weak else None,
    )
    return generator, trained.labelled(parts.config)
