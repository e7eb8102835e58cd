"""`dit-lab encode`: the moments of every image of a dataset, in shards.

The moments of an image depend only on the images of its chunk. So the shards are the same bytes for
any number of processes and machines and after interruptions (with equal threads per process).

Shapes: n images of a shard, K mirrored versions (1 or 2), moments of (M, H, W).
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit_lab.build.parts import build, build_dataset
from dit_lab.config.schema import EncodeConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.files import sync
from dit_lab.core.tensor_file import save_tensors
from dit_lab.core.text import counted
from dit_lab.core.types import Codec, DataFacts, Dataset
from dit_lab.data.latent_facts import FACTS, PLAN, SPLITS, Manifest, Plan, read_manifest
from dit_lab.runs.folder import read_json, write_json
from dit_lab.runs.lock import Lease
from dit_lab.training.loading import messages_of, read_ahead

_log = logging.getLogger(__name__)

LEASES = "leases"


class Encoding:
    """A folder of latents that one or several processes write."""

    def __init__(
        self, config: EncodeConfig, facts: DataFacts, *, on_message: Callable[[str], None]
    ) -> None:
        """Load the codec and write the plan of the shards.

        Raises:
            RequestError: the folder holds latents of another plan.
        """
        self._config, self._say = config, on_message
        self.folder = Path(config.out)
        self._device = _device()
        codec: Codec = build(config, "codec")
        self._codec = codec.to(self._device)
        self.plan = _plan(config, facts, codec)
        before, now = read_json(self.folder / PLAN), asdict(self.plan)  # `before` is only compared
        if before and before != {**now, "data": _known_then(now["data"], before.get("data"))}:
            other = sorted(key for key in now if before.get(key) != now[key])
            raise RequestError(
                f"out={self.folder}: holds latents of another configuration ({', '.join(other)} "
                "differ); choose another folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / PLAN, now)
        if self.missing:
            (self.folder / LEASES).mkdir(exist_ok=True)
            (self.folder / FACTS).unlink(missing_ok=True)

    @property
    def missing(self) -> list[str]:
        """The names of the shards that do not exist yet."""
        names = (name for split in SPLITS for name in self.plan.shards(split))
        return [name for name in names if not (self.folder / name).exists()]

    def run(self, check_stop: Callable[[], None]) -> None:
        """Write every missing shard that no other process is writing."""
        for split in SPLITS:
            names = [name for name in self.missing if name.startswith(split)]
            reading = self.plan.data.get("reading", 1)
            dataset = build_dataset(self._config, split, reading=reading) if names else None
            for name in names:
                if (self.folder / name).exists():
                    continue  # written by another process in the meantime
                with claimed(self.folder / LEASES / name) as mine:
                    if mine and dataset is not None and not (self.folder / name).exists():
                        self._write(name, split, dataset, check_stop)

    def finish(self) -> None:
        """Write the manifest if all shards exist and no other process writes it."""
        if self.missing:
            return
        with claimed(self.folder / "lease") as mine:
            if mine and not (self.folder / FACTS).exists():
                self._write_manifest()

    def _write_manifest(self) -> None:
        shards = {
            name: {
                "bytes": (self.folder / name).stat().st_size,
                "sha256": sha256(self.folder / name),
            }
            for split in SPLITS
            for name in self.plan.shards(split)
        }
        source = asdict(self._config.dataset)
        Manifest(plan=self.plan, shards=shards, source=source).write(self.folder)
        for rest in (*self.folder.glob("*.writing-*"), *(self.folder / LEASES).iterdir()):
            rest.unlink()
        (self.folder / LEASES).rmdir()

    def _write(
        self, name: str, split: str, dataset: Dataset, check_stop: Callable[[], None]
    ) -> None:
        start = time.monotonic()
        first = self.plan.shards(split).index(name) * self.plan.shard_images
        last = min(first + self.plan.shard_images, self.plan.images(split))
        moments, labels = [], []
        with closing(self._chunks(dataset, first, last)) as chunks:
            for images, chunk_labels in chunks:
                check_stop()
                moments.append(self._moments(images))
                labels.append(chunk_labels)
        beside = self.folder / f"{name}.writing-{os.getpid()}"
        try:
            save_tensors({"moments": torch.cat(moments), "labels": torch.cat(labels)}, beside)
            sync(beside)
            beside.replace(self.folder / name)
        finally:
            beside.unlink(missing_ok=True)
        rate = (last - first) / (time.monotonic() - start)
        self._say(f"{name}: {counted(last - first, 'image')}, {rate:,.0f} a second")

    def _chunks(
        self, dataset: Dataset, first: int, last: int
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield images (N, c, h, w) and labels (N,) in chunks of `chunk_images`, read ahead."""
        size = self.plan.chunk_images
        places = [range(at, min(at + size, last)) for at in range(first, last, size)]
        workers = self._config.dataset.num_workers
        fetched = read_ahead(_Fetches(dataset, places), num_workers=workers, batch_size=None)
        with closing(fetched):
            for images, labels, told in fetched:
                for line in told:
                    _log.warning(line)
                yield images, labels

    def _moments(self, images: Tensor) -> Tensor:
        """Return the moments (n, K, M, H, W) of images (n, c, h, w), in the stored dtype."""
        images = images.to(self._device)
        mirrors = [images, images.flip(-1)][: self.plan.mirrors]
        moments = torch.stack([self._codec.moments(mirror) for mirror in mirrors], dim=1)
        kept = moments.to(getattr(torch, self.plan.dtype)).cpu()
        if not bool(kept.isfinite().all()):
            raise RequestError(
                f"dtype={self.plan.dtype}: moments up to {moments.abs().max().item():.3g} do not "
                "fit; use dtype=float32"
            )
        return kept


