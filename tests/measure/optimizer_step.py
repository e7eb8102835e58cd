"""Interleaved step times of all optimizers: python -m tests.measure.optimizer_step

The parameters are those of a DiT on 32 x 32 x 4 latents; gradients are drawn once. Prints medians
and minima in ms, and how much Muon's iterations amplify a small change of a matrix.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from dit_lab.models.dit import DiT
from dit_lab.training.optimizers.muon import orthogonalised
from dit_lab.training.optimizers.options import MEMBERS
from dit_lab.training.optimizers.step import gradient_norm, guarded_step
from tests.training.optimizers.kinds import make

SIZES = {"pico": (64, 4, 4), "nano": (128, 8, 4), "S": (384, 12, 6), "B": (768, 12, 12)}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in MEMBERS},
    "muon, bfloat16": ("muon", {"dtype": "bfloat16"}),
    "muon, not split": ("muon", {"split": False}),
}


def stepped(size: str, member: str, options: dict[str, Any], device: torch.device) -> Any:
    """Return a function that makes one guarded step."""
    hidden, depth, heads = SIZES[size]
    draw = torch.Generator().manual_seed(0)
    model = DiT(
        input_size=(32, 32), patch_size=2, in_channels=4, hidden_size=hidden, depth=depth,
        num_heads=heads, num_classes=10, learn_sigma=False, generator=draw,
    ).to(device)  # fmt: skip
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    gradients = {name: 0.01 * torch.randn(w.shape, generator=draw) for name, w in weights.items()}
    optimizer, good = make(member, weights, **options), torch.zeros((), device=device)

    def step() -> None:
        for name, weight in weights.items():
            weight.grad = gradients[name].to(device)  # some change them
        start(device)
        guarded_step(optimizer, good, norm=gradient_norm(optimizer), clip_norm=1.0)
        start(device)

    return step


def start(device: torch.device) -> None:
    """Wait until nothing runs, and return the time.

    On a CPU this is CPU time, which other work on the machine changes little.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
    TIMES.append(time.perf_counter() if device.type == "cuda" else time.process_time())


TIMES: list[float] = []


def carried(dtype: torch.dtype) -> tuple[float, float]:
    """Return the relative change of the orthogonalised matrix if the input changes by 1e-7.

    Also returns its relative difference from the float64 result.
    """
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(1, 384, 384, generator=draw)
    near = matrix * (1 + 1e-7 * torch.randn(matrix.shape, generator=draw))
    found, other = (orthogonalised(m, iterations=5, dtype=dtype).double() for m in (matrix, near))
    exact = orthogonalised(matrix.double(), iterations=5, dtype=torch.float64)
    return tuple(((found - o).norm() / found.norm()).item() for o in (other, exact))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["pico", "nano", "S"], choices=SIZES)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"torch {torch.__version__}, {device}, {asked.threads} threads")
    for size in asked.sizes:
        steps = {name: stepped(size, *of_it, device) for name, of_it in KINDS.items()}
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(asked.steps + 2):
            for name, step in steps.items():
                TIMES.clear()
                step()
                taken[name].append(TIMES[1] - TIMES[0])
        for name, seconds in taken.items():
            median, least = statistics.median(seconds[2:]), min(seconds)
            print(f"| {size} | {name} | {median * 1e3:.1f} | {least * 1e3:.1f} |", flush=True)
    for dtype in (torch.float32, torch.bfloat16):
        print(dtype, "change by 1e-7: {:.1e}, from float64: {:.1e}".format(*carried(dtype)))


if __name__ == "__main__":
    main()
