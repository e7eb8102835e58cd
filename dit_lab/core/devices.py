"""What a device can compute with."""

from __future__ import annotations

from functools import cache

import torch


@cache
def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that have none, such as Apple's GPUs: counters, sums and
    solver times are as exact as the device allows."""
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return torch.float32
    return torch.float64
