"""Which noise belongs to which image.

Objectives join each image to a noise; the usual noise is independent of the image, drawn anew each
time. Noise that lies nearer to its image makes straighter paths that cross less.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.types import Batch


class Independent:
    """Every image has noise of its own, which says nothing of it."""

    def couple(self, batch: Batch) -> Batch:
        return batch


class OptimalTransport:
    """Within groups of images, noise is dealt out anew so that the squared distances add up to the
    least (Tong et al. 2023, "Improving and Generalizing Flow-Based Generative Models with Minibatch
    Optimal Transport", section 3.2; Pooladian et al. 2023).

    Groups are `group_images` consecutive sample counters, the same ones for any number of processes
    and any accumulation.
    within_class: only images of one label exchange noise, so that the noise of every class is
        still standard normal, as sampling takes it to be. Without it a label's noise is not, which
        is refused for labelled data (by the checks of a command) unless `force`.
    """

    def __init__(
        self, *, group_images: int = 32, within_class: bool = True, force: bool = False
    ) -> None:
        if group_images < 2:
            raise RequestError(f"group_images: {group_images} is not at least 2")
        self.group_images = group_images
        self.within_class = within_class
        self.force = force

    def couple(self, batch: Batch) -> Batch:
        """The batch, whose images are whole groups, with its noise in another order."""
        data, noise = (images.flatten(1).double().cpu() for images in (batch.data, batch.noise))
        labels = batch.labels.cpu() if self.within_class else torch.zeros(len(data))
        group = batch.sample_counter.cpu().div(self.group_images, rounding_mode="floor")
        order = torch.arange(len(data))
        for places in _alike(group, labels):
            order[places] = places[_nearest(data[places], noise[places])]
        return replace(batch, noise=batch.noise[order.to(batch.noise.device)])


def _alike(*keys: Tensor) -> list[Tensor]:
    """The places (n,) of equal keys (N,), one tensor for each."""
    _, which = torch.unique(torch.stack([key.long() for key in keys]), dim=1, return_inverse=True)
    return [(which == value).nonzero()[:, 0] for value in which.unique()]


def _nearest(data: Tensor, noise: Tensor) -> Tensor:
    """(n,): for each of n images the noise that the best assignment gives it; both (n, D)."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(torch.cdist(data, noise).square().numpy())
    return torch.from_numpy(columns)


class Reflow(Independent):
    """Images and noise are the two ends of paths that a trained model was followed along (Liu et
    al. 2022, algorithm 1). They are read from `pairs`, a folder that `dit-lab reflow` wrote, in the
    place of the dataset's images."""

    def __init__(self, *, pairs: str) -> None:
        self.pairs = Path(pairs)
