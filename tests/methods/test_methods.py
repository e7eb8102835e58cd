"""Training methods: their loss terms and gradients by the formulas of the references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dit_lab.core.calls import EARLY, ModelCall, ModelNeeds, Output, Progress
from dit_lab.core.method import Method
from dit_lab.core.types import Batch
from dit_lab.methods.alignment import Repa, Sra
from dit_lab.methods.internal import InternalGuidance
from dit_lab.methods.pairs import Contrastive, Dispersive
from dit_lab.methods.routing import Sprint, Tread
from dit_lab.methods.together import WithMethods
from dit_lab.models.dit import DiT
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.training.batches import Draws

IMAGES, CLASSES, WIDTH, DEPTH, TOKENS = 8, 10, 16, 4, 16
MakeModel = Callable[..., DiT]
FLOW = RectifiedFlow(time_scale=1.0)


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(objective: Any) -> Batch:
    """A batch with the draws of training, of random images."""
    draws = Draws(
        seed=0,
        purpose="train",
        latent_shape=(1, 8, 8),
        time_from_uniform=objective.time_from_uniform,
        further=objective.draws,
        label_drop_prob=0.2,
    )
    labels = torch.arange(IMAGES) % CLASSES
    batch = draws.batch(random(IMAGES, 1, 8, 8), labels, torch.arange(IMAGES)).batch
    return replace(batch, images=batch.data)


def call(model: Any, batch: Batch, *, averaged: Any = None, step: int = 0) -> ModelCall:
    labels = torch.where(batch.drop_label, CLASSES, batch.labels)
    return ModelCall(
        model=model,
        labels=labels,
        null_label=CLASSES,
        averaged=averaged,
        progress=Progress(step, 100),
    )


def model_for(make_model: MakeModel, *methods: Any) -> DiT:
    needs = ModelNeeds()
    for method in methods:
        needs = needs.with_those(method.needs)
    return make_model(perturbed=True, depth=DEPTH, patch_size=2, **needs.arguments())


def terms_of(
    make_model: MakeModel, step: int = 0, **methods: Method
) -> tuple[dict[str, Tensor], DiT, Batch]:
    """The terms of a flow's loss with methods, the model and the batch."""
    torch.manual_seed(0)
    model = model_for(make_model, *methods.values())
    objective = WithMethods(FLOW, methods)
    batch = drawn(objective)
    return objective.loss(call(model, batch, averaged=model, step=step), batch), model, batch


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradients of the mean of a loss (N,), by the names of the parameters that have one."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss.mean(), list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=tolerance, atol=tolerance)


def evaluated(model: DiT, batch: Batch, **asked: Any) -> Output:
    """What the model returns where the loss of a flow evaluates it."""
    x = FLOW.interpolant.interpolate(batch.data, batch.noise, batch.time)
    labels = torch.where(batch.drop_label, CLASSES, batch.labels)
    found: Any = model(x, batch.time, labels, **asked)
    return found


def velocity(batch: Batch) -> Tensor:
    return batch.data - batch.noise


def of_flow(batch: Batch, output: Tensor) -> Tensor:
    return (output - velocity(batch)).square().flatten(1).mean(1)


# ---- parity -------------------------------------------------------------------------------------


def teacher(images: Tensor) -> Tensor:
    return random(len(images), TOKENS, 20, seed=8)


def repa(model: DiT, batch: Batch) -> Tensor:
    """sihyun-yu/REPA loss.py: minus the product of normalised vectors, mean over tokens."""
    output = evaluated(model, batch, heads=["repa"])
    tokens = nn.functional.normalize(output.heads["repa"], dim=-1)
    features = nn.functional.normalize(teacher(batch.data), dim=-1)
    aligned = (-(features * tokens).sum(dim=-1)).mean(dim=1)
    return of_flow(batch, output.main) + 0.5 * aligned


