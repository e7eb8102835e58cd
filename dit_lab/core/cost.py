"""What a DiT costs, from numbers alone: parameters, multiply-adds and training memory.

Nothing is built and torch is not imported, so that a configuration can be judged in milliseconds.

Letters in the formulas: T tokens, D width, M MLP width, L depth, p patch size, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

TIME_FEATURES = 256  # as in models.embeddings, which needs torch
FLOAT32_BYTES = 4
BFLOAT16_BYTES = 2


def mlp_width(hidden_size: int, mlp_ratio: float, mlp: str) -> int:
    """M of an MLP: of "swiglu" two thirds, so that its three matrices have as many numbers as the
    two of "gelu" (Shazeer 2020, "GLU Variants Improve Transformer")."""
    width = int(hidden_size * mlp_ratio)
    return int(2 / 3 * width) if mlp == "swiglu" else width


@dataclass(frozen=True, slots=True)
class Kept:
    """How many numbers autograd keeps between forward and backward, of a token, tensor by tensor.

    Under autocast the residual stream and the norms stay float32 (wide), and matrix products keep
    their inputs in bfloat16 (narrow).
    """

    width: int  # of the residual stream
    wide: int  # of a block
    narrow: int  # of a block
    widened: int  # of a block, copies that only autocast makes, wide
    products: int  # what a block's products and attention give, narrow

    def block_bytes(self, bf16: bool) -> int:
        wide = self.wide + (self.widened if bf16 else 0)
        return wide * FLOAT32_BYTES + self.narrow * _product_bytes(bf16)

    def redone_bytes(self, bf16: bool, *, selective: bool) -> int:
        """Of a block that is recomputed: its input, and what its products gave or not."""
        kept = self.products * _product_bytes(bf16) if selective else 0
        return self.width * FLOAT32_BYTES + kept

    def final_bytes(self, bf16: bool) -> int:
        """Of the final layer: its norm's input and output, and it modulated."""
        return self.width * (2 * FLOAT32_BYTES + _product_bytes(bf16))


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one model. A multiply-add counts once in MACs, twice in FLOPs."""

    tokens: int
    parameters: int  # positions included, though they are fixed
    trainable_parameters: int
    forward_macs_per_image: int
    training_flops_per_image: int  # forward and twice as much backward: 6 x MACs
    depth: int
    block_parameters: int  # of one block, all trainable
    kept: Kept

    @property
    def end_parameters(self) -> int:
        """Trainable ones outside the blocks: the embedders and the final layer."""
        return self.trainable_parameters - self.depth * self.block_parameters


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """An estimate of the most that one training process holds at once, in bytes."""

    weights_bytes: int  # float32, plus the copies that bf16 autocast keeps until the backward pass
    gradients_bytes: int
    optimizer_bytes: int  # AdamW: two moments
    ema_bytes: int
    activations_bytes: int
    gathered_bytes: int  # what FSDP has put together of other processes' shards, else 0

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.ema_bytes
            + self.activations_bytes
            + self.gathered_bytes
        )


def cost(
    *,
    input_size: tuple[int, int],
    patch_size: int,
    in_channels: int,
    hidden_size: int,
    depth: int,
    num_heads: int,
    mlp_ratio: float = 4.0,
    num_classes: int,
    class_dropout_prob: float = 0.1,
    learn_sigma: bool = True,
    norm: str = "layer",
    mlp: str = "gelu",
    rope: bool = False,
    qk_norm: bool = False,
) -> Cost:
    """Exact parameter counts, the multiply-adds of one forward pass (matrix products only), and
    what is kept of it. The arguments are those of `models.dit.DiT`."""
    height, width = input_size
    tokens = (height // patch_size) * (width // patch_size)
    d, m = hidden_size, mlp_width(hidden_size, mlp_ratio, mlp)
    patch_in = patch_size**2 * in_channels
    patch_out = 2 * patch_in if learn_sigma else patch_in

    # (inputs, outputs) of the linear maps, by what they are applied to: a token or an image.
    mlp_in = 2 * m if mlp == "swiglu" else m
    token_block = [(d, 3 * d), (d, d), (d, mlp_in), (m, d)]  # qkv, proj, fc1 or w12, fc2 or w3
    image_block = [(d, 6 * d)]  # adaLN
    token_ends = [(patch_in, d), (d, patch_out)]
    image_ends = [(TIME_FEATURES, d), (d, d), (d, 2 * d)]  # time MLP, final adaLN

    label_rows = num_classes + (class_dropout_prob > 0) if num_classes else 0
    scale = d if norm == "rms" else 0  # of a norm
    block = _parameters(token_block + image_block) + 2 * scale
    if qk_norm:  # of a head's queries and its keys: a scale, and layer norm's shift
        block += 2 * (d // num_heads) * (1 if norm == "rms" else 2)
    trainable = _parameters(token_ends + image_ends) + depth * block + label_rows * d + scale
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
        depth=depth,
        block_parameters=block,
        kept=_kept(d, m, norm=norm, mlp=mlp, rope=rope, qk_norm=qk_norm),
    )


def _kept(d: int, m: int, *, norm: str, mlp: str, rope: bool, qk_norm: bool) -> Kept:
    gated = mlp == "swiglu"
    # The input of each norm and its output, twice; of a norm with a scale what is scaled, too.
    wide = (6 if norm == "rms" else 4) * d
    # Two modulated norms, queries, keys and values, attention's output, the two branches before
    # their gates; and both sides of GELU, or of SwiGLU both halves, the gate, and what has passed.
    narrow = 8 * d + (4 if gated else 2) * m
    if rope or qk_norm:
        narrow += 2 * d  # queries and keys as attention sees them
    scaled = 2 * d if qk_norm and norm == "rms" else 0  # queries and keys before their scales
    # Queries, keys and values, attention's output, the branches, what GELU or the gate gets.
    products = 6 * d + (2 if gated else 1) * m
    return Kept(d, wide + scaled, narrow, widened=scaled, products=products)


def training_memory(
    model: Cost,
    *,
    batch_size: int,
    accumulation: int = 1,
    ema_copies: int = 1,
    optimizer_copies: float = 2,
    bf16: bool = False,
    activation_checkpointing: int | str = "none",
    num_devices: int = 1,
    sharded: bool = False,
) -> TrainingMemory:
    """Memory of one of `num_devices` training processes, `batch_size` images per forward pass.

    optimizer_copies: of the trainable weights, what the optimizer's state takes.
    activation_checkpointing: "none", k to recompute every k-th block (1: all of them), or
        "selective" to recompute all but the outputs of matrix products and of attention.
    num_devices, sharded: one process; several with everything on each (DDP); or several that
        each hold one part of the states and gather a block when it is used (FSDP).

    The allocator's overhead and the optimizer's temporaries come on top (some 10 %).
    """
    recomputed = recomputed_blocks(model.depth, activation_checkpointing)
    whole = model.kept.block_bytes(bf16)
    part = model.kept.redone_bytes(bf16, selective=activation_checkpointing == "selective")
    activations = (
        (model.depth - recomputed) * whole
        + recomputed * part
        + (whole - part if recomputed else 0)  # the rest of one block, while it is redone
        + model.kept.final_bytes(bf16)
    )
    trainable = model.trainable_parameters
    copies = gathered = 0
    if sharded:
        gathered = _gathered_bytes(model, bf16)
    elif bf16:
        # Autocast keeps a bfloat16 copy of each weight for the backward pass; recomputing drops it.
        copies = (trainable - recomputed * model.block_parameters) * BFLOAT16_BYTES
    parts = num_devices if sharded else 1
    held, learned = (-(-count // parts) for count in (model.parameters, trainable))
    # FSDP reduces gradients after the last micro-batch: until then those of the others are whole.
    whole_gradients = trainable if sharded and accumulation > 1 else 0
    return TrainingMemory(
        weights_bytes=held * FLOAT32_BYTES + copies,
        gradients_bytes=(learned + whole_gradients) * FLOAT32_BYTES,
        optimizer_bytes=round(optimizer_copies * learned) * FLOAT32_BYTES,
        ema_bytes=ema_copies * held * FLOAT32_BYTES,
        activations_bytes=batch_size * model.tokens * activations,
        gathered_bytes=gathered,
    )


def recomputed_blocks(depth: int, activation_checkpointing: int | str) -> int:
    """Blocks of which less than everything is kept for the backward pass."""
    if activation_checkpointing == "none":
        return 0
    if activation_checkpointing == "selective":
        return depth
    assert isinstance(activation_checkpointing, int) and activation_checkpointing >= 1
    return depth // activation_checkpointing


def _gathered_bytes(model: Cost, bf16: bool) -> int:
    """What FSDP holds beside the shards at the worst moment, in the backward pass."""
    # A block in use and the next one, fetched meanwhile. They are gathered in the precision of the
    # products, so that autocast has nothing to copy.
    blocks = 2 * model.block_parameters * _product_bytes(bf16)
    # The group of the rest is gathered once, in float32, and stays until the step's end.
    ends = model.end_parameters * FLOAT32_BYTES
    gradient = model.block_parameters * FLOAT32_BYTES  # of one block, before it is reduced
    return blocks + ends + gradient


def _parameters(layers: list[tuple[int, int]]) -> int:
    return sum(inputs * outputs + outputs for inputs, outputs in layers)


def _macs(layers: list[tuple[int, int]]) -> int:
    return sum(inputs * outputs for inputs, outputs in layers)


def _product_bytes(bf16: bool) -> int:
    return BFLOAT16_BYTES if bf16 else FLOAT32_BYTES
