"""Linear layers with weights packed for oneDNN, for sampling on the CPU.

Sampling evaluates a model hundreds of times with the same weights. On a CPU in float32, oneDNN
multiplies faster if it has packed the weights into its own layout once, the more so for few rows: a
forward pass of an S model takes 0.96 of the processor time for 64 images, and 0.71 for 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

LEAST_SIZE = 256  # of input and output; narrower layers hardly benefit
KERNELS = ("_linear_pointwise", "_reorder_linear_weight")
"""Private operators of torch; if one of them is missing, layers are not packed."""
ROWS = 1024  # expected rows (tokens of a chunk), to choose the layout; only affects the speed


class PackedLinear(nn.Linear):
    """Linear layer that also keeps its weights in oneDNN's layout, repacked when they change.

    With gradients or autocast on, and for a forward-mode derivative, it computes as a plain linear
    layer: the kernel would lose the derivative.
    """

    _packed: tuple[Tensor, int, Tensor] | None = None  # weights, their version, packed weights

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in) to (..., out)."""
        plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        if plain or forward_ad.unpack_dual(x).tangent is not None:
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
    """Turn each wide linear layer on a CPU into a `PackedLinear`, in place.

    Parameters and their names do not change. Does nothing if torch lacks oneDNN or its operators.
    """
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
