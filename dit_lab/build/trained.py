"""A trained model for sampling, as `dit-lab sample` and `dit_lab.load` use it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from dit_lab.build.parts import Parts, build_generator, build_model, build_parts, labelled_call
from dit_lab.config.checks.coupling import check_pair_noise
from dit_lab.config.compatibility import needs_of_config
from dit_lab.config.recorded import read_recorded
from dit_lab.config.schema import RunConfig
from dit_lab.core import trust
from dit_lab.core.calls import HEADS, ModelNeeds
from dit_lab.core.errors import RequestError
from dit_lab.core.options import changed, target_of
from dit_lab.core.process_group import SINGLE_PROCESS
from dit_lab.core.text import counted
from dit_lab.core.types import Codec, LabelledCall, ProcessGroup, Sampler, Shapes
from dit_lab.interop.files import read_safetensors
from dit_lab.runs.access import refuse_unreadable
from dit_lab.runs.exported import read_exported
from dit_lab.runs.finding import find_run
from dit_lab.runs.folder import RunFolder
from dit_lab.runs.recorded import UNKNOWN_CODEC, recorded, recorded_shapes, weights_name
from dit_lab.samplers.guidance import Guidance
from dit_lab.sampling.labels import check_labels
from dit_lab.training.average_names import first_average
from dit_lab.training.checkpoint import Checkpoint, DamagedCheckpoint, load_weights
from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.post_hoc import PREFIX, average_file, parse_width, read_average
from dit_lab.training.power import name_of

_log = logging.getLogger(__name__)

Labels = Sequence[int | str] | Tensor | np.ndarray


class Drawing(TypedDict, total=False):
    """Options of sampling."""

    sampler: Sampler | None  # overrides `settings`, as the next two do
    guidance: Guidance | None
    weak: Trained | None  # the weak model for autoguidance
    seed: int  # default 0
    settings: RunConfig | None  # sampler, guidance and precision instead of the run's
    process_group: ProcessGroup  # processes that share the work; each gets all images
    check_stop: Callable[[], None]
    on_pass: Callable[[int], None]  # called per chunk with the model evaluations of its images


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The weights of a run at one checkpoint, with everything that sampling from them needs."""

    parts: Parts  # with the recorded configuration
    folder: RunFolder
    identity: Mapping[str, Any]  # content of identity.json
    step: int
    weights: str  # "model", "ema-0.9999", "power-0.1" or "schedule_free"
    model: nn.Module

    @property
    def name(self) -> str:
        """Identity of the weights, independent of their location."""
        return weights_name(self.identity, self.step, self.weights)

    def sample(
        self,
        labels: Labels | None = None,
        *,
        num_images: int | None = None,
        **how: Unpack[Drawing],
    ) -> tuple[Tensor, Tensor]:
        """Return the images uint8 (N, H, W, c) and labels (N,) of `images`, concatenated."""
        images, given = zip(*self.images(labels, num_images=num_images, **how), strict=True)
        return torch.cat(images), torch.cat(given)

    def images(
        self,
        labels: Labels | None = None,
        *,
        num_images: int | None = None,
        **how: Unpack[Drawing],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of images uint8 (n, H, W, c) and labels (n,), N images in all.

        Args:
            labels: Classes as a list of names or numbers from 0, or as a tensor or array of
                integers (L,); they are repeated cyclically. None for all classes.
            num_images: N; None for one image per label.
            how: See `Drawing`.

        Raises:
            RequestError: A label, number or setting is invalid for this model.
        """
        data = self.parts.shapes.data
        if labels is None:
            chosen, count = None, len(data.default_classes)
        else:
            chosen = check_labels(labels, data.num_classes, data.class_names)
            count = len(chosen)
        if num_images is not None:
            count = _whole("num_images", num_images, 1)
        seed = _whole("seed", how.get("seed", 0), 0)
        check_pair_noise(self.parts.config, seed=seed)
        parts = replace(self.parts, config=how.get("settings") or self.parts.config)
        weak = how.get("weak") or load_weak(parts)
        if weak is not None:
            _refuse_other_images(weak, parts)
        generator = build_generator(
            parts,
            process_group=how.get("process_group", SINGLE_PROCESS),
            check_stop=how.get("check_stop", lambda: None),
            sampler=how.get("sampler"),
            guidance=how.get("guidance"),
            weak=weak.labelled(parts.config) if weak else None,
        )
        return generator.images(
            self.labelled(parts.config),
            num_images=count,
            seed=seed,
            labels=chosen,
            batch_size=parts.config.sample.batch_size,
            on_pass=how.get("on_pass", lambda images: None),
        )

    def labelled(self, settings: RunConfig) -> LabelledCall:
        """Return the model as a function, in the precision of `settings`, with float32 output."""
        return labelled_call(replace(self.parts, config=settings), self.model)


def _whole(name: str, given: Any, least: int) -> int:
    """Return an argument of `Trained.sample` as an integer. Raises RequestError."""
    whole = isinstance(given, Integral) and not isinstance(given, bool)
    if not whole or not least <= int(given) < 2**63:
        raise RequestError(f"{name}={given}: expected a whole number at least {least}, below 2^63")
    return int(given)


def load(
    run: str | Path,
    *,
    root: str | Path = "outputs",
    weights: str = "ema",
    trusted_modules: Sequence[str] = (),
    codec_path: str | Path | None = None,
    device: str | torch.device | None = None,
) -> Trained:
    """Load the model of a run folder, a checkpoint folder, an exported file or an MLflow run id.

    Args:
        run: The path or id.
        root: The folder in which ids and names are looked up.
        weights: "ema" (the first average), "ema:0.9999", "schedule_free" (if the optimizer keeps
            it), "raw", or "power:0.1", an average of `dit-lab ema` of that width: the newest, or
            that of the given checkpoint.
        trusted_modules: User-defined packages whose code may run.
        codec_path: The present path of the codec.
        device: None for a GPU if there is one, else the CPU.

    Raises:
        RequestError: The run, its weights or its codec are not found or do not fit.
    """
    trust.trust_modules(trusted_modules)
    folder, chosen = find_run(str(run), root=Path(root))
    config = read_recorded(folder)
    if codec_path is not None:
        config = replace(config, codec=changed(config.codec, path=str(codec_path)))
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    parts = build_parts(config, recorded_shapes(folder), device)
    _refuse_other_codec(parts.codec, folder)
    found = read_weights(folder, chosen, weights, config)
    model = build_model(parts, heads=False)
    tensors = without_heads(found.tensors, needs_of_config(config))
    load_weights(model, tensors, source=found.source)
    return Trained(
        parts=parts,
        folder=folder,
        identity=recorded(folder),
        step=found.step,
        weights=found.name,
        model=model.to(device).eval(),
    )


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a model, with their name, step and source."""

    tensors: dict[str, Tensor]
    name: str  # "model", "ema-0.9999", "power-0.1", "schedule_free"
    step: int
    source: Path


def read_weights(
    folder: RunFolder, chosen: Path | None, weights: str, config: RunConfig
) -> Weights:
    """Return the weights that `weights` names, of a run, a checkpoint or an exported file.

    Raises RequestError.
    """
    if folder.is_exported:
        return _exported_weights(folder.root, weights, config)
    checkpoint, name = _checkpoint(folder, chosen), file_of(weights, config)
    step, source = checkpoint.step, checkpoint.path
    if weights.startswith(PREFIX):
        source, step = average_file(folder, weights, step=step if chosen else None)
        tensors = read_average(folder, source)
    elif checkpoint.holds(name):
        tensors = checkpoint.tensors(name)
    else:
        raise RequestError(
            f"sample.weights={weights}: {source} holds no {name}; the file that it was imported "
            "from had one set of weights, sample.weights=ema"
        )
    if checkpoint.holds("model"):
        # Averages hold parameters only; buffers, if any, come from the model.
        own = checkpoint.group("model")
        tensors |= {key: own.read(key) for key in own.names() if key not in tensors}
    return Weights(tensors, name, step, source)


def without_heads(tensors: Mapping[str, Tensor], needs: ModelNeeds) -> dict[str, Tensor]:
    """Return the tensors that sampling needs: all but those of heads that only training uses."""
    sampled = [head.name for head in needs.in_sampling().heads]
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(HEADS) or name.removeprefix(HEADS).partition(".")[0] in sampled
    }


