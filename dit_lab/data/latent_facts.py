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

_INSTEAD = "dit-lab encode dataset=... codec=... out=FOLDER makes such a folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be written, before the first image is encoded."""

    data: Mapping[str, Any]  # the facts of the dataset
    codec: str  # fingerprint
    mirrors: Annotated[int, within(1, 2)]  # 2 with every image's mirror
    moments_shape: ShapeList  # M, H, W
    dtype: Annotated[str, spelled("float16|float32", "float16 or float32")]  # of the moments
    shard_images: Annotated[int, within(1)]
    # what the codec encodes at once, which the last bits depend on
    chunk_images: Annotated[int, within(1)]

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

    def known(kind: type[Kind], values: Any) -> Kind:
        return read_as(kind, values, where=file, what="is not what was written", instead=_INSTEAD)

    manifest = known(Manifest, found)
    plan = manifest.plan
    known(Data, plan.data)
    known(dict[FileName, _Shard], manifest.shards)
    wrong = few_pixels(plan.data) or not _are_whole(plan, manifest.shards)
    if wrong or manifest.fingerprint != stated:
        raise RequestError(f"{file}: is not what was written; {_INSTEAD}")
    return manifest


class _Shard(TypedDict):
    bytes: Count
    sha256: str


def _are_whole(plan: Plan, shards: Mapping[str, Any]) -> bool:
    """Whether the files that are listed are those of the plan, which may have any number."""
    needed = sum(-(-plan.images(split) // plan.shard_images) for split in SPLITS)
    return needed == len(shards) and all(
        name in shards for split in SPLITS for name in plan.shards(split)
    )


def latents_facts(*, root: str | Path | None) -> DataFacts:
    """The facts of the images that were encoded, under the fingerprint of their latents.

    Shards that are missing or have another size are refused here; every byte is compared by
    `dit-lab encode --verify` alone.
    """
    manifest, folder = read_manifest(root), given_folder(root)
    for name, written in manifest.shards.items():
        check_size(folder / name, written["bytes"])
    return DataFacts.of({**manifest.plan.data, "fingerprint": manifest.fingerprint})


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
