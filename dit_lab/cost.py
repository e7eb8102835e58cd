"""What a DiT costs, from numbers alone: parameters, multiply-adds and training memory.

Nothing is built and torch is not imported, so that a configuration can be judged in milliseconds.

Letters in the formulas: T tokens, D width, M MLP width, L depth, p patch size, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

TIME_FEATURES = 256  # as in models.embeddings, which needs torch
FLOAT32_BYTES = 4
BFLOAT16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one model. A multiply-add counts once in MACs, twice in FLOPs."""

    tokens: int
    parameters: int  # positions included, though they are fixed
    trainable_parameters: int
    forward_macs_per_image: int
    training_flops_per_image: int  # forward and twice as much backward: 6 x MACs


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """An estimate of the most that one training process holds at once, in bytes."""

    weights_bytes: int  # float32, plus the copies that bf16 autocast keeps until the backward pass
    gradients_bytes: int
    optimizer_bytes: int  # AdamW's two moments
    ema_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.ema_bytes
            + self.activations_bytes
        )


def cost(
    *,
    input_size: tuple[int, int],
    patch_size: int,
    in_channels: int,
    hidden_size: int,
    depth: int,
    mlp_ratio: float = 4.0,
    num_classes: int,
    class_dropout_prob: float = 0.1,
    learn_sigma: bool = True,
) -> Cost:
    """Exact parameter counts, and the multiply-adds of one forward pass (matrix products only).

    The arguments are those of `models.dit.DiT`; the number of heads changes neither.
    """
    height, width = input_size
    tokens = (height // patch_size) * (width // patch_size)
    d, mlp = hidden_size, int(hidden_size * mlp_ratio)
    patch_in = patch_size**2 * in_channels
    patch_out = 2 * patch_in if learn_sigma else patch_in

    # (inputs, outputs) of the linear maps, by what they are applied to: a token or an image.
    token_block = [(d, 3 * d), (d, d), (d, mlp), (mlp, d)]  # qkv, proj, fc1, fc2
    image_block = [(d, 6 * d)]  # adaLN
    token_ends = [(patch_in, d), (d, patch_out)]
    image_ends = [(TIME_FEATURES, d), (d, d), (d, 2 * d)]  # time MLP, final adaLN

    label_rows = num_classes + (class_dropout_prob > 0) if num_classes else 0
    trainable = (
        _parameters(token_ends + image_ends)
        + depth * _parameters(token_block + image_block)
        + label_rows * d
    )
    attention = 2 * tokens**2 * d  # queries with keys, then weights with values
    macs = (
        tokens * _macs(token_ends)
        + _macs(image_ends)
        + depth * (tokens * _macs(token_block) + _macs(image_block) + attention)
    )
    return Cost(
        tokens=tokens,
        parameters=trainable + tokens * d,
        trainable_parameters=trainable,
        forward_macs_per_image=macs,
        training_flops_per_image=6 * macs,
    )


def training_memory(
    model: Cost,
    *,
    hidden_size: int,
    depth: int,
    mlp_ratio: float = 4.0,
    batch_size: int,
    ema_copies: int = 1,
    bf16: bool = False,
    activation_checkpointing: bool = False,
) -> TrainingMemory:
    """Memory of one training process without sharding, `batch_size` images per forward pass.

    Activations are what autograd keeps between forward and backward, counted tensor by tensor;
    the allocator's overhead and the optimizer's temporaries come on top (some 10 %).
    """
    d, mlp = hidden_size, int(hidden_size * mlp_ratio)
    product_bytes = BFLOAT16_BYTES if bf16 else FLOAT32_BYTES
    # Per token and block. Under autocast the residual stream and the norms stay float32: the
    # input of each norm and its output, twice. Matrix products keep their inputs in bfloat16:
    # two modulated norms, queries, keys and values, attention's output, the two branches before
    # their gates, and both sides of GELU.
    block = 4 * d * FLOAT32_BYTES + (8 * d + 2 * mlp) * product_bytes
    final_layer = 2 * d * FLOAT32_BYTES + d * product_bytes  # one norm, and it modulated
    if activation_checkpointing:  # the input of every block, and one block while it is redone
        kept = depth * d * FLOAT32_BYTES + block + final_layer
    else:
        kept = depth * block + final_layer
    # Autocast keeps a bfloat16 copy of each weight for the backward pass; recomputing drops it.
    copies = model.trainable_parameters * BFLOAT16_BYTES
    if activation_checkpointing or not bf16:
        copies = 0
    return TrainingMemory(
        weights_bytes=model.parameters * FLOAT32_BYTES + copies,
        gradients_bytes=model.trainable_parameters * FLOAT32_BYTES,
        optimizer_bytes=2 * model.trainable_parameters * FLOAT32_BYTES,
        ema_bytes=ema_copies * model.parameters * FLOAT32_BYTES,
        activations_bytes=batch_size * model.tokens * kept,
    )


def _parameters(layers: list[tuple[int, int]]) -> int:
    return sum(inputs * outputs + outputs for inputs, outputs in layers)


def _macs(layers: list[tuple[int, int]]) -> int:
    return sum(inputs * outputs for inputs, outputs in layers)
