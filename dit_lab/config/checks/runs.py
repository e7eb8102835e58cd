"""Checks of a training against the run that it extends or whose weights it loads. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dit_lab.config.compatibility import active_methods, depends_on_end
from dit_lab.config.components import load_component
from dit_lab.config.identity import initial_run, is_forced, parent_run
from dit_lab.config.objects import to_tree
from dit_lab.config.recorded import read_recorded
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.options import target_of
from dit_lab.core.text import counted
from dit_lab.runs.folder import RunFolder, newest_checkpoint, read_json, step_of
from dit_lab.runs.recorded import deciding, difference, recorded
from dit_lab.training.power import name_of

END = "training.total_steps"


def check_extension(config: RunConfig, now: Mapping[str, Any]) -> None:
    """Raise RequestError if `config` does not describe more steps of the run that it extends.

    `resume=force:RUN` allows differences, but not fewer steps.
    """
    parent = parent_run(config)
    if parent is None:
        return
    start = f"resume={parent.root}"
    if parent.is_exported or "imported" in recorded(parent):
        raise RequestError(
            f"{start}: has weights but no training state; init_from={parent.root} "
            "starts a training with them"
        )
    newest = newest_checkpoint(parent)
    if newest is None:
        raise RequestError(f"{start}: has no checkpoint to go on from")
    step, total = step_of(newest), config.training.total_steps
    if total <= step:
        raise RequestError(f"{start}: is at step {step}; give {END} above that, not {total}")
    if not is_forced(config) and (why := _other_training(config, parent, now)):
        raise RequestError(f"{start}: {why}; resume=force:{parent.root} goes on regardless")


def _other_training(config: RunConfig, parent: RunFolder, now: Mapping[str, Any]) -> str:
    """Return how this training differs from that of the run it extends, or ""."""
    before = deciding(to_tree(read_recorded(parent)))
    after = deciding(to_tree(config))
    changed = sorted(
        key
        for key in before.keys() | after.keys()
        if key != END and before.get(key) != after.get(key)
    )
    if changed:
        key = changed[0]
        more = f" (and {len(changed) - 1} more keys)" if len(changed) > 1 else ""
        return f"{key} was {before.get(key)} and is {after.get(key)} here{more}"
    if why := difference(recorded(parent), now):
        return why
    if before[END] == after[END]:
        return ""
    schedule = load_component(target_of(config.schedule), key="schedule._target_")
    choices = config.choices
    depending = {
        f"schedule={choices['schedule']}": getattr(schedule, "depends_on_end", True),
        f"objective={choices['objective']}": depends_on_end("objective", config.objective),
        **{
            f"method={name}": depends_on_end(f"method.{name}", options)
            for name, options in active_methods(config).items()
        },
    }
    for chosen, depends in depending.items():
        if depends:
            return (
                f"{chosen} depends on {END}, so a run of "
                f"{counted(after[END], 'step')} is not one of {counted(before[END], 'step')} with "
                "more after it"
            )
    return ""


def check_averages(config: RunConfig, folder: RunFolder) -> None:
    """Raise RequestError if the checkpoint to resume lacks averages that are to be kept.

    These need every step since the first and cannot be reconstructed.
    """
    stds, parent = config.ema.power_stds, parent_run(config)
    if not stds or config.resume == "never":
        return
    newest = newest_checkpoint(folder)
    if newest is None and parent is not None:
        newest = newest_checkpoint(parent)
    if newest is None:
        return
    held = read_json(newest / "state.json").get("emas", {})
    if lacking := [std for std in stds if name_of(std) not in held]:
        raise RequestError(
            f"ema.power_stds: {newest} was written without the averages of {lacking}, which need "
            "every step; leave them out, or choose resume=never to train anew"
        )


SAME = (
    "_target_", "hidden_size", "depth", "num_heads", "mlp_ratio", "norm", "mlp", "rope", "qk_norm",
)  # fmt: skip
"""Options of the model that must be equal."""


def check_initial(config: RunConfig) -> None:
    """Raise RequestError if the weights of `init_from` are of another architecture."""
    if config.init_from is None:
        return
    folder, _ = initial_run(config)
    before = asdict(read_recorded(folder).model)
    for option in SAME:
        there, here = before.get(option), getattr(config.model, option, None)
        if there != here:
            raise RequestError(
                f"init_from={config.init_from}: has model.{option}={there}, here it is {here}; "
                "choose the same model"
            )
