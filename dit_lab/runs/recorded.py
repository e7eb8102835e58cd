"""Identity records of run folders and exported files, and the differences of two. Torch-free."""

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
"""Keys of identity.json that must be equal for a run to be resumed, and their names in messages."""

MEASURING = ("sampler", "guidance", "sample", "evaluation", "metric")
"""Config groups that affect the evaluation of weights, but not their training."""

CODE_HASH_OF = "syntax trees"
"""How `code_hash` is computed. Earlier versions hashed the bytes of files, which cannot be compared
with the current hash."""

UNKNOWN_CODEC = ""
"""The codec fingerprint of imported weights, whose codec is unknown."""


def recorded(folder: RunFolder) -> dict[str, Any]:
    """Return the identity.json of a run. Raises RequestError if there is none."""
    found = recorded_so_far(folder)
    if not found:
        raise RequestError(f"{folder.identity}: missing; this is no whole run folder")
    return found


def recorded_so_far(folder: RunFolder) -> dict[str, Any]:
    """Return the identity.json of a run, or {} if there is none. Raises RequestError."""
    if folder.is_exported:
        return dict(read_exported(folder.root)["identity"])
    found, anew = read_json(folder.identity), "resume=never trains anew"
    return dict(read_as(Identity, found, where=folder.identity, instead=anew)) if found else {}


def recorded_training(folder: RunFolder) -> dict[str, Any]:
    """Return the identity.json of a run that has trained weights, or else {}."""
    return recorded_so_far(folder) if has_trained(folder) else {}


def has_trained(folder: RunFolder) -> bool:
    """Return whether a run has checkpoints, is exported, or has the status FINISHED."""
    finished = read_status(folder).get("status") == FINISHED
    return folder.is_exported or finished or bool(steps_in(folder.checkpoints))


def recorded_shapes(folder: RunFolder) -> Shapes:
    """Return the shapes that a run was trained with, from its record instead of its data."""
    found = recorded(folder)
    return Shapes(DataFacts.of(found["data"]), tuple(found["latent_shape"]))


def has_comparable_code(line: Config) -> bool:
    """Return whether an identity has a code hash of syntax trees, as the current version has."""
    return line.get("code_hash_of") == CODE_HASH_OF


def weights_name(run: Config, step: int, weights: str) -> str:
    """Return a name for weights that does not depend on their path; `run` is an identity."""
    return f"{run['train_hash']} at step {step}, {weights}"


def deciding(config: Config) -> dict[str, Any]:
    """Return the flat keys and values that enter the train hash."""
    return {key: value for key, value in flatten(config) if is_deciding(key)}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return a sentence about what changed since a run was made, or "" if nothing did."""
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
    """Return whether a run recorded all current files unchanged, and further user files.

    Earlier versions recorded every file of the user's packages, also those that nothing imports.
    """
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