class _Fetches(torch.utils.data.Dataset[Any]):
    """Item k is (images, labels, messages) of the k-th range of indices, or a RequestError."""

    def __init__(self, dataset: Dataset, places: list[range]) -> None:
        self._dataset, self._places = dataset, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, tuple[str, ...]] | RequestError:
        try:
            images, labels = self._dataset.fetch(torch.tensor(list(self._places[number])), None)
        except RequestError as refusal:
            return refusal
        return images, labels, messages_of(self._dataset)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold the lease at `path` and give True; give False if another process has it.

    Also gives False if another process has finished and removed the folder of leases.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(Lease(path))
        except (RequestError, FileNotFoundError):
            yield False
            return
        yield True


def verify(folder: Path) -> int:
    """Check the SHA-256 of every shard and return the number of shards.

    Raises:
        RequestError: a shard is missing or differs.
    """
    manifest = read_manifest(folder)
    different = [
        name
        for name, written in manifest.shards.items()
        if not (folder / name).exists() or sha256(folder / name) != written["sha256"]
    ]
    if different:
        raise RequestError(
            f"{folder}: {len(different)} of {len(manifest.shards)} shards are not what was written"
            f" ({', '.join(different[:5])}); delete them and latents.json, and encode again"
        )
    return len(manifest.shards)


def sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _plan(config: EncodeConfig, facts: DataFacts, codec: Codec) -> Plan:
    channels, height, width = codec.latent_shape(facts.channels, facts.height, facts.width)
    chunk = config.codec.chunk_images
    if config.shard_images % chunk:
        raise RequestError(
            f"shard_images={config.shard_images}: must be a multiple of "
            f"codec.chunk_images={chunk}, which are encoded together"
        )
    return Plan(
        data=facts.recorded(),
        codec=codec.fingerprint,
        mirrors=2 if getattr(config.dataset, "horizontal_flip", None) else 1,
        moments_shape=[channels * (2 if codec.draws else 1), height, width],
        dtype=config.dtype,
        shard_images=config.shard_images,
        chunk_images=chunk,
    )


def _known_then(data: Mapping[str, Any], before: Any) -> dict[str, Any]:
    """Return the current facts of the data that `before` has too; all if there is no `before`."""
    return {key: value for key, value in data.items() if not before or key in before}


def _device() -> torch.device:
    """Return the GPU of this process by LOCAL_RANK, or the CPU."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % gpus)
