"""Post-hoc EMA: averages of any width, computed from the snapshots of a training (`power.py`).

    RUN/averages/step-00001000/                        a snapshot, written by training
    RUN/averages/power-0.15-step-00001000.safetensors  computed from snapshots by `dit-lab ema`
                                                       (for runs of other users, it is written to
                                                       `RunFolder.results`)

Torch-free until a file is read, for the checks of commands.
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
"""Prefix of `sample.weights` that selects a post-hoc average."""


def open_averages(
    folder: RunFolder, *, warn: Callable[[str], None], **options: Any
) -> CheckpointStore:
    """Open the snapshots of a run that has a recorded identity."""
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


def average_file(folder: RunFolder, weights: str, *, step: int | None = None) -> tuple[Path, int]:
    """Return the file of `sample.weights=power:0.1`, and its step; the newest if `step` is None.

    Raises:
        RequestError: the average has not been computed.
    """
    std = parse_width(weights)
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


def parse_width(weights: str) -> float:
    """Return 0.1 for "power:0.1"; raise RequestError for anything else."""
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
    """Read the tensors of a post-hoc average, float32.

    Raises:
        RequestError: the file is damaged or belongs to another run.
    """
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
