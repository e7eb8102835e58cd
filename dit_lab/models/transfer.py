"""Weights of one DiT in another that differs in classes, size of images or channels.

Shapes: D width, C channels in, K channels out (C, or 2C with learn_sigma), p patch size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dit_lab.core.text import counted

PATCHES, POSITIONS = "x_embedder.proj.weight", "pos_embed"
LABELS = "y_embedder.embedding_table.weight"
OUTPUTS = ("final_layer.linear.weight", "final_layer.linear.bias")


@dataclass(slots=True)
class Transfer:
    """What became of each tensor."""

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)  # name -> how
    skipped: dict[str, str] = field(default_factory=dict)  # name -> why


@torch.no_grad()
def transfer(model: nn.Module, tensors: Mapping[str, Tensor], *, same_labels: bool) -> Transfer:
    """Put weights into a model as far as they fit; the rest stays as it was initialised.

    Positions follow from the model's own size. Channels that both have are taken over, new ones
    begin at 0, so that at first they neither are seen nor say anything. The table of labels is only
    of use for the same labels.
    """
    done, own = Transfer(), model.state_dict()
    for name, tensor in tensors.items():
        if name == LABELS and not same_labels:
            done.skipped[name] = "the classes are others"
        elif name not in own:
            done.skipped[name] = "this model has none"
        elif tensor.shape == own[name].shape:
            own[name].copy_(tensor)
            done.loaded.append(name)
        elif how := _resized(name, own[name], tensor, own, tensors):
            done.resized[name] = how
        else:
            done.skipped[name] = f"{_by(tensor)} there, {_by(own[name])} here"
    for name in own.keys() - tensors.keys():
        done.skipped[name] = "not there"
    return done


def _resized(
    name: str, own: Tensor, tensor: Tensor, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> str:
    """Fill `own` from a tensor of another shape; how, or "" where it cannot be done."""
    if name == POSITIONS:
        return "computed for the new size"
    if name == LABELS:
        rows = min(len(own), len(tensor))
        own[:rows] = tensor[:rows]
        return "with or without the row of the dropped label"
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
        if here.shape[1] > channels and there.shape[1] > before:  # the variance of both
            here[:, channels : channels + both] = there[:, before : before + both]
        return f"{both} of {counted(channels, 'channel')}"
    return ""


def _by(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
