"""Progress of a training: a live line on a terminal, plain lines anywhere else.

An output that goes away (a closed pipe, a lost terminal) never stops the training.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dit_lab.core.text import discard_output, one_line, say
from dit_lab.core.types import Hook

if TYPE_CHECKING:
    from rich.progress import Progress

QUIET_GROUPS = ("train/", "perf/", "system/", "nonfinite/")  # not listed as evaluation metrics
LEADING = re.compile(r"eval/((two_sample|recall)_\w+_held_out|distance_ratio)_")  # main metrics
MOST_NUMBERS = 4  # metrics of an evaluation that are all shown in one line
FRAMES_PER_SECOND = 4  # each frame takes a millisecond or two from the training process


def make_display(name: str) -> Hook:
    """Return the display that suits standard output; the live line begins with `name`."""
    return ProgressDisplay(name) if sys.stdout.isatty() else LineDisplay()


class _Display(Hook):
    """Common part of both displays: the position in the training, and the time left."""

    def on_start(self, *, first_step: int, total_steps: int) -> None:
        self._first_step, self._total_steps = first_step, total_steps
        self._started = time.monotonic()

    def _facts(self, step: int, metrics: Mapping[str, float]) -> str:
        """Return `loss 0.1234  310.5 images/s  2 min 05 s left`, as far as known."""
        facts = []
        if "train/loss" in metrics:
            facts.append(f"loss {metrics['train/loss']:.4f}")
        if "perf/images_per_second" in metrics:
            facts.append(f"{metrics['perf/images_per_second']:.1f} images/s")
        left = metrics.get("perf/seconds_left")
        if left is None and step > self._first_step:
            pace = (time.monotonic() - self._started) / (step - self._first_step)
            left = pace * (self._total_steps - step)
        if left is not None:
            facts.append(f"{duration(left)} left")
        return "  ".join(facts)


class LineDisplay(_Display):
    """One plain line per report, for files, pipes and batch systems."""

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        if any(name.startswith("train/") for name in metrics):
            self.on_message(f"step {step}/{self._total_steps}  {self._facts(step, metrics)}")
        if found := findings(metrics):
            self.on_message(f"step {step}/{self._total_steps}  {found}")

    def on_step(self, step: int) -> None:
        if step == self._first_step + 1 < self._total_steps:  # the first report may be minutes away
            seconds = time.monotonic() - self._started
            self.on_message(f"step {step}/{self._total_steps}  {seconds:.1f} s for the first step")

    def on_message(self, text: str) -> None:
        with _output_may_vanish():
            say(text)


class ProgressDisplay(_Display):
    """A live line with a progress bar, below everything else that is printed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: Progress | None = None

    def on_start(self, *, first_step: int, total_steps: int) -> None:
        super().on_start(first_step=first_step, total_steps=total_steps)
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from dit_lab.tracking.screen import Screen

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            console=Screen(width=None, soft_wrap=False),
            refresh_per_second=FRAMES_PER_SECOND,
        )
        self._task = self._progress.add_task(
            one_line(self._name), completed=first_step, total=total_steps, facts=""
        )
        with _output_may_vanish():
            self._progress.start()

    def on_step(self, step: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._progress is not None and any(name.startswith("train/") for name in metrics):
            self._progress.update(self._task, facts=self._facts(step, metrics))
        if found := findings(metrics):
            self.on_message(f"step {step}/{self._total_steps}  {found}")

    def on_message(self, text: str) -> None:
        with _output_may_vanish():
            if self._progress is None:
                say(text)
            else:
                self._progress.console.print(text, soft_wrap=True)

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        """Restore the terminal, whatever the state of the run or the display."""
        if self._progress is None:
            return
        with _output_may_vanish():
            try:
                self._progress.stop()
            finally:
                self._progress.console.show_cursor(True)
        self._progress = None


def findings(metrics: Mapping[str, float]) -> str:
    """Return evaluation metrics as `eval/frechet 12.3  eval/kid 0.01`; "" if there are none.

    Above MOST_NUMBERS metrics, only the main ones are shown, and the number of the others.
    """
    found = {name: value for name, value in metrics.items() if not name.startswith(QUIET_GROUPS)}
    shown = found
    if len(found) > MOST_NUMBERS:
        shown = {name: found[name] for name in found if LEADING.match(name)}
    numbers = [f"{name} {value:.5g}" for name, value in shown.items()]
    more = len(found) - len(shown)
    return "  ".join([*numbers, *([f"and {more} more"] if more else [])])


def duration(seconds: float) -> str:
    """Return a duration as `45 s`, `2 min 05 s`, `3 h 07 min` or `2 d 04 h`."""
    seconds = max(0, round(seconds))
    for unit, size, part, part_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part_size:02d} {part}"
    if seconds >= 60:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds} s"


@contextlib.contextmanager
def _output_may_vanish() -> Iterator[Any]:
    """Discard further output, instead of failing, once nobody reads it."""
    try:
        yield
    except OSError:
        discard_output(sys.__stdout__ or sys.stdout)
