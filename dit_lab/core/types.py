"""Shared types: data records, and the protocols of components. Torch-free.

Shapes: N images, c channels and h x w pixels of images, C channels and H x W cells of latents (the
same without an encoder). Flow time t is 0 for noise and 1 for data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from dit_lab.core.calls import LabelledCall as LabelledCall
from dit_lab.core.calls import ModelCall as ModelCall
from dit_lab.core.calls import ModelNeeds as ModelNeeds
from dit_lab.core.calls import Output as Output
from dit_lab.core.calls import Predict as Predict
from dit_lab.core.calls import Prediction as Prediction
from dit_lab.core.calls import Progress as Progress
from dit_lab.core.calls import Uniform as Uniform
from dit_lab.core.data_facts import DataFacts as DataFacts
from dit_lab.core.data_facts import DataFindings as DataFindings
from dit_lab.core.data_facts import default_classes as default_classes
from dit_lab.core.errors import RequestError
from dit_lab.core.hook import Hook as Hook

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dit_lab.core.interpolants import Interpolant


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch with all its random draws, made from a separate stream for each image."""

    sample_counter: Tensor  # (N,) int64, position of the image in the global training order
    data: Tensor  # (N, C, H, W) float32, clean images or latents
    labels: Tensor  # (N,) int64 in [0, num_classes); all 0 for an unconditional model
    noise: Tensor  # (N, C, H, W) float32, standard normal
    time: Tensor  # (N,) in the unit of the objective: flow time in [0, 1] or DDPM timestep
    drop_label: Tensor  # (N,) bool, True where the null label replaces the label
    draws: Mapping[str, Tensor] = field(default_factory=dict)  # each (N, ...), by name
    images: Tensor | None = None  # (N, c, h, w), what `data` was encoded from, for some methods

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return a copy of the batch with `change` applied to each tensor."""
        *names, _, _ = self.__slots__
        tensors = {name: change(getattr(self, name)) for name in names}
        images = None if self.images is None else change(self.images)
        draws = {name: change(x) for name, x in self.draws.items()}
        return Batch(**tensors, draws=draws, images=images)


@dataclass(frozen=True, slots=True)
class Shapes:
    """Properties of the data and shape of the latents, from which the model is built."""

    data: DataFacts
    latent: tuple[int, int, int]  # (C, H, W); the shape of images for codec=identity


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images and labels as stored in files."""

    pixels: Tensor  # (N, H, W, c) uint8
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Tensor | slice) -> ImageSet:
        return ImageSet(self.pixels[which], self.labels[which])


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Result of an evaluator: metrics by name, and files to keep with the run."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: tuple[Path, ...] = ()


DrawNoise = Callable[[int], "Tensor"]
"""Step index -> fresh standard normal noise (N, C, H, W), reproducible per image."""


