"""The evaluation card: the conditions that results depend on, stored with the results.

Torch-free, so that results can be shown immediately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    """The settings and conditions of an evaluation.

    Fields have no defaults, so no result can be stored without one of them; but cards of earlier
    versions have no `methods`.
    """

    samples: str  # "generated", or the baseline's name
    run: str  # train hash
    step: Count
    weights: str  # "model" or the name of an EMA
    objective: Mapping[str, Any]
    sampler: Mapping[str, Any]  # including its number of steps
    evaluations_per_image: float  # NFE, with all passes of guidance
    guidance: Mapping[str, Any]
    num_images: Count  # per seed
    labels: str  # how the labels of generated images are chosen
    seed: int  # first noise seed
    num_seeds: int  # number of consecutive noise seeds
    metrics: Mapping[str, Any]  # entries of the metric list, with options
    metrics_seed: int  # seed of random forests, folds and draws
    reference: Mapping[str, Any]  # data fingerprint, number of images, levels
    features: Mapping[str, str]  # extractor -> fingerprint
    likelihood: Mapping[str, Any] | None  # settings of the likelihood, if computed
    codec: str  # its fingerprint
    chunk_images: int  # generation batch size
    dtype: str
    device: str
    num_threads: int
    code: Mapping[str, str]  # hashes of the training and evaluation code
    versions: Mapping[str, str]
    methods: Mapping[str, Any] = field(default_factory=dict)  # training methods, with options

    @property
    def eval_hash(self) -> str:
        """12 hex digits: a hash of what was evaluated and how; excludes machine, versions, code."""
        return digest(self._asked())

    @property
    def protocol(self) -> str:
        """Hash of the card without the run, the step, the list of metrics and their features.

        Metrics with the same name, protocol and features are comparable.
        """
        of_one = ("run", "step", "metrics", "features")
        return digest({k: v for k, v in self._asked().items() if k not in of_one})

    def _asked(self) -> dict[str, Any]:
        found = ("evaluations_per_image", "device", "num_threads", "versions", "code", "methods")
        return {k: v for k, v in asdict(self).items() if k not in found}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A card with its rows."""

    card: Card
    rows: Sequence[Row]

    @property
    def metrics(self) -> dict[str, float]:
        """Values by their key in metrics files and trackers."""
        return {row.key: row.value for row in self.rows}

    @property
    def findings(self) -> list[str]:
        """Problems of the samples as a whole."""
        return findings(self.rows)

    def write(self, folder: Path) -> Path:
        """Write `<folder>/<eval hash>.json` and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.card.eval_hash}.json"
        rows = [asdict(row) for row in self.rows]
        write_json(path, {"card": asdict(self.card), "rows": rows, "findings": self.findings})
        return path


class _Written(TypedDict):
    card: Card
    rows: list[Row]


def read_evaluation(path: Path) -> Evaluation:
    """Read a file of `Evaluation.write`; raise RequestError if it is not one."""
    what, instead = "not an evaluation", "move it away"
    found = read_as(_Written, read_json(path), where=path, what=what, instead=instead)
    return Evaluation(card=found["card"], rows=found["rows"])


def find_evaluation(given: str, *, root: Path) -> Evaluation:
    """Return the evaluation in a file, or the newest one of a RUN.

    Args:
        given: an evaluation file, a run, or a checkpoint of a run, which selects its step.
        root: the folder in which runs are looked up.

    Raises:
        RequestError: if there is no such run or evaluation.
    """
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
    """Return the newest evaluation of a run at a step (None: any step), or None."""
    files = sorted(run.all_evaluations(), key=lambda path: path.stat().st_mtime, reverse=True)
    found = (read_evaluation(path) for path in files)
    return next((one for one in found if step in (None, one.card.step)), None)
