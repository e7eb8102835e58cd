"""A training, from its config to its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dit_lab.actions.evaluate import training_evaluators
from dit_lab.actions.extension import take_over
from dit_lab.actions.hooks import build_hooks, refuse_failed
from dit_lab.actions.prune import prune_held, references_below
from dit_lab.actions.session import StatusFile, log, tell_end, told_how_it_ends, writing_to
from dit_lab.build.optimizer import check_patterns
from dit_lab.build.parts import Parts, build_parts
from dit_lab.build.trained import open_checkpoints
from dit_lab.build.training import loop_settings, training_objects
from dit_lab.config.checks.metrics import why_unmeasured
from dit_lab.config.identity import identity, move_aside, parent_run, refuse_foreign, run_folder
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.config.yaml_files import to_yaml
from dit_lab.core import trust
from dit_lab.core.errors import Diverged, RequestError, StopRequested
from dit_lab.core.process_group import SINGLE_PROCESS
from dit_lab.core.text import say
from dit_lab.core.types import Hook, Shapes
from dit_lab.runs.folder import (
    FAILED,
    RunFolder,
    read_status,
    read_tracked,
    steps_in,
    update_status,
    write_atomically,
    write_json,
)
from dit_lab.runs.metrics import trim_metrics
from dit_lab.runs.provenance import provenance
from dit_lab.runs.recorded import recorded_training
from dit_lab.tracking.addresses import not_contacted
from dit_lab.tracking.mlflow_run import MlflowRun
from dit_lab.tracking.parent import job_name, member_tags
from dit_lab.tracking.spool import MetricsFile
from dit_lab.training.checkpoint import Checkpoint
from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.distributed import DistributedContext
from dit_lab.training.ema import PowerAverage
from dit_lab.training.loop import train
from dit_lab.training.post_hoc import open_averages
from dit_lab.training.snapshots import Snapshots
from dit_lab.training.stop import StopSignal
from dit_lab.training.system import SystemMetrics
from dit_lab.training.watchdog import Watchdog


def run_training(
    config: RunConfig, shapes: Shapes, *, display: Hook, told: Mapping[str, str]
) -> RunFolder:
    """Train a config in its run folder, or resume its training.

    `told` are additional tags for the tracker. StopRequested is raised after a stop signal, once
    everything is saved. Other exceptions leave the run FAILED.
    """
    check_patterns(config, shapes)
    folder = run_folder(config)
    with StopSignal() as stop:
        context = DistributedContext(
            stop,
            mixed_precision=config.precision.mixed_precision,
            tf32=config.precision.tf32,
            static_graph=config.training.accumulation == 1,
            cpu_offload=config.distributed.cpu_offload,
        )
        if not context.is_main_process:
            _follow(config, shapes, folder, context)
            return folder
        if folder.root.exists() and config.resume == "never":
            display.on_message(f"the old run is kept in {move_aside(folder)}")
        with writing_to(folder, display=display, stopping=lambda: stop.requested) as lease:
            _lead(config, shapes, folder, context, StatusFile(folder, lease), display, told)
    return folder


def _lead(
    config: RunConfig,
    shapes: Shapes,
    folder: RunFolder,
    context: DistributedContext,
    status: StatusFile,
    display: Hook,
    told: Mapping[str, str],
) -> None:
    """Train as the main process, which writes files, shows progress and tracks."""
    parts = build_parts(config, shapes, context.accelerator.device)
    before = recorded_training(folder)
    now = identity(config, shapes, before=before, codec=parts.codec.fingerprint)
    refuse_foreign(folder, config, now)
    hooks: list[Hook] = [status, display]

    def hung(text: str) -> None:
        log.error("failed at step %d: %s", status.step, text)
        for hook in hooks:
            hook.on_message(f"failed: {text}")
        tell_end(hooks, status, FAILED, text)

    with told_how_it_ends(hooks, status):
        checkpoint, store = _take_up(config, folder, now, context)
        if config.tracking.backend == "mlflow":
            write_json(folder.tracking, _told_tracker(config, folder, now, told))
            if not trust.may_contact(config.tracking.uri):
                log.warning("%s", not_contacted(config.tracking.uri))
            elif config.tracking.send == "now":
                status.tracker = _open_tracker(config, folder, checkpoint)
                hooks.insert(0, status.tracker)
        hooks.insert(0, MetricsFile(folder.metrics))
        own = build_hooks(config, folder, on_failure=context.stop.ask)
        hooks.extend(own)
        if why := why_unmeasured(config, shapes):
            log.info("samples are not measured: %s", why)
            if config.evaluation.num_images:  # evaluation was requested
                display.on_message(f"samples are not measured: {why}")
        told_all = context.process_group.first(
            lambda: (checkpoint, now)
        )  # the other processes wait for it
        try:
            with _watchdog(config, folder, context, hung):
                results = _train(parts, folder, context, store, *told_all, hooks=hooks)
            refuse_failed(own)
        except StopRequested:
            refuse_failed(own)  # a failed hook may have requested the stop
            raise
        except Diverged as found:
            if found.diagnosis:
                write_json(folder.nonfinite, found.diagnosis)
                for hook in hooks:
                    hook.on_artifact(status.step, folder.nonfinite)
            raise
        update_status(folder, results=results)
    if config.training.keep_finished:
        _prune(config, folder, keep=config.training.keep_finished)


def _prune(config: RunConfig, folder: RunFolder, *, keep: int) -> None:
    """Remove the superfluous checkpoints of the finished run; an OSError is only logged."""
    every = config.training.keep_every_steps
    needed = partial(references_below, folder)
    try:
        done = prune_held(folder, keep=keep, keep_every_steps=every, references=needed)
    except OSError as error:
        log.warning("earlier checkpoints could not be removed (%s)", error)
    else:
        if done.removed:
            log.info("removed the checkpoints of steps %s", ", ".join(map(str, done.removed)))
        if done.left:
            log.warning("no checkpoints were removed: %s", done.left)


def _follow(
    config: RunConfig, shapes: Shapes, folder: RunFolder, context: DistributedContext
) -> None:
    """Train as one of the other processes, which write only their part of sharded checkpoints."""
    parts = build_parts(config, shapes, context.accelerator.device)
    told: tuple[Checkpoint | None, Mapping[str, Any]] = context.process_group.first(
        lambda: (None, {})
    )
    store = None
    if config.distributed.sharded:
        store = open_checkpoints(folder, process_group=context.writers, warn=log.info)
    with _watchdog(config, folder, context, say):
        _train(parts, folder, context, store, *told, hooks=[])


def _take_up(
    config: RunConfig, folder: RunFolder, now: Mapping[str, Any], context: DistributedContext
) -> tuple[Checkpoint | None, CheckpointStore]:
    """Write config.yaml and identity.json; return the checkpoint to resume from, and the store."""
    write_atomically(folder.config, to_yaml(to_tree(config)))
    write_json(folder.identity, now)
    keep = {
        "keep_last": config.training.keep_last,
        "keep_every_steps": config.training.keep_every_steps,
    }
    process_group = context.writers if config.distributed.sharded else SINGLE_PROCESS
    store = open_checkpoints(folder, process_group=process_group, warn=log.warning, **keep)
    checkpoint, parent = store.latest(), parent_run(config)
    if checkpoint is None and parent is not None:
        start = open_checkpoints(parent, warn=log.warning).latest()
        if start is None:
            raise RequestError(f"resume={parent.root}: has no whole checkpoint to go on from")
        take_over(parent, folder, start.path)
        checkpoint = store.latest()
    if checkpoint is None and steps_in(folder.checkpoints):
        log.warning("none of the checkpoints is whole: training starts at step 0")
    elif checkpoint is None and folder.metrics.exists():
        log.warning(
            "no checkpoint was saved yet (training.checkpoint_every_steps=%d): training starts at "
            "step 0",
            config.training.checkpoint_every_steps,
        )
    trim_metrics(
        folder.metrics,
        checkpoint.step if checkpoint else 0,
        measured=checkpoint is not None and checkpoint.is_measured(),
    )
    return checkpoint, store


def _train(
    parts: Parts,
    folder: RunFolder,
    context: DistributedContext,
    store: CheckpointStore | None,
    checkpoint: Checkpoint | None,
    now: Mapping[str, Any],
    *,
    hooks: Sequence[Hook],
) -> dict[str, float]:
    """Build the objects of the training loop, run it, and return the final metrics."""
    config, training = parts.config, parts.config.training
    begins = config.init_from is not None and checkpoint is None
    objects = training_objects(parts, context, begin=begins, on_message=_told_by(hooks))
    powers = [ema for ema in objects["emas"] if isinstance(ema, PowerAverage)]
    return train(
        **objects,
        snapshots=Snapshots(
            _open_snapshots(config, folder, context) if powers else None,
            averages=powers,
            every_steps=config.ema.snapshot_every_steps,
        ),
        checkpoints=store,
        resume_from=checkpoint,
        evaluators=training_evaluators(
            parts,
            folder,
            identity=now,
            process_group=context.process_group,
            check_stop=context.stop.check,
            on_message=_told_by(hooks),
        ),
        hooks=hooks,
        settings=loop_settings(
            config,
            objects["batches"],
            log_every_steps=training.log_every_steps,
            checkpoint_every_steps=training.checkpoint_every_steps,
        ),
        check_stop=context.check_stop,
        sample_system=SystemMetrics().sample if hooks and training.system_metrics else dict,
    )


def _told_by(hooks: Sequence[Hook]) -> Callable[[str], None]:
    def tell(text: str) -> None:
        for hook in hooks:
            hook.on_message(text)

    return tell


def _open_snapshots(
    config: RunConfig, folder: RunFolder, context: DistributedContext
) -> CheckpointStore | None:
    """Open the store of EMA snapshots; None if the main process writes all of them."""
    if config.distributed.sharded:
        return open_averages(folder, process_group=context.snapshot_writers, warn=log.info)
    return open_averages(folder, warn=log.warning) if context.is_main_process else None


def _watchdog(
    config: RunConfig,
    folder: RunFolder,
    context: DistributedContext,
    on_hang: Callable[[str], None],
) -> Watchdog:
    return Watchdog(
        folder.watched,
        index=context.process_group.index,
        seconds=config.training.hang_after_seconds,
        progress=lambda: context.stop.asked,
        on_hang=on_hang,
    )


def _told_tracker(
    config: RunConfig, folder: RunFolder, now: Mapping[str, Any], told: Mapping[str, str]
) -> dict[str, Any]:
    """Return the name and tags of the run in the tracker."""
    hashes = ("train_hash", "code_hash", "data_fingerprint")
    ancestors = {"dit_lab.ancestors": " ".join(now["ancestors"])} if now["ancestors"] else {}
    return {
        "name": job_name(told) or f"{config.name}-{now['train_hash']}",
        "tags": {
            "dit_lab.run_folder": str(folder.root),
            **ancestors,
            **told,
            **{f"dit_lab.{name}": now[name] for name in hashes},
            **member_tags(config.choices),
            **provenance(),
        },
        "labels": config.tags,
        "note": config.note or "",
    }


def _open_tracker(config: RunConfig, folder: RunFolder, checkpoint: Checkpoint | None) -> MlflowRun:
    """Open the MLflow run of this training, or create one."""
    tracking, told = config.tracking, read_tracked(folder)
    return MlflowRun(
        tracking.uri,
        experiment=tracking.experiment,
        artifact_root=Path(config.paths.root) / "mlartifacts",
        folder=folder,
        config=to_tree(config),
        run_id=read_status(folder).get("tracking_run_id"),
        resume_step=checkpoint.step if checkpoint else 0,
        name=told["name"],
        tags=told["tags"],
        labels=told["labels"],
    )
