"""Float8 matrix products in training, by torchao.

Micikevicius et al. 2022, "FP8 Formats for Deep Learning". Weights, tokens and gradients are scaled
by their largest magnitude and rounded for each product only. All stored tensors stay float32.
"""

from __future__ import annotations

import torch
from torch import nn

from dit_lab.training.parallel import blocks_of, with_weights

MULTIPLE = 16  # of both dimensions of a weight, required by GPUs
FIRST_WITH_FLOAT8 = (8, 9)  # compute capability


def in_float8(model: nn.Module) -> nn.Module:
    """Return a copy of `model` with the same parameters, whose blocks multiply tokens in float8.

    Linear layers of the condition are too small to benefit, and the input and output layers too
    sensitive; they are not changed. A device without float8 support emulates it in a wider dtype,
    with the same results but more slowly.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def is_of_tokens(module: nn.Module, name: str) -> bool:
        return (
            isinstance(module, nn.Linear)
            and "adaLN" not in name
            and module.in_features % MULTIPLE == module.out_features % MULTIPLE == 0
        )

    copy = with_weights(model)
    device = next(model.parameters()).device
    how = Float8LinearConfig(emulate=not multiplies_float8(device))
    for block in blocks_of(copy):
        convert_to_float8_training(block, module_filter_fn=is_of_tokens, config=how)
    return copy


def multiplies_float8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FIRST_WITH_FLOAT8
