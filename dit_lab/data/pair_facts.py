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
    """Where pairs come from. Pair i is what noise i of `seed` was carried to."""

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

    @property
    def fingerprint(self) -> str:
        """12 hex digits of all of it."""
        return digest(asdict(self))

    @property
    def num_pairs(self) -> int:
        return self.train_pairs + self.held_out_pairs

    def write(self, folder: Path) -> None:
        """Says that the folder is whole."""
        write_json(folder / FACTS, asdict(self))


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
