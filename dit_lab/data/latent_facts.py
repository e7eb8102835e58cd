"""What a folder of cached latents says of itself: `latents.json`, read without a shard. Torch-free.

    latents.json                      written last: the folder is whole
    train-00000.safetensors, ...      "moments" (n, K, M, H, W) and "labels" (n,) of n images
    validation-00000.safetensors, ...

K is 2 where images are mirrored in training: the image and its mirror. Images stand in the order
of the dataset; every shard of a split but the last holds `shard_images`, so that nothing has to be
looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.types import DataFacts
from dit_lab.data.fingerprint import fingerprint
from dit_lab.data.image_facts import given_folder
from dit_lab.runs.folder import read_json, write_json

FACTS = "latents.json"
SPLITS = ("train", "validation")

_INSTEAD = "dit-lab encode dataset=... codec=... out=FOLDER makes such a folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be written, before the first image is encoded."""

    data: Mapping[str, Any]  # the facts of the dataset
    codec: str  # fingerprint
    mirrors: int  # 1, or 2 with every image's mirror
    moments_shape: list[int]  # M, H, W
    dtype: str  # of the moments
    shard_images: int
    chunk_images: int  # what the codec encodes at once, which the last bits depend on

    def images(self, split: str) -> int:
        return int(self.data[f"{split}_images"])

    def shards(self, split: str) -> list[str]:
        """The names of the files of a split."""
        return [
            f"{split}-{number:05d}.safetensors"
            for number in range(-(-self.images(split) // self.shard_images))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was written, and from what."""

    plan: Plan
    shards: Mapping[str, Mapping[str, Any]]  # name -> "bytes" and "sha256"
    source: Mapping[str, Any]  # the configuration of the dataset; where it lies may change

    @property
    def fingerprint(self) -> str:
        """64 hex digits of the plan and of every byte of every shard."""
        return fingerprint(plan=asdict(self.plan), shards=self.shards)

    def write(self, folder: Path) -> None:
        """Says that the folder is whole."""
        write_json(folder / FACTS, {**asdict(self), "fingerprint": self.fingerprint})


def read_manifest(root: str | Path | None) -> Manifest:
    """The manifest of a whole folder; `RequestError` where there is none."""
    file = given_folder(root) / FACTS
    if not file.is_file():
        raise RequestError(f"{file} is missing: {_INSTEAD}; what was interrupted goes on with it")
    found = read_json(file)
    stated = found.pop("fingerprint", None)
    try:
        known = {field.name for field in fields(Plan)}
        if set(found["plan"]) != known:
            raise KeyError("plan")
        manifest = Manifest(**{**found, "plan": Plan(**found["plan"])})
        whole = manifest.fingerprint == stated
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise RequestError(f"{file}: is not what was written; {_INSTEAD}")
    return manifest


def latents_facts(*, root: str | Path | None) -> DataFacts:
    """The facts of the images that were encoded, under the fingerprint of their latents.

    Shards that are missing or have another size are refused here; every byte is compared by
    `dit-lab encode --verify` alone.
    """
    manifest, folder = read_manifest(root), given_folder(root)
    for name, written in manifest.shards.items():
        check_size(folder / name, written["bytes"])
    data = {**manifest.plan.data, "class_names": tuple(manifest.plan.data["class_names"])}
    return DataFacts(**{**data, "fingerprint": manifest.fingerprint})


def check_size(shard: Path, expected: int) -> None:
    """Refuse a shard that is not there, or not as long as it was written."""
    try:
        found = shard.stat().st_size
    except OSError as error:
        raise RequestError(f"{shard}: cannot be read ({error.strerror}); copy it again") from None
    if found != expected:
        raise RequestError(
            f"{shard}: has {found:,} bytes of {expected:,}; copy it again, or delete it and "
            f"{FACTS} and go on with dit-lab encode"
        )
