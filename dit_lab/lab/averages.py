"""Averages of any width, made of the snapshots that a training has kept (`training/power.py`).

    RUN/averages/step-00001000/                        a snapshot, written by training
    RUN/averages/power-0.15-step-00001000.safetensors  made of it and those before by `dit-lab ema`

Torch-free until something is made or read, for the checks of commands.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import RunFolder, step_of
from dit_lab.training.power import Profile, fit, gamma_of, is_width, name_of

if TYPE_CHECKING:
    from torch import Tensor

    from dit_lab.training.checkpoint import Checkpoint
    from dit_lab.training.checkpoint_store import CheckpointStore

PREFIX = "power:"
"""What `sample.weights` begins with where it means one of these."""


@dataclass(frozen=True, slots=True)
class Made:
    """An average that was made of snapshots."""

    file: Path
    step: int
    snapshots: int  # how many
    relative_error: float  # of its profile


def open_averages(
    folder: RunFolder, *, warn: Callable[[str], None], **options: Any
) -> CheckpointStore:
    """The snapshots of a run, whose identity must have been recorded."""
    from dit_lab.lab.identity import recorded  # imports the checks, and they this
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


def check_width(std: float) -> None:
    """Raise RequestError where no average is as wide, or none as narrow."""
    if not is_width(std):
        raise RequestError(
            f"--std {std:g}: no width of an average; give one above 0 and below 0.2887 "
            "(1/sqrt(12), the plain mean)"
        )


def make_average(folder: RunFolder, std: float, *, step: int | None = None) -> Made:
    """Make the average of a width at a snapshot's step (the newest where None), from it and all
    before. Raises RequestError."""
    check_width(std)
    found = _snapshots(folder, step)

    import torch  # seconds

    from dit_lab.lab.identity import recorded
    from dit_lab.training.checkpoint import Checkpoint
    from dit_lab.training.checkpoint_store import sync
    from dit_lab.training.tensor_files import save_whole

    kept = [Checkpoint(path) for path in found]
    profiles, shadows = [], []
    for snapshot in kept:
        for name, scalars in _whole_state(folder, snapshot)["averages"].items():
            if scalars["num_updates"] > 0:  # before there is nothing but the initialisation
                profiles.append(Profile(scalars["num_updates"], gamma_of(scalars["std"])))
                shadows.append((snapshot, name))
    if not profiles:
        raise RequestError(f"{kept[-1].path}: no step of the training was applied until there")
    wanted = Profile(max(profile.updates for profile in profiles), gamma_of(std))
    fitted = fit(wanted, profiles)
    total: dict[str, Tensor] = {}
    with torch.no_grad():
        for (snapshot, name), coefficient in zip(shadows, fitted.coefficients, strict=True):
            for key, tensor in snapshot.tensors(name).items():
                if key not in total:
                    total[key] = torch.zeros(tensor.shape, dtype=torch.float32)
                total[key].add_(tensor.float(), alpha=coefficient)
    at = kept[-1].step
    file = folder.averages / f"{name_of(std)}-step-{at:08d}.safetensors"
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        save_whole(total, beside, {"run": recorded(folder)["train_hash"]})
        sync(beside)
        os.replace(beside, file)
    except BaseException:
        beside.unlink(missing_ok=True)  # a full disk needs the room
        raise
    return Made(file, at, len(kept), fitted.relative_error)


def _snapshots(folder: RunFolder, step: int | None) -> list[Path]:
    """Those up to a step, the oldest first."""
    steps = {step_of(path): path for path in folder.averages.glob("step-*")}
    if not steps:
        raise RequestError(
            f"{folder.averages}: holds no snapshots of averages; train with "
            "ema.power_stds=[0.05,0.1] ema.snapshot_every_steps=N"
        )
    if step is not None and step not in steps:
        near = sorted(steps, key=lambda other: abs(other - step))[:3]
        raise RequestError(
            f"--step {step}: no snapshot of that step in {folder.averages}; the nearest are "
            f"{', '.join(map(str, sorted(near)))}"
        )
    return [steps[at] for at in sorted(steps) if step is None or at <= step]


def _whole_state(folder: RunFolder, snapshot: Checkpoint) -> dict[str, Any]:
    """The scalars of a snapshot; RequestError where it is damaged, incomplete or foreign."""
    from dit_lab.training.checkpoint import DamagedCheckpoint

    try:
        open_averages(folder, warn=lambda text: None).verify(snapshot)
    except DamagedCheckpoint as damage:
        raise RequestError(
            f"damaged snapshot: {damage}; move {snapshot.path} away to go on without it"
        ) from None
    return snapshot.state()


# ---- what was made ------------------------------------------------------------------------------


def made_average(folder: RunFolder, weights: str, *, step: int | None = None) -> tuple[Path, int]:
    """The file that `sample.weights=power:0.1` means, the newest where there is no step, and the
    step that it is of. Raises RequestError where it has not been made."""
    std = width_in(weights)
    found = folder.averages.glob(f"{name_of(std)}-step-*.safetensors")
    files = {int(file.stem.rpartition("-")[2]): file for file in found}
    at = max(files, default=None) if step is None else step
    if at is None or at not in files:
        option = f" --step {step}" if step is not None else ""
        raise RequestError(
            f"sample.weights={weights}: not made yet; dit-lab ema {folder.root} --std {std}{option}"
        )
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

    from dit_lab.lab.identity import recorded

    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            run = (opened.metadata() or {}).get("run")
    except SafetensorError as error:
        tensors, run = {}, str(error)
    if run != recorded(folder)["train_hash"]:
        raise RequestError(
            f"{file}: damaged, or of another run ({run}); make it again by dit-lab ema"
        )
    return tensors
