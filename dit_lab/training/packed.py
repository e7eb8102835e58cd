"""Linear layers that read their weights many times, in the order in which a kernel reads them.

Sampling asks a model hundreds of times at the same weights. On a CPU in float32, oneDNN's product
with weights that it has once laid out for itself takes less time than a product with the weights as
they lie in memory, the more so the fewer the rows: a forward pass of an S takes 0.96 of the
processor time for 64 images, and 0.71 for 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_SIZE = 256  # of input and output: what is narrower gains next to nothing
KERNELS = ("_linear_pointwise", "_reorder_linear_weight")
"""Operators of torch's that have no public name; layers stay plain where one of them is gone."""
ROWS = 1024  # tokens of a chunk of images, for which the order is chosen; any number is right


class PackedLinear(nn.Linear):
    """A linear layer that keeps its weights laid out for the kernel besides, and lays them out anew
    when they change. Where gradients are recorded or autocast is on, it computes as it did."""

    _packed: tuple[Tensor, int, Tensor] | None = None  # the weights, their version, laid out

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        kernel = torch.ops.mkldnn._linear_pointwise
        output: Tensor = kernel(x, self._laid_out(), self.bias, "none", [], "")
        return output

    def _laid_out(self) -> Tensor:
        weight, version = self.weight, self.weight._version
        if self._packed is None or self._packed[0] is not weight or self._packed[1] != version:
            laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
            self._packed = (weight, version, laid_out)
        return self._packed[2]


def pack(model: nn.Module) -> None:
    """Make each wide linear layer on a CPU a `PackedLinear`, in place; weights and their names stay
    what they are. Does nothing where torch comes without oneDNN or without its kernels."""
    if not torch.backends.mkldnn.is_available():
        return
    if not all(hasattr(torch.ops.mkldnn, name) for name in KERNELS):
        return
    for layer in model.modules():
        if type(layer) is nn.Linear and _gains(layer.weight):
            layer.__class__ = PackedLinear


def _gains(weight: Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_cpu and min(weight.shape) >= LEAST_SIZE
