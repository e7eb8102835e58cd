"""Construction of an evaluation's card, before there are samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dit_lab.build.cost import arithmetic
from dit_lab.build.evaluation import Extractors
from dit_lab.build.parts import Parts
from dit_lab.build.trained import Trained
from dit_lab.config.checks.metrics import counts_compared
from dit_lab.config.identity import as_hashed, evaluating_code, evaluating_targets
from dit_lab.config.objects import to_tree
from dit_lab.evaluation.card import Card
from dit_lab.evaluation.metrics.likelihood import EXACT_DIMENSIONS, TOLERANCE
from dit_lab.evaluation.quality import LABEL_RULES
from dit_lab.runs.provenance import device_name, versions
from dit_lab.sampling.generate import CHUNK_IMAGES


def evaluation_card(
    parts: Parts,
    extractors: Extractors,
    *,
    identity: Mapping[str, Any],
    weights: str,
    weak: Trained | None,
) -> Card:
    """Return the card of an evaluation: all of its settings that are known in advance."""
    config, data, hashed = parts.config, parts.shapes.data, as_hashed(to_tree(parts.config))
    train, held_out = counts_compared(config, parts.shapes)
    return Card(
        samples="generated",
        run=identity["train_hash"],
        step=0,
        weights=weights,
        objective=hashed["objective"],
        sampler=hashed["sampler"],
        evaluations_per_image=0,
        guidance={**hashed["guidance"], "weak_run": weak and weak.name},
        num_images=config.evaluation.num_images,
        labels=LABEL_RULES[config.evaluation.labels],
        seed=config.sample.seed,
        num_seeds=config.evaluation.num_seeds,
        metrics={
            name: {key: value for key, value in options.items() if key != "every_steps"}
            for name, options in hashed["metric"].items()
        },
        metrics_seed=config.evaluation.seed,
        reference={
            "data": data.fingerprint,
            "training_images": train,
            "held_out_images": held_out,
            "levels": data.levels,
        },
        features=extractors.fingerprints(),
        likelihood=_how_likelihood(parts),
        codec=parts.codec.fingerprint,
        chunk_images=CHUNK_IMAGES,
        dtype=arithmetic(config),
        device=device_name(),
        num_threads=torch.get_num_threads(),
        code={
            "trained": identity["code_hash"],
            "evaluated": evaluating_code(evaluating_targets(to_tree(config))),
            "trained_before": "; ".join(identity["forced_over"]),
        },
        versions=versions(),
        methods=hashed.get("method", {}),
    )


def _how_likelihood(parts: Parts) -> dict[str, Any] | None:
    images = parts.config.evaluation.likelihood_images
    if images == 0:
        return None
    exact = math.prod(parts.shapes.latent) <= EXACT_DIMENSIONS
    return {
        "images": min(images, parts.shapes.data.validation_images),
        "dequantisation": f"uniform over one of {parts.shapes.data.levels} levels",
        "divergence": "exact" if exact else "Hutchinson, one probe of signs",
        "tolerance": TOLERANCE,
    }
