"""Capabilities of devices."""

from __future__ import annotations

from functools import cache

import torch


@cache
def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on devices without it, such as Apple's GPUs.

    Counters, sums and solver times are computed in this precision.
    """
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return torch.float32
    return torch.float64
