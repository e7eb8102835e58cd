"""Image generation in which image i depends only on (seed, i).

Images are computed in fixed chunks: indices [k * CHUNK_IMAGES, (k + 1) * CHUNK_IMAGES), always
complete, with surplus images discarded. Matrix products round differently for different batch
sizes, so only a fixed chunk makes the first 100 of 1,000 images equal to 100 requested images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor

from dit_lab.core import rng
from dit_lab.core.calls import Asked
from dit_lab.core.errors import Diverged
from dit_lab.core.process_group import SINGLE_PROCESS, map_over_ranks
from dit_lab.core.types import (
    Codec,
    LabelledCall,
    Objective,
    Predict,
    Prediction,
    ProcessGroup,
    Sampler,
    default_classes,
)
from dit_lab.samplers.guidance import Guidance, predictor
from dit_lab.sampling.images import to_uint8

CHUNK_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Everything that determines generated images, except the weights, the seed and the labels.

    The processes of a `process_group` share the chunks; all of them must request the same images.
    """

    objective: Objective
    sampler: Sampler
    guidance: Guidance
    codec: Codec
    latent_shape: tuple[int, int, int]
    num_classes: int  # 0: unconditional
    null_label: int | None  # None: trained without label dropout, no classifier-free guidance
    levels: int  # brightness levels of the data, 256 for bytes
    device: torch.device
    process_group: ProcessGroup = SINGLE_PROCESS
    weak: LabelledCall | None = None  # a weaker model, for autoguidance
    absent_classes: Sequence[int] = ()  # without training images
    check_stop: Callable[[], None] = lambda: None

    def labels(self, indices: Tensor, asked: Sequence[int] | None) -> Tensor:
        """Return the labels (N,) of the images at `indices`, which cycle through the classes.

        These are the requested classes, or all classes with training images.
        """
        cycle = list(asked or default_classes(self.num_classes, self.absent_classes))
        return torch.tensor(cycle, dtype=torch.int64)[indices % len(cycle)]

    def images(
        self,
        model: LabelledCall,
        *,
        num_images: int,
        seed: int,
        labels: Sequence[int] | None = None,
        batch_size: int = CHUNK_IMAGES,
        first: int = 0,
        on_pass: Callable[[int], None] = lambda images: None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield groups of uint8 images (n, H, W, c) and their labels (n,), in order of their index.

        Args:
            model: the model to sample from.
            num_images: index after the last image.
            seed: the sampling seed.
            labels: classes to cycle through; None for all classes with training images.
            batch_size: images in a group, rounded up to whole chunks; does not affect the images.
            first: index of the first image, a multiple of CHUNK_IMAGES.
            on_pass: called for each chunk with the number of images that the model evaluated.
        """
        group_images = -(-batch_size // CHUNK_IMAGES) * CHUNK_IMAGES
        for start in range(first, num_images, group_images):
            stop = min(start + group_images, num_images)

            def draw(first: int) -> tuple[Tensor, int]:
                return self._chunk(model, first=first, seed=seed, labels=labels)

            chunks = []
            for images, passed in map_over_ranks(
                self.process_group, range(start, stop, CHUNK_IMAGES), draw
            ):
                chunks.append(images)
                on_pass(passed)
            yield (
                torch.cat(chunks)[: stop - start],
                self.labels(torch.arange(start, stop), labels),
            )

    def _chunk(
        self, model: LabelledCall, *, first: int, seed: int, labels: Sequence[int] | None
    ) -> tuple[Tensor, int]:
        """Return the uint8 images of a chunk, and how many images models evaluated for them."""
        passes = EvaluationCount()
        counting = replace(self, weak=self.weak and _counted(self.weak, passes))
        latents = counting.latents(_counted(model, passes), first=first, seed=seed, labels=labels)
        with torch.no_grad():
            images = self.codec.decode(latents)
        self._refuse_nonfinite(images, first)
        return to_uint8(images, self.levels), passes.images

    def _refuse_nonfinite(self, images: Tensor, first: int) -> None:
        """Raise Diverged if images are not finite, which bytes would show as black."""
        finite = torch.isfinite(images).flatten(1).all(dim=1)
        if bad := int((~finite).sum()):
            guided = "" if self.guidance.scale == 1 else "a guidance.scale nearer to 1, "
            raise Diverged(
                f"{bad} of the generated images {first} to {first + len(images) - 1} have values "
                f"that are not finite. Try {guided}another sampler, or weights of an earlier step"
            )

    def try_sampler(self) -> None:
        """Run the sampler once on zeros, so that invalid settings fail before training."""
        x = torch.zeros(1, *self.latent_shape, device=self.device)
        self.sampler.sample(
            lambda x, t, to=None: Prediction(data=torch.zeros_like(x), noise=torch.zeros_like(x)),
            x,
            interpolant=self.objective.interpolant,
            draw_noise=lambda step: x,
        )

    def predictor(self, model: LabelledCall, labels: Tensor) -> Predict:
        """Return the predictor of the sampler for images with these labels (N,)."""
        return predictor(
            model,
            self.objective,
            labels.to(self.device),
            null_label=self.null_label,
            guidance=self.guidance,
            weak=self.weak,
        )

    @torch.no_grad()
    def latents(
        self,
        model: LabelledCall,
        *,
        first: int,
        seed: int,
        labels: Sequence[int] | None = None,
        purpose: str = rng.SAMPLE_NOISE,
    ) -> Tensor:
        """Return the latents of one chunk, (CHUNK_IMAGES, C, H, W), as the codec decodes them.

        Args:
            model: the model to sample from.
            first: index of the first image, a multiple of CHUNK_IMAGES.
            seed: the sampling seed.
            labels: classes to cycle through; None for all classes with training images.
            purpose: name of the stream of random numbers.
        """
        indices = torch.arange(first, first + CHUNK_IMAGES)

        def draw(of: str) -> Tensor:
            return rng.normal(seed, of, indices, self.latent_shape).to(self.device)

        return self.sampler.sample(
            self.predictor(model, self.labels(indices, labels)),
            draw(purpose),
            interpolant=self.objective.interpolant,
            draw_noise=lambda step: draw(f"{purpose}-{step}"),
            on_step=lambda step: self.check_stop(),
        )


def _counted(model: LabelledCall, on_pass: Callable[[int], None]) -> LabelledCall:
    def call(x: Tensor, time: Tensor, labels: Tensor, **asked: Unpack[Asked]) -> Tensor:
        on_pass(len(x))
        return model(x, time, labels, **asked)

    return call


class EvaluationCount:
    """Counter of the images that models evaluated, for use as `on_pass`."""

    def __init__(self, images: int = 0) -> None:
        self.images = images

    def __call__(self, images: int) -> None:
        self.images += images

    def per_image(self, num_images: int) -> float:
        """Return the NFE per image; `num_images` is rounded up to the whole chunks computed."""
        computed = -(-num_images // CHUNK_IMAGES) * CHUNK_IMAGES
        return self.images / computed
