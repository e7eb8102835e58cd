"""Training batches in which everything random is already drawn, each image from its own stream.

Image number k of a training, its noise, time, label drop and augmentation are functions of
(seed, k) alone: the same for any process count, accumulation, worker count and interruption.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from dit_lab.core import rng
from dit_lab.core.errors import RequestError
from dit_lab.core.types import Batch, Codec, Coupling, Dataset, PairedDataset
from dit_lab.training.loading import Transfer, messages_of, read_ahead

_log = logging.getLogger(__name__)


class Order(Protocol):
    """Which image stands at which global sample counter."""

    def indices(self, counters: Tensor) -> Tensor: ...


class Drawn(NamedTuple):
    """A batch on the CPU, whose `data` are still what the codec will encode."""

    batch: Batch
    posterior: Tensor | None  # (N, C, H, W), the noise that a codec draws latents with
    told: tuple[str, ...] = ()  # what a worker has to say of it

    def each(self, change: Callable[[Tensor], Tensor]) -> Drawn:
        """The same with every tensor changed."""
        noise = None if self.posterior is None else change(self.posterior)
        return Drawn(self.batch.each(change), noise, self.told)

    def pin_memory(self) -> Drawn:
        """The same in memory that a device copies from by itself; a DataLoader asks for this."""
        return self.each(Tensor.pin_memory)

    def encoded(self, codec: Codec) -> Batch:
        """The batch with `data` as the codec's latents."""
        return replace(self.batch, data=codec.encode(self.batch.data, self.posterior))


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How the random fields of a batch are drawn for the images at some indices."""

    seed: int
    purpose: str  # "train" or "validation": separate streams
    latent_shape: tuple[int, int, int]
    time_from_uniform: Callable[[Tensor], Tensor]
    label_drop_prob: float
    posterior: bool = False  # the codec draws latents

    def batch(
        self, images: Tensor, labels: Tensor, indices: Tensor, noise: Tensor | None = None
    ) -> Drawn:
        """All that is random of these images. `noise` is given where it belongs to them."""
        if noise is None:
            noise = self._normal("noise", indices)
        time, drop = (
            rng.uniform(self.seed, f"{self.purpose}/{field}", indices) for field in ("time", "drop")
        )
        batch = Batch(
            sample_counter=indices,
            data=images,
            labels=labels,
            noise=noise,
            time=self.time_from_uniform(time),
            drop_label=drop < self.label_drop_prob,
        )
        return Drawn(batch, self._normal("posterior", indices) if self.posterior else None)

    def _normal(self, field: str, indices: Tensor) -> Tensor:
        return rng.normal(self.seed, f"{self.purpose}/{field}", indices, self.latent_shape)


class _Examples(TorchDataset[Any]):
    """Map-style view on an endless training: item k is the image at sample counter k."""

    def __init__(self, dataset: Dataset, order: Order, draws: Draws) -> None:
        self._dataset, self._order, self._draws = dataset, order, draws

    def __getitems__(self, counters: list[int]) -> Drawn | RequestError:
        """A refusal is handed over, not raised: a worker would wrap it in its own traceback."""
        at = torch.tensor(counters, dtype=torch.int64)
        try:
            indices = self._order.indices(at)
            images, labels = self._dataset.fetch(indices, at)
        except RequestError as refusal:
            return refusal
        drawn = self._draws.batch(images, labels, at, paired_noise(self._dataset, indices))
        return drawn._replace(told=messages_of(self._dataset))


def paired_noise(dataset: Dataset | PairedDataset, indices: Tensor) -> Tensor | None:
    """The noise that belongs to the images at these indices, if a dataset has any."""
    noise = getattr(dataset, "noise", None)
    return None if noise is None else noise(indices)


@dataclass(frozen=True, kw_only=True)
class _MicroBatchCounters:
    """The sample counters of this process, micro-batch by micro-batch, from a step on, endlessly.

    The global batch of a step is cut first by micro-batch, then by process.
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
    """Gives every optimizer step its micro-batches, on the device."""

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

    def from_step(self, first_step: int) -> Generator[Sequence[Batch], None, None]:
        """Lists of `accumulation` micro-batches, for step `first_step`, the next, and so on."""
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
                if text not in said:  # by another worker
                    said.add(text)
                    _log.warning(text)
            return self.coupling.couple(to_device(drawn).encoded(self.codec))

        with closing(micro_batches):
            while True:
                yield [next_batch() for _ in range(self.accumulation)]
