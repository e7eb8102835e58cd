"""Baseline sample sets fail in the known way, and in no other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from dit_lab.core.types import ImageSet
from dit_lab.data.digits import Digits
from dit_lab.evaluation.baselines import class_gaussian, memoriser
from dit_lab.evaluation.reference import Reference, load_images

SIDE = 4


def reference(pixels: torch.Tensor, labels: torch.Tensor) -> Reference:
    train = ImageSet(pixels, labels)
    return Reference(train, train[:1], int(labels.max()) + 1)


@pytest.fixture(scope="module")
def digits_reference(digits: Digits, held_out_digits: Digits) -> Reference:
    train, held_out = (
        load_images(split, at_most=10_000, levels=17) for split in (digits, held_out_digits)
    )
    return Reference(train, held_out, 10)


def correlated(label: int, count: int) -> torch.Tensor:
    """Images of one class, far from black and white: mean and covariance depend on the class."""
    draw = np.random.default_rng(label)
    mixing = draw.normal(0, 6, (SIDE * SIDE, SIDE * SIDE))
    mean = draw.uniform(90, 160, SIDE * SIDE)
    pixels = mean + draw.normal(0, 1, (count, SIDE * SIDE)) @ mixing.T
    return torch.from_numpy(pixels).round().clamp(0, 255).byte().view(count, SIDE, SIDE, 1)


# ---- the memoriser ------------------------------------------------------------------------------


def test_the_memoriser_gives_training_images_with_their_labels(digits_reference: Reference) -> None:
    train = digits_reference.train
    known = {
        image.tobytes(): label
        for image, label in zip(train.pixels.numpy(), train.labels.tolist(), strict=True)
    }
    samples = memoriser(digits_reference, num_images=2000, seed=0)  # more than there are
    assert samples.pixels.shape == (2000, 8, 8, 1)
    for image, label in zip(samples.pixels.numpy(), samples.labels.tolist(), strict=True):
        assert known[image.tobytes()] == label
    different = len({image.tobytes() for image in samples.pixels.numpy()})
    # with replacement: 1437 (1 - exp(-2000 / 1437)) = 1080 of them, give or take 15
    assert 1000 < different < 1160


def test_the_seed_decides(digits_reference: Reference) -> None:
    def drawn(seed: int) -> tuple[bytes, bytes]:
        return (
            memoriser(digits_reference, num_images=50, seed=seed).pixels.numpy().tobytes(),
            class_gaussian(digits_reference, num_images=50, seed=seed, levels=17)
            .pixels.numpy()
            .tobytes(),
        )

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


# ---- a Gaussian per class -----------------------------------------------------------------------


def test_the_gaussian_has_the_moments_of_each_class() -> None:
    """3,000 draws each, of classes with 200 images."""
    pixels = torch.cat([correlated(label, 200) for label in range(2)])
    labels = torch.arange(2).repeat_interleave(200)
    samples = class_gaussian(reference(pixels, labels), num_images=6000, seed=0, levels=256)
    assert torch.bincount(samples.labels).tolist() == [3000, 3000]
    for label in range(2):
        real, drawn = (
            images.flatten(1).double().numpy()
            for images in (pixels[labels == label], samples.pixels[samples.labels == label])
        )
        deviations = real.std(axis=0, ddof=1)
        # five standard errors of a mean, and half a level of rounding is no bias
        assert (np.abs(drawn.mean(0) - real.mean(0)) < 5 * deviations / 3000**0.5).all()
        scale = np.outer(deviations, deviations)
        error = np.cov(drawn, rowvar=False) - np.cov(real, rowvar=False)
        # a covariance has a standard error of 1 to sqrt(2) over sqrt(3000); five of the larger
        assert (np.abs(error) / scale).max() < 5 * (2 / 3000) ** 0.5


def test_draws_vary_only_as_the_class_does() -> None:
    """Three images of a class span a plane that contains every draw, up to rounding."""
    pixels = correlated(0, 3)
    samples = class_gaussian(
        reference(pixels, torch.zeros(3, dtype=torch.int64)), num_images=40, seed=0, levels=256
    )
    flat = pixels.flatten(1).double()
    plane = torch.linalg.qr((flat[1:] - flat[0]).T).Q
    offsets = samples.pixels.flatten(1).double() - flat[0]
    outside = offsets - offsets @ plane @ plane.T
    assert outside.abs().max() <= 1  # two roundings of half a level
    assert len(samples.pixels.flatten(1).unique(dim=0)) == 40


def test_a_class_of_one_image_is_that_image() -> None:
    pixels = torch.cat([correlated(0, 30), correlated(1, 1)])
    labels = torch.tensor([0] * 30 + [1])
    samples = class_gaussian(reference(pixels, labels), num_images=31, seed=0, levels=256)
    (only,) = samples.pixels[samples.labels == 1]
    assert torch.equal(only, pixels[30])


@pytest.mark.parametrize("num_images", [30, 100, 250])
def test_labels_are_as_frequent_as_in_a_sorted_list(num_images: int) -> None:
    """Few images must not all be of the first classes, nor a draw of them of one class."""
    pixels = torch.cat([correlated(label, 50) for label in range(4)])
    labels = torch.arange(4).repeat_interleave(50)
    samples = class_gaussian(reference(pixels, labels), num_images=num_images, seed=0, levels=256)
    shares = torch.bincount(samples.labels, minlength=4) / num_images
    # drawn without replacement: less than the binomial's standard error, four of it
    assert (shares - 0.25).abs().max() < 4 * (0.25 * 0.75 / num_images) ** 0.5
    changes = sum(a != b for a, b in pairwise(samples.labels.tolist()))
    assert changes > num_images / 2  # 3 of 4 neighbours differ where they are shuffled


def test_a_whole_round_has_every_label_as_often_as_the_data(digits_reference: Reference) -> None:
    samples = class_gaussian(digits_reference, num_images=2 * 1437, seed=0, levels=17)
    assert torch.equal(
        torch.bincount(samples.labels), 2 * torch.bincount(digits_reference.train.labels)
    )


def test_the_gaussian_knows_the_brightnesses_of_the_data(digits_reference: Reference) -> None:
    samples = class_gaussian(digits_reference, num_images=100, seed=0, levels=17)
    assert set(samples.pixels.unique().tolist()) == {round(k * 255 / 16) for k in range(17)}
    known = {image.tobytes() for image in digits_reference.train.pixels.numpy()}
    assert not any(image.tobytes() in known for image in samples.pixels.numpy())


def test_colours_keep_their_places() -> None:
    """Red images of class 0 and blue ones of class 1, two rows high and three columns wide."""
    pixels = torch.zeros(40, 2, 3, 3, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    noise = torch.randint(-9, 10, (40, 2, 3), generator=torch.Generator().manual_seed(0))
    for label, channel in ((0, 0), (1, 2)):
        pixels[labels == label, ..., channel] = (200 + noise[labels == label]).byte()
    samples = class_gaussian(reference(pixels, labels), num_images=60, seed=0, levels=256)
    assert samples.pixels.shape == (60, 2, 3, 3)
    for label, channel in ((0, 0), (1, 2)):
        of_class = samples.pixels[samples.labels == label]
        assert of_class[..., channel].min() > 150
        assert not of_class[..., [c for c in range(3) if c != channel]].any()
