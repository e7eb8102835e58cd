"""Preparation of commands: requests are composed and checked in a fixed order.

`prepare` is for training, alone, as a job of a sweep or after a reflow; `prepare_for_run` for
commands that sample from a trained run. Nothing is written, and nothing slow is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dit_lab.config.checks.coupling import check_pair_noise
from dit_lab.config.checks.data import (
    check_images,
    check_same_codec,
    check_same_data,
    first_look,
)
from dit_lab.config.checks.machine import (
    check_copies,
    check_own,
    check_root,
    check_writable,
    with_processes,
)
from dit_lab.config.checks.metrics import check_metrics
from dit_lab.config.checks.own import check_own_parts
from dit_lab.config.checks.runs import check_averages, check_extension, check_initial
from dit_lab.config.checks.sampling import check_conditioning, check_sampling
from dit_lab.config.checks.training import check_data, check_likelihood, check_settings
from dit_lab.config.compose import compose_for_run, given_run, over
from dit_lab.config.identity import identity, parent_run, refuse_foreign, run_folder
from dit_lab.config.schema import EvaluateConfig, RunConfig, SampleConfig
from dit_lab.core.types import Shapes
from dit_lab.data.split_folders import FIRST
from dit_lab.runs.folder import FINISHED, RunFolder, read_status
from dit_lab.runs.recorded import (
    recorded,
    recorded_shapes,
    recorded_so_far,
    recorded_training,
)

Chosen = TypeVar("Chosen", SampleConfig, EvaluateConfig)
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A training that can start or resume."""

    config: RunConfig
    shapes: Shapes
    folder: RunFolder
    identity: Mapping[str, Any]  # the future content of identity.json
    before: Mapping[str, Any]  # the present content of identity.json, or {}
    notes: Sequence[str]  # on the data, if this is a new run

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        anew = self.config.resume == "never"
        return not anew and read_status(self.folder).get("status") == FINISHED


def prepare(config: RunConfig) -> Prepared:
    """Check a composed training, by itself and against its run folder. Raises RequestError."""
    config = with_processes(config)
    return prepare_folder(config, check_request(config, look=check_data))


def check_request(config: RunConfig, *, look: Callable[[RunConfig], Found]) -> Found:
    """Check a composed training by itself, and return the result of `look`. Raises RequestError.

    `look` reads and checks the data.
    """
    check_settings(config)
    found = look(config)
    check_initial(config)
    return found


def prepare_folder(config: RunConfig, shapes: Shapes) -> Prepared:
    """Check a training against its run folder. Raises RequestError."""
    check_root(config)
    folder = run_folder(config)
    before = {} if config.resume == "never" else recorded_training(folder)
    line = before or _line(config)
    reading = line["data"].get("reading", FIRST) if line else shapes.data.reading
    if reading != shapes.data.reading:
        shapes = check_data(config, reading=reading)
    prepared = Prepared(
        config=config,
        shapes=shapes,
        folder=folder,
        identity=identity(config, shapes, before=before),
        before=before,
        notes=() if line else first_look(config, shapes.data),
    )
    refuse_foreign(folder, config, prepared.identity)
    if not before:
        check_extension(config, prepared.identity)
    if not prepared.is_finished:
        check_own(folder)
        check_averages(config, folder)
    return prepared


def _line(config: RunConfig) -> Mapping[str, Any]:
    """Return the identity of the run that is extended, or that drew the pairs, or {}.

    The data is read by the rules of that run, so that the classes keep their order.
    """
    if parent := parent_run(config):
        return recorded(parent)
    pairs = getattr(config.coupling, "pairs", None)
    return recorded_so_far(RunFolder(Path(pairs).parent.parent)) if pairs else {}


@dataclass(frozen=True, kw_only=True)
class PreparedForRun(Generic[Chosen]):
    """A request to sample from a trained run."""

    run: str  # the value of run=
    root: Path  # root folder of the search
    folder: RunFolder
    recorded: RunConfig
    chosen: Chosen
    config: RunConfig  # the recorded one with the values of this command
    shapes: Shapes


def prepare_for_run(
    kind: type[Chosen],
    overrides: Sequence[str],
    *,
    config_dirs: Iterable[Path] = (),
    given: tuple[str, Path, RunFolder, RunConfig] | None = None,
) -> PreparedForRun[Chosen]:
    """Compose and check `conf/sample.yaml` or `conf/evaluate.yaml` over what `run=RUN` recorded.

    Args:
        given: The result of `given_run`, if it is known already.

    Raises:
        RequestError: The run is not found, or the request does not fit it.
    """
    run, root, folder, recorded = given or given_run(overrides)
    chosen = compose_for_run(kind, overrides, recorded=recorded, config_dirs=config_dirs)
    config = with_processes(over(recorded, chosen))
    check_same_codec(config, recorded)
    check_copies(config)
    shapes = recorded_shapes(folder)
    check_sampling(config, trained=recorded, run=folder)
    measures = isinstance(chosen, EvaluateConfig)
    num_seeds = config.evaluation.num_seeds if measures else 1
    check_pair_noise(recorded, seed=config.sample.seed, num_seeds=num_seeds)
    check_own_parts(config, shapes)
    check_conditioning(config, shapes, model=recorded.model)
    if measures:
        check_likelihood(config)
        check_metrics(config, check_same_data(config, shapes))
        check_images(config)
        check_writable("paths.root", Path(config.paths.root))
    return PreparedForRun(
        run=run,
        root=root,
        folder=folder,
        recorded=recorded,
        chosen=chosen,
        config=config,
        shapes=shapes,
    )
