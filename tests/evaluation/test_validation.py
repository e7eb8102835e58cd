"""Evaluators during training: a loss that depends only on the weights, and a sample grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lab.actions.evaluate import training_evaluators
from dit_lab.build.parts import VALIDATION_BATCH, Parts, build_parts, validation_batches
from dit_lab.codecs.identity import Identity
from dit_lab.config.compose import compose_train
from dit_lab.core.errors import StopRequested
from dit_lab.core.process_group import SINGLE_PROCESS
from dit_lab.core.types import Batch, Objective, Shapes
from dit_lab.data.digits import Digits
from dit_lab.data.digits_facts import digits_facts
from dit_lab.evaluation.sample_quality import SampleQuality
from dit_lab.evaluation.validation import SampleGrid, ValidationLoss
from dit_lab.models.dit import DiT
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.runs.folder import RunFolder
from dit_lab.samplers.guidance import Guidance
from dit_lab.samplers.ode import Euler
from dit_lab.sampling.generate import Generator
from dit_lab.sampling.images import to_uint8, write_grid

COUNT = 200  # one whole batch and a smaller one
CPU = torch.device("cpu")
MakeBatches = Callable[[Objective], list[Callable[[], Batch]]]


@pytest.fixture(scope="module")
def batches_of(held_out_digits: Digits) -> MakeBatches:
    def make(objective: Objective) -> list[Callable[[], Batch]]:
        parts = Parts(
            config=compose_train(["experiment=quickstart", f"evaluation.loss_images={COUNT}"]),
            shapes=Shapes(digits_facts(), (1, 8, 8)),
            objective=objective,
            codec=Identity(),
            device=CPU,
        )
        return validation_batches(parts, dataset=held_out_digits, codec=Identity())

    return make


def validation_loss(objective: Objective, batches_of: MakeBatches) -> ValidationLoss:
    return ValidationLoss(
        every_steps=0, batches=batches_of(objective), objective=objective, check_stop=lambda: None
    )


def tiny(make_model: Callable[..., DiT], objective: Objective) -> DiT:
    return make_model(perturbed=True, learn_sigma=objective.learn_sigma).eval()


def test_a_training_is_validated_on_held_out_images_with_their_labels(
    held_out_digits: Digits, tmp_path: Path
) -> None:
    """The evaluators of a training use held-out images, and no label is dropped."""
    config = compose_train(["experiment=quickstart", f"paths.root={tmp_path}"])
    parts = build_parts(config, Shapes(digits_facts(), (1, 8, 8)), CPU)
    evaluators = training_evaluators(
        parts,
        RunFolder(tmp_path),
        identity={"train_hash": "", "code_hash": "", "forced_over": []},
        process_group=SINGLE_PROCESS,
        check_stop=lambda: None,
        on_message=lambda text: None,
    )
    (loss,) = (one for one in evaluators if isinstance(one, ValidationLoss))
    (quality,) = (one for one in evaluators if isinstance(one, SampleQuality))
    batches = [make() for make in loss.batches]
    everything, labels = held_out_digits.fetch(torch.arange(len(held_out_digits)), None)
    assert torch.equal(torch.cat([batch.data for batch in batches]), everything)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), labels)
    assert not any(batch.drop_label.any() for batch in batches)
    held_out = quality.reference_set.held_out.images
    shown = to_uint8(everything, parts.shapes.data.levels)
    assert sorted(map(bytes, held_out.pixels.numpy())) == sorted(map(bytes, shown.numpy()))
    assert torch.equal(held_out.labels.bincount(), labels.bincount())


@pytest.mark.parametrize(
    ("objective", "names"),
    [(RectifiedFlow(), {"loss"}), (DDPM(), {"loss", "mse", "vb"})],
    ids=["flow", "ddpm"],
)
@torch.no_grad()
def test_the_loss_is_the_mean_over_images(
    make_model: Callable[..., DiT], batches_of: MakeBatches, objective: Objective, names: set[str]
) -> None:
    """Computed directly, image by image; batches of 128 and 72 do not weigh alike."""
    model = tiny(make_model, objective)
    found = validation_loss(objective, batches_of).run(model, 5)
    terms: dict[str, list[float]] = {name: [] for name in names}
    sizes = []
    for make in batches_of(objective):
        batch = make()
        sizes.append(len(batch.labels))
        of_batch = objective.loss(lambda x, t, y=batch.labels: model(x, t, y), batch)
        for name in names:
            terms[name] += of_batch[name].tolist()
    assert sizes == [VALIDATION_BATCH, COUNT - VALIDATION_BATCH]
    assert found.metrics.keys() == {f"eval/{name}" for name in names}
    for name, values in terms.items():
        # two orders of one float64 sum
        assert found.metrics[f"eval/{name}"] == pytest.approx(sum(values) / COUNT, rel=1e-12)
    assert found.artifacts == ()


@torch.no_grad()
def test_two_calls_agree_and_other_weights_do_not(
    make_model: Callable[..., DiT], batches_of: MakeBatches
) -> None:
    flow = RectifiedFlow()
    model, evaluator = tiny(make_model, flow), validation_loss(flow, batches_of)
    first = evaluator.run(model, 1).metrics
    assert evaluator.run(model, 2).metrics == first
    model.final_layer.linear.bias.add_(0.01)
    assert evaluator.run(model, 3).metrics != first


@torch.no_grad()
def test_the_model_is_given_the_labels(
    make_model: Callable[..., DiT], batches_of: MakeBatches
) -> None:
    flow = RectifiedFlow()
    model, evaluator = tiny(make_model, flow), validation_loss(flow, batches_of)
    plain = evaluator.run(model, 1).metrics
    nulls = evaluator.run(lambda x, t, y: model(x, t, torch.full_like(y, 10)), 1).metrics
    assert plain != nulls


@torch.no_grad()
def test_a_model_that_knows_the_answer_has_no_loss(batches_of: MakeBatches) -> None:
    """A model that predicts zero has the mean square of the velocity, data - noise."""
    flow = RectifiedFlow()
    batches = [make() for make in batches_of(flow)]
    answers = iter([batch.data - batch.noise for batch in batches])
    knows = validation_loss(flow, batches_of).run(lambda x, t, y: next(answers), 1)
    assert knows.metrics == {"eval/loss": 0.0}
    silent = validation_loss(flow, batches_of).run(lambda x, t, y: torch.zeros_like(x), 1)
    velocity = torch.cat([batch.data - batch.noise for batch in batches]).double()
    # float32 means of 64 pixels, each right to 1e-7
    expected = velocity.square().mean().item()
    assert silent.metrics["eval/loss"] == pytest.approx(expected, rel=1e-6)


def test_a_stop_is_heard_between_batches(
    make_model: Callable[..., DiT], batches_of: MakeBatches
) -> None:
    def stop() -> None:
        raise StopRequested(15)

    flow = RectifiedFlow()
    evaluator = ValidationLoss(
        every_steps=0, batches=batches_of(flow), objective=flow, check_stop=stop
    )
    with pytest.raises(StopRequested):
        evaluator.run(tiny(make_model, flow), 1)


# ---- the grid -----------------------------------------------------------------------------------


def sample_grid(
    folder: Path, *, num_images: int = 40, labels: list[int] | None = None
) -> SampleGrid:
    generator = Generator(
        objective=RectifiedFlow(),
        sampler=Euler(steps=2),
        guidance=Guidance(),
        codec=Identity(),
        latent_shape=(1, 8, 8),
        num_classes=10,
        null_label=10,
        levels=17,
        device=CPU,
    )
    return SampleGrid(
        every_steps=0,
        generator=generator,
        folder=folder,
        num_images=num_images,
        seed=0,
        labels=labels,
    )


def test_the_grid_is_the_same_file_every_time(
    make_model: Callable[..., DiT], tmp_path: Path
) -> None:
    model, grid = tiny(make_model, RectifiedFlow()), sample_grid(tmp_path / "samples")
    first, second = grid.run(model, 5), grid.run(model, 12345678)
    assert first.metrics == second.metrics == {}
    (one,), (other,) = first.artifacts, second.artifacts
    assert (one.name, other.name) == ("step-00000005.png", "step-12345678.png")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("num_images", "labels", "columns"),
    [(40, None, 10), (4, None, 4), (9, [3], 3), (12, [3, 5, 3], 2)],
)
def test_the_grid_holds_the_images_a_column_for_each_class(
    make_model: Callable[..., DiT],
    tmp_path: Path,
    num_images: int,
    labels: list[int] | None,
    columns: int,
) -> None:
    model = tiny(make_model, RectifiedFlow())
    grid = sample_grid(tmp_path / "samples", num_images=num_images, labels=labels)
    (path,) = grid.run(model, 5).artifacts
    groups = grid.generator.images(model, num_images=num_images, seed=0, labels=labels)
    write_grid(tmp_path / "direct.png", torch.cat([g for g, _ in groups]), columns=columns)
    with Image.open(path) as found, Image.open(tmp_path / "direct.png") as expected:
        assert np.array_equal(np.asarray(found), np.asarray(expected))
