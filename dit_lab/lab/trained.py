"""A trained model, ready to draw images: what `dit-lab sample` and `dit_lab.load` use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit_lab.lab import compose
from dit_lab.lab.checks import Shapes
from dit_lab.lab.config import read_recorded
from dit_lab.lab.identity import recorded_shapes
from dit_lab.runs import RunFolder, find_run
from dit_lab.samplers.guidance import Guidance
from dit_lab.training.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpoint
from dit_lab.types import Codec, LabelledCall, Objective, RequestError, Sampler

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The weights of a run at one checkpoint, with everything that is needed to sample them."""

    config: Config  # as recorded by the run
    shapes: Shapes
    step: int
    weights: str  # "model", or the average's name: "ema-0.9999"
    model: nn.Module
    objective: Objective
    codec: Codec
    device: torch.device

    def sample(
        self,
        labels: Sequence[int] | None = None,
        *,
        num_images: int | None = None,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        seed: int = 0,
        settings: Config | None = None,
        check_stop: Callable[[], None] = lambda: None,
    ) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, H, W, c) and their labels (N,).

        `labels` are cycled through (all classes in turn where None); N is `num_images`, or one for
        each label. `settings` are sampler, guidance and precision in the form of the
        configuration, the run's own where None; `sampler` and `guidance` are objects and win.
        """
        settings = {**self.config, **(settings or {})}
        generator = compose.build_generator(
            settings,
            self.shapes,
            objective=self.objective,
            codec=self.codec,
            device=self.device,
            check_stop=check_stop,
            sampler=sampler,
            guidance=guidance,
        )
        count = num_images or (len(labels) if labels else max(1, self.shapes.data.num_classes))
        bf16 = settings["precision"]["mixed_precision"] == "bf16"
        groups = generator.images(
            _autocast(self.model, self.device, enabled=bf16),
            num_images=count,
            seed=seed,
            labels=labels,
            batch_size=settings["sample"]["batch_size"],
        )
        images, given = zip(*groups, strict=True)
        return torch.cat(images), torch.cat(given)


def load(
    run: str | Path,
    *,
    root: str | Path = "outputs",
    weights: str = "ema",
    trusted_modules: Sequence[str] = (),
    device: str | torch.device | None = None,
) -> Trained:
    """The model of a run folder, a checkpoint folder or a tracking run id (looked up in `root`).

    weights: "ema" (the first average), "ema:0.9999" or "raw". `device` None takes a GPU where
    there is one. Raises RequestError.
    """
    folder, chosen = find_run(str(run), root=Path(root))
    config = read_recorded(folder, trusted_modules)
    checkpoint = _checkpoint(folder, chosen)
    shapes = recorded_shapes(folder)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = _file_of(weights, config["ema"]["decays"])
    objective = compose.build(config, "objective")
    model = compose.build_model(config, shapes, objective)
    # An average holds parameters only; buffers, if a model has any, are the model's own.
    model.load_state_dict({**checkpoint.tensors("model"), **checkpoint.tensors(name)})
    return Trained(
        config=config,
        shapes=shapes,
        step=checkpoint.step,
        weights=name,
        model=model.to(device).eval(),
        objective=objective,
        codec=compose.build_codec(config, device),
        device=device,
    )


def _checkpoint(folder: RunFolder, chosen: Path | None) -> Checkpoint:
    """The chosen checkpoint, or the newest whole one."""
    if chosen is not None:
        checkpoint = Checkpoint(chosen)
        try:
            checkpoint.verify()
        except DamagedCheckpoint as damage:
            raise RequestError(f"run={chosen}: {damage}") from None
        return checkpoint
    skipped: list[str] = []
    latest = CheckpointStore(folder.checkpoints, warn=skipped.append).latest()
    if latest is None:
        reason = f" ({skipped[0]})" if skipped else ""
        raise RequestError(f"run={folder.root}: has no whole checkpoint yet{reason}")
    return latest


def _file_of(weights: str, decays: Sequence[float]) -> str:
    """The checkpoint file, without ending, that `sample.weights` means."""
    if weights == "raw":
        return "model"
    decay = str(decays[0]) if weights == "ema" else weights.removeprefix("ema:")
    return f"ema-{decay}"


def _autocast(model: nn.Module, device: torch.device, *, enabled: bool) -> LabelledCall:
    def call(x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            return model(x, time, labels).float()

    return call