def spatial(model: DiT, batch: Batch) -> Tensor:
    """End2End-Diffusion/iREPA: features less 0.6 of their spatial mean, over their deviation."""
    output = evaluated(model, batch, heads=["repa"])
    z = teacher(batch.data)
    z = (z - 0.6 * z.mean(dim=1, keepdim=True)) / (z.std(dim=1, keepdim=True) + 1e-6)
    z, tokens = (nn.functional.normalize(y, dim=-1) for y in (z, output.heads["repa"]))
    return of_flow(batch, output.main) - 0.5 * (z * tokens).sum(dim=-1).mean(dim=1)


def sra(model: DiT, batch: Batch) -> Tensor:
    """vvvvvjdy/SRA loss.py, whose time runs from data to noise."""
    output = evaluated(model, batch, heads=["sra"])
    time = 1 - batch.time
    theirs = (time - batch.draws["sra/distance"]).clamp(0, 1).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        labels = torch.where(batch.drop_label, CLASSES, batch.labels)
        x = (1 - theirs) * batch.data + theirs * batch.noise
        later: Any = model(x, 1 - theirs.flatten(), labels, hidden=[3])
    apart = nn.functional.smooth_l1_loss(
        output.heads["sra"], later.hidden[3], beta=0.05, reduction="none"
    )
    return of_flow(batch, output.main) + 0.5 * apart.mean(dim=(1, 2))


def dispersive(model: DiT, batch: Batch) -> Tensor:
    """raywang4/DispLoss transport.py, for the two groups of four images."""
    output = evaluated(model, batch, hidden=[1])
    found = []
    for z in output.hidden[1].flatten(1).split(4):
        apart = torch.stack([(a - b).square().mean() for a in z for b in z])
        found.append(torch.log(torch.exp(-apart).mean()).expand(4))
    return of_flow(batch, output.main) + 0.25 * torch.cat(found)


