"""The contract of hooks: what a run tells while it goes on. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Hook(Protocol):
    """Callbacks of a run, on rank 0 only: a metrics file, a tracker, a progress display.

    Subclasses override the methods that they need.
    """

    def on_start(self, *, first_step: int, total_steps: int) -> None:
        """Called when training starts, or resumes after `first_step` finished steps."""
        return

    def on_step(self, step: int) -> None:
        """Called when the optimizer has finished `step` steps."""
        return

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called with metrics by name: every `training.log_every_steps`, and after evaluations."""
        return

    def on_artifact(self, step: int, path: Path) -> None:
        """Called when an evaluation has written a file to the run folder, such as a sample grid."""
        return

    def on_message(self, text: str) -> None:
        """Called with a line for the user."""
        return

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        """Called when the run ends.

        Args:
            status: FINISHED, KILLED (stopped by a signal, and saved) or FAILED.
            step: The last finished step.
            error: The traceback of a failed run, else None.
        """
        return
