"""Two evaluations side by side: may their numbers be compared, and what else is not the same?

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
    """What a difference between two cards means for the difference between their numbers."""

    compared = "what is compared"
    chance = "another draw: numbers differ by chance"
    circumstances = "other circumstances: numbers may differ in their last digits"
    protocol = "another protocol: numbers are not comparable"


EFFECTS: Mapping[str, Effect] = {
    "samples": Effect.compared,
    "run": Effect.compared,
    "step": Effect.compared,
    "weights": Effect.compared,
    "objective": Effect.compared,
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
"""Part of a card -> what a difference in it means; all other parts are the protocol."""

FOUND = "evaluations_per_image"  # a result, which follows from model, sampler and guidance
ABSENT = "none"


@dataclass(frozen=True, slots=True)
class Difference:
    """One part of two cards that is not the same."""

    key: str
    first: str
    second: str
    effect: Effect


def differences(first: Card, second: Card) -> list[Difference]:
    """Every one, in the order of the card."""
    here, there = _parts(first, second), _parts(second, first)
    return [
        Difference(_name(key), _shown(here, key), _shown(there, key), _effect(key))
        for key in dict.fromkeys((*here, *there))
        if here.get(key) != there.get(key)
    ]


def _parts(card: Card, other: Card) -> dict[str, Any]:
    """What numbers depend on that both cards have: metrics and features of one alone decide none of
    these, nor does how it found the likelihood."""
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
    """As a configuration would have it: the class of a component by the component's own name."""
    return key.removesuffix("._target_")


def _shown(parts: Mapping[str, Any], key: str) -> str:
    value = parts.get(key)
    if value is None:
        return ABSENT
    return str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)
