"""Mean and covariance of features in the file formats of published Frechet references.

These are the formats of ADM's evaluator and of torch-fidelity:

    VIRTUAL_imagenet256_labeled.npz                     mu, sigma; mu_s, sigma_s of spatial features
    NAME-inception-v3-compat-stat-fid-2048.pt           mu, sigma

The files do not say which network made the features. Shapes: D features.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from dit_lab.core.errors import RequestError
from dit_lab.core.files import atomic_path
from dit_lab.evaluation.metrics.frechet import Moments

ADM, TORCH_FIDELITY = ".npz", ".pt"

_reconstruct = cast(Callable[..., Any], np.empty(0).__reduce__()[0])
"""The function that unpickles an array, in any version of numpy."""

ARRAYS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    _reconstruct,
    (_reconstruct, "numpy.core.multiarray._reconstruct"),  # its name in numpy 1
    np.ndarray,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]
"""All names that a pickle may use: those of a numpy array of floats."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """A Gaussian fitted to features."""

    mean: NDArray[np.float64]  # (D,)
    covariance: NDArray[np.float64]  # (D, D), divided by N - 1

    def __post_init__(self) -> None:
        features = len(self.mean)
        if self.mean.shape != (features,) or self.covariance.shape != (features, features):
            raise RequestError(
                f"statistics: a mean of shape {self.mean.shape} and a covariance of shape "
                f"{self.covariance.shape}; expected (D,) and (D, D)"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise RequestError("statistics: hold numbers that are not finite; get them again")


def factored(statistics: Statistics) -> Moments:
    """Return mean and covariance factor, by the eigendecomposition of the symmetric covariance.

    Eigenvalues that rounding made negative are set to 0.
    """
    values, vectors = np.linalg.eigh(statistics.covariance)
    return statistics.mean, np.sqrt(values.clip(min=0))[:, None] * vectors.T


def read_statistics(path: Path) -> Statistics:
    """Read statistics from a file of ADM (.npz) or torch-fidelity (.pt).

    Loading is restricted to arrays: a pickle in the file cannot call other code.

    Raises:
        RequestError: if the file is missing, invalid or of another format.
    """
    if path.suffix not in (ADM, TORCH_FIDELITY):
        raise RequestError(
            f"{path}: unknown ending {path.suffix or '(none)'}; expected {ADM} (ADM's) or "
            f"{TORCH_FIDELITY} (torch-fidelity's)"
        )
    try:
        found = _read_adm(path) if path.suffix == ADM else _read_torch_fidelity(path)
        mean, covariance = found["mu"], found["sigma"]
    except FileNotFoundError:
        raise RequestError(f"{path}: does not exist") from None
    except KeyError as error:
        raise RequestError(f"{path}: holds no statistics (lacks {error})") from None
    except (OSError, ValueError, RuntimeError, TypeError, zipfile.BadZipFile,
            pickle.UnpicklingError):  # fmt: skip
        raise RequestError(f"{path}: not a file of feature statistics, or damaged") from None
    return Statistics(np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64))


def _read_adm(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in ("mu", "sigma") if name in archive.files}


def _read_torch_fidelity(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals(ARRAYS):
        return torch.load(path, weights_only=True)


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write statistics in the format of ADM (.npz) or torch-fidelity (.pt).

    The mean is float32 and the covariance float64. ADM's evaluator also expects images (arr_0) in
    the file; they are not written.
    """
    mean, covariance = statistics.mean.astype(np.float32), statistics.covariance
    with atomic_path(path) as beside:
        if path.suffix == ADM:
            with open(beside, "wb") as file:
                np.savez(file, mu=mean, sigma=covariance)
        elif path.suffix == TORCH_FIDELITY:
            torch.save({"mu": mean, "sigma": covariance}, beside)
        else:
            raise RequestError(f"{path}: unknown ending; use {ADM} or {TORCH_FIDELITY}")