def contrastive(model: DiT, batch: Batch) -> Tensor:
    """gstoica27/DeltaFM triplet_loss.py, within groups of four images."""
    output: Any = evaluated(model, batch)
    partner = [
        4 * (i // 4) + (i + int(batch.draws["contrastive/partner"][i])) % 4 for i in range(IMAGES)
    ]
    assert all(i != j and i // 4 == j // 4 for i, j in enumerate(partner))
    away = (output - velocity(batch)[partner]).square().flatten(1).mean(1)
    return of_flow(batch, output) - 0.05 * away


def internal(model: DiT, batch: Batch) -> Tensor:
    """CVL-UESTC/Internal-Guidance SiT/loss.py."""
    output = evaluated(model, batch, heads=[EARLY])
    return of_flow(batch, output.main) + 0.5 * of_flow(batch, output.heads[EARLY])


CASES: dict[str, tuple[Callable[[], Method], Callable[[DiT, Batch], Tensor]]] = {
    "repa": (lambda: Repa(depth=DEPTH, teacher=teacher, features=20, hidden_width=32), repa),
    "spatial repa": (
        lambda: Repa(
            depth=DEPTH, teacher=teacher, features=20, projector="convolution", spatial_mean=0.6
        ),
        spatial,
    ),
    "sra": (lambda: Sra(width=WIDTH, depth=DEPTH), sra),
    "dispersive": (lambda: Dispersive(depth=DEPTH, group_images=4), dispersive),
    "contrastive": (lambda: Contrastive(group_images=4), contrastive),
    "internal": (lambda: InternalGuidance(depth=DEPTH), internal),
}


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradients_are_those_of_the_reference(case: str, make_model: MakeModel) -> None:
    make, formula = CASES[case]
    terms, model, batch = terms_of(make_model, **{case.split()[-1]: make()})
    expected = formula(model, batch)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-5, atol=1e-5)
    same(gradients(model, terms["loss"]), gradients(model, expected))


def test_sra_is_zero_at_equal_times_and_weights(make_model: MakeModel) -> None:
    """With a projection that passes tokens on, and the same block."""
    method = Sra(width=WIDTH, depth=DEPTH, distance=0.0, student_block=2, teacher_block=2)
    model = model_for(make_model, method)
    model.heads["sra"] = _PassedOn()
    objective = WithMethods(FLOW, {"sra": method})
    batch = drawn(objective)
    terms = objective.loss(call(model, batch, averaged=model), batch)
    assert torch.equal(terms["sra/loss"], torch.zeros(IMAGES))


class _PassedOn(nn.Module):
    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x


def test_contrastive_minimiser_on_gaussians() -> None:
    """For normal data and noise, the best output is (v* - lambda mean v) / (1 - lambda)."""
    share, count, group = 0.3, 4096, 64
    flow = RectifiedFlow(time_scale=1.0)
    method = Contrastive(weight=share, group_images=group)
    objective = WithMethods(flow, {"contrastive": method})
    mean, t = 0.7, 0.4
    data, noise = mean + 0.5 * random(count, 1, 1, 1, seed=1), random(count, 1, 1, 1, seed=2)
    time = torch.full((count,), t)
    partner = torch.randint(1, group, (count,), generator=torch.Generator().manual_seed(4))
    batch = Batch(
        sample_counter=torch.arange(count),
        data=data,
        labels=torch.zeros(count, dtype=torch.int64),
        noise=noise,
        time=time,
        drop_label=torch.zeros(count, dtype=torch.bool),
        draws={"contrastive/partner": partner},
    )
    line = torch.zeros(2, requires_grad=True)

    def model(x: Tensor, time: Tensor, labels: Tensor, /, **asked: Any) -> Tensor:
        return line[0] + line[1] * x

    predict = ModelCall(model=model, labels=batch.labels, progress=Progress())
    # The loss is quadratic in the line: one Newton step from zero is its minimum.
    (slope,) = torch.autograd.grad(
        objective.loss(predict, batch)["loss"].mean(), line, create_graph=True
    )
    rows = [torch.autograd.grad(slope[i], line, retain_graph=True)[0] for i in range(2)]
    best = -torch.linalg.solve(torch.stack(rows), slope.detach())

    spread = (t * 0.5) ** 2 + (1 - t) ** 2
    steep = (t * 0.25 - (1 - t)) / spread  # of the mean velocity at x
    expected = torch.tensor([mean - steep * t * mean - share * mean, steep]) / (1 - share)
    torch.testing.assert_close(best, expected, rtol=0.05, atol=0.05)


# ---- routes -------------------------------------------------------------------------------------


def test_a_route_of_all_tokens_changes_nothing(make_model: MakeModel) -> None:
    terms, model, batch = terms_of(
        make_model, tread=Tread(depth=DEPTH, tokens=TOKENS, share=0.0, first=2, last=3)
    )
    assert torch.equal(terms["loss"], of_flow(batch, evaluated(model, batch)))  # type: ignore[arg-type]


@pytest.mark.parametrize("rope", [False, True])
def test_a_route_skips_blocks(make_model: MakeModel, rope: bool) -> None:
    """Computed tokens are those of the blocks on these tokens alone; the others stay."""
    model = make_model(perturbed=True, depth=DEPTH, patch_size=2, rope=rope)
    method = Tread(depth=DEPTH, tokens=TOKENS, first=2, last=3)
    batch = drawn(method_draws(method))
    kept = batch.draws["computed"]
    assert kept.shape == (IMAGES, TOKENS // 2) and bool((kept.diff(dim=1) > 0).all())
    route = method.asks(batch, Progress())["route"]
    output = evaluated(model, batch, hidden=[1, 3], route=route)
    seen: list[Tensor] = []
    model.blocks[2].register_forward_hook(lambda module, given, tokens: seen.append(tokens))
    evaluated(model, batch, route=route)
    before, after = output.hidden[1], output.hidden[3]
    for image in range(IMAGES):
        assert torch.equal(after[image, kept[image]], seen[0][image])
        left_out = [k for k in range(TOKENS) if k not in kept[image].tolist()]
        assert torch.equal(after[image, left_out], before[image, left_out])


def method_draws(method: Any) -> Any:
    """A flow with the draws of one method, by their own names."""
    flow = RectifiedFlow(time_scale=1.0)
    flow.draws = method.draws  # type: ignore[method-assign]
    return flow


def test_sprint_joins_the_tokens_with_a_mask(make_model: MakeModel) -> None:
    """Photoroom/PRX sprint.py: masks in the places left out, then a linear layer of both."""
    method = Sprint(depth=DEPTH, tokens=TOKENS)
    model = model_for(make_model, method)
    assert model.fusion is not None
    with torch.no_grad():
        model.fusion.mask.normal_()
        model.fusion.join.weight.normal_(std=0.1)
    batch = drawn(method_draws(method))
    route = method.asks(batch, Progress(89, 100))["route"]
    assert "route" not in method.asks(batch, Progress(90, 100))
    output = evaluated(model, batch, hidden=[1, 3], route=route)
    seen: list[Tensor] = []
    model.blocks[2].register_forward_hook(lambda module, given, tokens: seen.append(tokens))
    evaluated(model, batch, route=route)
    deep = model.fusion.mask.expand(IMAGES, TOKENS, WIDTH).clone()
    for image in range(IMAGES):
        deep[image, route.kept[image]] = seen[0][image]
    joined = model.fusion.join(torch.cat([output.hidden[1], deep], dim=2))
    torch.testing.assert_close(output.hidden[3], joined)


def test_a_fresh_fusion_is_none(make_model: MakeModel) -> None:
    plain = make_model(depth=DEPTH, patch_size=2)
    joined = make_model(depth=DEPTH, patch_size=2, fusion=(2, 3))
    joined.load_state_dict(plain.state_dict(), strict=False)
    x = random(IMAGES, 1, 8, 8)
    labels, time = torch.arange(IMAGES), torch.linspace(0, 1, IMAGES)
    assert torch.equal(joined(x, time, labels), plain(x, time, labels))


# ---- together -----------------------------------------------------------------------------------


def test_methods_add_up_in_one_evaluation(make_model: MakeModel) -> None:
    """The loss is the sum of all terms, of one evaluation with gradients."""
    methods = {
        "repa": Repa(depth=DEPTH, teacher=teacher, features=20, hidden_width=32),
        "dispersive": Dispersive(depth=DEPTH, group_images=4),
        "internal": InternalGuidance(depth=DEPTH),
    }
    model = model_for(make_model, *methods.values())
    evaluations = []
    model.register_forward_hook(lambda module, given, output: evaluations.append(1))
    objective = WithMethods(FLOW, methods)
    batch = drawn(objective)
    terms = objective.loss(call(model, batch), batch)
    parts = [terms["objective"], *(terms[f"{name}/loss"] for name in methods)]
    torch.testing.assert_close(terms["loss"], torch.stack(parts).sum(0))
    assert len(evaluations) == 1


def test_repa_stops_and_keeps_a_gradient_of_zero(make_model: MakeModel) -> None:
    method = Repa(depth=DEPTH, teacher=teacher, features=20, hidden_width=32, until=0.5)
    terms, model, _ = terms_of(make_model, step=50, repa=method)
    assert torch.equal(terms["repa/loss"], torch.zeros(IMAGES))
    found = gradients(model, terms["loss"])
    of_head = [gradient for name, gradient in found.items() if name.startswith("heads.repa.")]
    assert of_head and not any(gradient.any() for gradient in of_head)


def test_flops_of_a_route(make_model: MakeModel) -> None:
    model = make_model(depth=DEPTH, patch_size=2)
    method = Tread(depth=DEPTH, tokens=TOKENS, first=2, last=3)
    batch = drawn(method_draws(method))
    with FlopCounterMode(display=False) as whole:
        evaluated(model, batch)
    with FlopCounterMode(display=False) as routed:
        evaluated(model, batch, route=method.asks(batch, Progress())["route"])
    assert routed.get_total_flops() < whole.get_total_flops()
