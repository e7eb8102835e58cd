"""Transfer of weights to a DiT with other classes, another image size or other channels.

Shapes: D width, C input channels, K output channels (C, or 2C with learn_sigma), p patch size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dit_lab.core.calls import HEADS, VELOCITY
from dit_lab.core.text import counted

PATCHES, POSITIONS = "x_embedder.proj.weight", "pos_embed"
LABELS = "y_embedder.embedding_table.weight"
HEAD = f"{HEADS}{VELOCITY}."
HEAD_BLOCKS = f"{HEAD}blocks."
OUTPUTS = ("final_layer.linear.weight", "final_layer.linear.bias")


@dataclass(slots=True)
class Transfer:
    """Outcome of a transfer, by the name of each tensor."""

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)  # name -> how it was adapted
    skipped: dict[str, str] = field(default_factory=dict)  # name -> reason


@torch.no_grad()
def transfer(model: nn.Module, tensors: Mapping[str, Tensor], *, same_labels: bool) -> Transfer:
    """Copy tensors into a model as far as they fit; all others keep their initial values.

    Position embeddings of another size are left as the model computed them. Channels that both
    models have are copied. The weights of new channels are set to 0, so that at first the model
    ignores new inputs and predicts 0 for new outputs.

    Args:
        model: the model to change, freshly initialised.
        tensors: state of the other model by parameter name.
        same_labels: both models have the same classes; if not, the label table is skipped.
    """
    done, own = Transfer(), model.state_dict()
    tensors = {**_for_the_velocity_head(own, tensors), **tensors}
    for name, tensor in tensors.items():
        if name == LABELS and not same_labels:
            done.skipped[name] = "the classes differ"
        elif name not in own:
            done.skipped[name] = "not in this model"
        elif tensor.shape == own[name].shape:
            own[name].copy_(tensor)
            done.loaded.append(name)
        elif how := _resized(name, own[name], tensor, own, tensors):
            done.resized[name] = how
        else:
            done.skipped[name] = f"{_by(tensor)}, in this model {_by(own[name])}"
    for name in own.keys() - tensors.keys():
        done.skipped[name] = "not in the checkpoint"
    return done


def _for_the_velocity_head(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of the last blocks and the final layer by the names of the second head.

    A flow's output is a velocity, so that the head of a model that begins from it is right at once.
    """
    depth, own_blocks = (_number_of_blocks(ours, prefix) for prefix in ("blocks.", HEAD_BLOCKS))
    found = {}
    for name in ours:
        if name.startswith(HEAD_BLOCKS):
            number, _, rest = name.removeprefix(HEAD_BLOCKS).partition(".")
            found[name] = f"blocks.{depth - own_blocks + int(number)}.{rest}"
        elif name.startswith(HEAD):
            found[name] = name.removeprefix(HEAD)
    return {name: theirs[source] for name, source in found.items() if source in theirs}


def _number_of_blocks(names: Mapping[str, Tensor], prefix: str) -> int:
    return len(
        {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    )


def _resized(
    name: str, own: Tensor, tensor: Tensor, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> str:
    """Fill `own` from a tensor of another shape; return how, or "" if it is impossible."""
    if name == POSITIONS:
        return "computed for the new size"
    if name == LABELS:
        rows = min(len(own), len(tensor))
        own[:rows] = tensor[:rows]
        return "row of the null label added or removed"
    if not (PATCHES in ours and PATCHES in theirs):
        return ""
    (channels, patch), (before, patch_before) = (of[PATCHES].shape[1:3] for of in (ours, theirs))
    if patch != patch_before:
        return ""
    both = min(channels, before)
    if name == PATCHES:
        own.zero_()
        own[:, :both] = tensor[:, :both]
        return f"{both} of {counted(channels, 'channel')}"
    if name in OUTPUTS:
        here, there = (x.unflatten(0, (patch * patch, -1)) for x in (own, tensor))  # (p p, K, ...)
        here.zero_()
        here[:, :both] = there[:, :both]
        if here.shape[1] > channels and there.shape[1] > before:  # both have variance channels
            here[:, channels : channels + both] = there[:, before : before + both]
        return f"{both} of {counted(channels, 'channel')}"
    return ""


def _by(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
