"""Numbers of images that metrics compare. Torch-free."""

from __future__ import annotations

DRAWS = 3  # disjoint draws, for mean and deviation
MIN_IMAGES = 10  # per draw: two for each of the five folds of the two-sample test


def draw_images(num_images: int, *, train: int, held_out: int) -> int:
    """Return the number of images per draw so that DRAWS disjoint draws exist; 0 if too few."""
    count = min(held_out, num_images // DRAWS, train // DRAWS)
    return count if count >= MIN_IMAGES else 0
