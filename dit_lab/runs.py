"""The run folder: its layout, what identifies a run, who may write to it, and how to read it.

    runs/<name>/<train hash>/
        config.yaml  identity.json  status.json  lease  train.log  metrics.jsonl  samples/
        checkpoints/step-00001000/

Torch-free, so that commands can refuse a request before anything slow is imported.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dit_lab.types import RequestError

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"

NOT_DECIDING = (
    "choices",
    "name",
    "resume",
    "trusted_modules",  # the code hash covers their content
    "paths",
    "tracking",
    "distributed",
    "sampler",
    "guidance",
    "sample",
    "evaluation",
    "dataset.root",  # the data fingerprint covers what lies there
    "dataset.num_workers",
    "model.activation_checkpointing",
    "training.accumulation",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "training.sample_every_steps",
    "training.evaluate_every_steps",
)
"""Keys of the configuration that change where, how fast or how closely a run is watched, but not
the weights that it ends with (process count and accumulation: up to the order of float sums)."""

DECIDING_CODE = (
    "models",
    "objectives",
    "data",
    "training",
    "codecs.py",
    "interpolants.py",
    "rng.py",
    "lab/compose.py",
    "lab/train.py",
)
"""The parts of the package whose code decides the weights."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything of one run lies. Creating the object touches nothing."""

    root: Path

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
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"


# ---- identity -----------------------------------------------------------------------------------


def train_hash(config: Mapping[str, Any]) -> str:
    """12 hex digits of what decides the weights; equal for commands that train the same thing."""
    deciding = {key: value for key, value in flatten(config) if not _is_not_deciding(key)}
    return _digest(json.dumps(deciding, sort_keys=True).encode())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Leaves of nested mappings as (dotted key, value); lists count as leaves."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        else:
            yield path, value


def _is_not_deciding(key: str) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in NOT_DECIDING)


def code_hash(trusted_files: Iterable[Path] = ()) -> str:
    """12 hex digits over the source text that decides the weights, the user's own included."""
    package = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=6)
    for part in DECIDING_CODE:
        path = package / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    for file in sorted(trusted_files):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=6).hexdigest()


# ---- reading and writing ------------------------------------------------------------------------


def write_atomically(path: Path, text: str) -> None:
    """Write beside, sync, rename: a reader sees the old text or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: damaged ({error}); move it away to go on without it") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def update_status(folder: RunFolder, **changes: Any) -> dict[str, Any]:
    """Merge changes into status.json and return the whole."""
    status = {**read_json(folder.status), **changes, "updated": time.time()}
    write_json(folder.status, status)
    return status


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """One line of metrics.jsonl."""

    step: int
    seconds: float  # wall clock, since the epoch
    metrics: dict[str, float]


def read_metrics(path: Path) -> list[MetricsRow]:
    """All whole rows; a torn last line, left by a kill, is ignored."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(MetricsRow(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return rows


def format_row(row: MetricsRow) -> str:
    """The line of metrics.jsonl that `read_metrics` reads back."""
    return json.dumps({"step": row.step, "seconds": row.seconds, "metrics": row.metrics}) + "\n"


def trim_metrics(path: Path, last_step: int) -> None:
    """Drop the rows past a step: training goes on from there and will write them again."""
    if path.exists():
        kept = [row for row in read_metrics(path) if row.step <= last_step]
        write_atomically(path, "".join(format_row(row) for row in kept))


# ---- one writer ---------------------------------------------------------------------------------


class Lease:
    """The right to write to a run folder, held by one process at a time.

    An flock on `lease`, which the kernel frees however the holder dies; the file says who holds it.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.lease
        self._started = time.time()

    def __enter__(self) -> Lease:
        self._file = open(self._path, "a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise RequestError(
                f"{self._path.parent}: {self._holder()}; wait for it or stop it"
            ) from None
        self.heartbeat()
        return self

    def _holder(self) -> str:
        try:
            holder = json.loads(self._path.read_text(encoding="utf-8"))
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["started"]))
            return (
                f"process {holder['pid']} on {holder['host']} has been writing here since {since}"
            )
        except (OSError, json.JSONDecodeError, KeyError):
            return "another process is writing here"

    def heartbeat(self) -> None:
        """Say that the holder is alive."""
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self._started,
            "heartbeat": time.time(),
        }
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(holder))
        self._file.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


# ---- finding a run ------------------------------------------------------------------------------


def find_run(run: str, *, root: Path) -> tuple[RunFolder, Path | None]:
    """A run folder, a checkpoint folder in one, or a tracking run id -> (run, chosen checkpoint).

    `root` is `paths.root`, where run ids are looked up. Raises RequestError where `run` is none.
    """
    path = Path(run).expanduser().resolve()
    if (path / "config.yaml").is_file():
        return RunFolder(path), None
    if path.parent.name == "checkpoints" and (path / "state.json").is_file():
        return RunFolder(path.parent.parent), path
    for status in sorted(root.glob("runs/*/*/status.json")):
        if read_json(status).get("tracking_run_id") == run:
            return RunFolder(status.parent), None
    what = "has no config.yaml" if path.exists() else "does not exist"
    raise RequestError(
        f"run={run}: {what}; give a run folder ({root}/runs/NAME/HASH), one of its checkpoint "
        "folders, or the id of a tracking run"
    )
