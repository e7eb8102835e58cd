"""Evaluation of a model during training and by `dit-lab evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dit_lab.actions.drawing_progress import DrawingProgress
from dit_lab.build.evaluation import Extractors, build_metrics, build_reference_set, load_reference
from dit_lab.build.evaluation_card import evaluation_card
from dit_lab.build.parts import (
    Parts,
    build_examples,
    build_generator,
    build_images,
    null_label,
    validation_batches,
)
from dit_lab.build.trained import Trained, load_weak
from dit_lab.config.checks.data import UNKNOWN_DATA, read_facts
from dit_lab.config.checks.metrics import evaluation_intervals, why_unmeasured
from dit_lab.config.identity import source_now
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.options import target_of
from dit_lab.core.process_group import SINGLE_PROCESS
from dit_lab.core.text import counted
from dit_lab.core.types import Evaluator, ProcessGroup
from dit_lab.evaluation.baselines import class_gaussian, memoriser
from dit_lab.evaluation.card import Card, Evaluation, read_evaluation
from dit_lab.evaluation.metrics.likelihood import Likelihood
from dit_lab.evaluation.sample_quality import SampleQuality
from dit_lab.evaluation.validation import SampleGrid, ValidationLoss
from dit_lab.runs.folder import RunFolder
from dit_lab.runs.recorded import difference
from dit_lab.sampling.images import PICTURE_CHANNELS
from dit_lab.sampling.labels import check_labels
from dit_lab.training.average_names import first_average


def training_evaluators(
    parts: Parts,
    folder: RunFolder,
    *,
    identity: Mapping[str, Any],
    process_group: ProcessGroup,
    check_stop: Callable[[], None],
    on_message: Callable[[str], None],
) -> list[Evaluator]:
    """Return the evaluators of a training: validation loss, sample grid and sample quality.

    `identity` is the run's identity.json. `check_stop` raises StopRequested for this process alone;
    `process_group` passes it on to the others.
    """
    parts = uncompiled(parts)
    config, training = parts.config, parts.config.training
    held_out, codec = build_examples(parts, "validation")
    loss = ValidationLoss(
        every_steps=training.validate_every_steps,
        batches=validation_batches(parts, dataset=held_out, codec=codec),
        objective=parts.objective,
        null_label=null_label(parts),
        total_steps=training.total_steps,
        process_group=process_group,
        check_stop=check_stop,
    )
    evaluators: list[Evaluator] = [loss]
    weak = load_weak(parts)
    generator = build_generator(
        parts,
        process_group=process_group,
        check_stop=check_stop,
        weak=weak.labelled(config) if weak else None,
    )
    generator.try_sampler()
    if (data := parts.shapes.data).channels in PICTURE_CHANNELS:
        grid = SampleGrid(
            every_steps=training.sample_every_steps,
            generator=generator,
            folder=folder.samples,
            num_images=config.sample.num_images,
            seed=config.sample.seed,
            labels=_asked_labels(parts),
            class_names=data.class_names if data.num_classes else (),
        )
        evaluators.append(grid)
    if not why_unmeasured(config, parts.shapes):
        quality = sample_quality(
            parts,
            folder,
            identity=identity,
            weights=first_average(target_of(config.optimizer), config.ema.decays),
            weak=weak,
            process_group=process_group,
            check_stop=check_stop,
            on_message=on_message,
        )
        evaluators.append(quality)
    return evaluators


def _asked_labels(parts: Parts) -> list[int] | None:
    """Return the classes of `sample.labels`, or None for all."""
    asked, data = parts.config.sample.labels, parts.shapes.data
    return None if asked is None else check_labels(asked, data.num_classes, data.class_names)


def uncompiled(parts: Parts) -> Parts:
    """Return the parts with `sample.compile=false`, which holds for sampling during training."""
    sample = replace(parts.config.sample, compile=False)
    return replace(parts, config=replace(parts.config, sample=sample))


def sample_quality(
    parts: Parts,
    folder: RunFolder,
    *,
    identity: Mapping[str, Any],
    weights: str,
    weak: Trained | None,
    process_group: ProcessGroup,
    check_stop: Callable[[], None],
    on_message: Callable[[str], None],
) -> SampleQuality:
    """Return the configured evaluator of a run's samples, with its evaluation card."""
    config = parts.config
    extractors = Extractors(parts, check_stop)
    return SampleQuality(
        generator=build_generator(
            parts,
            process_group=process_group,
            check_stop=check_stop,
            weak=weak.labelled(config) if weak else None,
        ),
        build_reference_set=lambda: build_reference_set(parts, extractors, check_stop),
        metrics=build_metrics(config),
        metrics_every_steps=evaluation_intervals(config),
        total_steps=config.training.total_steps,
        folder=folder.evaluations,
        card=evaluation_card(parts, extractors, identity=identity, weights=weights, weak=weak),
        likelihood=_likelihood(parts, process_group, check_stop),
        on_drawn=DrawingProgress(on_message),
    )


