"""The run folder: its layout, what identifies a run, and how to read and write its files.

    runs/<name>/<train hash>/
        config.yaml  identity.json  status.json  lease  train.log  metrics.jsonl  samples/
        evaluations/<eval hash>.json  checkpoints/step-00001000/  averages/  tracking.json

What is exported of a run is one file, whose header says what the first two files do.

Torch-free, so that commands can refuse a request before anything slow is imported.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.files import parse_json, read_within, to_json
from dit_lab.core.typed import read_as
from dit_lab.runs.exported import EXPORTED
from dit_lab.runs.records import Status, Tracked

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"

STEP = re.compile("step-([0-9]{1,18})")
"""The name of a checkpoint, or of a snapshot of averages."""

NOT_DECIDING = (
    "choices", "name", "resume",
    "init_from",  # what lies there is part of the hash
    "paths", "tracking", "tags", "note", "distributed",
    "sampler", "guidance", "sample", "evaluation", "metric", "hook",
    "dataset.root",  # the data fingerprint covers what lies there
    "dataset.images_root",
    "dataset.num_workers",
    "coupling.pairs",  # the fingerprint of the pairs covers what lies there
    "codec.path",  # the codec's fingerprint covers what lies there
    "codec.chunk_images",
    "model.activation_checkpointing",
    "ema.power_stds",
    "ema.snapshot_every_steps",
    "training.accumulation",
    "training.compile",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "training.keep_last",
    "training.keep_every_steps",
    "training.keep_finished",
    "training.sample_every_steps",
    "training.validate_every_steps",
    "training.evaluate_every_steps",
    "training.hang_after_seconds",
    "training.system_metrics",
)  # fmt: skip
"""Keys of the configuration that change where, how fast or how closely a run is watched, but not
the weights that it ends with (process count and accumulation: up to the order of float sums)."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything of one run lies. Creating the object touches nothing."""

    root: Path
    elsewhere: Path | None = None  # the place of what is found out later, where not in `root`

    @property
    def results(self) -> Path:
        """The folder for what this user finds out about the run once it is trained."""
        return self.elsewhere or self.root

    @property
    def is_exported(self) -> bool:
        """Whether it is no folder but a file that was exported of one."""
        return self.root.suffix == EXPORTED and not self.root.is_dir()

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def lease(self) -> Path:
        return self.root / "lease"

    @property
    def log(self) -> Path:
        return self.root / "train.log"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def untold(self) -> Path:
        """Rows that were measured after the end, and that the tracker did not take."""
        return self.results / "untold.jsonl"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def evaluations(self) -> Path:
        return self.results / "evaluations"

    def all_evaluations(self) -> list[Path]:
        """The files of this user's evaluations, and of those in the run's own folder."""
        places = dict.fromkeys([self.evaluations, self.root / "evaluations"])
        return [file for place in places for file in place.glob("*.json")]

    def evaluation(self, eval_hash: str) -> Path:
        """The file of an evaluation, wherever it lies; this user's own where there is none yet."""
        name = f"{eval_hash}.json"
        found = (file for file in self.all_evaluations() if file.name == name)
        return next(found, self.evaluations / name)

    @property
    def tracking(self) -> Path:
        """What a tracker is told of the run besides its configuration: its name and tags."""
        return self.root / "tracking.json"

    def artifacts(self) -> list[Path]:
        """The files that a tracker keeps a copy of."""
        return sorted([*self.samples.glob("*.png"), *self.evaluations.glob("*.json")])

    @property
    def nonfinite(self) -> Path:
        """What is known of the steps that stopped the run because they were not finite."""
        return self.root / "nonfinite.json"

    @property
    def watched(self) -> Path:
        """Signs of life of the processes that train, and the stacks of those that hung."""
        return self.root / "watchdog"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def averages(self) -> Path:
        """Power-function averages: snapshots of training, and the widths made of them."""
        return self.root / "averages"


# ---- identity -----------------------------------------------------------------------------------


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Leaves of nested mappings as (dotted key, value); lists count as leaves."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        else:
            yield path, value


def is_deciding(key: str) -> bool:
    """Whether a dotted key of the configuration decides the weights."""
    return not any(key == part or key.startswith(f"{part}.") for part in NOT_DECIDING)


def digest(content: bytes | Mapping[str, Any]) -> str:
    """12 hex digits of bytes, or of a mapping's content whatever the order of its keys."""
    if isinstance(content, Mapping):
        content = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


# ---- reading and writing ------------------------------------------------------------------------


def write_atomically(path: Path, text: str) -> None:
    """Write beside, sync, rename: a reader sees the old text or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)  # a full disk needs the room
        raise


def _write_over(path: Path, text: str) -> None:
    """Replace the text of a file of a few hundred bytes that is there, without room for another."""
    with open(path, "r+b") as file:
        before = file.read()
        try:
            file.seek(0)
            file.write(text.encode())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.pwrite(file.fileno(), before, 0)
            raise


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file within the limits of `core/files.py`, {} where there is no such
    file. Raises RequestError. What its values have to be is said by who reads them."""
    try:
        content = read_within(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        found = parse_json(content)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        return found
    except ValueError as error:  # no JSON, or not even text
        raise RequestError(f"{path}: damaged ({error}); move it away to go on without it") from None


def read_status(folder: RunFolder) -> dict[str, Any]:
    """status.json, which is a `records.Status`; {} where there is none. Raises RequestError."""
    return _known_or_empty(Status, folder.status)


def read_tracked(folder: RunFolder) -> dict[str, Any]:
    """tracking.json, which is a `records.Tracked`; {} where there is none. Raises RequestError."""
    return _known_or_empty(Tracked, folder.tracking)


def _known_or_empty(kind: type[Any], path: Path) -> dict[str, Any]:
    found = read_json(path)
    known: dict[str, Any] = read_as(kind, found, where=path) if found else {}
    return known


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, _as_json(content))


def _as_json(content: Mapping[str, Any]) -> str:
    return to_json(content, indent=2) + "\n"


def step_of(checkpoint: Path) -> int:
    """1000 of checkpoints/step-00001000. Raises RequestError where it has another name."""
    named = STEP.fullmatch(checkpoint.name)
    if named is None:
        raise RequestError(f"{checkpoint}: no checkpoint; those are named like step-00001000")
    return int(named[1])


def steps_in(folder: Path) -> list[Path]:
    """The folders of checkpoints, or of snapshots of averages, the oldest first, whole or not.
    Others, such as a copy step-00001000.bak, are none."""
    return sorted((p for p in folder.glob("step-*") if STEP.fullmatch(p.name)), key=step_of)


def newest_checkpoint(folder: RunFolder) -> Path | None:
    """The newest checkpoint that was completed; whether it still is whole shows when it is read."""
    complete = [path for path in steps_in(folder.checkpoints) if (path / "COMPLETE").exists()]
    return complete[-1] if complete else None


def update_status(folder: RunFolder, **changes: Any) -> dict[str, Any]:
    """Merge changes into status.json and return the whole. A disk that has no room for a second
    file still takes them: how a run ended has to be said."""
    status = {**read_status(folder), **changes, "updated": time.time()}
    try:
        write_json(folder.status, status)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not folder.status.exists():
            raise
        _write_over(folder.status, _as_json(status))
    return status
