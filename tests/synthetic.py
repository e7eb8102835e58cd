"""Synthetic finished sweeps: real configs with made-up numbers.

All files of a run exist except its checkpoints, in the lab's format.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dit_lab.config.checks.training import check_data
from dit_lab.config.compose import compose_train
from dit_lab.config.identity import config_hash, identity, run_folder
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.config.yaml_files import to_yaml
from dit_lab.core.options import target_of
from dit_lab.data.facts import dataset_facts
from dit_lab.evaluation.card import Card, Evaluation
from dit_lab.evaluation.table import Row
from dit_lab.runs.folder import RunFolder, write_json
from dit_lab.runs.manifest import Job, Manifest, SweepFolder, new_sweep
from dit_lab.training.average_names import first_average

HELD_OUT = "eval/two_sample_pixels_held_out_n360"
STEPS = 1200
SETTINGS = {"name": None, "slots": "auto", "jobs_per_slot": 1, "on_failure": "continue",
            "retries": 0, "trials": 1, "trials_at_once": None, "metric": None,
            "failed_value": None, "search": False, "launcher": []}  # fmt: skip

Value = Callable[[Mapping[str, str]], float]
"""The overrides of a job, by key -> what was measured on it."""


def finished_sweep(root: Path, axes: Mapping[str, Sequence[str]], value: Value) -> SweepFolder:
    """A sweep of pico models on digits over `axes` (plain keys, seed among them), all FINISHED."""
    composed: dict[tuple[str, ...], RunConfig] = {}
    jobs, texts = [], []
    for number, values in enumerate(itertools.product(*axes.values())):
        overrides = [f"{key}={text}" for key, text in zip(axes, values, strict=True)]
        groups = tuple(text for text in overrides if not text.startswith("seed="))
        if groups not in composed:
            composed[groups] = _composed(root, groups)
        given = dict(zip(axes, values, strict=True))
        config = replace(composed[groups], seed=int(given.get("seed", 0)))
        run = run_folder(config)
        name = _write_run(run, config, value(given))
        jobs.append(_job(number, overrides, config, run, root))
        texts.append((config, name))
    manifest = Manifest(
        name="invented",
        typed=[f"{key}={','.join(values)}" for key, values in axes.items()],
        config_dirs=[],
        identity="0" * 12,
        axes={key: list(values) for key, values in axes.items()},
        settings=SETTINGS,
        tracking={"backend": "none", "uri": None, "experiment": "invented"},
        jobs=jobs,
        status="FINISHED",
    )
    folder = new_sweep(root, manifest, [to_tree(config) for config, _ in texts])
    for job, (_, name) in zip(jobs, texts, strict=True):
        result = {"evaluation": name, "tracking_run_id": None}
        folder.job_result(job).write_text(json.dumps(result))
    return folder


def _composed(root: Path, groups: Sequence[str]) -> RunConfig:
    return compose_train(
        ["experiment=quickstart", "patch=4", "model=pico", "tracking=none", *groups,
         f"training.total_steps={STEPS}", f"paths.root={root}"]
    )  # fmt: skip


def _job(number: int, overrides: list[str], config: RunConfig, run: RunFolder, root: Path) -> Job:
    return Job(
        number=number,
        overrides=overrides,
        config_hash=config_hash(config),
        run=str(run.root.relative_to(root)),
        status="FINISHED",
        attempts=1,
        seconds=60.0,
    )


def _write_run(run: RunFolder, config: RunConfig, value: float) -> str:
    """The files of a finished run; the name of its evaluation."""
    run.root.mkdir(parents=True, exist_ok=True)
    run.config.write_text(to_yaml(to_tree(config)))
    shapes = check_data(config)
    known = identity(config, shapes, before={}, codec="identity")
    write_json(run.identity, known)
    steps = range(50, STEPS + 1, 50)
    rows = [
        {"step": step, "seconds": 1e9 + step,
         "metrics": {"train/loss": 1 / step, "perf/images_per_second": 256.0}}
        for step in steps
    ]  # fmt: skip
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = {"status": "FINISHED", "step": STEPS, "total_steps": STEPS, "error": None}
    write_json(run.status, {**ended, "results": {"eval/loss": value / 2}, "updated": 1e9})
    return _evaluation(config, known, value).write(run.evaluations).name


def _evaluation(config: RunConfig, known: Mapping[str, Any], value: float) -> Evaluation:
    facts = dataset_facts("dit_lab.data.digits.Digits", {})
    first = first_average(target_of(config.optimizer), config.ema.decays)
    card = Card(
        samples="generated", run=known["train_hash"], step=STEPS,
        weights=first if config.sample.weights == "ema" else config.sample.weights,
        objective=asdict(config.objective), sampler=asdict(config.sampler),
        evaluations_per_image=50.0,
        guidance=asdict(config.guidance), num_images=1080, labels="as frequent",
        seed=config.sample.seed, num_seeds=1, metrics={}, metrics_seed=0,
        reference={"data": facts.fingerprint}, features={"pixels": "8x8x1"}, likelihood=None,
        codec="identity", chunk_images=32, dtype="float32", device="x86_64", num_threads=1,
        code={}, versions={},
    )  # fmt: skip
    held_out: dict[str, Any] = {"extractor": "pixels", "against": "held-out", "num_images": 360}
    whole: dict[str, Any] = {"extractor": "pixels", "against": "training", "num_images": 1080}
    measured = [
        Row(metric="two_sample", value=value, deviation=0.02, floor=0.52, floor_deviation=0.01,
            **held_out),
        Row(metric="recall", value=0.9, deviation=0.01, floor=0.95, floor_deviation=0.01,
            **held_out),
        *(Row(metric=name, value=1.0, floor=1.0, **whole)
          for name in ("distance_ratio", "exact_copies", "near_copies")),
    ]  # fmt: skip
    return Evaluation(card=card, rows=measured)
