"""One training from its configuration to its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from dit_lab.evaluation.validation import SampleGrid, ValidationLoss
from dit_lab.lab import compose
from dit_lab.lab.checks import Shapes
from dit_lab.lab.config import to_yaml
from dit_lab.lab.identity import identity, refuse_foreign, run_folder, set_aside
from dit_lab.lab.provenance import provenance
from dit_lab.lab.session import StatusFile, log, told_how_it_ends, writing_to
from dit_lab.runs import (
    RunFolder,
    read_json,
    trim_metrics,
    update_status,
    write_atomically,
    write_json,
)
from dit_lab.tracking.mlflow_run import MlflowRun
from dit_lab.tracking.spool import MetricsFile
from dit_lab.training.checkpoint import Checkpoint, CheckpointStore
from dit_lab.training.ema import EMA
from dit_lab.training.loop import LoopSettings, train
from dit_lab.training.stop import StopSignal
from dit_lab.types import Evaluator, Hook

Config = Mapping[str, Any]


def run_training(
    config: Config, shapes: Shapes, *, display: Hook, overrides: Sequence[str]
) -> RunFolder:
    """Train, or go on training, what `config` describes, in its run folder.

    StopRequested goes through once everything is saved; other exceptions leave the run FAILED.
    """
    folder, now = run_folder(config), identity(config, shapes)
    if folder.root.exists() and config["resume"] == "never":
        display.on_message(f"the old run is kept in {set_aside(folder)}")
    with StopSignal() as stop, writing_to(folder, display=display) as lease:
        refuse_foreign(folder, config, now)
        status = StatusFile(folder, lease)
        hooks: list[Hook] = [status, display]
        with told_how_it_ends(hooks, status):
            store = CheckpointStore(folder.checkpoints, warn=log.warning)
            checkpoint = store.latest()
            write_atomically(folder.config, to_yaml(dict(config)))
            write_json(folder.identity, now)
            trim_metrics(folder.metrics, checkpoint.step if checkpoint else 0)
            if config["tracking"]["backend"] == "mlflow":
                status.tracker = _open_tracker(config, folder, now, overrides, checkpoint)
                hooks.insert(0, status.tracker)
                for grid in sorted(folder.samples.glob("*.png")):
                    status.tracker.on_artifact(status.step, grid)  # a kill may have lost some
            hooks.insert(0, MetricsFile(folder.metrics))
            results = _train(config, shapes, folder, store, checkpoint, hooks, stop)
            update_status(folder, results=results)
    return folder


def _train(
    config: Config,
    shapes: Shapes,
    folder: RunFolder,
    store: CheckpointStore,
    checkpoint: Checkpoint | None,
    hooks: Sequence[Hook],
    stop: StopSignal,
) -> dict[str, float]:
    """Build the parts and hand them to the loop."""
    accelerator = Accelerator(mixed_precision=config["precision"]["mixed_precision"])
    device = accelerator.device
    objective = compose.build(config, "objective")
    codec = compose.build_codec(config, device)
    parts = {"objective": objective, "codec": codec, "device": device}
    model = compose.build_model(config, shapes, objective).to(device)
    optimizer = compose.build_optimizer(config, model)
    emas = [
        EMA(dict(model.named_parameters()), decay=decay, warmup=config["ema"]["warmup"])
        for decay in config["ema"]["decays"]
    ]
    dataset = compose.build_dataset(config, "train")
    batches = compose.build_batches(
        config,
        shapes,
        dataset=dataset,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        **parts,
    )
    training = config["training"]
    return train(
        accelerator=accelerator,
        model=accelerator.prepare(model),
        null_label=compose.null_label(config, shapes),
        objective=objective,
        batches=batches,
        optimizer=optimizer,
        schedule=compose.build(config, "schedule"),
        emas=emas,
        checkpoints=store,
        resume_from=checkpoint,
        evaluators=_evaluators(config, shapes, folder, stop, parts),
        hooks=hooks,
        settings=LoopSettings(
            total_steps=training["total_steps"],
            clip_norm=training["clip_norm"],
            log_every_steps=training["log_every_steps"],
            checkpoint_every_steps=training["checkpoint_every_steps"],
            max_skipped_in_a_row=training["max_skipped_in_a_row"],
            images_per_epoch=len(dataset),
        ),
        check_stop=stop.check,
    )


def _evaluators(
    config: Config, shapes: Shapes, folder: RunFolder, stop: StopSignal, parts: dict[str, Any]
) -> list[Evaluator]:
    """The validation loss and the sample grid."""
    held_out = compose.build_dataset(config, "validation")
    loss = ValidationLoss(
        every_steps=config["training"]["evaluate_every_steps"],
        batches=compose.validation_batches(config, shapes, dataset=held_out, **parts),
        objective=parts["objective"],
        check_stop=stop.check,
    )
    grid = SampleGrid(
        every_steps=config["training"]["sample_every_steps"],
        generator=compose.build_generator(config, shapes, check_stop=stop.check, **parts),
        folder=folder.samples,
        num_images=config["sample"]["num_images"],
        seed=config["sample"]["seed"],
        labels=config["sample"]["labels"],
    )
    return [loss, grid]


def _open_tracker(
    config: Config,
    folder: RunFolder,
    now: Mapping[str, Any],
    overrides: Sequence[str],
    checkpoint: Checkpoint | None,
) -> MlflowRun:
    """The MLflow run: the one that this training had before, or a new one."""
    tracking = config["tracking"]
    hashes = ("train_hash", "code_hash", "data_fingerprint")
    return MlflowRun(
        tracking["uri"],
        experiment=tracking["experiment"],
        artifact_root=Path(config["paths"]["root"]) / "mlartifacts",
        folder=folder,
        name=f"{config['name']}-{now['train_hash']}",
        config=config,
        tags={
            "dit_lab.run_folder": str(folder.root),
            "dit_lab.overrides": " ".join(overrides),
            **{f"dit_lab.{name}": now[name] for name in hashes},
            **provenance(),
        },
        run_id=read_json(folder.status).get("tracking_run_id"),
        resume_step=checkpoint.step if checkpoint else 0,
    )
