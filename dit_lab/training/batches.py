"""Training batches in which everything random is already drawn, each image from its own stream.

Image number k of a training, its noise, time, label drop and augmentation are functions of
(seed, k) alone: the same for any process count, accumulation, worker count and interruption.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dit_lab import rng
from dit_lab.types import Batch, Codec, Coupling, Dataset, PairedDataset, RequestError


class Order(Protocol):
    """Which image stands at which global sample counter."""

    def indices(self, counters: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How the random fields of a batch are drawn for the images at some indices."""

    seed: int
    purpose: str  # "train" or "validation": separate streams
    latent_shape: tuple[int, int, int]
    time_from_uniform: Callable[[Tensor], Tensor]
    label_drop_prob: float

    def batch(
        self, images: Tensor, labels: Tensor, indices: Tensor, noise: Tensor | None = None
    ) -> Batch:
        """A batch on the CPU whose `data` still holds the pixels that the codec will encode.

        `noise` is given where it belongs to the images.
        """
        if noise is None:
            noise = rng.normal(self.seed, f"{self.purpose}/noise", indices, self.latent_shape)
        time, drop = (
            rng.uniform(self.seed, f"{self.purpose}/{field}", indices) for field in ("time", "drop")
        )
        return Batch(
            sample_counter=indices,
            data=images,
            labels=labels,
            noise=noise,
            time=self.time_from_uniform(time),
            drop_label=drop < self.label_drop_prob,
        )

    def encoded(self, batch: Batch, codec: Codec, device: torch.device) -> Batch:
        """The batch on the device, with `data` as the codec's latents."""
        posterior = rng.normal(
            self.seed, f"{self.purpose}/posterior", batch.sample_counter, self.latent_shape
        )
        fields = {
            name: getattr(batch, name).to(device, non_blocking=True) for name in Batch.__slots__
        }
        moved = Batch(**fields)
        return replace(moved, data=codec.encode(moved.data, posterior.to(device)))


class _Examples(TorchDataset):
    """Map-style view on an endless training: item k is the image at sample counter k."""

    def __init__(self, dataset: Dataset, order: Order, draws: Draws) -> None:
        self._dataset, self._order, self._draws = dataset, order, draws

    def __getitems__(self, counters: list[int]) -> Batch | RequestError:
        """A refusal is handed over, not raised: a worker would wrap it in its own traceback."""
        at = torch.tensor(counters, dtype=torch.int64)
        try:
            indices = self._order.indices(at)
            images, labels = self._dataset.fetch(indices, at)
        except RequestError as refusal:
            return refusal
        return self._draws.batch(images, labels, at, paired_noise(self._dataset, indices))


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


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_stopping_to_the_main_process(worker: int) -> None:
    """Schedulers and terminals signal all processes: a worker that died would fail the run.

    A second SIGTERM ends the worker: that one is the main process's, which is leaving.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


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
        loader = DataLoader(
            _Examples(self.dataset, self.order, self.draws),
            batch_sampler=_MicroBatchCounters(
                first_step=first_step,
                global_batch_size=self.global_batch_size,
                accumulation=self.accumulation,
                process_index=self.process_index,
                num_processes=self.num_processes,
            ),
            collate_fn=_unchanged,
            num_workers=self.num_workers,
            worker_init_fn=_leave_stopping_to_the_main_process,
        )
        micro_batches = iter(loader)

        def next_batch() -> Batch:
            batch = next(micro_batches)
            if isinstance(batch, RequestError):
                raise batch
            return self.coupling.couple(self.draws.encoded(batch, self.codec, self.device))

        try:
            while True:
                yield [next_batch() for _ in range(self.accumulation)]
        finally:
            # Left to the garbage collector, workers outlive an error: its traceback refers to them,
            # and at exit the one SIGTERM that they are sent is the one that they ignore.
            getattr(micro_batches, "_shutdown_workers", lambda: None)()