def _exported_weights(file: Path, weights: str, config: RunConfig) -> Weights:
    known = read_exported(file)
    if weights != "ema" and file_of(weights, config) != known["weights"]:
        raise RequestError(
            f"sample.weights={weights}: {file} holds {known['weights']} alone; leave it out"
        )
    return Weights(read_safetensors(file), known["weights"], known["step"], file)


def load_weak(parts: Parts) -> Trained | None:
    """Load the model of `guidance.weak_run`, or return None if it is not set.

    Its weights are its average, or raw if `sample.weights` is raw. Raises RequestError if it is for
    other images.
    """
    name = parts.config.guidance.weak_run
    if name is None:
        return None
    weak = load(
        name,
        root=parts.config.paths.root,
        weights="raw" if parts.config.sample.weights == "raw" else "ema",
        codec_path=getattr(parts.config.codec, "path", None),
        device=parts.device,
    )
    _refuse_other_images(weak, parts)
    return weak


def _refuse_other_images(weak: Trained, parts: Parts) -> None:
    ours, theirs = (p.shapes for p in (parts, weak.parts))
    same = (ours.latent, ours.data.num_classes) == (theirs.latent, theirs.data.num_classes)
    if not same or parts.codec.fingerprint != weak.parts.codec.fingerprint:
        raise RequestError(
            f"guidance.weak_run={weak.folder.root}: was trained for {_seen(theirs)}, this model "
            f"for {_seen(ours)} (or through another codec)"
        )


