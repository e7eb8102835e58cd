"""The evaluation card: the circumstances that a number depends on, kept with the number.

Torch-free: results are shown at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from dit_lab.core.errors import RequestError
from dit_lab.core.text import key_value, shell_line
from dit_lab.core.typed import Count, read_as
from dit_lab.evaluation.table import Row, findings
from dit_lab.runs.finding import find_run
from dit_lab.runs.folder import RunFolder, digest, read_json, step_of, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything that changes an evaluation's numbers. Fields have no defaults: a number without
    one of them cannot be written."""

    samples: str  # "generated", or the baseline's name
    run: str  # train hash
    step: Count
    weights: str  # "model" or an average's name
    objective: Mapping[str, Any]
    sampler: Mapping[str, Any]  # with its steps
    evaluations_per_image: float  # images that pass through the model for one generated image
    guidance: Mapping[str, Any]
    num_images: Count  # for each seed
    labels: str  # how the labels of generated images are chosen
    seed: int  # of the noise; the first one
    num_seeds: int  # of the noise, one after the other
    metrics: Mapping[str, Any]  # the entries of the list of metrics, with their options
    metrics_seed: int  # of trees, folds and draws
    reference: Mapping[str, Any]  # data fingerprint, number of images, levels
    features: Mapping[str, str]  # what is compared: extractor -> fingerprint
    likelihood: Mapping[str, Any] | None  # how bits per dimension were found, if they were
    codec: str  # fingerprint
    chunk_images: int  # how many images are computed at once
    dtype: str
    device: str
    num_threads: int
    code: Mapping[str, str]  # hashes of what trained and of what evaluated
    versions: Mapping[str, str]

    @property
    def eval_hash(self) -> str:
        """12 hex digits of what was measured and how; not of the machine and the versions."""
        return digest(self._asked())

    @property
    def protocol(self) -> str:
        """The same without the run, its step, and which metrics there were: numbers of one name
        under one protocol, by the same features, can be compared."""
        of_one = ("run", "step", "metrics", "features")
        return digest({k: v for k, v in self._asked().items() if k not in of_one})

    def _asked(self) -> dict[str, Any]:
        found = ("evaluations_per_image", "device", "num_threads", "versions", "code")
        return {k: v for k, v in asdict(self).items() if k not in found}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A card with its table."""

    card: Card
    rows: Sequence[Row]

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers by their key in metrics files and trackers."""
        return {row.key: row.value for row in self.rows}

    @property
    def findings(self) -> list[str]:
        """What is wrong with the samples as a whole."""
        return findings(self.rows)

    def write(self, folder: Path) -> Path:
        """`<folder>/<eval hash>.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.card.eval_hash}.json"
        rows = [asdict(row) for row in self.rows]
        write_json(path, {"card": asdict(self.card), "rows": rows, "findings": self.findings})
        return path


class _Written(TypedDict):
    card: Card
    rows: list[Row]


def read_evaluation(path: Path) -> Evaluation:
    """What `Evaluation.write` wrote; RequestError where that is not what lies there."""
    what, instead = "not an evaluation", "move it away"
    found = read_as(_Written, read_json(path), where=path, what=what, instead=instead)
    return Evaluation(card=found["card"], rows=found["rows"])


def find_evaluation(given: str, *, root: Path) -> Evaluation:
    """A file of an evaluation, or the newest one of a RUN (of a checkpoint's step), which is looked
    up in `root`. Raises RequestError."""
    if given.endswith(".json") and Path(given).is_file():
        return read_evaluation(Path(given))
    folder, checkpoint = find_run(given, root=root)
    step = None if checkpoint is None else step_of(checkpoint)
    found = last_evaluation(folder, step=step)
    if found is None:
        raise RequestError(
            f"{given}: has no evaluation{'' if step is None else f' at step {step}'} yet; "
            f"{shell_line('dit-lab', 'evaluate', key_value('run', given))} makes one"
        )
    return found


def last_evaluation(run: RunFolder, *, step: int | None) -> Evaluation | None:
    """The newest evaluation of a run at a step (None: at any), if there is one."""
    files = sorted(run.all_evaluations(), key=lambda path: path.stat().st_mtime, reverse=True)
    found = (read_evaluation(path) for path in files)
    return next((one for one in found if step in (None, one.card.step)), None)
