"""What a run folder or an exported file recorded, read as data.

What differs between two records of a run is said here too, in words. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.typed import read_as
from dit_lab.core.types import DataFacts, Shapes
from dit_lab.runs.exported import read_exported
from dit_lab.runs.folder import (
    FINISHED,
    RunFolder,
    flatten,
    is_deciding,
    read_json,
    read_status,
    steps_in,
)
from dit_lab.runs.records import Identity

Config = Mapping[str, Any]

PARTS = {
    "code_hash": "source code",
    "data_fingerprint": "data",
    "pairs_fingerprint": "pairs",
    "codec_fingerprint": "codec",
}
"""What has to be the same, besides the configuration, for a run to be the same run."""

MEASURING = ("sampler", "guidance", "sample", "evaluation", "metric")
"""What decides how weights are measured, and not what they are."""

CODE_HASH_OF = "syntax trees"
"""What code_hash is of. Runs that were recorded before have hashes of bytes of files, which say
nothing about the code of today."""

UNKNOWN_CODEC = ""
"""The fingerprint of a codec that nobody has seen here: of weights that were imported."""


def recorded(folder: RunFolder) -> dict[str, Any]:
    """The identity.json of a run; RequestError where there is none."""
    found = recorded_so_far(folder)
    if not found:
        raise RequestError(f"{folder.identity}: missing; this is no whole run folder")
    return found


def recorded_so_far(folder: RunFolder) -> dict[str, Any]:
    """The identity.json of a run, {} before there is one; RequestError where it is not whole."""
    if folder.is_exported:
        return dict(read_exported(folder.root)["identity"])
    found, anew = read_json(folder.identity), "resume=never trains anew"
    return dict(read_as(Identity, found, where=folder.identity, instead=anew)) if found else {}


def recorded_training(folder: RunFolder) -> dict[str, Any]:
    """The same of what was trained: {} where no checkpoint was begun, so that nothing is lost."""
    return recorded_so_far(folder) if has_trained(folder) else {}


def has_trained(folder: RunFolder) -> bool:
    """Whether a run has weights, or says that it had."""
    finished = read_status(folder).get("status") == FINISHED
    return folder.is_exported or finished or bool(steps_in(folder.checkpoints))


def recorded_shapes(folder: RunFolder) -> Shapes:
    """The shapes that a run was trained with, without its data."""
    found = recorded(folder)
    return Shapes(DataFacts.of(found["data"]), tuple(found["latent_shape"]))


def has_comparable_code(line: Config) -> bool:
    """Whether an identity says what the code of its run meant."""
    return line.get("code_hash_of") == CODE_HASH_OF


def weights_name(run: Config, step: int, weights: str) -> str:
    """What weights are, wherever they lie; `run` is an identity."""
    return f"{run['train_hash']} at step {step}, {weights}"


def deciding(config: Config) -> dict[str, Any]:
    """The keys that decide the weights, with their values."""
    return {key: value for key, value in flatten(config) if is_deciding(key)}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is no longer as it was when a run was made, in words; "" where everything is."""
    for key, what in PARTS.items():
        if key == "code_hash" and not has_comparable_code(before):
            continue
        if key in before and key in now and before[key] != now[key]:
            if key == "code_hash" and _recorded_more(before, now):
                continue
            changed = _changed_files(before, now) if key == "code_hash" else ""
            hashes = f"{before[key][:12]}, now {now[key][:12]}"
            return f"this run was made with other {what} ({changed or hashes})"
    return ""


def _recorded_more(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a run was made with all the code of now. Earlier versions recorded every file of the
    user's packages; those that nothing imports decided nothing."""
    old, new = before.get("code_files", {}), now["code_files"]
    more = old.keys() - new.keys()
    users = all(not name.startswith("dit_lab/") for name in more)
    return bool(more) and users and all(old.get(name) == meaning for name, meaning in new.items())


def _changed_files(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = before.get("code_files", {}), now["code_files"]
    moved = {*old.values()} & {*new.values()}
    changed = sorted(
        name
        for name in old.keys() | new.keys()
        if old.get(name) != new.get(name) and not {old.get(name), new.get(name)} - {None} <= moved
    )
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return ", ".join(changed[:3]) + more + " changed" if changed else ""
