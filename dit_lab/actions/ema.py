"""Post-hoc EMA of any length from the snapshots of a training (EDM2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.core.errors import RequestError
from dit_lab.core.files import atomic_path, sync
from dit_lab.runs.folder import RunFolder, step_of, steps_in
from dit_lab.runs.recorded import recorded
from dit_lab.training.post_hoc import open_averages
from dit_lab.training.power import Profile, fit, gamma_of, is_width, name_of

if TYPE_CHECKING:
    from torch import Tensor

    from dit_lab.training.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Made:
    """The result of a post-hoc EMA."""

    file: Path
    step: int
    snapshots: int  # number of snapshots used
    relative_error: float  # of the fitted averaging profile


def check_width(std: float) -> None:
    """Raise RequestError if no power-function EMA has this relative standard deviation."""
    if not is_width(std):
        raise RequestError(
            f"--std {std:g}: no possible length of an EMA; give one above 0 and below 0.2887 "
            "(1/sqrt(12), the uniform average)"
        )


def make_average(folder: RunFolder, std: float, *, step: int | None = None) -> Made:
    """Compute the EMA of a relative length from all snapshots up to a step, and write it.

    Args:
        folder: the run.
        std: the standard deviation of the averaging profile, as a fraction of the training.
        step: the step of a snapshot; None means the newest one.

    Raises:
        RequestError: no such length or snapshot, or a damaged snapshot.
    """
    check_width(std)
    found = _snapshots(folder, step)

    import torch  # seconds

    from dit_lab.core.tensor_file import save_tensors
    from dit_lab.training.checkpoint import Checkpoint

    kept = [Checkpoint(path) for path in found]
    profiles, shadows = [], []
    for snapshot in kept:
        for name, scalars in _whole_state(folder, snapshot)["averages"].items():
            if scalars["num_updates"] > 0:  # without updates the EMA is the initialisation
                profiles.append(Profile(scalars["num_updates"], gamma_of(scalars["std"])))
                shadows.append((snapshot, name))
    if not profiles:
        raise RequestError(f"{kept[-1].path}: no optimizer step had been applied by then")
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
    file = folder.results / "averages" / f"{name_of(std)}-step-{at:08d}.safetensors"
    with atomic_path(file) as beside:
        save_tensors(total, beside, {"run": recorded(folder)["train_hash"]})
        sync(beside)
    return Made(file, at, len(kept), fitted.relative_error)


def _snapshots(folder: RunFolder, step: int | None) -> list[Path]:
    """Return the snapshots up to a step, oldest first."""
    steps = {step_of(path): path for path in steps_in(folder.averages)}
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
    """Verify a snapshot and return its state. Raises RequestError if it is damaged or foreign."""
    from dit_lab.training.checkpoint import DamagedCheckpoint

    try:
        open_averages(folder, warn=lambda text: None).verify(snapshot)
    except DamagedCheckpoint as damage:
        raise RequestError(
            f"damaged snapshot: {damage}; move {snapshot.path} away to go on without it"
        ) from None
    return snapshot.state()
