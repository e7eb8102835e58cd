"""Comparison of two evaluations: whether they are comparable, and how their cards differ.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from dit_lab.evaluation.card import Card
from dit_lab.runs.folder import flatten


class Effect(Enum):
    """Meaning of a difference between two cards for the comparison of their results."""

    compared = "models and training"
    chance = "different seeds: results differ by chance"
    circumstances = "different conditions: results may differ in their last digits"
    protocol = "different protocol: results are not comparable"


EFFECTS: Mapping[str, Effect] = {
    "samples": Effect.compared,
    "run": Effect.compared,
    "step": Effect.compared,
    "weights": Effect.compared,
    "objective": Effect.compared,
    "methods": Effect.compared,
    "code.trained": Effect.compared,
    "code.trained_before": Effect.compared,
    "seed": Effect.chance,
    "num_seeds": Effect.chance,
    "metrics_seed": Effect.chance,
    "chunk_images": Effect.circumstances,
    "device": Effect.circumstances,
    "num_threads": Effect.circumstances,
    "versions": Effect.circumstances,
    "code.evaluated": Effect.circumstances,
}
"""Part of a card -> effect of a difference in it; all other parts belong to the protocol."""

FOUND = "evaluations_per_image"  # not a setting: it follows from model, sampler and guidance
ABSENT = "none"


@dataclass(frozen=True, slots=True)
class Difference:
    """A part in which two cards differ."""

    key: str
    first: str
    second: str
    effect: Effect


def differences(first: Card, second: Card) -> list[Difference]:
    """Return all differences, in the order of the card."""
    here, there = _parts(first, second), _parts(second, first)
    return [
        Difference(_name(key), _shown(here, key), _shown(there, key), _effect(key))
        for key in dict.fromkeys((*here, *there))
        if here.get(key) != there.get(key)
    ]


def _parts(card: Card, other: Card) -> dict[str, Any]:
    """Return the parts of a card that are relevant for a comparison with another card.

    Metrics, features and likelihood settings that only one card has do not affect common metrics.
    """
    parts = asdict(card)
    for shared in ("metrics", "features"):
        names = getattr(other, shared)
        parts[shared] = {name: of for name, of in parts[shared].items() if name in names}
    if other.likelihood is None:
        parts["likelihood"] = None
    return {key: value for key, value in flatten(parts) if key != FOUND}


def _effect(key: str) -> Effect:
    for part, effect in EFFECTS.items():
        if key == part or key.startswith(f"{part}."):
            return effect
    return Effect.protocol


def _name(key: str) -> str:
    """Return a key as in a config: the class of a component under the component's name."""
    return key.removesuffix("._target_")


def _shown(parts: Mapping[str, Any], key: str) -> str:
    value = parts.get(key)
    if value is None:
        return ABSENT
    return str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)
