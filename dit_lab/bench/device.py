"""Timing and maximum throughput of the device."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

DATA_SHEET = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""FLOP/s of dense bfloat16 products, by the data sheets.

The first entry whose words all occur in the device name applies.
"""

CPU_SIZES = (512, 1024, 2048)
CUDA_SIZES = (4096, 8192)
MOMENT_SECONDS = 0.1  # per measurement
UNCOUNTED = 1e9  # FLOP assumed for an architecture whose FLOP are unknown
NORMALS, NORMAL_REPEATS = 100_000, 40


def this_device() -> torch.device:
    """Return the first GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Ticks:
    """Timestamps of a device's work; on a GPU they are CUDA events, which do not block."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._taken: list[float | torch.cuda.Event] = []

    def __len__(self) -> int:
        return len(self._taken)

    def take(self) -> None:
        if not self._on_gpu:
            self._taken.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._taken.append(event)

    def seconds(self) -> list[float]:
        """Return the seconds between consecutive timestamps; waits for the device."""
        if self._on_gpu and self._taken:
            torch.cuda.synchronize()
        return [_between(*pair) for pair in zip(self._taken, self._taken[1:], strict=False)]


def _between(first: float | torch.cuda.Event, second: float | torch.cuda.Event) -> float:
    if isinstance(first, float):
        assert isinstance(second, float)
        return second - first
    assert isinstance(second, torch.cuda.Event)
    return first.elapsed_time(second) / 1e3  # from milliseconds


def settle(device: torch.device) -> None:
    """Wait until the device has finished all submitted work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Products:
    """Square matrix products in bfloat16 or float32, of the fastest size, as a time reference."""

    def __init__(self, device: torch.device, *, bf16: bool) -> None:
        self._device = device
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        sizes = CUDA_SIZES if device.type == "cuda" else CPU_SIZES
        rates = {size: self._rate(size) for size in sizes}
        self._size = max(rates, key=rates.__getitem__)
        self._rates = [rates[self._size]]

    @property
    def rate(self) -> float:
        """FLOP/s, the median of all measurements."""
        return median(self._rates)

    def seconds(self, flops: float | None) -> float:
        """Measure how long products of this many FLOP take now; None stands for UNCOUNTED."""
        self._rates.append(self._rate(self._size))
        return (flops or UNCOUNTED) / self._rates[-1]

    def _rate(self, size: int) -> float:
        square = torch.ones(size, size, device=self._device, dtype=self._dtype)
        _, once = (_timed(self._device, lambda: square @ square) for _ in range(2))  # 1st: warm-up
        repeats = max(1, round(MOMENT_SECONDS / once))

        def block() -> None:
            for _ in range(repeats):
                square @ square

        return 2 * size**3 * repeats / _timed(self._device, block)


def normal_rate() -> float:
    """Return normal numbers per second that numpy draws in one thread, measured now.

    This is the reference for work of the host other than matrix products.
    """
    draw = np.random.default_rng(0).standard_normal
    host = torch.device("cpu")
    return NORMALS / median(_timed(host, lambda: draw(NORMALS)) for _ in range(NORMAL_REPEATS))


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    settle(device)
    start = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - start


def stated_rate(device: torch.device, *, bf16: bool) -> float | None:
    """Return FLOP/s of bfloat16 products by the data sheet; None if unknown."""
    if device.type != "cuda" or not bf16:
        return None
    return stated_of(torch.cuda.get_device_name(device))


def stated_of(name: str) -> float | None:
    """Return the data-sheet FLOP/s by the device name of the driver; None if unknown."""
    words = set(re.split(r"[ -]", name))
    return next((rate for part, rate in DATA_SHEET.items() if set(part.split()) <= words), None)
