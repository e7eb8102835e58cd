"""Averages of any width, made of the snapshots that a training has kept (`training/power.py`).

    RUN/averages/step-00001000/                        a snapshot, written by training
    RUN/averages/power-0.15-step-00001000.safetensors  made of it and those before by `dit-lab ema`
                                                       (of others' runs: in `RunFolder.results`)

Torch-free until something is read, for the checks of commands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.core.errors import RequestError
from dit_lab.core.text import shell_line
from dit_lab.runs.folder import RunFolder
from dit_lab.runs.recorded import recorded
from dit_lab.training.power import is_width, name_of

if TYPE_CHECKING:
    from torch import Tensor

    from dit_lab.training.checkpoint_store import CheckpointStore

PREFIX = "power:"
"""What `sample.weights` begins with where it means one of these."""


def open_averages(
    folder: RunFolder, *, warn: Callable[[str], None], **options: Any
) -> CheckpointStore:
    """The snapshots of a run, whose identity must have been recorded."""
    from dit_lab.training.checkpoint_store import CheckpointStore

    known = recorded(folder)
    return CheckpointStore(
        folder.averages,
        run=known["train_hash"],
        ancestors=known["ancestors"],
        resumes=False,
        warn=warn,
        **options,
    )


def made_average(folder: RunFolder, weights: str, *, step: int | None = None) -> tuple[Path, int]:
    """The file that `sample.weights=power:0.1` means, the newest where there is no step, and the
    step that it is of. Raises RequestError where it has not been made."""
    std = width_in(weights)
    places = dict.fromkeys([folder.averages, folder.results / "averages"])
    found = [f for at in places for f in at.glob(f"{name_of(std)}-step-*.safetensors")]
    numbers = {file: file.stem.rpartition("-")[2] for file in found}
    files = {int(number): file for file, number in numbers.items() if number.isdecimal()}
    at = max(files, default=None) if step is None else step
    if at is None or at not in files:
        option = ["--step", step] if step is not None else []
        command = shell_line("dit-lab", "ema", folder.root, "--std", std, *option)
        raise RequestError(f"sample.weights={weights}: not made yet; {command}")
    return files[at], at


def width_in(weights: str) -> float:
    """0.1 of "power:0.1". Raises RequestError."""
    try:
        std = float(weights.removeprefix(PREFIX))
    except ValueError:
        std = 0.0
    if not is_width(std):
        raise RequestError(
            f"sample.weights={weights}: expected a width above 0 and below 0.2887, such as "
            "power:0.1"
        )
    return std


def read_average(folder: RunFolder, file: Path) -> dict[str, Tensor]:
    """The tensors of an average that was made, float32. Raises RequestError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            run = (opened.metadata() or {}).get("run")
    except (OSError, SafetensorError) as error:
        tensors, run = {}, str(error)
    if run != recorded(folder)["train_hash"]:
        raise RequestError(
            f"{file}: damaged, or of another run ({run}); make it again by dit-lab ema"
        )
    return tensors
