"""Statistics of features, and the file formats of other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_lab.core.errors import RequestError
from dit_lab.evaluation.features.statistics import (
    Statistics,
    read_statistics,
    write_statistics,
)
from tests.frechet import frechet_between, frechet_distance, statistics_of


def features(count: int, dimensions: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions, dimensions))
    return (mixed + rng.normal(size=dimensions)).astype(np.float32)


def test_the_distance_of_known_gaussians() -> None:
    """Diagonal Gaussians: squared differences of means and of standard deviations."""
    mean = np.array([1.0, 2.0, 3.0])
    first = Statistics(np.zeros(3), np.diag([1.0, 4.0, 0.0]))
    second = Statistics(mean, np.diag([9.0, 4.0, 1.0]))
    assert frechet_between(first, second) == pytest.approx(14 + 4 + 0 + 1, abs=1e-12)
    assert frechet_between(second, second) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("count", [5, 300])
def test_it_is_the_distance_of_the_features(count: int) -> None:
    """Also for fewer images than features, where covariances are singular."""
    first, second = features(count, 12, 0), features(count + 7, 12, 1)
    between = frechet_between(statistics_of(first), statistics_of(second))
    assert between == pytest.approx(frechet_distance(first, second), rel=1e-6)


@pytest.mark.parametrize("name", ["reference.npz", "x-inception-v3-compat-stat-fid-2048.pt"])
def test_there_and_back(tmp_path: Path, name: str) -> None:
    expected = statistics_of(features(50, 6, 2))
    write_statistics(tmp_path / name, expected)
    found = read_statistics(tmp_path / name)
    assert np.array_equal(found.mean, expected.mean.astype(np.float32))
    assert np.array_equal(found.covariance, expected.covariance)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_as_adm_publishes_them(tmp_path: Path) -> None:
    """Images and spatial statistics in the same file are ignored."""
    mu, sigma = np.arange(4, dtype=np.float32), np.eye(4)
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8), mu=mu, sigma=sigma,
             mu_s=np.zeros(3), sigma_s=np.eye(3))  # fmt: skip
    found = read_statistics(tmp_path / "a.npz")
    assert np.array_equal(found.mean, mu) and np.array_equal(found.covariance, sigma)


def test_as_torch_fidelity_keeps_them(tmp_path: Path) -> None:
    """A dictionary of arrays, which its own code reads without checks."""
    written = statistics_of(features(9, 3, 3))
    write_statistics(tmp_path / "a.pt", written)
    theirs = torch.load(tmp_path / "a.pt", weights_only=False)
    assert {k: (type(v), v.dtype) for k, v in theirs.items()} == {
        "mu": (np.ndarray, np.dtype("float32")),
        "sigma": (np.ndarray, np.dtype("float64")),
    }


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.json", "unknown ending .json"),
        ("none.npz", "does not exist"),
        ("text.npz", "not a file of feature statistics"),
        ("text.pt", "not a file of feature statistics"),
        ("hostile.pt", "not a file of feature statistics"),
        ("images.npz", "holds no statistics"),
        ("wrong.npz", r"expected \(D,\) and \(D, D\)"),
    ],
)
def test_refused(tmp_path: Path, name: str, says: str) -> None:
    for text in ("text.npz", "text.pt", "a.json"):
        (tmp_path / text).write_text("prose")
    torch.save({"mu": np.zeros(2), "sigma": Hostile()}, tmp_path / "hostile.pt")
    np.savez(tmp_path / "images.npz", np.zeros(3))
    np.savez(tmp_path / "wrong.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    with pytest.raises(RequestError, match=says):
        read_statistics(tmp_path / name)


def test_written_as_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown ending"):
        write_statistics(tmp_path / "a.json", statistics_of(features(9, 3, 3)))
    assert list(tmp_path.iterdir()) == []
