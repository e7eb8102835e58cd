"""Training batches with all random values drawn, each image from its own random stream.

Image number k of a training, its noise, time, label dropout and augmentation depend only on (seed,
k), and not on the number of processes or workers, gradient accumulation or interruptions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from dit_lab.core import rng
from dit_lab.core.calls import Uniform
from dit_lab.core.errors import RequestError
from dit_lab.core.types import Batch, Codec, Coupling, Dataset, PairedDataset
from dit_lab.training.loading import Transfer, messages_of, read_ahead

_log = logging.getLogger(__name__)


class Order(Protocol):
    """Order of the training images."""

    def indices(self, counters: Tensor) -> Tensor: ...


class Drawn(NamedTuple):
    """A batch on the CPU, whose `data` are not yet encoded by the codec."""

    batch: Batch
    posterior: Tensor | None  # (N, C, H, W), noise for a codec that samples its latents
    told: tuple[str, ...] = ()  # messages of the dataset, from a worker process

    def each(self, change: Callable[[Tensor], Tensor]) -> Drawn:
        """Apply `change` to every tensor."""
        noise = None if self.posterior is None else change(self.posterior)
        return Drawn(self.batch.each(change), noise, self.told)

    def pin_memory(self) -> Drawn:
        """Move the tensors to pinned memory; called by a DataLoader."""
        return self.each(Tensor.pin_memory)

    def encoded(self, codec: Codec, *, keep_images: bool = False) -> Batch:
        """Return the batch with `data` encoded to latents; `keep_images` keeps the images too."""
        images = self.batch.data if keep_images else None
        data = codec.encode(self.batch.data, self.posterior)
        return replace(self.batch, data=data, images=images)


def no_draws(uniform: Uniform) -> Mapping[str, Tensor]:
    """Return no further random values, as objectives of one time need none."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random values of a batch: noise, time, label dropout, and those of objective and codec."""

    seed: int
    purpose: str  # "train" or "validation": separate streams
    latent_shape: tuple[int, int, int]
    time_from_uniform: Callable[[Tensor], Tensor]
    label_drop_prob: float
    further: Callable[[Uniform], Mapping[str, Tensor]] = no_draws
    """`Objective.draws`."""
    posterior: bool = False  # the codec samples its latents

    def batch(
        self, images: Tensor, labels: Tensor, indices: Tensor, noise: Tensor | None = None
    ) -> Drawn:
        """Draw the random values of the images at `indices`; paired datasets give their `noise`."""
        if noise is None:
            noise = self._normal("noise", indices)

        def uniform(field: str, *shape: int) -> Tensor:
            return rng.uniform(self.seed, f"{self.purpose}/{field}", indices, *shape)

        batch = Batch(
            sample_counter=indices,
            data=images,
            labels=labels,
            noise=noise,
            time=self.time_from_uniform(uniform("time")),
            drop_label=uniform("drop") < self.label_drop_prob,
            draws=self.further(uniform),
        )
        return Drawn(batch, self._normal("posterior", indices) if self.posterior else None)

    def _normal(self, field: str, indices: Tensor) -> Tensor:
        return rng.normal(self.seed, f"{self.purpose}/{field}", indices, self.latent_shape)


class _Examples(TorchDataset[Any]):
    """Map-style dataset of an endless training: item k is the image at sample counter k."""

    def __init__(self, dataset: Dataset, order: Order, draws: Draws) -> None:
        self._dataset, self._order, self._draws = dataset, order, draws

    def __getitems__(self, counters: list[int]) -> Drawn | RequestError:
        """Return a batch, or a RequestError, to which a worker would add a traceback if raised."""
        at = torch.tensor(counters, dtype=torch.int64)
        try:
            indices = self._order.indices(at)
            images, labels = self._dataset.fetch(indices, at)
        except RequestError as refusal:
            return refusal
        drawn = self._draws.batch(images, labels, at, paired_noise(self._dataset, indices))
        return drawn._replace(told=messages_of(self._dataset))


def paired_noise(dataset: Dataset | PairedDataset, indices: Tensor) -> Tensor | None:
    """Return the noise (N, C, H, W) that a paired dataset stores for these images, else None."""
    noise = getattr(dataset, "noise", None)
    return None if noise is None else noise(indices)


@dataclass(frozen=True, kw_only=True)
class _MicroBatchCounters:
    """Endless iterator over the sample counters of this process's micro-batches, from a step on.

    The global batch of a step is divided into micro-batches, and each of them among the processes.
    """

    first_step: int
    global_batch_size: int
    accumulation: int
    process_index: int
    num_processes: int

    def __iter__(self) -> Iterator[list[int]]:
        size = self.global_batch_size // (self.accumulation * self.num_processes)
        part = self.process_index
        counter = self.first_step * self.global_batch_size
        while True:
            for _ in range(self.accumulation):
                yield list(range(counter + part * size, counter + (part + 1) * size))
                counter += size * self.num_processes


@dataclass(frozen=True, kw_only=True)
class TrainingBatches:
    """Batches of every optimizer step, as micro-batches on the device."""

    dataset: Dataset
    order: Order
    draws: Draws
    codec: Codec
    coupling: Coupling
    device: torch.device
    global_batch_size: int
    accumulation: int
    process_index: int
    num_processes: int
    num_workers: int
    keep_images: bool = False  # batches also have the images before encoding

    def from_step(self, first_step: int) -> Generator[Sequence[Batch], None, None]:
        """Yield lists of `accumulation` micro-batches, from step `first_step` on."""
        micro_batches = read_ahead(
            _Examples(self.dataset, self.order, self.draws),
            num_workers=self.num_workers,
            batch_sampler=_MicroBatchCounters(
                first_step=first_step,
                global_batch_size=self.global_batch_size,
                accumulation=self.accumulation,
                process_index=self.process_index,
                num_processes=self.num_processes,
            ),
            pin_memory=self.device.type == "cuda",
        )
        to_device = Transfer(self.device)
        said: set[str] = set()

        def next_batch() -> Batch:
            drawn: Drawn = next(micro_batches)
            for text in drawn.told:
                if text not in said:  # each worker sends its own copy of a message
                    said.add(text)
                    _log.warning(text)
            return self.coupling.couple(
                to_device(drawn).encoded(self.codec, keep_images=self.keep_images)
            )

        with closing(micro_batches):
            while True:
                yield [next_batch() for _ in range(self.accumulation)]
