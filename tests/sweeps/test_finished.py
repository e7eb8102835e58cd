"""Jobs of a sweep that an earlier one has finished, with synthetic numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dit_lab.build.cost import TrainingSpeed
from dit_lab.config.identity import evaluating_code, evaluating_targets
from dit_lab.core import trust
from dit_lab.evaluation.card import read_evaluation
from dit_lab.runs.folder import read_status, write_json
from dit_lab.runs.manifest import PENDING, Job, SweepFolder, new_sweep
from dit_lab.runs.recorded import recorded_shapes
from dit_lab.sweeps.finished import finished_before, settle
from dit_lab.sweeps.job import job_config
from tests.synthetic import STEPS, finished_sweep

AXES = {"optimizer.lr": ["0.001", "0.002"], "seed": ["0", "1"]}


def again(sweep: SweepFolder, **changes: object) -> SweepFolder:
    """A later sweep of the same jobs, of which none has begun."""
    manifest = sweep.read()
    configs = [sweep.read_config(job) for job in manifest.jobs]
    jobs = [replace(job, status=PENDING, attempts=0, **changes) for job in manifest.jobs]
    return new_sweep(sweep.paths_root, replace(manifest, jobs=jobs), configs)


def of_code(sweep: SweepFolder, job: Job, evaluated: str) -> None:
    """Say that a job was measured by such code."""
    path = sweep.run(job).evaluations / sweep.read_result(job)["evaluation"]
    found = read_evaluation(path)
    replace(found, card=replace(found.card, code={"evaluated": evaluated})).write(path.parent)


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    """A finished sweep, as the code of today would have measured it."""
    made = finished_sweep(tmp_path / "outputs", AXES, lambda job: 0.6)
    for job in made.read().jobs:
        of_code(made, job, evaluating_code(evaluating_targets(made.read_config(job))))
    return made


def test_all_of_a_sweep_is_there(sweep: SweepFolder) -> None:
    later = again(sweep)
    jobs = later.read().jobs
    found = finished_before(later, jobs)
    assert list(found) == [0, 1, 2, 3]
    assert found[3].source == f"job 3 of {sweep.root.name}"
    for job in jobs:
        settle(later, job, found[job.number], on_message=print)
        assert later.read_result(job)["evaluation"] == sweep.read_result(job)["evaluation"]
    assert finished_before(sweep, sweep.read().jobs) == {}  # in itself nothing is looked for


def is_running(sweep: SweepFolder, job: Job) -> None:
    run = sweep.run(job)
    write_json(run.status, {**read_status(run), "status": "RUNNING"})


def had_failed(sweep: SweepFolder, job: Job) -> None:
    manifest = sweep.read()
    manifest.jobs[job.number].status = "FAILED"
    sweep.write(manifest)


def by_other_code(sweep: SweepFolder, job: Job) -> None:
    of_code(sweep, job, "0" * 12)


def trained_by_other_code(sweep: SweepFolder, job: Job) -> None:
    identity = sweep.run(job).identity
    found = json.loads(identity.read_text())
    write_json(identity, {**found, "code_hash": "0" * 12})


def at_another_step(sweep: SweepFolder, job: Job) -> None:
    run = sweep.run(job)
    write_json(run.status, {**read_status(run), "step": 7})


def lost(sweep: SweepFolder, job: Job) -> None:
    (sweep.run(job).evaluations / sweep.read_result(job)["evaluation"]).unlink()


def asked_otherwise(sweep: SweepFolder, job: Job) -> None:
    file = sweep.job_config(job)
    config = json.loads(file.read_text())
    config["sampler"]["steps"] += 1
    file.write_text(json.dumps(config))


def of_other_features(sweep: SweepFolder, job: Job) -> None:
    """Their weights are a file, which may be another one now."""
    path = sweep.run(job).evaluations / sweep.read_result(job)["evaluation"]
    content = json.loads(path.read_text())
    content["card"]["features"] = {"inception": "0" * 12}
    write_json(path, content)


@pytest.mark.parametrize(
    "change",
    [is_running, had_failed, by_other_code, trained_by_other_code, at_another_step, lost,
     asked_otherwise, of_other_features],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_what_is_not_certain_is_left_to_a_process(
    change: Callable[[SweepFolder, Job], None], sweep: SweepFolder
) -> None:
    later = again(sweep)
    change(sweep, sweep.read().jobs[2])
    assert list(finished_before(later, later.read().jobs)) == [0, 1, 3]


def test_what_is_trained_takes_no_time_to_train(sweep: SweepFolder) -> None:
    """Runs like these trained at 256 images a second."""
    job = sweep.read().jobs[0]
    config, shapes = job_config(sweep, job), recorded_shapes(sweep.run(job))
    pace = TrainingSpeed(sweep.paths_root)
    whole, rest = (pace.seconds(config, shapes, trained=trained) for trained in (False, True))
    assert whole is not None and rest is not None
    assert whole - rest == pytest.approx(STEPS * 128 / 256)


def test_hooks_measure_nothing(
    sweep: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that lists a hook of the user's own is there too."""
    (tmp_path / "ownhooks.py").write_text("class Hook:\n    def on_step(self, step): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    trust.trust_modules(["ownhooks"])
    later = again(sweep)
    jobs = later.read().jobs
    for job in jobs:
        config = {**later.read_config(job), "hook": {"mine": {"_target_": "ownhooks.Hook"}}}
        later.job_config(job).write_text(json.dumps(config))
    assert list(finished_before(later, jobs)) == [0, 1, 2, 3]
