"""Facts about a folder of cached latents, read from `latents.json` alone. Torch-free.

    latents.json                      written last, so the folder is complete if it exists
    train-00000.safetensors, ...      "moments" (n, K, M, H, W) and "labels" (n,) of n images
    validation-00000.safetensors, ...

K is 2 if training flips images (the image and its mirror image), else 1. Images are in the order of
the dataset. Every shard of a split but the last holds `shard_images` images, so the position of an
image can be computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from dit_lab.core.errors import RequestError
from dit_lab.core.typed import Count, FileName, Kind, read_as, spelled, within
from dit_lab.core.types import DataFacts
from dit_lab.data.fingerprint import fingerprint
from dit_lab.data.image_facts import given_folder
from dit_lab.runs.folder import read_json, write_json
from dit_lab.runs.records import Data, ShapeList, few_pixels

FACTS, PLAN = "latents.json", "plan.json"
SPLITS = ("train", "validation")

_INSTEAD = "dit-lab encode dataset=... codec=... out=FOLDER creates such a folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The contents and layout of the folder, fixed before the first image is encoded."""

    data: Mapping[str, Any]  # the recorded facts of the dataset
    codec: str  # its fingerprint
    mirrors: Annotated[int, within(1, 2)]  # 2 if every image's mirror image is stored too
    moments_shape: ShapeList  # M, H, W
    dtype: Annotated[str, spelled("float16|float32", "float16 or float32")]  # of the moments
    shard_images: Annotated[int, within(1)]
    # images per encoder batch; the last bits of the moments depend on it
    chunk_images: Annotated[int, within(1)]

    def images(self, split: str) -> int:
        return int(self.data[f"{split}_images"])

    def shards(self, split: str) -> list[str]:
        """Return the file names of a split's shards."""
        return [
            f"{split}-{number:05d}.safetensors"
            for number in range(-(-self.images(split) // self.shard_images))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The plan, the hashes of the written shards, and the config of the source dataset."""

    plan: Plan
    shards: Mapping[str, Mapping[str, Any]]  # name -> "bytes" and "sha256"
    source: Mapping[str, Any]  # the dataset's config; its location may change

    @property
    def fingerprint(self) -> str:
        """64 hex digits: a hash of the plan and of every byte of every shard."""
        return fingerprint(plan=asdict(self.plan), shards=self.shards)

    def write(self, folder: Path) -> None:
        """Write `latents.json`, which marks the folder as complete."""
        write_json(folder / FACTS, {**asdict(self), "fingerprint": self.fingerprint})


def read_manifest(root: str | Path | None) -> Manifest:
    """Return the manifest of a complete folder; raise `RequestError` if there is none."""
    file = given_folder(root) / FACTS
    if not file.is_file():
        raise RequestError(f"{file} is missing: {_INSTEAD} or resumes its encoding")
    found = read_json(file)
    stated = found.pop("fingerprint", None)

    def known(kind: type[Kind], values: Any) -> Kind:
        return read_as(kind, values, where=file, what="is damaged or was changed", instead=_INSTEAD)

    manifest = known(Manifest, found)
    plan = manifest.plan
    known(Data, plan.data)
    known(dict[FileName, _Shard], manifest.shards)
    wrong = few_pixels(plan.data) or not _are_whole(plan, manifest.shards)
    if wrong or manifest.fingerprint != stated:
        raise RequestError(f"{file}: is damaged or was changed; {_INSTEAD}")
    return manifest


class _Shard(TypedDict):
    bytes: Count
    sha256: str


def _are_whole(plan: Plan, shards: Mapping[str, Any]) -> bool:
    """Return whether the listed shards are exactly those of the plan."""
    needed = sum(-(-plan.images(split) // plan.shard_images) for split in SPLITS)
    return needed == len(shards) and all(
        name in shards for split in SPLITS for name in plan.shards(split)
    )


def latents_facts(*, root: str | Path | None) -> DataFacts:
    """Return the facts of the encoded images, with the fingerprint of their latents.

    Missing shards and shards of the wrong size are refused here. Only `dit-lab encode --verify`
    checks every byte.
    """
    manifest, folder = read_manifest(root), given_folder(root)
    for name, written in manifest.shards.items():
        check_size(folder / name, written["bytes"])
    return DataFacts.of({**manifest.plan.data, "fingerprint": manifest.fingerprint})


def check_size(shard: Path, expected: int) -> None:
    """Raise RequestError if a shard is missing or has another size than when it was written."""
    try:
        found = shard.stat().st_size
    except OSError as error:
        raise RequestError(f"{shard}: cannot be read ({error.strerror}); copy it again") from None
    if found != expected:
        raise RequestError(
            f"{shard}: has {found:,} bytes of {expected:,}; copy it again, or delete it and "
            f"{FACTS} and resume dit-lab encode"
        )
