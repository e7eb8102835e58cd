"""Facts about a folder of reflow pairs, read from `pairs.json` alone. Torch-free."""

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
    """Provenance of reflow pairs. Pair i starts from noise i of `seed` and the purpose `noise`."""

    drawn_by: str  # run, step and weights of the model
    sampler: Mapping[str, Any]
    guidance: Mapping[str, Any]
    seed: int
    train_pairs: Count
    held_out_pairs: Count  # the last ones
    latent_shape: ShapeList  # channels, height, width
    num_classes: Annotated[int, within(0, MOST_CLASSES)]
    codec: str  # fingerprint
    dtype: str
    noise: str | None = None  # purpose in core/rng.py; None in old files: SAMPLE_NOISE

    @property
    def fingerprint(self) -> str:
        """12 hex digits: a hash of all facts. Fingerprints of old files do not change."""
        known = asdict(self)
        if self.noise is None:
            del known["noise"]
        return digest(known)

    @property
    def num_pairs(self) -> int:
        return self.train_pairs + self.held_out_pairs

    def write(self, folder: Path) -> None:
        """Write `pairs.json`, which marks the folder as complete."""
        write_json(folder / FACTS, asdict(self))


def pair_noise(drawn_by: str) -> str:
    """Return the purpose (`core/rng.py`) of the noise from which a model draws pairs.

    `drawn_by` identifies the model. No other use shares this noise: neither the samples that
    evaluate the model trained on the pairs, whatever their seed, nor pairs drawn from that model.
    """
    return f"pairs/{drawn_by}/noise"


def pairs_folder(given: Path) -> Path:
    """Return the folder of pairs that is `given`, or the only one in a run or a folder of one run.

    Raises RequestError if there are several.
    """
    patterns = (f"{prefix}pairs/*/{FACTS}" for prefix in ("", "*/"))
    inside = sorted(facts.parent for pattern in patterns for facts in given.glob(pattern))
    if (given / FACTS).exists() or not inside:
        return given
    if len(inside) > 1:
        names = ", ".join(str(folder.relative_to(given)) for folder in inside)
        raise RequestError(
            f"coupling.pairs={given}: holds {len(inside)} folders of pairs ({names}); name one"
        )
    return inside[0]


def read_pair_facts(folder: str | Path | None) -> PairFacts:
    """Return the facts of a complete folder of pairs; raise RequestError if there are none."""
    if folder is None:
        raise RequestError(
            "coupling.pairs: not given; dit-lab reflow run=RUN draws pairs and trains on them"
        )
    return read_as(
        PairFacts,
        read_json(Path(folder) / FACTS),
        where=f"coupling.pairs={folder}",
        what="holds no complete pairs",
        instead="dit-lab reflow run=RUN draws pairs",
    )


def shard(folder: Path, number: int) -> Path:
    """Return the file of pairs [number * SHARD_PAIRS, (number + 1) * SHARD_PAIRS)."""
    return folder / f"pairs-{number:05d}.safetensors"
