"""The architecture: zero initialisation, sizes, labels, precision, activation checkpointing."""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.models import blocks
from dit_lab.models.dit import DiT
from dit_lab.models.embeddings import (
    PatchEmbedding,
    RotaryPositions,
    TimeEmbedding,
    sincos_positions,
)
from dit_lab.models.layers import RMSNorm

TINY: dict[str, Any] = {
    "input_size": (8, 16),
    "patch_size": 2,
    "in_channels": 3,
    "hidden_size": 24,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
}


ALL_OTHER = {"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(*, perturbed: bool = True, **changes: Any) -> DiT:
    """A tiny model; `perturbed` moves every weight off its start, the zero ones too."""
    model = DiT(**(TINY | {"generator": seeded()} | changes))
    if perturbed:
        draw = seeded(1)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    return model


def inputs(model: DiT, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(count, model.in_channels, *model.input_size, generator=seeded(2))
    return x, torch.linspace(0, 999, count), torch.arange(count) % max(model.num_classes, 1)


@torch.no_grad()
def test_output_is_exactly_zero_at_the_start() -> None:
    model = build(perturbed=False)
    out = model(*inputs(model))
    assert out.shape == (3, 6, 8, 16)
    assert torch.equal(out, torch.zeros_like(out))


def test_initial_weights() -> None:
    """Xavier for linear maps, 0.02 for embeddings, zero for biases and modulation."""
    model = build(perturbed=False, hidden_size=120)
    weights = dict(model.named_parameters())
    bound = (6 / (120 + 360)) ** 0.5
    qkv = weights["blocks.1.attn.qkv.weight"]
    assert bound * 0.99 < qkv.abs().max() <= bound  # 43,200 draws come this near the edge
    fan = 3 * 2 * 2 + 120
    assert weights["x_embedder.proj.weight"].abs().max() <= (6 / fan) ** 0.5
    for name in ("t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight"):
        # 14,400 draws or more: the standard error of the deviation is 0.6 %, allowed 3 %
        assert weights[name].std().item() == pytest.approx(0.02, rel=0.03)
    for name, weight in weights.items():
        if name.endswith("bias") or "adaLN" in name or name.startswith("final_layer"):
            assert not weight.any(), name


def test_generator_decides_the_weights() -> None:
    first, again = build(perturbed=False).state_dict(), build(perturbed=False).state_dict()
    other = build(perturbed=False, generator=seeded(7)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_positions_are_frozen_and_tell_column_then_row() -> None:
    model = build(perturbed=False)
    assert not model.pos_embed.requires_grad
    table = sincos_positions(24, 4, 8).reshape(4, 8, 24)
    assert torch.equal(model.pos_embed[0], table.flatten(0, 1))
    assert torch.equal(table[..., :12], table[:1, :, :12].expand(4, 8, 12))
    assert torch.equal(table[..., 12:], table[:, :1, 12:].expand(4, 8, 12))
    assert len(table.flatten(0, 1).unique(dim=0)) == 32


@torch.no_grad()
def test_patches_go_back_where_they_were_cut() -> None:
    """Without blocks a token sees its patch only; a bias per output shows the order inside it."""
    model = build(depth=0)
    x, time, labels = inputs(model, 1)
    changed = x.clone()
    changed[0, 1, 5, 10] += 1  # in the patch of rows 4-5, columns 10-11
    where = (model(changed, time, labels) != model(x, time, labels)).any(1)[0]
    expected = torch.zeros(8, 16, dtype=torch.bool)
    expected[4:6, 10:12] = True
    assert torch.equal(where, expected)

    model.final_layer.linear.weight.zero_()
    model.final_layer.linear.bias.copy_(torch.arange(24))
    patch = model(x, time, labels)[0, :, :2, :2]  # (K, p, p)
    assert torch.equal(patch, torch.arange(24.0).reshape(2, 2, 6).permute(2, 0, 1))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_are_mapped_as_by_the_convolution(patch: int) -> None:
    """Its outputs and its gradients, up to the order of sums in float64."""
    embedding = PatchEmbedding(patch, 3, 24).double()
    x = torch.randn(5, 3, 8, 16, dtype=torch.float64, generator=seeded()).requires_grad_()
    weights = [*embedding.parameters(), x]
    plain = embedding.proj(x).flatten(2).transpose(1, 2)
    for ours, theirs in zip(
        [embedding(x), *torch.autograd.grad(embedding(x).square().sum(), weights)],
        [plain, *torch.autograd.grad(plain.square().sum(), weights)],
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_block_is_two_modulated_and_gated_branches() -> None:
    """As the paper writes it, with its gradients, up to the order of sums in float64."""
    block = build().blocks[0].double()
    x, condition = (
        torch.randn(*shape, dtype=torch.float64, generator=seeded()).requires_grad_()
        for shape in ((3, 32, 24), (3, 24))
    )
    gates = block.adaLN_modulation(condition)[:, None].chunk(6, dim=2)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = gates
    middle = x + gate_a * block.attn(block.norm1(x) * (1 + scale_a) + shift_a)
    plain = middle + gate_m * block.mlp(block.norm2(middle) * (1 + scale_m) + shift_m)
    weights = [*block.parameters(), x, condition]
    for ours, theirs in zip(
        [block(x, condition), *torch.autograd.grad(block(x, condition).square().sum(), weights)],
        [plain, *torch.autograd.grad(plain.square().sum(), weights)],
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_non_square_images_train() -> None:
    model = build()
    model(*inputs(model)).square().mean().backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.any())) == weight.requires_grad, name


def test_wrong_image_shape_is_refused() -> None:
    model = build()
    x, time, labels = inputs(model)
    with pytest.raises(RequestError, match=r"\(16, 8\), not \(8, 16\)"):
        model(x.transpose(2, 3), time, labels)


@torch.no_grad()
def test_labels_condition_unless_unconditional() -> None:
    model = build()
    x, time, labels = inputs(model)
    assert model.null_label == 5
    assert not torch.equal(model(x, time, labels), model(x, time, torch.full_like(labels, 5)))

    plain = build(num_classes=0)
    assert plain.null_label is None
    assert not any("y_embedder" in name for name in plain.state_dict())
    assert torch.equal(plain(x, time, labels), plain(x, time, labels + 9))


def test_no_null_row_without_label_dropout() -> None:
    model = build(class_dropout_prob=0.0)
    assert model.null_label is None
    assert model.y_embedder.embedding_table.num_embeddings == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "batch"}, "norm=batch: expected layer or rms"),
        ({"mlp": "relu"}, "mlp=relu: expected gelu or swiglu"),
        ({"rope": True, "num_heads": 4}, "rope=true: a head is 6 numbers wide"),
        ({"patch_size": 4, "input_size": (8, 18)}, "patch_size: 4 does not divide the input 8x18"),
        ({"num_heads": 5}, "num_heads: 5 does not divide hidden_size 24"),
        ({"hidden_size": 30}, "hidden_size: 30 is not a multiple of 4"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build(**changes)


def test_checkpointing_recomputes_and_gives_equal_gradients() -> None:
    """Exactly equal: the recomputation runs the same operations on the same numbers."""
    gradients, forwards = [], []
    for checkpointing in ("none", 1, "selective"):
        model = build(activation_checkpointing=checkpointing)
        calls: list[int] = []
        model.blocks[0].norm1.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model(*inputs(model)).square().mean().backward()
        gradients.append([w.grad for w in model.parameters() if w.requires_grad])
        forwards.append(len(calls))
        model.eval()(*inputs(model)).mean().backward()
        forwards.append(len(calls))
    assert forwards == [1, 2, 2, 3, 2, 3]  # a second pass in training mode only
    for plain, *recomputed in zip(*gradients, strict=True):
        assert all(torch.equal(plain, gradient) for gradient in recomputed)


def test_attention_is_kept_by_the_kernels_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later torch may be without one of them, whose names are private."""
    names = [f"_scaled_dot_product_{name}" for name in blocks.ATTENTION]
    assert all(hasattr(torch.ops.aten, name) for name in names)
    monkeypatch.setattr(blocks, "ATTENTION", (*blocks.ATTENTION, "of_no_version"))
    gradients = []
    for checkpointing in ("none", "selective"):
        model = build(activation_checkpointing=checkpointing)
        model(*inputs(model)).square().mean().backward()
        gradients.append([w.grad for w in model.parameters() if w.requires_grad])
    assert all(torch.equal(plain, found) for plain, found in zip(*gradients, strict=True))


def test_every_second_block_is_recomputed() -> None:
    model = build(activation_checkpointing=2, depth=5)
    assert [block.recompute == "everything" for block in model.blocks] == [
        False, True, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("asked", [0, -1, True, False, "all", 1.5])
def test_other_ways_of_checkpointing_are_refused(asked: Any) -> None:
    with pytest.raises(RequestError, match="none, selective"):
        build(activation_checkpointing=asked)


@torch.no_grad()
def test_time_stays_float32_under_autocast() -> None:
    """bfloat16 has 8 bits: 936 and 937 are the same number there."""
    times = torch.tensor([936.0, 937.0])
    assert times[0].bfloat16() == times[1].bfloat16()
    embedder = TimeEmbedding(24)
    plain = embedder.sinusoids(times)
    with torch.autocast("cpu", torch.bfloat16):
        features = embedder.sinusoids(times)
        first, second = embedder(times)
    assert features.dtype == torch.float32
    assert torch.equal(features, plain)
    assert not torch.equal(first, second)


@torch.no_grad()
def test_scaled_flow_times_are_told_apart() -> None:
    """Sinusoids built for 0..1000 hardly see t in [0, 1]; the default time_scale of 1000 does."""
    features = TimeEmbedding.sinusoids(torch.tensor([0.1, 0.9, 100.0, 900.0]))
    unscaled = (features[0] - features[1]).norm()
    scaled = (features[2] - features[3]).norm()
    assert scaled > 5 * unscaled


def test_bfloat16_autocast_runs_forward_and_backward() -> None:
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*inputs(model))
    out.float().square().mean().backward()
    assert all(w.grad.dtype == torch.float32 for w in model.parameters() if w.requires_grad)


# ---- other layers -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("changes", [ALL_OTHER, {"qk_norm": True}])
def test_other_layers_start_at_zero(changes: dict[str, Any]) -> None:
    """With norms that scale by one, and nothing to save of rotary positions."""
    model = build(perturbed=False, **changes)
    out = model(*inputs(model))
    assert torch.equal(out, torch.zeros_like(out))
    scales = {
        name: w for name, w in model.named_parameters() if "norm" in name and "bias" not in name
    }
    assert len(scales) == (9 if changes == ALL_OTHER else 4)
    assert all(torch.equal(weight, torch.ones_like(weight)) for weight in scales.values())
    assert not any("rotary" in name for name in model.state_dict())


@pytest.mark.parametrize("bf16", [False, True])
def test_other_layers_train(bf16: bool) -> None:
    """Every weight of theirs gets a gradient, also in bfloat16 and without a warning."""
    model = build(**ALL_OTHER)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), warnings.catch_warnings():
        warnings.simplefilter("error")
        out = model(*inputs(model))
    out.float().square().mean().backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.any())) == weight.requires_grad, name


def test_rotary_products_depend_on_distances() -> None:
    """The same query and key at all positions of a 5 x 7 grid.

    The product of two positions depends only on their distances in rows and in columns.
    """
    rows, columns = 5, 7
    rotary = RotaryPositions(8, rows, columns).double()
    query, key = (torch.randn(8, generator=seeded(n), dtype=torch.float64) for n in (3, 4))
    at_places = [rotary(x.expand(1, rows * columns, 1, 8))[0, :, 0] for x in (query, key)]
    products = (at_places[0] @ at_places[1].T).reshape(rows, columns, rows, columns)
    torch.testing.assert_close(products[0, 0, 0, 0], query @ key)
    by_distance: dict[tuple[int, int], list[float]] = {}
    for row, column, to_row, to_column in product(*map(range, products.shape)):
        apart = (to_row - row, to_column - column)
        by_distance.setdefault(apart, []).append(products[row, column, to_row, to_column].item())
    assert len(by_distance) == 9 * 13
    for found in by_distance.values():
        assert max(found) - min(found) < 1e-5  # angles are kept in float32
    assert len({round(found[0], 4) for found in by_distance.values()}) > 100


def test_rms_norm_has_unit_mean_square_in_float32() -> None:
    x = (1 + 3 * torch.randn(5, 24, generator=seeded(5))).bfloat16()
    norm = RMSNorm(24, eps=1e-6)
    with torch.no_grad():
        norm.weight.fill_(2.0)
    out = norm(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.square().mean(1), torch.full((5,), 4.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(out / x, (out[:, :1] / x[:, :1]).expand(5, 24))
    assert norm.double()(x.double()).dtype == torch.float64