def _seen(shapes: Shapes) -> str:
    channels, height, width = shapes.latent
    return f"{channels} x {height} x {width} in {counted(shapes.data.num_classes, 'class')}"


def _refuse_other_codec(codec: Codec, folder: RunFolder) -> None:
    """Raise RequestError for another codec than that of training, to which the latents belong."""
    trained_with = recorded(folder)["codec_fingerprint"]
    if trained_with not in (UNKNOWN_CODEC, codec.fingerprint):
        raise RequestError(
            f"codec.path: other weights than the run was trained with ({trained_with[:12]}, now "
            f"{codec.fingerprint[:12]}); give the folder of those"
        )


def open_checkpoints(
    folder: RunFolder, *, warn: Callable[[str], None], **keep: Any
) -> CheckpointStore:
    """Return the checkpoints of a run, whose identity must have been recorded."""
    known = recorded(folder)
    return CheckpointStore(
        folder.checkpoints,
        run=known["train_hash"],
        ancestors=known["ancestors"],
        warn=warn,
        **keep,
    )


def _checkpoint(folder: RunFolder, chosen: Path | None) -> Checkpoint:
    """Return the chosen checkpoint, or the newest complete one; warn of incomplete newer ones."""
    skipped: list[str] = []
    store = open_checkpoints(folder, warn=skipped.append)
    refuse_unreadable(f"run={folder.root}", folder, chosen)
    if chosen is not None:
        checkpoint = Checkpoint(chosen)
        try:
            store.verify(checkpoint)
        except DamagedCheckpoint as damage:
            raise RequestError(f"run={chosen}: {damage}") from None
        return checkpoint
    latest = store.latest()
    if latest is None:
        reason = f" ({skipped[0]})" if skipped else ""
        raise RequestError(f"run={folder.root}: has no whole checkpoint yet{reason}")
    for text in skipped:
        _log.warning("%s", text)
    return latest


def file_of(weights: str, config: RunConfig) -> str:
    """Return the name of the weights that `sample.weights` means: a file name without suffix."""
    if weights == "raw":
        return "model"
    if weights.startswith(PREFIX):
        return name_of(parse_width(weights))
    if weights == "ema":
        return first_average(target_of(config.optimizer), config.ema.decays)
    return weights.replace(":", "-")
