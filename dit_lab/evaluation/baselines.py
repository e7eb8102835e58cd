"""Baseline sample sets with known failures, which show what each metric detects.

Shapes: N images of H x W pixels and c channels, D = H * W * c.
"""

from __future__ import annotations

import numpy as np
import torch

from dit_lab.core.types import ImageSet
from dit_lab.evaluation.reference import Reference
from dit_lab.sampling.images import to_uint8


def memoriser(reference: Reference, *, num_images: int, seed: int) -> ImageSet:
    """Return training images drawn with replacement: the samples of a model that only memorises."""
    draws = np.random.default_rng(seed).integers(len(reference.train), size=num_images)
    return reference.train[torch.from_numpy(draws)]


def class_gaussian(reference: Reference, *, num_images: int, seed: int, levels: int) -> ImageSet:
    """Sample from one Gaussian per class, with the training images' means and covariances."""
    draw = np.random.default_rng(seed)
    train = reference.train
    order = torch.from_numpy(draw.permutation(len(train)))  # datasets are often sorted by class
    labels = train.labels[order[torch.arange(num_images) % len(train)]]
    pixels = train.pixels.flatten(1).numpy()  # (N, D)
    drawn = np.empty((num_images, pixels.shape[1]))
    for label in labels.unique().tolist():
        of_class = pixels[(train.labels == label).numpy()].astype(np.float64)
        rows = (labels == label).numpy()
        # mean + random combination of deviations: no D x D covariance matrix is needed
        weights = draw.standard_normal((rows.sum(), len(of_class)))
        deviations = (of_class - of_class.mean(0)) / np.sqrt(max(1, len(of_class) - 1))
        drawn[rows] = of_class.mean(0) + weights @ deviations
    shape = (num_images, *train.pixels.shape[1:])
    images = torch.from_numpy(drawn).view(shape).permute(0, 3, 1, 2) / 127.5 - 1
    return ImageSet(to_uint8(images, levels), labels)
