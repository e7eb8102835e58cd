"""`dit-lab train` of a finished run: results, and sampling or evaluation with new settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from dit_lab.actions.doctor import close_run
from dit_lab.actions.workers import on_workers, starts_workers
from dit_lab.cli import evaluate, sample
from dit_lab.cli.tables import print_evaluations
from dit_lab.config.objects import to_tree
from dit_lab.config.prepare import Prepared
from dit_lab.config.recorded import read_recorded
from dit_lab.config.schema import RunConfig
from dit_lab.config.yaml_files import read_config
from dit_lab.core import trust
from dit_lab.core.files import may_write
from dit_lab.core.text import counted, key_value, say, shell_line
from dit_lab.evaluation.card import last_evaluation
from dit_lab.evaluation.table import is_row_key
from dit_lab.runs.finding import find_run
from dit_lab.runs.folder import RunFolder, digest, read_status
from dit_lab.runs.metrics import read_metrics
from dit_lab.tracking.addresses import is_server, shown

DRAWN_BY = ("sampler", "guidance", "sample")
MEASURED_BY = (*DRAWN_BY, "evaluation", "metric")
HOW = ("sample.compile", "sample.batch_size")
"""Keys that do not affect the drawn images."""


def answer(prepared: Prepared, *, measures: bool) -> int:
    """Show the results of a finished run; sample or evaluate anew if those settings differ.

    Args:
        prepared: the prepared training.
        measures: False if the caller evaluates the run itself.

    Returns:
        The exit code.

    Raises:
        RequestError: the run cannot be read, or its samples cannot be evaluated.
    """
    config, place = prepared.config, str(prepared.folder.root)
    found, _ = find_run(place, root=Path(config.paths.root))
    folder = replace(prepared.folder, elsewhere=found.elsewhere)
    recorded = read_recorded(folder, hooks=True)
    drawn = measures and _differs(recorded, config, DRAWN_BY)
    measured = measures and _differs(recorded, config, MEASURED_BY)
    measured = measured and config.evaluation.num_images > 0
    if not drawn and not measured:
        say(f"already finished: {folder.root} (resume=never trains anew)")
        is_whole = read_status(folder).get("is_tracked_whole", True)
        is_ours = may_write(folder.lease)
        if not is_whole and is_ours and (remark := close_run(folder).remark):
            say(remark)
        show_results(folder)
        return 0
    say(f"already trained: {folder.root}; only its samples and evaluations are computed anew")
    given = {"run": place, "root": str(config.paths.root)}
    code = 0
    if drawn:
        step, settings = read_status(folder)["step"], _settings(config, DRAWN_BY)
        samples = folder.results / folder.samples.name
        out = samples / f"step-{step:08d}-{digest(settings)}.png"
        if out.exists():
            say(f"drawn before: {out}")
        else:
            samples.mkdir(parents=True, exist_ok=True)
            code = _do("sample", config, {**given, "out": str(out)})
    if measured and code == 0:
        code = _do("evaluate", config, {**given, "baselines": False})
    return code


def _do(verb: str, config: RunConfig, given: Mapping[str, Any]) -> int:
    if starts_workers(config):
        return on_workers(verb, config, **given)
    return int({"sample": sample, "evaluate": evaluate}[verb].work(config, **given))


def _differs(recorded: RunConfig, config: RunConfig, parts: Sequence[str]) -> bool:
    return _settings(recorded, parts) != _settings(config, parts)


def _settings(config: RunConfig, parts: Sequence[str]) -> dict[str, Any]:
    tree = to_tree(config)
    tree["sample"] = {k: v for k, v in tree["sample"].items() if f"sample.{k}" not in HOW}
    return {part: tree[part] for part in parts}


def show_results(folder: RunFolder) -> None:
    """Print the losses, the last evaluation, and where the newest samples and MLflow page are."""
    status, config = read_status(folder), read_config(folder)
    speeds = [
        config["training"]["global_batch_size"] / row.metrics["perf/images_per_second"]
        for row in read_metrics(folder.metrics)
        if row.metrics.get("perf/images_per_second", 0) > 0
    ]
    evaluation = last_evaluation(folder, step=status["step"])
    losses = {k: value for k, value in (status.get("results") or {}).items() if not is_row_key(k)}
    results = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
    speed = f", {median(speeds):.3f} s a step" if speeds else ""
    say(f"result: {results} after {counted(status['step'], 'step')}{speed}")
    if evaluation:
        print_evaluations([evaluation])
    if grids := sorted(folder.samples.glob("*.png")):
        say(f"samples: {grids[-1]}")
    if config["tracking"]["backend"] == "mlflow":
        say(f"MLflow page: {_page_of(config)}")


def _page_of(config: Mapping[str, Any]) -> str:
    """Return the address of the tracking server, or the command that serves a local store."""
    root, uri = config["paths"]["root"], config["tracking"]["uri"]
    if is_server(uri):
        return shown(uri)
    usual = uri == trust.default_store(root)
    where = [] if usual else [key_value("tracking.uri", shown(uri))]
    return shell_line("dit-lab", "ui", key_value("paths.root", root), *where)
