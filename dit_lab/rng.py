"""The only source of randomness: every draw is a function of (seed, purpose, index).

Each image has a Philox-4x64 stream of its own (Salmon et al. 2011), keyed by a 64-bit digest of
(seed, purpose) and by the image's index, so streams never collide and no draw depends on batch
size, process count, worker count or what was drawn before. Draws happen on the CPU and always for
the whole shape of one image: the first four numbers of a stream of sixteen are not those of a
stream of four in every generator, so nothing here relies on prefixes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

SAMPLE_NOISE = "sample/noise"
"""The purpose of the noise that generated image i starts from."""


def _key(seed: int, purpose: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _streams(seed: int, purpose: str, indices: Iterable[int]) -> Iterator[np.random.Generator]:
    """One generator per index. It is the same object, re-keyed: building one costs ten times."""
    bits = np.random.Philox(key=_key(seed, purpose))
    stream = np.random.Generator(bits)
    state = bits.state  # counter 0, empty buffer
    for index in indices:
        state["state"]["key"][1] = index
        bits.state = state
        yield stream


def normal(seed: int, purpose: str, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 of shape (len(indices), *shape) on the CPU."""
    out = np.empty((len(indices), *shape), np.float32)
    for row, stream in zip(out, _streams(seed, purpose, indices.tolist()), strict=True):
        stream.standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(out)


def uniform(seed: int, purpose: str, indices: Tensor) -> Tensor:
    """U[0, 1) float64 of shape (len(indices),) on the CPU."""
    draws = [stream.random() for stream in _streams(seed, purpose, indices.tolist())]
    return torch.tensor(draws, dtype=torch.float64)


def permutation(seed: int, purpose: str, index: int, size: int) -> Tensor:
    """A permutation of range(size), int64 of shape (size,)."""
    (stream,) = _streams(seed, purpose, [index])
    return torch.from_numpy(stream.permutation(size))


def generator(seed: int, purpose: str) -> torch.Generator:
    """A torch generator on the CPU, for torch's own initialisers."""
    return torch.Generator().manual_seed(_key(seed, purpose) >> 1)
