"""Order of the training images in the endless training sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.rng import permutation


class SampleOrder:
    """Order in which each epoch is a permutation of all images, drawn from (seed, epoch) alone.

    The order is a pure function of the global sample counter. It does not depend on batch size,
    number of processes, workers or interruptions, so a resumed run only continues the count.
    """

    def __init__(self, seed: int, num_images: int) -> None:
        if num_images < 1:
            raise RequestError(f"num_images={num_images}: an order needs at least one image")
        self.seed = seed
        self.num_images = num_images
        self._permutations: dict[int, Tensor] = {}  # epochs of the last call

    def indices(self, counters: Tensor) -> Tensor:
        """Map global sample counters (N,) int64 >= 0 to image indices (N,) int64."""
        epochs = counters.div(self.num_images, rounding_mode="floor")  # (N,)
        places = counters.remainder(self.num_images)  # (N,)
        held, self._permutations = self._permutations, {}
        indices = torch.empty_like(counters)
        for epoch in epochs.unique().tolist():
            order = held[epoch] if epoch in held else self._draw(epoch)
            self._permutations[epoch] = order
            here = epochs == epoch
            indices[here] = order[places[here]].long()
        return indices

    def _draw(self, epoch: int) -> Tensor:
        """Return a permutation of the indices, shape (num_images,); int32 if that suffices."""
        order = permutation(self.seed, "order", epoch, self.num_images)
        return order.int() if self.num_images < 2**31 else order
