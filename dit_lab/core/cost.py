"""Cost of a DiT from its configuration: parameters, multiply-adds and training memory.

Nothing is built and torch is not imported, so the cost is known within milliseconds.

Letters in the formulas: T tokens, D width, M MLP width, L depth, p patch size, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from dit_lab.core.calls import HeadNeed, LossPasses, ModelNeeds, Routed

TIME_FEATURES = 256  # as in models.embeddings, which imports torch
FLOAT32_BYTES = 4
BFLOAT16_BYTES = 2


def mlp_width(hidden_size: int, mlp_ratio: float, mlp: str) -> int:
    """Return the MLP width M.

    For "swiglu" it is two thirds, so that its three matrices have as many parameters as the two of
    "gelu" (Shazeer 2020, "GLU Variants Improve Transformer").
    """
    width = int(hidden_size * mlp_ratio)
    return int(2 / 3 * width) if mlp == "swiglu" else width


@dataclass(frozen=True, slots=True)
class StoredActivations:
    """Numbers per token that autograd stores between the forward and the backward pass.

    Under autocast the residual stream and the norms stay float32 (wide), and matrix products keep
    their inputs in bfloat16 (narrow).
    """

    width: int  # width of the residual stream
    wide: int  # float32 numbers of a block
    narrow: int  # numbers of a block in the precision of products
    widened: int  # float32 numbers of a block in copies that only autocast makes
    products: int  # outputs of a block's matrix products and attention, narrow

    def block_bytes(self, bf16: bool) -> int:
        wide = self.wide + (self.widened if bf16 else 0)
        return wide * FLOAT32_BYTES + self.narrow * _product_bytes(bf16)

    def redone_bytes(self, bf16: bool, *, selective: bool) -> int:
        """Return the bytes of a recomputed block: its input and, if `selective`, its `products`."""
        kept = self.products * _product_bytes(bf16) if selective else 0
        return self.width * FLOAT32_BYTES + kept

    def final_bytes(self, bf16: bool) -> int:
        """Return the bytes of the final layer: input, output and modulated output of its norm."""
        return self.width * (2 * FLOAT32_BYTES + _product_bytes(bf16))


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one model. A multiply-add counts once in MACs, twice in FLOPs."""

    tokens: int
    parameters: int  # with the fixed position embedding
    trainable_parameters: int
    forward_macs_per_image: int
    training_flops_per_image: int  # 6 x MACs: the backward pass costs two forward passes
    depth: int  # blocks, with those of heads
    block_parameters: int  # of one block, all trainable
    kept: StoredActivations
    plain_flops_per_image: int = 0  # part of training: evaluations without gradient in the loss
    derivative_flops_per_image: int = 0  # part of training: derivatives along trajectories
    head_parameters: int = 0  # part of the trainable parameters

    @property
    def end_parameters(self) -> int:
        """Trainable parameters outside the blocks: embedders and final layer."""
        return self.trainable_parameters - self.depth * self.block_parameters


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Estimated peak memory of one training process, in bytes."""

    weights_bytes: int  # float32, plus the copies that bf16 autocast keeps until the backward pass
    gradients_bytes: int
    optimizer_bytes: int  # AdamW: two moments
    ema_bytes: int
    activations_bytes: int
    gathered_bytes: int  # with FSDP: gathered parameters and an unreduced gradient, else 0

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
    needs: ModelNeeds = ModelNeeds(),  # noqa: B008 - frozen
    passes: LossPasses = LossPasses(),  # noqa: B008 - frozen
    routed: Routed | None = None,
) -> Cost:
    """Return exact parameter counts, multiply-adds of one forward pass, and stored activations.

    Only matrix products are counted. The arguments are those of `models.dit.DiT`, with what the
    objective needs of it and how often its loss evaluates it. The forward pass is one of sampling,
    without heads. Evaluations without gradient count as one of the main output, those with gradient
    have all heads.
    """
    height, width = input_size
    tokens = (height // patch_size) * (width // patch_size)
    d, m = hidden_size, mlp_width(hidden_size, mlp_ratio, mlp)
    patch_in = patch_size**2 * in_channels
    patch_out = 2 * patch_in if learn_sigma else patch_in

    # (inputs, outputs) of the linear layers that are applied per token, and per image.
    mlp_in = 2 * m if mlp == "swiglu" else m
    token_block = [(d, 3 * d), (d, d), (d, mlp_in), (m, d)]  # qkv, proj, fc1 or w12, fc2 or w3
    image_block = [(d, 6 * d)]  # adaLN
    token_ends = [(patch_in, d), (d, patch_out)]
    final = [(d, patch_out)], [(d, 2 * d)]  # per token, and adaLN per image
    scalars = 1 + needs.second_time + len(needs.conditions)  # each with an MLP, as the time
    image_ends = [*scalars * [(TIME_FEATURES, d), (d, d)], *final[1]]

    label_rows = num_classes + (class_dropout_prob > 0) if num_classes else 0
    scale = d if norm == "rms" else 0  # parameters of a norm
    block = _parameters(token_block + image_block) + 2 * scale
    if qk_norm:  # for queries and keys of a head: a scale, and for layer norm a shift
        block += 2 * (d // num_heads) * (1 if norm == "rms" else 2)
    fusion = [(2 * d, d)] if needs.fusion else []
    trainable = _parameters(token_ends + image_ends + fusion) + depth * block
    trainable += label_rows * d + scale + (d if fusion else 0)  # and the mask of a fusion

    def block_macs(tokens: int) -> int:
        attention = 2 * tokens**2 * d  # queries x keys, then weights x values
        return tokens * _macs(token_block) + _macs(image_block) + attention

    macs = tokens * _macs(token_ends + fusion) + _macs(image_ends) + depth * block_macs(tokens)
    head, head_macs, own = 0, 0, sum(need.blocks for need in needs.heads)
    for need in needs.heads:
        if need.widths:
            layers = _token_layers(need, d)
            head += _parameters(layers)
            head_macs += tokens * _macs(layers)
        else:
            head += need.blocks * block + _parameters(final[0] + final[1]) + scale
            head_macs += (
                need.blocks * block_macs(tokens) + tokens * _macs(final[0]) + _macs(final[1])
            )
    saved = 0
    if routed is not None:
        computed = max(1, tokens - round(routed.left_out * tokens))
        each = block_macs(tokens) - block_macs(computed)
        saved = round(routed.steps * routed.blocks * each)
    plain = round(2 * passes.plain * macs)
    derivatives = round(4 * passes.derivatives * macs)
    return Cost(
        tokens=tokens,
        parameters=trainable + head + tokens * d,
        trainable_parameters=trainable + head,
        forward_macs_per_image=macs,
        training_flops_per_image=6 * (macs - saved + head_macs) + plain + derivatives,
        plain_flops_per_image=plain,
        derivative_flops_per_image=derivatives,
        head_parameters=head,
        depth=depth + own,
        block_parameters=block,
        kept=_kept(d, m, norm=norm, mlp=mlp, rope=rope, qk_norm=qk_norm),
    )


def _kept(d: int, m: int, *, norm: str, mlp: str, rope: bool, qk_norm: bool) -> StoredActivations:
    gated = mlp == "swiglu"
    # Input and output of each of two norms; a norm with a scale also stores what is scaled.
    wide = (6 if norm == "rms" else 4) * d
    # Two modulated norms, queries, keys, values, output of attention, two branches before their
    # gates; input and output of GELU, or for SwiGLU both halves, the gate and the product.
    narrow = 8 * d + (4 if gated else 2) * m
    if rope or qk_norm:
        narrow += 2 * d  # normalised or rotated queries and keys
    scaled = 2 * d if qk_norm and norm == "rms" else 0  # queries and keys before their scales
    # Queries, keys, values, output of attention, two branches, input of GELU or of the gate.
    products = 6 * d + (2 if gated else 1) * m
    return StoredActivations(d, wide + scaled, narrow, widened=scaled, products=products)


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
    """Return the memory of one of `num_devices` training processes.

    The overhead of the allocator and the temporaries of the optimizer come on top (about 10 %).

    Args:
        batch_size: Images per forward pass of this process.
        accumulation: Micro-batches per optimizer step.
        optimizer_copies: Size of the optimizer's state in copies of the trainable parameters.
        activation_checkpointing: "none"; k to recompute every k-th block (1: all of them); or
            "selective" to recompute all but the outputs of matrix products and attention.
        sharded: States are sharded over the devices, and a block is gathered when it is used
            (FSDP). Otherwise each device has everything (DDP).
    """
    recomputed = recomputed_blocks(model.depth, activation_checkpointing)
    whole = model.kept.block_bytes(bf16)
    part = model.kept.redone_bytes(bf16, selective=activation_checkpointing == "selective")
    activations = (
        (model.depth - recomputed) * whole
        + recomputed * part
        + (whole - part if recomputed else 0)  # the rest of the block that is being recomputed
        + model.kept.final_bytes(bf16)
    )
    trainable = model.trainable_parameters
    copies = gathered = 0
    if sharded:
        gathered = _gathered_bytes(model, bf16)
    elif bf16:
        # Autocast keeps a bfloat16 copy of each weight for the backward pass, except in recomputed
        # blocks.
        copies = (trainable - recomputed * model.block_parameters) * BFLOAT16_BYTES
    parts = num_devices if sharded else 1
    held, learned = (-(-count // parts) for count in (model.parameters, trainable))
    # FSDP reduces gradients after the last micro-batch and accumulates them unsharded until then.
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
    """Return the number of blocks that are recomputed, wholly or in part, in the backward pass."""
    if activation_checkpointing == "none":
        return 0
    if activation_checkpointing == "selective":
        return depth
    assert isinstance(activation_checkpointing, int) and activation_checkpointing >= 1
    return depth // activation_checkpointing


def _gathered_bytes(model: Cost, bf16: bool) -> int:
    """Return the peak memory of FSDP beyond its shards, which is reached in the backward pass."""
    # The current block and the next, which is prefetched; both in the precision of the products,
    # so that autocast makes no copies.
    blocks = 2 * model.block_parameters * _product_bytes(bf16)
    # The other parameters are gathered once, in float32, and kept until the end of the step.
    ends = model.end_parameters * FLOAT32_BYTES
    gradient = model.block_parameters * FLOAT32_BYTES  # of one block, before reduction
    return blocks + ends + gradient


def _token_layers(need: HeadNeed, width: int) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of the layers of a head of tokens, of `width` at its input."""
    if need.kernel > 1:
        return [(need.kernel**2 * width, need.widths[-1])]
    return list(pairwise((width, *need.widths)))


def _parameters(layers: list[tuple[int, int]]) -> int:
    return sum(inputs * outputs + outputs for inputs, outputs in layers)


def _macs(layers: list[tuple[int, int]]) -> int:
    return sum(inputs * outputs for inputs, outputs in layers)


def _product_bytes(bf16: bool) -> int:
    return BFLOAT16_BYTES if bf16 else FLOAT32_BYTES
