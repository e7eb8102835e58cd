"""Identity of a run: its folder and hashes, and the comparison with what is recorded there.

Torch-free: finished runs are shown and foreign ones refused without building anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dit_lab.config.components import COMPONENT_GROUPS, LISTS, options_of
from dit_lab.config.objects import sections, to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.config.signature import BASES
from dit_lab.config.yaml_files import read_config
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, without_later_defaults
from dit_lab.core.text import checked_name
from dit_lab.core.types import Shapes
from dit_lab.data.pair_facts import read_pair_facts
from dit_lab.methods.options import TEACHERS, encoder_fingerprint
from dit_lab.runs.access import refuse_unreadable
from dit_lab.runs.exported import read_exported
from dit_lab.runs.finding import find_run
from dit_lab.runs.folder import RunFolder, digest, flatten, newest_checkpoint, step_of
from dit_lab.runs.former_names import with_first_names
from dit_lab.runs.lock import Lease
from dit_lab.runs.recorded import (
    CODE_HASH_OF,
    deciding,
    difference,
    has_comparable_code,
    has_trained,
    recorded,
    recorded_training,
    weights_name,
)
from dit_lab.runs.source_code import (
    EVALUATING_CODE,
    code_files,
    code_hash,
    deciding_code,
    own_closure,
)
from dit_lab.training.average_names import first_average
from dit_lab.training.optimizers.options import kinds_in

Tree = Mapping[str, Any]

FORMER_HASHED_KEYS: dict[str, Any] = {"trusted_modules": []}
"""Keys that configurations had when hashes of the full configuration were first recorded."""


def run_folder(config: RunConfig) -> RunFolder:
    """Return `<paths.root>/runs/<name>/<train hash>` without creating it. Raises RequestError."""
    name = checked_name("name", config.name)
    return RunFolder(Path(config.paths.root) / "runs" / name / train_hash(config))


def train_hash(config: RunConfig) -> str:
    """Return 12 hex digits that identify the trained weights; equal for equivalent commands.

    A forced continuation (`resume=force:RUN`) depends on the run that it continues, so that run is
    part of its hash and of the hashes of all its extensions. Initial weights are also part of the
    hash.
    """
    inherited = {}
    if parent := parent_run(config):
        line = recorded(parent)
        if is_forced(config) or line["forced_over"]:
            inherited = {"parent": line["train_hash"]}
    if initial := initial_weights(config):
        inherited["initial_weights"] = initial
    return digest({**deciding(_with_teachers(as_hashed(to_tree(config)))), **inherited})


def _with_teachers(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration in which the folder of a teacher is the fingerprint of the teacher."""
    methods = {}
    for name, options in tree.get("method", {}).items():
        teacher = options.get("teacher")
        is_folder = teacher is not None and teacher not in TEACHERS and Path(teacher).is_dir()
        changed = {"teacher": encoder_fingerprint(teacher)} if is_folder else {}
        methods[name] = {**options, **changed}
    return {**tree, "method": methods} if methods else tree


def config_hash(config: RunConfig) -> str:
    """Return 12 hex digits of the full configuration."""
    return recorded_hash(to_tree(config))


def recorded_hash(tree: Tree) -> str:
    """Return the hash of the full configuration from a file."""
    return digest({**FORMER_HASHED_KEYS, **as_hashed(tree)})


def as_hashed(config: Tree) -> dict[str, Any]:
    """Return a configuration as it is hashed, which keeps hashes stable as the package grows.

    Components have their original names, and options that were added later are left out at their
    default, which has no effect.
    """
    found = dict(without_later_defaults(RunConfig, config))
    for group in COMPONENT_GROUPS:
        if group in found:
            found[group] = _as_hashed(group, found[group])
    for group in LISTS:
        if group in found:
            found[group] = {
                name: _as_hashed(group, options) for name, options in found[group].items()
            }
    for name, kind in sections(RunConfig).items():
        if name in found:
            found[name] = without_later_defaults(kind, found[name])
    return with_first_names(found)


def _as_hashed(group: str, options: Tree) -> Tree:
    known = options_of(group, options.get("_target_")) or BASES.get(group, Component)
    return without_later_defaults(known, options)


def initial_weights(config: RunConfig) -> str:
    """Return the identity of the weights of `init_from`: hash of the run, step and name.

    It does not depend on their location, and is "" for random initial weights. Raises RequestError.
    """
    if parent := parent_run(config):
        return str(recorded(parent).get("initial_weights", ""))
    if config.init_from is None:
        return ""
    folder, checkpoint = initial_run(config)
    if folder.is_exported:
        known = read_exported(folder.root)
        return weights_name(known["identity"], known["step"], known["weights"])
    assert checkpoint is not None
    before = read_config(folder)
    first = first_average(before["optimizer"]["_target_"], before["ema"]["decays"])
    return weights_name(recorded(folder), step_of(checkpoint), first)


