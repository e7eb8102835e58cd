"""The lab's shared vocabulary: plain records and the protocols between its parts. Torch-free.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dit_lab.core.interpolants import Interpolant


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch with everything random already drawn, each image from its own stream."""

    sample_counter: Tensor  # (N,) int64, the image's position in the global order
    data: Tensor  # (N, C, H, W) float32, what the model learns to produce
    labels: Tensor  # (N,) int64 in [0, num_classes); all 0 for an unconditional model
    noise: Tensor  # (N, C, H, W) float32, standard normal
    time: Tensor  # (N,) in the objective's unit: flow time in [0, 1] or the DDPM timestep
    drop_label: Tensor  # (N,) bool, where the null label takes the label's place

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        return Batch(*(change(getattr(self, name)) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of the two ends of its interpolant, seen from one noisy image."""

    data: Tensor  # (N, C, H, W)
    noise: Tensor  # (N, C, H, W)
    # of one step back on a chain, 0 = posterior, 1 = beta: (N, C, H, W) with learn_sigma
    variance_fraction: Tensor | float = 0.0
    guided: bool = False  # more than one model's, or one label's, word


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What matters of data where a training begins with it."""

    notes: tuple[str, ...] = ()  # lines
    doubt: str = ""  # why none does, in one line
    lost: str = ""  # of an image that is not where it should be, in one line
    files: tuple[str, ...] = ()  # some of the images, where they are files


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What the data knows and the model is built from."""

    channels: int
    height: int
    width: int
    num_classes: int  # 0 for an unconditional set
    class_names: tuple[str, ...]
    train_images: int
    validation_images: int
    fingerprint: str  # changes when the data does
    levels: int = 256  # brightnesses that a pixel can have
    reading: int = 1  # how folders were read: the one of runs that were recorded without one
    absent_classes: tuple[int, ...] = ()  # without a training image: drawn where asked for alone
    first_look: FirstLook = FirstLook()  # not recorded

    @property
    def drawn_classes(self) -> tuple[int, ...]:
        """The classes that are drawn unless others are asked for; (0,) without classes."""
        return drawn_classes(self.num_classes, self.absent_classes)

    def recorded(self) -> dict[str, Any]:
        """As files hold them, as they did before there were facts that say nothing here."""
        known = {**asdict(self), "class_names": list(self.class_names)}
        del known["first_look"]
        if self.reading == 1:
            del known["reading"]
        known["absent_classes"] = list(self.absent_classes)
        if not self.absent_classes:
            del known["absent_classes"]
        return known

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> DataFacts:
        """What a file holds, which was checked."""
        names = ("class_names", "absent_classes")
        return cls(**{**recorded, **{key: tuple(recorded.get(key, ())) for key in names}})


def drawn_classes(num_classes: int, absent_classes: Iterable[int]) -> tuple[int, ...]:
    """The classes that are drawn unless others are asked for; (0,) without classes."""
    absent = set(absent_classes)
    return tuple(at for at in range(max(1, num_classes)) if at not in absent)


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the data and the codec tell the model."""

    data: DataFacts
    latent: tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images as files hold them, with their labels."""

    pixels: Tensor  # (N, H, W, c) uint8
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Tensor | slice) -> ImageSet:
        return ImageSet(self.pixels[which], self.labels[which])


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What an evaluator found: numbers by metric name, and files worth keeping with the run."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: tuple[Path, ...] = ()


ModelCall = Callable[["Tensor", "Tensor"], "Tensor"]
"""(x_t (N, C, H, W), model time (N,)) -> raw output (N, C or 2C, H, W); labels are closed over."""

LabelledCall = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""(x_t (N, C, H, W), model time (N,), labels (N,)) -> raw output (N, C or 2C, H, W)."""

Predict = Callable[["Tensor", float], Prediction]
"""(x_t (N, C, H, W), flow time t shared by the batch) -> Prediction; what samplers are given."""

DrawNoise = Callable[[int], "Tensor"]
"""step index -> fresh standard normal noise (N, C, H, W), reproducible per image."""


class Model(Protocol):
    """What is trained: a `torch.nn.Module`, built for the shapes of the data.

    With an option `class_dropout_prob` above 0, its labels go up to `num_classes`, which stands for
    no label; without that option no label is dropped.
    """

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """x (N, C, H, W), time (N,) in the objective's unit, labels (N,) int64 -> (N, C, H, W), or
        (N, 2C, H, W) with `learn_sigma`."""


class Objective(Protocol):
    """What is learned: a target on an interpolant, and how a raw output is read."""

    learn_sigma: bool = False  # the model has 2C output channels

    @property
    def interpolant(self) -> Interpolant:
        """The path between noise and data that samplers follow."""

    def time_from_uniform(self, uniform: Tensor) -> Tensor:
        """Map draws from U[0, 1), shape (N,), to `Batch.time`, the quantile function of time."""

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Per-image terms, each (N,) float32; the key "loss" is the one that is minimised."""

    def model_time(self, t: float) -> float:
        """Flow time t to the number that the model was trained to receive."""

    def prediction(self, output: Tensor, x: Tensor, t: float) -> Prediction:
        """Read a raw model output at (x, flow time t)."""


class Sampler(Protocol):
    """Carries noise to data along an interpolant by asking for predictions."""

    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        *,
        interpolant: Interpolant,
        draw_noise: DrawNoise,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """noise (N, C, H, W) -> data (N, C, H, W). `on_step(k)` is called after step k."""


class Codec(Protocol):
    """Pixels in [-1, 1] to what the model sees, and back. Owns every scale and shift.

    In between stand moments, which depend on the image alone and can be kept: the mean and
    log-variance of a posterior, from which each use draws latents, or the latents themselves.
    What has a body here is for codecs without weights whose moments are the latents.
    """

    fingerprint: str
    draws: bool = False  # latents are drawn, so that `latents` needs noise

    def to(self, device: torch.device) -> Codec:
        """The codec with its weights, if it has any, on the device."""
        return self

    def latent_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """(channels, height, width) of pixels to those of latents."""

    def moments(self, images: Tensor) -> Tensor:
        """images (N, c, h, w) -> moments (N, M, H, W)."""

    def latents(self, moments: Tensor, noise: Tensor | None) -> Tensor:
        """moments (N, M, H, W) and, where it draws, noise (N, C, H, W) -> latents (N, C, H, W)."""
        return moments

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """images (N, c, h, w) to their latents (N, C, H, W): both steps."""
        return self.latents(self.moments(images), noise)

    def decode(self, latents: Tensor) -> Tensor:
        """latents (N, C, H, W) -> images (N, c, h, w) in [-1, 1]."""


class Dataset(Protocol):
    """Labelled images by index; augmentation depends on (seed, sample counter) alone."""

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images (N, c, h, w) float32 in [-1, 1] and labels (N,) int64.

        `counters` (N,) seed the augmentation; None means no augmentation (validation, reference).
        A dataset of cached latents gives moments (N, M, H, W) in the place of images.
        """


class PairedDataset(Dataset, Protocol):
    """A dataset whose images each have a noise that belongs to them."""

    def noise(self, indices: Tensor) -> Tensor:
        """(N, C, H, W) float32; the images are latents of the same shape."""


class Coupling(Protocol):
    """Which noise belongs to which image of a training batch."""

    def couple(self, batch: Batch) -> Batch:
        """The batch, its data encoded, with its noise as it should be."""


class Schedule(Protocol):
    """A factor on the base learning rate, a function of the step alone (nothing to save)."""

    depends_on_end: bool = True  # the factor of a step changes with `total_steps`

    def factor(self, step: int, total_steps: int) -> float:
        """Factor for the step after `step` finished ones."""


class Team(Protocol):
    """The processes that do one thing together, all of which call the same methods in the same
    order; a process alone is a team as well."""

    @property
    def index(self) -> int: ...

    @property
    def size(self) -> int: ...

    def first(self, compute: Callable[[], Result]) -> Result:
        """What the first process computes; every process gets it, or raises what it raised."""

    def every(self, compute: Callable[[], Result]) -> list[Result]:
        """What each process computes, in their order; where some raise, all raise the first."""

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes give, at little cost."""


class Evaluator(Protocol):
    """Looks at the averaged weights every `every_steps` and at the end; 0 = only at the end."""

    @property
    def every_steps(self) -> int: ...

    def run(self, model: LabelledCall, step: int) -> EvaluationResult: ...


class Hook(Protocol):
    """Listens to a run: a metrics file, a tracker, a progress display. Rank 0 only.

    Subclasses say what they listen to; the rest passes them by.
    """

    def on_start(self, *, first_step: int, total_steps: int) -> None:
        """Training begins, or goes on after `first_step` finished steps."""
        return

    def on_step(self, step: int) -> None:
        """The optimizer has finished `step` steps."""
        return

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers by name: of training every `training.log_every_steps`, and of each evaluation."""
        return

    def on_artifact(self, step: int, path: Path) -> None:
        """An evaluation wrote a file into the run folder, such as a picture of samples."""
        return

    def on_message(self, text: str) -> None:
        """A line for whoever watches."""
        return

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        """It ended: FINISHED, KILLED (stopped and saved) or FAILED with a traceback as `error`."""
        return


def is_due(step: int, *, every_steps: int, total_steps: int) -> bool:
    """Whether something is due after `step` finished steps: at every multiple of `every_steps`, and
    at the end; 0 is only at the end."""
    return step == total_steps or (every_steps > 0 and step > 0 and step % every_steps == 0)
