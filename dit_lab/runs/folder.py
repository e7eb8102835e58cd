"""The run folder: layout, train hash, and reading and writing of its files.

    runs/<name>/<train hash>/
        config.yaml  identity.json  status.json  lease  train.log  metrics.jsonl  samples/
        evaluations/<eval hash>.json  checkpoints/step-00001000/  averages/  tracking.json

An exported run is a single file whose header holds config.yaml and identity.json.

Torch-free, so that commands can check a request before slow imports.
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
"""The name of a checkpoint folder, or of an EMA snapshot."""

NOT_DECIDING = (
    "choices", "name", "resume",
    "init_from",  # a hash of the initial weights is part of the train hash instead
    "paths", "tracking", "tags", "note", "distributed",
    "sampler", "guidance", "sample", "evaluation", "metric", "hook",
    "dataset.root",  # the data fingerprint covers the files
    "dataset.images_root",
    "dataset.num_workers",
    "coupling.pairs",  # the fingerprint of the pairs covers the files
    "codec.path",  # the codec's fingerprint covers the files
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
"""Config keys that do not affect the trained weights and are not part of the train hash: paths,
speed, logging, sampling and evaluation. Process count and gradient accumulation change the weights
only by the order of floating-point sums."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of the files of one run. Creating the object reads and writes nothing."""

    root: Path
    elsewhere: Path | None = None  # for later results, if this user may not write to `root`

    @property
    def results(self) -> Path:
        """The folder for this user's evaluations and samples of the trained run."""
        return self.elsewhere or self.root

    @property
    def is_exported(self) -> bool:
        """Whether the run is an exported file instead of a folder."""
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
    def pending_metrics(self) -> Path:
        """Metric rows measured after training that could not be sent to the tracker."""
        return self.results / "untold.jsonl"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def evaluations(self) -> Path:
        return self.results / "evaluations"

    def all_evaluations(self) -> list[Path]:
        """Return the evaluation files of this user and those in the run folder."""
        places = dict.fromkeys([self.evaluations, self.root / "evaluations"])
        return [file for place in places for file in place.glob("*.json")]

    def evaluation(self, eval_hash: str) -> Path:
        """Return the file of an evaluation; if it does not exist, the path to write it to."""
        name = f"{eval_hash}.json"
        found = (file for file in self.all_evaluations() if file.name == name)
        return next(found, self.evaluations / name)

    @property
    def tracking(self) -> Path:
        """The name and tags that the tracker gets in addition to the config."""
        return self.root / "tracking.json"

    def artifacts(self) -> list[Path]:
        """Return the files that are uploaded to the tracker."""
        return sorted([*self.samples.glob("*.png"), *self.evaluations.glob("*.json")])

    @property
    def nonfinite(self) -> Path:
        """The diagnosis of the non-finite steps that ended the run."""
        return self.root / "nonfinite.json"

    @property
    def watched(self) -> Path:
        """The watchdog's folder: heartbeats of the training processes, stacks of hung ones."""
        return self.root / "watchdog"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def averages(self) -> Path:
        """Power-function EMAs: snapshots of training, and post-hoc EMAs computed from them."""
        return self.root / "averages"


# ---- identity -----------------------------------------------------------------------------------


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the leaves of nested mappings as (dotted key, value); lists count as leaves."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        else:
            yield path, value


def is_deciding(key: str) -> bool:
    """Return whether a dotted config key affects the weights and so enters the train hash."""
    return not any(key == part or key.startswith(f"{part}.") for part in NOT_DECIDING)


def digest(content: bytes | Mapping[str, Any]) -> str:
    """Return a hash of 12 hex digits; the order of a mapping's keys does not matter."""
    if isinstance(content, Mapping):
        content = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


# ---- reading and writing ------------------------------------------------------------------------


def write_atomically(path: Path, text: str) -> None:
    """Write a file atomically: a temporary file is synced and renamed over the old one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)  # the disk may be full
        raise


def _write_over(path: Path, text: str) -> None:
    """Overwrite a small existing file in place, without disk space for a second copy."""
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
    """Return the JSON object in a file, or {} if there is no such file.

    The values are not validated; callers do that with `read_as`.

    Raises:
        RequestError: the file is damaged, or exceeds the limits of `core/files.py`.
    """
    try:
        content = read_within(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        found = parse_json(content)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        return found
    except ValueError as error:  # invalid JSON or invalid UTF-8
        raise RequestError(f"{path}: damaged ({error}); move it away to go on without it") from None


def read_status(folder: RunFolder) -> dict[str, Any]:
    """Return status.json (a `records.Status`), or {} if there is none. Raises RequestError."""
    return _known_or_empty(Status, folder.status)


def read_tracked(folder: RunFolder) -> dict[str, Any]:
    """Return tracking.json (a `records.Tracked`), or {} if there is none. Raises RequestError."""
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
    """Return the step in a checkpoint's name, such as 1000 for step-00001000.

    Raises:
        RequestError: the folder has another name.
    """
    named = STEP.fullmatch(checkpoint.name)
    if named is None:
        raise RequestError(f"{checkpoint}: no checkpoint; those are named like step-00001000")
    return int(named[1])


def steps_in(folder: Path) -> list[Path]:
    """Return the folders of checkpoints or EMA snapshots, oldest first, complete or not.

    Folders with other names, such as a copy step-00001000.bak, are ignored.
    """
    return sorted((p for p in folder.glob("step-*") if STEP.fullmatch(p.name)), key=step_of)


def newest_checkpoint(folder: RunFolder) -> Path | None:
    """Return the newest checkpoint that was written completely; its content is not verified."""
    complete = [path for path in steps_in(folder.checkpoints) if (path / "COMPLETE").exists()]
    return complete[-1] if complete else None


def update_status(folder: RunFolder, **changes: Any) -> dict[str, Any]:
    """Merge changes into status.json and return the new status.

    On a full disk the file is overwritten in place, so that the end of a run is still recorded.
    """
    status = {**read_status(folder), **changes, "updated": time.time()}
    try:
        write_json(folder.status, status)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not folder.status.exists():
            raise
        _write_over(folder.status, _as_json(status))
    return status