def initial_run(config: RunConfig) -> tuple[RunFolder, Path | None]:
    """Return the run and checkpoint of `init_from`, or its exported file. Raises RequestError."""
    given = f"init_from={config.init_from}"
    try:
        folder, checkpoint = find_run(str(config.init_from), root=Path(config.paths.root))
    except RequestError as refusal:
        raise RequestError(f"{given}: {str(refusal).partition(': ')[2]}") from None
    checkpoint = checkpoint or newest_checkpoint(folder)
    if checkpoint is None and not folder.is_exported:
        raise RequestError(f"{given}: has no checkpoint yet")
    refuse_unreadable(given, folder, checkpoint)
    return folder, checkpoint


def parent_run(config: RunConfig) -> RunFolder | None:
    """Return the run that `resume=RUN` extends, or None."""
    name = config.resume.removeprefix("force:")
    return None if name in ("auto", "never", "force") else RunFolder(Path(name))


def is_forced(config: RunConfig) -> bool:
    """Return whether training resumes regardless of changes to the run."""
    return config.resume.partition(":")[0] == "force"


def identity(
    config: RunConfig, shapes: Shapes, *, before: Tree, codec: str | None = None
) -> dict[str, Any]:
    """Return the content of identity.json: hashes of configuration, code and data, and data facts.

    A run recorded before code was compared by its meaning can be continued; its old code hash is
    kept as `predates`.

    Args:
        before: The content that is recorded so far.
        codec: Fingerprint of the codec; None before it is loaded.
    """
    line = before or _inherited(config)
    now = {
        "train_hash": train_hash(config),
        "ancestors": line["ancestors"],
        **source_now(config),
        "data_fingerprint": shapes.data.fingerprint,
        "pairs_fingerprint": _pairs_fingerprint(config),
        "data": shapes.data.recorded(),
        "latent_shape": list(shapes.latent),
    }
    if initial := initial_weights(config):
        now["initial_weights"] = initial
    if codec is not None:
        now["codec_fingerprint"] = codec
    if before and not has_comparable_code(before):
        now["predates"] = before["code_hash"]
    elif "predates" in before:
        now["predates"] = before["predates"]
    changed = difference(before, now)
    return now | {"forced_over": [*line["forced_over"], *([changed] if changed else [])]}


def source_now(config: RunConfig) -> dict[str, Any]:
    """Return digests of the current source files that determine the weights, and a hash of them."""
    return source_of(targets_in(deciding(to_tree(config))))


def source_of(targets: Sequence[str]) -> dict[str, Any]:
    """Return the same for given components that determine the weights, by their names."""
    code = deciding_code(targets, own_code(targets))
    return {"code_hash": code_hash(code), "code_hash_of": CODE_HASH_OF, "code_files": code}


def targets_in(tree: Tree) -> list[str]:
    """Return the names of all components in a configuration or a part of it."""
    found: list[str] = []
    for key, value in flatten(tree):
        if key == "optimizer.groups":
            found += kinds_in(value)
        elif key.endswith("_target_") and value is not None:
            found.append(value)
    return found


def evaluating_targets(tree: Tree) -> list[str]:
    """Return the names of all components that affect evaluations: all except hooks."""
    return targets_in({key: value for key, value in tree.items() if key != "hook"})


def evaluating_code(targets: Iterable[str]) -> str:
    """Return a hash of the current source code that evaluates runs of these components."""
    return code_hash(code_files(EVALUATING_CODE, own_code(targets)))


def own_code(targets: Iterable[str]) -> dict[str, Path]:
    """Return the source files of user-defined components and of trusted modules that they import.

    The keys are paths within the packages.
    """
    return own_closure(targets, trust.source_files(trust.trusted_modules()))


def _pairs_fingerprint(config: RunConfig) -> str:
    pairs = getattr(config.coupling, "pairs", None)
    return "" if pairs is None else read_pair_facts(pairs).fingerprint


def _inherited(config: RunConfig) -> dict[str, list[str]]:
    """Return the ancestors of a new run, nearest first, and the forced changes among them."""
    parent = parent_run(config)
    if parent is None:
        return {"ancestors": [], "forced_over": []}
    line = recorded(parent)
    forced = [f"goes on from {line['train_hash']} by force"] if is_forced(config) else []
    return {
        "ancestors": [line["train_hash"], *line["ancestors"]],
        "forced_over": [*line["forced_over"], *forced],
    }


def refuse_foreign(folder: RunFolder, config: RunConfig, now: Mapping[str, Any]) -> None:
    """Raise RequestError if the run in the folder was made by other code or data.

    Nothing is refused with `resume=never` or `resume=force`, or if the run has no checkpoint.
    """
    if config.resume == "never" or is_forced(config):
        return
    before = recorded_training(folder)
    if before:
        why = difference(before, now)
    elif has_trained(folder):
        why = f"{folder.identity.name} is missing, so nothing says what made this run"
    else:
        return
    if why:
        raise RequestError(
            f"{folder.root}: {why}; choose resume=never (train anew, the old run is kept aside) or "
            "resume=force (go on regardless)"
        )


def move_aside(folder: RunFolder) -> Path:
    """Rename a run folder and return its new path. Raises if another process writes to it."""
    with Lease(folder.lease):
        stamp = time.strftime("%Y%m%d-%H%M%S")
        aside = folder.root.with_name(f"{folder.root.name}.before-{stamp}-{os.getpid()}")
        os.rename(folder.root, aside)
    return aside
