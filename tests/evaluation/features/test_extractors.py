"""Pixel features: values in [0, 1], and pooling of large images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_lab.evaluation.features.extractors import IMAGES_AT_ONCE, pixel_features, pooled_size


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()


def test_small_images_are_their_own_pixels() -> None:
    """Channel by channel, row by row; every byte at its place."""
    images = noise(3, 8, 5, 3)
    found = pixel_features(images)
    assert (found.shape, found.dtype) == ((3, 8 * 5 * 3), np.float32)
    expected = images.permute(0, 3, 1, 2).reshape(3, -1).float() / 255
    assert np.array_equal(found, expected.numpy())
    assert np.array_equal(
        pixel_features(torch.tensor([0, 255]).byte().view(2, 1, 1, 1)), [[0], [1]]
    )


def test_large_images_are_averaged_down_to_32_pixels() -> None:
    images = noise(2, 64, 96, 1)
    found = pixel_features(images)
    blocks = images.double().view(2, 32, 2, 32, 3).mean((2, 4)) / 255  # of 2 x 3 pixels
    assert found.shape == (2, 32 * 32)
    # float32 means of six numbers up to 1
    np.testing.assert_allclose(found, blocks.flatten(1).numpy(), rtol=0, atol=1e-6)


def test_the_mean_brightness_survives_sizes_that_do_not_divide() -> None:
    """Exactly for a uniform image; otherwise pooling windows overlap and values stay in range."""
    even = torch.full((1, 50, 33, 3), 51, dtype=torch.uint8)
    # float32 means of up to four numbers 0.2
    np.testing.assert_allclose(pixel_features(even), 0.2, rtol=1e-6)
    found = pixel_features(noise(1, 50, 33, 3))
    assert found.shape == (1, 32 * 32 * 3)
    assert 0 <= found.min() < found.max() <= 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [((8, 8), (8, 8)), ((32, 33), (32, 32)), ((16, 256), (16, 32)), ((256, 256), (32, 32))],
)
def test_pooled_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert pooled_size(*size) == expected
    assert pixel_features(noise(1, *size, 1)).shape == (1, expected[0] * expected[1])


def test_parts_change_nothing() -> None:
    images = noise(IMAGES_AT_ONCE + 3, 40, 40, 1)
    found = pixel_features(images)
    for number in (0, IMAGES_AT_ONCE - 1, IMAGES_AT_ONCE, IMAGES_AT_ONCE + 2):
        assert np.array_equal(
            found[number : number + 1], pixel_features(images[number : number + 1])
        )
