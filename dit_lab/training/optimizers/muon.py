"""Muon: steps along the orthogonalised momentum of each hidden matrix (Jordan et al. 2024).

Muon optimises the matrices of the blocks, and AdamW all other parameters: embeddings, the final
layer, biases, scales of norms, and, by default, the adaLN modulations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from dit_lab.training.optimizers.combined import Combined
from dit_lab.training.optimizers.groups import hidden_matrices
from dit_lab.training.optimizers.uncompiled import Uncompiled, without_compiler
from dit_lab.training.parallel import full_tensor_of
from dit_lab.training.tensor_files import is_sharded

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz polynomial by Jordan et al., chosen for a steep slope at 0."""

EPS = 1e-7
"""Smallest norm that a matrix is divided by."""

AT_ONCE = 2**26
"""Most values that are orthogonalised at once: 256 MB, and three times that for the products."""

FUSED = {"qkv": 3, "w12": 2, "adaLN_modulation": 6}
"""Modules whose weight consists of several matrices, stacked by rows."""


def muon(
    params: Sequence[Any],
    *,
    parameter_names: Mapping[Tensor, str],
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    matrices: str,
    modulation: str,
    split: bool,
    scale: str,
    iterations: int,
    dtype: str,
    adamw_lr: float | None,
    betas: Sequence[float],
    eps: float,
) -> Optimizer:
    """Build Muon for the matrices whose whole names `matrices` matches, and AdamW for the others.

    Raises RequestError if it matches no matrix.
    """
    groups = params if isinstance(params[0], dict) else [{"params": params}]
    names = {weight: parameter_names[weight] for group in groups for weight in group["params"]}
    hidden = hidden_matrices(names, matrices=matrices, modulation=modulation)

    def those(of_muon: bool) -> list[dict[str, Any]]:
        kept = [(g, [w for w in g["params"] if (w in hidden) == of_muon]) for g in groups]
        return [{**group, "params": weights} for group, weights in kept if weights]

    by_muon, by_adamw = those(True), those(False)
    pieces = {
        weight: _pieces(names[weight], len(weight)) if split else 1
        for group in by_muon
        for weight in group["params"]
    }
    optimizer = Muon(
        by_muon,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        scale=scale,
        iterations=iterations,
        dtype=getattr(torch, dtype),
        pieces=pieces,
    )
    if not by_adamw:
        return optimizer
    rest = without_compiler(AdamW)(
        by_adamw,
        lr=lr if adamw_lr is None else adamw_lr,
        betas=tuple(betas),
        eps=eps,
        weight_decay=weight_decay,
        fused=True,
    )  # type: ignore[call-arg]
    return Combined([optimizer, rest])


def _pieces(name: str, rows: int) -> int:
    """Return the number of matrices that a weight of this name is split into."""
    pieces = math.prod(FUSED.get(part, 1) for part in name.split("."))
    return pieces if rows % pieces == 0 else 1


class Muon(Uncompiled):
    """Optimizer that steps matrices along their orthogonalised momentum.

    In bfloat16 and without splitting, it equals `torch.optim.Muon` bit by bit. Shards of a matrix
    are gathered for the iterations, which every process computes itself; momenta stay sharded.
    """

    _step_supports_amp_scaling = True  # supports found_inf and grad_scale
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        scale: str,
        iterations: int,
        dtype: torch.dtype,
        pieces: Mapping[Tensor, int],
    ) -> None:
        """Create the optimizer; `pieces` says into how many matrices a weight is split by rows."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._nesterov, self._scale = nesterov, scale
        self._iterations, self._dtype, self._pieces = iterations, dtype, pieces

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for weights in _batches([w for w in group["params"] if w.grad is not None]):
                updates = [self._moved(weight, group["momentum"]) for weight in weights]
                for weight, (change, size) in zip(
                    weights, self._orthogonalised(weights, updates), strict=True
                ):
                    stepped = weight * (1 - group["lr"] * group["weight_decay"])
                    stepped.add_(change, alpha=-group["lr"] * size)
                    weight.copy_(self._unless_skipped(stepped, weight))

    def _moved(self, weight: Tensor, momentum: float) -> Tensor:
        """Update the momentum of a weight, and return the update before orthogonalisation."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        if self.grad_scale is not None:
            gradient = gradient / self.grad_scale
        average = state["momentum_buffer"]
        moved = average.lerp(gradient, 1 - momentum)
        average.copy_(self._unless_skipped(moved, average))
        return gradient.lerp(moved, momentum) if self._nesterov else moved

    def _orthogonalised(
        self, weights: Sequence[Tensor], updates: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, float]]:
        """Yield each update, orthogonalised and sharded as before, with the scale of its step.

        Matrices of equal shape are iterated as a batch.
        """
        parts = [
            full_tensor_of(update).chunk(self._pieces[weight])
            for weight, update in zip(weights, updates, strict=True)
        ]
        alike: dict[tuple[int, ...], list[Tensor]] = {}
        for part in (part for several in parts for part in several):
            alike.setdefault(part.shape, []).append(part)
        done = {
            shape: iter(
                orthogonalised(torch.stack(of_it), iterations=self._iterations, dtype=self._dtype)
            )
            for shape, of_it in alike.items()
        }
        for several, update in zip(parts, updates, strict=True):
            rows, columns = several[0].shape
            found = [next(done[part.shape]) for part in several]
            by_rms = self._scale == "match_rms_adamw"
            size = 0.2 * max(rows, columns) ** 0.5 if by_rms else max(1, rows / columns) ** 0.5
            yield _shard_like(update, found[0] if len(found) == 1 else torch.cat(found)), size

    def _unless_skipped(self, new: Tensor, old: Tensor) -> Tensor:
        return new if self.found_inf is None else torch.where(self.found_inf > 0, old, new)


def orthogonalised(matrices: Tensor, *, iterations: int, dtype: torch.dtype) -> Tensor:
    """Bring the singular values of matrices (k, m, n) near 1 (0.7 to 1.2) by Newton-Schulz.

    Five iterations multiply small singular values by up to 485.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _batches(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield batches of weights that are gathered and orthogonalised together."""
    batch: list[Tensor] = []
    for weight in weights:
        if batch and sum(w.numel() for w in batch) + weight.numel() > AT_ONCE:
            yield batch
            batch = []
        batch.append(weight)
    if batch:
        yield batch


def _shard_like(like: Tensor, whole: Tensor) -> Tensor:
    """Return this process's rows of a whole tensor."""
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements
    return distribute_tensor(whole.to(like.dtype), mesh, placements, src_data_rank=None)
