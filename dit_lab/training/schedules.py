"""Learning-rate schedules. Torch-free, to check before building whether a run can be extended."""

from __future__ import annotations

import math


class Constant:
    """Factor 1 after a linear warm-up over `warmup_steps`."""

    depends_on_end = False

    def __init__(self, *, warmup_steps: int = 0) -> None:
        self.warmup_steps = warmup_steps

    def factor(self, step: int, total_steps: int) -> float:
        return min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0


class Cosine:
    """Half a cosine from 1 to `final_factor` after a linear warm-up (Loshchilov & Hutter 2016)."""

    depends_on_end = True

    def __init__(self, *, warmup_steps: int = 0, final_factor: float = 0.0) -> None:
        self.warmup_steps = warmup_steps
        self.final_factor = final_factor

    def factor(self, step: int, total_steps: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.final_factor + (1 - self.final_factor) * cosine
