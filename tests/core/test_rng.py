"""Random draws are a function of (seed, purpose, index) only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dit_lab.core import rng

INDICES = torch.tensor([0, 1, 7, 2**31, 2**32, 2**32 + 7, 2**53 + 1, 2**63 - 1])
SHAPE = (3, 5, 4)


def test_same_arguments_same_numbers() -> None:
    assert torch.equal(
        rng.normal(0, "noise", INDICES, SHAPE), rng.normal(0, "noise", INDICES, SHAPE)
    )
    assert torch.equal(rng.uniform(0, "time", INDICES), rng.uniform(0, "time", INDICES))


def test_grouping_and_order_do_not_matter() -> None:
    """One image at a time, reversed, or after others: each image gets the same numbers."""
    together = rng.normal(3, "noise", INDICES, SHAPE)
    times = rng.uniform(3, "time", INDICES)
    for i in range(len(INDICES)):
        assert torch.equal(rng.normal(3, "noise", INDICES[i : i + 1], SHAPE)[0], together[i])
        assert torch.equal(rng.uniform(3, "time", INDICES[i : i + 1])[0], times[i])
    assert torch.equal(rng.normal(3, "noise", INDICES.flip(0), SHAPE), together.flip(0))
    assert torch.equal(rng.uniform(3, "time", INDICES.flip(0)), times.flip(0))


@pytest.mark.parametrize("shape", [(4, 32, 32), (140_000,), (7,), (1,)])
def test_blocks_do_not_matter(shape: tuple[int, ...]) -> None:
    """Images are drawn in blocks: as many as fit, or one that is larger than a block."""
    indices = torch.arange(40)
    together = rng.normal(0, "noise", indices, shape)
    for i in (0, 31, 32, 39):
        assert torch.equal(rng.normal(0, "noise", indices[i : i + 1], shape)[0], together[i])


def test_numbers_are_those_of_a_fresh_stream() -> None:
    """Re-keying one generator gives what building one per image would.

    Normals are compared with Box and Muller's formula in float64: sqrt(-2 log u) of up to 6.7 and
    a cosine, each within a few roundings of float32.
    """
    key = rng._key(5, "noise")
    normals, uniforms = rng.normal(5, "noise", INDICES, SHAPE), rng.uniform(5, "noise", INDICES)
    for i, index in enumerate(INDICES.tolist()):
        words = np.array([key, index], dtype=np.uint64)
        bits = np.random.Philox(key=words).random_raw(30).view(np.int32)
        radius = np.sqrt(-2 * np.log(((bits[:30] & 0x7FFFFFFF) + 0.5) / 2**31))
        angle = bits[30:] * np.pi / 2**31
        expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]).reshape(SHAPE)
        np.testing.assert_allclose(normals[i].numpy(), expected, rtol=0, atol=4e-6)
        fresh = np.random.Generator(np.random.Philox(key=words))
        assert uniforms[i].item() == fresh.random()


def test_extreme_bits_give_numbers() -> None:
    """The radius is in [0, sqrt(2 log 2^32)] for all bits: never infinite, never NaN."""
    words = np.array([[0, 2**31 - 1, -(2**31), -1, 0, 2**31 - 1, -(2**31), -1]], np.int32)
    out = np.empty((1, 8), np.float32)
    rng._box_muller(words.view(np.uint64), out)
    np.testing.assert_allclose(np.hypot(*np.split(out[0], 2)), [6.66, 0, 6.66, 0], atol=0.01)


def test_seed_purpose_and_index_all_matter() -> None:
    draws = [
        rng.normal(seed, purpose, torch.tensor([index]), (8,))
        for seed in (0, 1)
        for purpose in ("noise", "time")
        for index in (0, 1, 2**32, 2**32 + 1)
    ]
    assert len(torch.cat(draws).unique(dim=0)) == 16


def test_a_seed_and_purpose_cannot_be_confused_with_another_pair() -> None:
    assert rng._key(1, "1/x") != rng._key(11, "/x")
    assert rng._key(1, "2/x") != rng._key(12, "x")


def test_moments_within_and_across_streams() -> None:
    """64 numbers from each of 4,000 streams; five standard errors allowed."""
    draws = rng.normal(0, "noise", torch.arange(4000), (64,)).double()
    error = draws.numel() ** -0.5
    assert abs(draws.mean().item()) < 5 * error
    assert abs(draws.var().item() - 1) < 5 * 2**0.5 * error
    neighbours = (draws[1:] * draws[:-1]).mean().item()
    assert abs(neighbours) < 5 * error
    first = draws[:, 0]  # what differs from image to image only by the key
    assert abs(first.mean().item()) < 5 * len(first) ** -0.5

    # the two numbers that share a radius, and their squares, do not know of each other
    cosines, sines = draws.chunk(2, dim=1)
    for one, other in ((cosines, sines), (cosines**2 - 1, sines**2 - 1)):
        assert abs((one * other).mean() / (one.std() * other.std())) < 5 * one.numel() ** -0.5

    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand seeds
    normal = torch.special.ndtr(draws.flatten().sort().values)
    grid = torch.arange(len(normal), dtype=torch.float64) / len(normal)
    assert (normal - grid).abs().max() < 1.95 * len(normal) ** -0.5

    u = rng.uniform(0, "time", torch.arange(20_000))
    assert u.dtype == torch.float64 and bool(((u >= 0) & (u < 1)).all())
    assert abs(u.mean().item() - 0.5) < 5 * (12 * len(u)) ** -0.5
    grid = torch.arange(len(u), dtype=torch.float64) / len(u)
    assert (u.sort().values - grid).abs().max() < 1.95 * len(u) ** -0.5


def test_shapes_and_dtypes() -> None:
    assert rng.normal(0, "noise", INDICES, SHAPE).shape == (len(INDICES), *SHAPE)
    assert rng.normal(0, "noise", INDICES, SHAPE).dtype == torch.float32
    empty = torch.empty(0, dtype=torch.int64)
    assert rng.normal(0, "noise", empty, SHAPE).shape == (0, *SHAPE)
    assert rng.uniform(0, "time", empty).shape == (0,)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_permutation(size: int) -> None:
    order = rng.permutation(0, "order", 4, size)
    assert torch.equal(order.sort().values, torch.arange(size))
    assert torch.equal(order, rng.permutation(0, "order", 4, size))
    if size == 1000:
        assert not torch.equal(order, rng.permutation(0, "order", 5, size))


def test_torch_generator_is_reproducible() -> None:
    first, again, other = (
        torch.randn(4, generator=rng.generator(seed, "weights")) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