def _likelihood(
    parts: Parts, process_group: ProcessGroup, check_stop: Callable[[], None]
) -> Likelihood | None:
    options = parts.config.evaluation
    if options.likelihood_images == 0:
        return None
    return Likelihood(
        objective=parts.objective,
        held_out=build_images(parts.config, parts.shapes.data, "validation"),
        num_images=options.likelihood_images,
        levels=parts.shapes.data.levels,
        seed=options.seed,
        device=parts.device,
        process_group=process_group,
        check_stop=check_stop,
    )


def with_data(trained: Trained, config: RunConfig) -> Trained:
    """Add the facts of the configured data to an imported run, which does not record its own."""
    parts = trained.parts
    if parts.shapes.data.fingerprint != UNKNOWN_DATA:
        return trained
    shapes = replace(parts.shapes, data=read_facts(config))
    return replace(trained, parts=replace(parts, shapes=shapes))


def evaluate_run(
    trained: Trained,
    settings: RunConfig,
    *,
    process_group: ProcessGroup = SINGLE_PROCESS,
    check_stop: Callable[[], None],
    on_message: Callable[[str], None],
) -> tuple[Evaluation, bool]:
    """Evaluate a run's samples with overridden settings.

    Returns:
        The evaluation, in every process, and whether it is a stored one with the same card.

    Raises:
        RequestError: samples cannot be evaluated with these settings and data.
    """
    parts = replace(trained.parts, config=settings)
    if why := why_unmeasured(parts.config, parts.shapes):
        raise RequestError(why)
    if changed := difference(trained.identity, source_now(parts.config)):
        on_message(f"{changed}; it is measured with the code that is here now")
    quality = _quality_of(trained, settings, process_group, check_stop, on_message)
    card = replace(quality.card, step=trained.step)
    if known := process_group.first(lambda: _stored(trained.folder, card)):
        return known, True
    on_message(
        f"drawing {counted(card.num_images, 'image')} from {card.weights} at step {card.step}"
    )
    evaluation, _ = quality.evaluate(trained.labelled(parts.config), trained.step)
    return evaluation, False


def _stored(folder: RunFolder, card: Card) -> Evaluation | None:
    """Return the stored evaluation with the same card, or None.

    The card's NFE is ignored, since it is known only after drawing.
    """
    stored = folder.evaluation(card.eval_hash)
    if not stored.exists():
        return None
    known = read_evaluation(stored)
    same = replace(card, evaluations_per_image=known.card.evaluations_per_image) == known.card
    return known if same else None


def evaluate_baselines(
    trained: Trained, settings: RunConfig, *, check_stop: Callable[[], None]
) -> list[Evaluation]:
    """Evaluate a memoriser and a Gaussian per class instead of the run's samples."""
    quality = _quality_of(trained, settings, SINGLE_PROCESS, check_stop, lambda text: None)
    reference = load_reference(replace(trained.parts, config=settings), check_stop)
    count, seed = quality.card.num_images, quality.card.metrics_seed
    levels = trained.parts.shapes.data.levels
    samples = {
        "memoriser": memoriser(reference, num_images=count, seed=seed),
        "class Gaussian": class_gaussian(reference, num_images=count, seed=seed, levels=levels),
    }
    return [
        Evaluation(
            card=replace(quality.card, samples=name, weights="none"),
            rows=quality.reference_set.measure(images, quality.metrics),
        )
        for name, images in samples.items()
    ]


def tracked_metrics(trained: Trained, evaluation: Evaluation) -> dict[str, float]:
    """Return the metrics of an evaluation by their names in the tracker.

    They are `eval/...` for the protocol of the run's own evaluations. Other protocols are part of
    the name (`eval-PROTOCOL/...`), so that different protocols do not share a curve.
    """
    own_way = replace(trained, parts=uncompiled(trained.parts))
    card = _quality_of(
        own_way, own_way.parts.config, SINGLE_PROCESS, lambda: None, lambda text: None
    ).card
    config = trained.parts.config
    watched = first_average(target_of(config.optimizer), config.ema.decays)
    own = replace(card, weights=watched).protocol
    protocol = evaluation.card.protocol
    prefix = "eval/" if protocol == own else f"eval-{protocol}/"
    return {prefix + key.removeprefix("eval/"): value for key, value in evaluation.metrics.items()}


def _quality_of(
    trained: Trained,
    settings: RunConfig,
    process_group: ProcessGroup,
    check_stop: Callable[[], None],
    on_message: Callable[[str], None],
) -> SampleQuality:
    return sample_quality(
        replace(trained.parts, config=settings),
        trained.folder,
        identity=trained.identity,
        weights=trained.weights,
        weak=load_weak(replace(trained.parts, config=settings)),
        process_group=process_group,
        check_stop=check_stop,
        on_message=on_message,
    )
