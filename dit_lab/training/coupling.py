"""Couplings: which noise is paired with which image.

By default, noise is drawn independently of the image. Pairing images with nearby noise gives
straighter paths that cross less.

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
    """Independent coupling: every image keeps its own noise. Implements `types.Coupling`."""

    def couple(self, batch: Batch) -> Batch:
        return batch


class OptimalTransport:
    """Minibatch optimal transport: permutes noise within groups of images.

    The permutation minimises the sum of squared distances (Tong et al. 2023, "Improving and
    Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", section 3.2;
    Pooladian et al. 2023). A group is `group_images` consecutive sample counters, independent of
    the number of processes and of gradient accumulation.

    Args:
        group_images: images in a group, at least 2.
        within_class: permute noise only among images of one label, so that the noise of each class
            remains standard normal, as sampling assumes. Without it, this is not so; the commands
            then reject labelled data unless `force` is set.
        force: allow `within_class=False` for labelled data.

    Raises:
        RequestError: `group_images` is below 2.
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
        """Return the batch with its noise permuted; its images must be whole groups."""
        data, noise = (images.flatten(1).double().cpu() for images in (batch.data, batch.noise))
        labels = batch.labels.cpu() if self.within_class else torch.zeros(len(data))
        group = batch.sample_counter.cpu().div(self.group_images, rounding_mode="floor")
        order = torch.arange(len(data))
        for places in _alike(group, labels):
            order[places] = places[_nearest(data[places], noise[places])]
        return replace(batch, noise=batch.noise[order.to(batch.noise.device)])


def _alike(*keys: Tensor) -> list[Tensor]:
    """Return the positions (n,) of each set of equal keys (N,)."""
    _, which = torch.unique(torch.stack([key.long() for key in keys]), dim=1, return_inverse=True)
    return [(which == value).nonzero()[:, 0] for value in which.unique()]


def _nearest(data: Tensor, noise: Tensor) -> Tensor:
    """Return the optimal assignment (n,), a noise index for each image; both inputs are (n, D)."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(torch.cdist(data, noise).square().numpy())
    return torch.from_numpy(columns)


class Reflow(Independent):
    """Reflow: pairs of noise and data, the two ends of trajectories of a trained model.

    Liu et al. 2022, algorithm 1. The pairs are read from `pairs`, a folder that `dit-lab reflow`
    wrote, instead of the dataset's images.
    """

    def __init__(self, *, pairs: str) -> None:
        self.pairs = Path(pairs)
