"""The original implementation, run in the same process with the same weights and images.

The code is the user's checkout of facebookresearch/DiT; it needs timm. It trains as its `train.py`
does: in float32, with AdamW, then the EMA, parameter by parameter. Timings use its own precision
(`as_it_runs`), comparisons of outputs use the lab's.

Shapes: N images, C channels, H x W latent cells.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import cycle, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dit_lab.bench.device import Ticks
from dit_lab.core.errors import RequestError

LEARNING_RATE, DECAY = 1e-4, 0.9999  # values of its train.py
MODULES = ("models", "diffusion", "train")


class Official:
    """The original model with given weights, trained and sampled by its own functions."""

    def __init__(
        self, path: Path, arguments: Mapping[str, Any], weights: Mapping[str, Tensor]
    ) -> None:
        """Build the model; `arguments` are those of its `DiT`. Raises RequestError."""
        self._models, self._diffusion, self._train = _modules(path)
        self.device = next(iter(weights.values())).device
        self.model: Any = self._models.DiT(**arguments).to(self.device)
        self.load(weights)
        self._ema: nn.Module = deepcopy(self.model)
        self._train.requires_grad(self._ema, False)
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, weight_decay=0
        )
        self._process = self._diffusion.create_diffusion(timestep_respacing="")

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(dict(weights))

    def losses(self, data: Tensor, labels: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Return the loss of each image (N,), without label dropout; data, noise: (N, C, H, W)."""
        self.model.eval()
        options = {"y": labels}
        terms = self._process.training_losses(self.model, data, timesteps, options, noise)
        return terms["loss"]

    def train_steps(self, batches: list[tuple[Tensor, Tensor]], count: int) -> list[float]:
        """Return the seconds of each of `count` steps, cycling through these images and labels."""
        self.model.train()
        ticks = Ticks(self.device)
        for data, labels in islice(cycle(batches), count + 1):
            timesteps = torch.randint(
                0, self._process.num_timesteps, (len(data),), device=self.device
            )
            terms = self._process.training_losses(self.model, data, timesteps, {"y": labels})
            loss = terms["loss"].mean()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            self._train.update_ema(self._ema, self.model, DECAY)
            loss.item()  # its train.py logs the loss at every step
            ticks.take()
        return ticks.seconds()

    def samples(
        self, noise: Tensor, labels: Tensor, *, steps: int, scale: float, null_label: int
    ) -> Iterator[Tensor]:
        """Yield (N, C, H, W) after each step of its ancestral sampling with guidance."""
        self.model.eval()
        process = self._diffusion.create_diffusion(str(steps))
        nothing = torch.full_like(labels, null_label)
        options = {"y": torch.cat([labels, nothing]), "cfg_scale": scale}
        both = torch.cat([noise, noise])
        with torch.no_grad():
            for found in process.p_sample_loop_progressive(
                self.model.forward_with_cfg,
                both.shape,
                both,
                clip_denoised=False,
                model_kwargs=options,
                device=self.device,
            ):
                yield found["sample"][: len(noise)]


@contextmanager
def as_it_runs() -> Iterator[None]:
    """Use TensorFloat-32 products on GPUs, as its scripts do."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def check_checkout(path: Path) -> None:
    """Raise RequestError if the folder is not a checkout."""
    if not (path / "models.py").is_file() or not (path / "train.py").is_file():
        raise RequestError(
            f"--official-path {path}: has no models.py and train.py; give a checkout of "
            "facebookresearch/DiT"
        )


@contextmanager
def _importing(path: Path) -> Iterator[None]:
    """Make the folder's modules importable by name, and remove them afterwards."""
    before = {name: module for name, module in sys.modules.items() if _is_of(name)}
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        for name in [name for name in sys.modules if _is_of(name)]:
            del sys.modules[name]
        sys.modules.update(before)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


def _is_of(name: str) -> bool:
    return name.partition(".")[0] in MODULES


def _modules(path: Path) -> list[ModuleType]:
    """Return its modules models, diffusion and train; raise RequestError if the import fails."""
    with _importing(path.resolve()):
        try:
            return [importlib.import_module(name) for name in MODULES]
        except ImportError as error:
            raise RequestError(
                f"--official-path {path}: cannot be imported ({error}); install what it lacks"
            ) from None
