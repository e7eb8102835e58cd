"""A trained model, ready to draw images: what `dit-lab sample` and `dit_lab.load` use."""

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
from dit_lab.config.recorded import read_recorded
from dit_lab.config.schema import RunConfig
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.options import changed, target_of
from dit_lab.core.team import ALONE
from dit_lab.core.text import counted
from dit_lab.core.types import Codec, LabelledCall, Sampler, Shapes, Team
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
from dit_lab.training.post_hoc import PREFIX, made_average, read_average, width_in
from dit_lab.training.power import name_of

_log = logging.getLogger(__name__)

Labels = Sequence[int | str] | Tensor | np.ndarray


class Drawing(TypedDict, total=False):
    """How images are drawn."""

    sampler: Sampler | None  # an object; wins over `settings`, as the next two do
    guidance: Guidance | None
    weak: Trained | None  # the model that guidance goes away from
    seed: int  # 0 where it is left out
    settings: (
        RunConfig | None
    )  # sampler, guidance and precision as configured, in place of the run's
    team: Team  # shares the work; each of its processes gets all images
    check_stop: Callable[[], None]
    on_pass: Callable[[int], None]  # hears of n images passing through a model


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The weights of a run at one checkpoint, with everything that is needed to sample them."""

    parts: Parts  # with the configuration that the run recorded
    folder: RunFolder
    identity: Mapping[str, Any]  # what its identity.json says
    step: int
    weights: str  # "model", or the average's name: "ema-0.9999", "power-0.1", "schedule_free"
    model: nn.Module

    @property
    def name(self) -> str:
        """What these weights are, wherever they lie."""
        return weights_name(self.identity, self.step, self.weights)

    def sample(
        self,
        labels: Labels | None = None,
        *,
        num_images: int | None = None,
        **how: Unpack[Drawing],
    ) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, H, W, c) and their labels (N,): those of `images`, all at once."""
        images, given = zip(*self.images(labels, num_images=num_images, **how), strict=True)
        return torch.cat(images), torch.cat(given)

    def images(
        self,
        labels: Labels | None = None,
        *,
        num_images: int | None = None,
        **how: Unpack[Drawing],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Groups of images uint8 (n, H, W, c) and their labels (n,), N images in all.

        `labels` are classes, as a list of names or numbers from 0, or as a tensor or array of
        integers of shape (L,). They are cycled through (all classes in turn where None); N is
        `num_images`, or one for each label. Raises RequestError.
        """
        data = self.parts.shapes.data
        if labels is None:
            chosen, count = None, len(data.drawn_classes)
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
            team=how.get("team", ALONE),
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
        """The model as a function, in the precision of `settings`; its output is float32."""
        return labelled_call(replace(self.parts, config=settings), self.model)


def _whole(name: str, given: Any, least: int) -> int:
    """A number for `Trained.sample`; RequestError where it is none."""
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
    """The model of a run folder, a checkpoint folder, an exported file or a tracking run id (looked
    up in `root`).

    weights: "ema" (the first average), "ema:0.9999", "schedule_free" (where the optimizer keeps
    it), "raw", or "power:0.1", the newest average of that width which `dit-lab ema` has made (of a
    chosen checkpoint: at its step). `codec_path`:
    where the codec lies now. `device` None takes a GPU where there is one. Raises RequestError.
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
    model = build_model(parts)
    load_weights(model, found.tensors, source=found.source)
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
    """The tensors of a model, and what they are."""

    tensors: dict[str, Tensor]
    name: str  # "model", "ema-0.9999", "power-0.1", "schedule_free"
    step: int
    source: Path


def read_weights(
    folder: RunFolder, chosen: Path | None, weights: str, config: RunConfig
) -> Weights:
    """What `sample.weights` means of a run, of one of its checkpoints, or of an exported file.
    Raises RequestError."""
    if folder.is_exported:
        return _exported_weights(folder.root, weights, config)
    checkpoint, name = _checkpoint(folder, chosen), file_of(weights, config)
    step, source = checkpoint.step, checkpoint.path
    if weights.startswith(PREFIX):
        source, step = made_average(folder, weights, step=step if chosen else None)
        tensors = read_average(folder, source)
    elif checkpoint.holds(name):
        tensors = checkpoint.tensors(name)
    else:
        raise RequestError(
            f"sample.weights={weights}: {source} holds no {name}; the file that it was imported "
            "from had one set of weights, sample.weights=ema"
        )
    if checkpoint.holds("model"):
        # An average holds parameters only; buffers, if a model has any, are the model's own.
        own = checkpoint.group("model")
        tensors |= {key: own.read(key) for key in own.names() if key not in tensors}
    return Weights(tensors, name, step, source)


def _exported_weights(file: Path, weights: str, config: RunConfig) -> Weights:
    known = read_exported(file)
    if weights != "ema" and file_of(weights, config) != known["weights"]:
        raise RequestError(
            f"sample.weights={weights}: {file} holds {known['weights']} alone; leave it out"
        )
    return Weights(read_safetensors(file), known["weights"], known["step"], file)


def load_weak(parts: Parts) -> Trained | None:
    """The model of `guidance.weak_run`, if there is one: its average, or its raw weights where the
    model's own are raw. Raises RequestError where it is for other images."""
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
    """Latents mean something only to the codec that made them."""
    trained_with = recorded(folder)["codec_fingerprint"]
    if trained_with not in (UNKNOWN_CODEC, codec.fingerprint):
        raise RequestError(
            f"codec.path: other weights than the run was trained with ({trained_with[:12]}, now "
            f"{codec.fingerprint[:12]}); give the folder of those"
        )


def open_checkpoints(
    folder: RunFolder, *, warn: Callable[[str], None], **keep: Any
) -> CheckpointStore:
    """The checkpoints of a run, whose identity must have been recorded."""
    known = recorded(folder)
    return CheckpointStore(
        folder.checkpoints,
        run=known["train_hash"],
        ancestors=known["ancestors"],
        warn=warn,
        **keep,
    )


def _checkpoint(folder: RunFolder, chosen: Path | None) -> Checkpoint:
    """The chosen checkpoint, or the newest whole one; newer ones that are not whole are named."""
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
    """The name of what `sample.weights` means: of a checkpoint, the file without its ending."""
    if weights == "raw":
        return "model"
    if weights.startswith(PREFIX):
        return name_of(width_in(weights))
    if weights == "ema":
        return first_average(target_of(config.optimizer), config.ema.decays)
    return weights.replace(":", "-")
