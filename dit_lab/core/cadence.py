"""When something that happens every so many steps is due."""

from __future__ import annotations


def is_due(step: int, *, every_steps: int, total_steps: int) -> bool:
    """After `step` finished steps: at every multiple, and at the end; 0 is only at the end."""
    return step == total_steps or (every_steps > 0 and step > 0 and step % every_steps == 0)
