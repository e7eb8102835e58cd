"""What a folder of pairs says of itself: `pairs.json`, read without loading one. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from dit_lab.core.errors import RequestError
from dit_lab.core.typed import Count, read_as, within
from dit_lab.runs.folder import digest, read_json, write_json
from dit_lab.runs.records import MOST_CLASSES, ShapeList

FACTS = "pairs.json"
SHARD_PAIRS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """Where pairs come from. Pair i is what noise i of `seed` and a purpose was carried to."""

    drawn_by: str  # the run, its step and its weights
    sampler: Mapping[str, Any]
    guidance: Mapping[str, Any]
    seed: int
    train_pairs: Count
    held_out_pairs: Count  # the last ones
    latent_shape: ShapeList  # channels, height, width
    num_classes: Annotated[int, within(0, MOST_CLASSES)]
    codec: str  # fingerprint
    dtype: str
    noise: str | None = None  # its purpose in core/rng.py; None in old files: that of samples

    @property
    def fingerprint(self) -> str:
        """12 hex digits of all of it; those of old files stay."""
        known = asdict(self)
        if self.noise is None:
            del known["noise"]
        return digest(known)

    @property
    def num_pairs(self) -> int:
        return self.train_pairs + self.held_out_pairs

    def write(self, folder: Path) -> None:
        """Says that the folder is whole."""
        write_json(folder / FACTS, asdict(self))


def pair_noise(drawn_by: str) -> str:
    """The purpose (`core/rng.py`) of the noise that a model, named by what it is, draws pairs from.

    Nothing else has that noise: neither samples, by which the model trained on the pairs is
    measured, whatever their seed, nor pairs that this model draws in its turn.
    """
    return f"pairs/{drawn_by}/noise"


def read_pair_facts(folder: str | Path | None) -> PairFacts:
    """The facts of whole pairs; RequestError where there are none."""
    if folder is None:
        raise RequestError(
            "coupling.pairs: not given; dit-lab reflow run=RUN draws pairs and trains on them"
        )
    return read_as(
        PairFacts,
        read_json(Path(folder) / FACTS),
        where=f"coupling.pairs={folder}",
        what="holds no whole pairs",
        instead="dit-lab reflow run=RUN draws some",
    )


def shard(folder: Path, number: int) -> Path:
    """The file of pairs [number * SHARD_PAIRS, (number + 1) * SHARD_PAIRS)."""
    return folder / f"pairs-{number:05d}.safetensors"
