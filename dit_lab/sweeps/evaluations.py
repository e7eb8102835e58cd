"""Evaluation of one trained run with several settings, and a report that compares them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from dit_lab.actions.evaluate import evaluate_run, tracked_metrics, with_data
from dit_lab.build.trained import Trained, load
from dit_lab.config.axes import label_of
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.evaluation.card import Evaluation
from dit_lab.evaluation.table import AIMED_AT
from dit_lab.report.analysis import Analysis
from dit_lab.report.metrics import LOSS, leading_metric
from dit_lab.report.question import report_on
from dit_lab.report.runs import Run
from dit_lab.runs.folder import FINISHED, RunFolder, digest, read_status
from dit_lab.runs.metrics import MetricsRow
from dit_lab.runs.provenance import provenance
from dit_lab.sweeps.children import last_rows
from dit_lab.tracking.addresses import is_local
from dit_lab.tracking.parent import PARENT_TAG, log_child, member_tags

Settings = Mapping[str, str]
"""Axis -> value, as on the command line."""


def measure_all(
    folder: RunFolder,
    jobs: Iterable[tuple[Settings, RunConfig]],
    *,
    wanted: str,
    root: str,
    device: torch.device,
    check_stop: Callable[[], None],
    on_message: Callable[[str], None],
) -> tuple[Analysis, list[Path]]:
    """Evaluate a run with each config, and write a report into the run folder.

    Stored evaluations are reused. `wanted` is the user's name for the run.

    Returns:
        The answer, and the files of the report.
    """
    runs = []
    for settings, config, trained in _loaded(jobs, wanted=wanted, root=root, device=device):
        name = label_of(settings)
        evaluation, before = evaluate_run(
            trained,
            config,
            check_stop=check_stop,
            on_message=lambda text, name=name: on_message(f"{name}: {text}"),  # type: ignore[misc]
        )
        if before:
            on_message(f"{name}: measured before")
        elif trouble := _track(trained, config, settings, evaluation):
            on_message(f"{name}: MLflow could not be updated ({trouble})")
        runs.append(Run(name, folder, to_tree(config), settings, FINISHED, evaluation))
    place = folder.results / "reports" / digest({"ways": [run.name for run in runs]})
    title = f"{wanted}, evaluated with several settings"
    return report_on(runs, place, title=title, metric=_judged_by(runs[0]))


def _judged_by(run: Run) -> str:
    """Return the report's metric: the primary one, or else the first that was measured.

    The loss is not used, because none of the settings changes it.
    """
    assert run.evaluation is not None
    rows = run.evaluation.rows
    leading = leading_metric(row.key for row in rows)
    if leading != LOSS:
        return leading
    return next((row.key for row in rows if row.metric not in AIMED_AT), rows[0].key)


def _loaded(
    jobs: Iterable[tuple[Settings, RunConfig]], *, wanted: str, root: str, device: torch.device
) -> Iterator[tuple[Settings, RunConfig, Trained]]:
    """Yield the jobs with the weights that each evaluates; consecutive jobs share what was read."""
    trained, weights = None, None
    for settings, config in jobs:
        if trained is None or config.sample.weights != weights:
            weights = config.sample.weights
            trained = load(
                wanted,
                root=root,
                weights=weights,
                codec_path=getattr(config.codec, "path", None),
                device=device,
            )
        yield settings, config, with_data(trained, config)


def _track(trained: Trained, config: RunConfig, settings: Settings, evaluation: Evaluation) -> str:
    """Log an evaluation as a child of the run in MLflow; return why that failed, or ""."""
    run_id = read_status(trained.folder).get("tracking_run_id")
    recorded = trained.parts.config
    if recorded.tracking.backend != "mlflow" or run_id is None:
        return ""
    if trained.folder.elsewhere and is_local(recorded.tracking.uri):
        return ""  # a store of this user's, which does not have the run
    measured = trained.folder.evaluation(evaluation.card.eval_hash)
    tags = {
        PARENT_TAG: run_id,
        "dit_lab.run_folder": str(trained.folder.root),
        "dit_lab.overrides": label_of(settings),
        "dit_lab.evaluation": evaluation.card.eval_hash,
    }
    row = MetricsRow(
        step=evaluation.card.step,
        seconds=measured.stat().st_mtime,
        metrics=tracked_metrics(trained, evaluation),
    )
    _, trouble = log_child(
        recorded.tracking.uri,
        experiment=recorded.tracking.experiment,
        artifact_root=Path(recorded.paths.root) / "mlartifacts",
        config=to_tree(config),
        tags={**tags, **member_tags(config.choices), **provenance()},
        known_by="dit_lab.evaluation",
        folder=trained.folder,
        rows=[*last_rows(trained.folder, of_samples=False), row],
        artifacts=[measured],
    )
    return trouble