class Model(Protocol):
    """A trainable network: a `torch.nn.Module` built for the shapes of the data.

    If its option `class_dropout_prob` is above 0, the label `num_classes` is the null label.
    Without that option no labels are dropped in training.
    """

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Return the raw output, (N, C, H, W), or (N, 2C, H, W) with `learn_sigma`.

        For objectives with `needs`, it also takes the keyword arguments of `calls.Asked`, and its
        constructor those of `ModelNeeds`.

        Args:
            x: Noisy images or latents, (N, C, H, W).
            time: (N,), as `Objective.model_time` returns it.
            labels: (N,) int64 in [0, num_classes), or the null label num_classes.
        """


class Objective(Protocol):
    """A training target on an interpolant, and the interpretation of the model's raw output."""

    learn_sigma: bool = False  # the model has 2C output channels
    needs: ModelNeeds = ModelNeeds()  # what the model must have besides one time and labels
    averaged_weights: bool = False  # the loss evaluates averaged weights too
    depends_on_end: bool = False  # whether the loss of a step depends on `total_steps`

    @property
    def interpolant(self) -> Interpolant:
        """The path from noise to data that samplers follow."""

    def time_from_uniform(self, uniform: Tensor) -> Tensor:
        """Return training times for uniform draws: the quantile function of time.

        Args:
            uniform: (N,) from U[0, 1).

        Returns:
            `Batch.time`, (N,).
        """

    def draws(self, uniform: Uniform) -> Mapping[str, Tensor]:
        """Return the further random values of each image, by name; none unless overridden.

        Args:
            uniform: gives random numbers for each image, by the name of a stream.

        Returns:
            `Batch.draws`, each (N, ...).
        """
        return {}

    def loss_of(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of a raw output at `Batch.time`, as `loss` does; optional.

        Training methods that compare other outputs or other targets need it.
        """
        raise RequestError(f"{type(self).__name__}: has no loss_of(output, batch)")

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of a batch, by name.

        Args:
            predict: The model, with the labels of the batch; takes noisy inputs and model times.
                It also knows the progress of the training.
            batch: Clean data, noise and times, from which the noisy inputs are made.

        Returns:
            Terms of shape (N,), float32, one value per image. "loss" is minimised; all are logged.
        """

    def model_time(self, t: float) -> float:
        """Return the time that the model receives at flow time t, such as a DDPM timestep."""

    def prediction(self, output: Tensor, x: Tensor, t: float) -> Prediction:
        """Convert a raw model output to a prediction of data and noise.

        Args:
            output: (N, C, H, W), or (N, 2C, H, W) with `learn_sigma`.
            x: The noisy input of the model, (N, C, H, W).
            t: The flow time of x.
        """

    def conditions(self, *, scale: float, interval: tuple[float, float]) -> Mapping[str, float]:
        """Return the further inputs of the model for a guidance; for those with such `needs`."""
        return {}


class Sampler(Protocol):
    """Transforms noise into data along an interpolant by evaluating the model."""

    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        *,
        interpolant: Interpolant,
        draw_noise: DrawNoise,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return the data (N, C, H, W) into which the noise is transformed.

        Args:
            predict: The prediction for (x, flow time), with guidance applied.
            noise: (N, C, H, W), standard normal.
            interpolant: The path of the objective, to be followed from `t_min` to `t_max`.
            draw_noise: Fresh noise for a step, reproducible per image; for stochastic samplers.
            on_step: Called as `on_step(k)` after step k, counted from 0.
        """


class Codec(Protocol):
    """Converts pixels in [-1, 1] to latents and back, including all scales and shifts.

    Encoding has two steps. `moments` depend only on the image and can be cached: mean and
    log-variance of a posterior, or the latents themselves. `latents` draws latents from a
    posterior. The methods with a body here suit codecs without weights, whose moments are the
    latents.
    """

    fingerprint: str  # identifies the codec and its weights
    draws: bool = False  # whether `latents` draws from a posterior and needs noise

    def to(self, device: torch.device) -> Codec:
        """Return the codec with its weights, if any, on the device."""
        return self

    def latent_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the latent shape (C, H, W) for images of shape (channels, height, width)."""

    def moments(self, images: Tensor) -> Tensor:
        """Return the moments (N, M, H, W) of images (N, c, h, w)."""

    def latents(self, moments: Tensor, noise: Tensor | None) -> Tensor:
        """Return the latents (N, C, H, W).

        Args:
            moments: (N, M, H, W).
            noise: (N, C, H, W), standard normal; only needed if `draws`.
        """
        return moments

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """Return the latents (N, C, H, W) of images (N, c, h, w): `moments`, then `latents`."""
        return self.latents(self.moments(images), noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images (N, c, h, w) in [-1, 1] of latents (N, C, H, W)."""


class Dataset(Protocol):
    """Labelled images by index. Augmentation depends only on the seed and the sample counters."""

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return images and labels.

        Args:
            indices: (N,) int64, positions in the dataset.
            counters: (N,) int64 sample counters, which seed the augmentation; None for no
                augmentation (validation, reference images).

        Returns:
            Images (N, c, h, w), float32 in [-1, 1], or cached moments (N, M, H, W); and labels
            (N,), int64.
        """


class PairedDataset(Dataset, Protocol):
    """A dataset in which every item is a latent with a fixed noise (reflow pairs)."""

    def noise(self, indices: Tensor) -> Tensor:
        """Return the noise (N, C, H, W), float32, of the latents with these indices."""


class Coupling(Protocol):
    """The pairing of noise with the images of a training batch."""

    def couple(self, batch: Batch) -> Batch:
        """Return the batch with its noise paired with its data, which is already encoded."""


class Schedule(Protocol):
    """A factor on the base learning rate as a function of the step; it has no state to save."""

    depends_on_end: bool = True  # whether the factor of a step depends on `total_steps`

    def factor(self, step: int, total_steps: int) -> float:
        """Return the factor for the step after `step` finished steps."""


class ProcessGroup(Protocol):
    """A process group, or a single process. All members call the same methods in the same order."""

    @property
    def index(self) -> int: ...  # rank

    @property
    def size(self) -> int: ...  # number of processes

    def first(self, compute: Callable[[], Result]) -> Result:
        """Return the result of rank 0 on all processes. If it raises, all raise its error."""

    def every(self, compute: Callable[[], Result]) -> list[Result]:
        """Return the results of all processes by rank. If any raise, all raise the first error."""

    def largest(self, number: int) -> int:
        """Return the maximum of `number` over all processes (cheap: one integer is reduced)."""


class Evaluator(Protocol):
    """Evaluates the averaged weights every `every_steps` and at the end; 0: only at the end.

    `run` takes the averaged model as a function, and the number of finished steps.
    """

    @property
    def every_steps(self) -> int: ...

    def run(self, model: LabelledCall, step: int) -> EvaluationResult: ...


def is_due(step: int, *, every_steps: int, total_steps: int) -> bool:
    """Return whether something is due after `step` finished steps.

    It is due at every multiple of `every_steps` above 0, and at `total_steps`. If `every_steps` is
    0, it is due only at the end.
    """
    return step == total_steps or (every_steps > 0 and step > 0 and step % every_steps == 0)
