"""Import of other programs' weights into a run folder for `sample`, `evaluate` and `init_from`.

Options that the weights do not determine come from their format, from defaults or from the command
line; every inferred option is reported with its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dit_lab.actions.inferred import InferredOption, as_overrides, corrected, inferred_keys, typed
from dit_lab.build.trained import open_checkpoints
from dit_lab.codecs.facts import IDENTITY, config_file
from dit_lab.config.checks.data import UNKNOWN_DATA, read_facts, refuse_other_images
from dit_lab.config.checks.own import latents_of
from dit_lab.config.compose import compose_train
from dit_lab.config.identity import as_hashed, identity
from dit_lab.config.objects import to_tree
from dit_lab.config.recorded import as_recorded, rebased, root_of
from dit_lab.config.schema import RunConfig
from dit_lab.config.yaml_files import to_yaml
from dit_lab.core.errors import RequestError
from dit_lab.core.files import atomic_path
from dit_lab.core.options import arguments_of, target_of
from dit_lab.core.types import DataFacts, Shapes
from dit_lab.data.image_facts import sides
from dit_lab.interop.architecture import (
    DIT,
    Architecture,
    configured,
    positions,
    refuse_other_positions,
    refuse_other_tensors,
    rounding_of,
    shapes_of,
)
from dit_lab.interop.files import Tensors, read_safetensors
from dit_lab.interop.formats import Foreign, open_foreign
from dit_lab.runs.exported import EXPORTED, header_of
from dit_lab.runs.folder import (
    FINISHED,
    RunFolder,
    digest,
    update_status,
    write_atomically,
    write_json,
)
from dit_lab.runs.recorded import UNKNOWN_CODEC, deciding
from dit_lab.training.checkpoint import hash_of


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import."""

    folder: RunFolder
    told: list[InferredOption]
    skipped: list[str]  # names of unused tensors of the file
    parameters: int


def import_weights(
    source: Path,
    out: Path,
    *,
    asked: str = "auto",
    overrides: Sequence[str] = (),
    config_dirs: Iterable[Path] = (),
) -> Imported:
    """Create the run folder `out` atomically; `asked` is the name of a format, or "auto".

    Raises:
        RequestError: the weights are damaged, unknown, or do not match the config.
    """
    is_exported = source.suffix == EXPORTED and source.is_file()
    if asked == "auto" and is_exported and (known := header_of(source)):
        return _unpacked(source, out, known, overrides)
    foreign = open_foreign(source, asked)
    told = [InferredOption("format", foreign.adapter.name, foreign.why)]
    groups, skipped = _useful(foreign)
    found = shapes_of(next(iter(groups.values())))
    try:
        guessed = foreign.adapter.architecture(foreign.file, found)
    except RequestError as refusal:
        raise RequestError(f"{source}: {refusal}") from None
    chosen = inferred_keys(foreign, guessed, codec=typed(overrides).get("codec"))
    told += chosen
    config = compose_train(as_overrides(chosen, out, overrides), config_dirs=config_dirs)
    architecture = _architecture(config, guessed)
    shapes = _shapes(config, foreign, architecture, overrides)
    tensors = {
        name: _checked(foreign, group, architecture, source) for name, group in groups.items()
    }
    _write(foreign, out, config, shapes, tensors)
    parameters = sum(tensor.numel() for tensor in next(iter(tensors.values())).values())
    return Imported(RunFolder(out), corrected(told, overrides), skipped, parameters)


def _useful(foreign: Foreign) -> tuple[dict[str, Tensors], list[str]]:
    """Return the sets of weights without unused tensors, and the names of the unused ones."""
    skips = foreign.adapter.skipped
    groups: dict[str, Tensors] = {
        name: {key: tensor for key, tensor in group.items() if not skips(key)}
        for name, group in foreign.file.groups.items()
    }
    names = {key for group in foreign.file.groups.values() for key in group if skips(key)}
    return groups, sorted(names)


# ---- architecture and data -----------------------------------------------------------------------


def _architecture(config: RunConfig, guessed: Architecture) -> Architecture:
    """Return the configured model, with as many classes as the label embedding has rows."""
    model = config.model
    if target_of(model) != DIT:
        raise RequestError(f"model={config.choices['model']}: the weights are for the built-in DiT")
    classes = guessed.label_rows
    if classes and model.class_dropout_prob > 0:
        classes -= 1
    return configured(
        arguments_of(model),
        latent=(guessed.in_channels, *guessed.input_size),
        num_classes=classes,
        learn_sigma=getattr(config.objective, "learn_sigma", False),
    )


def _checked(
    foreign: Foreign, group: Tensors, architecture: Architecture, source: Path
) -> dict[str, Tensor]:
    """Return a set of weights by our names, float32. Raises RequestError if it does not fit."""
    adapter = foreign.adapter
    try:
        refuse_other_tensors(shapes_of(group), adapter.expected(architecture))
        ours = dict(adapter.to_ours(group, architecture))
        refuse_other_positions(ours["pos_embed"], architecture)
        if rounding_of(ours["pos_embed"]):
            ours["pos_embed"] = positions(architecture)
        for name, tensor in ours.items():
            if not tensor.float().isfinite().all():
                raise RequestError(f"{name}: holds numbers that are not finite")
    except RequestError as refusal:
        raise RequestError(f"{source}: {refusal}") from None
    return {name: tensor.float() for name, tensor in ours.items()}


def _shapes(
    config: RunConfig, foreign: Foreign, architecture: Architecture, overrides: Sequence[str]
) -> Shapes:
    """Return the shapes, from the configured data or else from the inferred options.

    Raises RequestError if data or codec are given and do not fit the model.
    """
    height, width = sides(config.dataset.image_size)
    pixels = target_of(config.codec) == IDENTITY
    latent = (architecture.in_channels, *architecture.input_size)
    assumed = DataFacts(
        channels=latent[0] if pixels else 3,
        height=height,
        width=width,
        num_classes=architecture.num_classes,
        class_names=tuple(foreign.adapter.data_of(foreign.file).get("class_names", ())),
        train_images=0,
        validation_images=0,
        fingerprint=UNKNOWN_DATA,
        levels=foreign.adapter.data_of(foreign.file).get("levels", 256),
    )
    named = typed(overrides).keys()
    if pixels or "codec.path" in named or config_file(config.codec.path).is_file():
        _refuse_other_latents(config, assumed, latent)
    if not named & {"dataset", "dataset.root"}:
        return Shapes(assumed, latent)
    facts = read_facts(config)
    refuse_other_images(config, facts, assumed)
    return Shapes(facts, latent)


def _refuse_other_latents(config: RunConfig, data: DataFacts, latent: tuple[int, int, int]) -> None:
    """Raise RequestError if the codec's latents of such images have not the model's shape."""
    made = latents_of(config.codec, data)
    if made != latent:
        raise RequestError(
            f"codec={config.choices['codec']}: makes {_by(made)} of images of {data.height} x "
            f"{data.width}, and the weights are for {_by(latent)}; give another codec, or "
            "dataset.image_size"
        )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


# ---- writing ------------------------------------------------------------------------------------


def _write(
    foreign: Foreign, out: Path, config: RunConfig, shapes: Shapes, tensors: Mapping[str, Tensors]
) -> None:
    """Write the run folder of imported weights."""
    content = digest({file.name: hash_of(file) for file in foreign.file.files})
    origin = {"format": foreign.adapter.name, "file": str(foreign.file.path), "hash": content}
    stem = foreign.file.path.stem
    names = {"model": "model", "ema": f"ema-{config.ema.decays[0]}"}
    write_run(
        out,
        config=config,
        identity={
            **identity(config, shapes, before={}, codec=UNKNOWN_CODEC),
            "train_hash": digest({**deciding(as_hashed(to_tree(config))), "weights": content}),
            "imported": origin,
        },
        step=int(stem) if stem.isdecimal() else 0,  # the original code names checkpoints by step
        tensors={names[name]: group for name, group in tensors.items()},
    )


def _unpacked(
    source: Path, out: Path, known: Mapping[str, Any], overrides: Sequence[str]
) -> Imported:
    """Create the run folder of a file that `dit-lab export` wrote; its header has the config."""
    if overrides:
        raise RequestError(
            f"{overrides[0]}: {source} was exported by the lab and keeps its own keys"
        )
    if known["weights"].startswith("power-"):
        raise RequestError(
            f"{source}: holds the post-hoc EMA {known['weights']}, which no run folder can hold; "
            "use the file itself as RUN"
        )
    tensors = read_safetensors(source)
    write_run(
        out,
        config=rebased(as_recorded(known["config"], source), root_of(RunFolder(out))),
        identity={**known["identity"], "imported": {"format": "dit-lab", "file": str(source)}},
        step=known["step"],
        tensors={known["weights"]: tensors},
    )
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return Imported(
        RunFolder(out), [InferredOption("format", "dit-lab", "its header")], [], parameters
    )


def write_run(
    out: Path,
    *,
    config: RunConfig,
    identity: Mapping[str, Any],
    step: int,
    tensors: Mapping[str, Tensors],
) -> None:
    """Write a finished run with one checkpoint, atomically."""
    with atomic_path(out) as beside:
        folder = RunFolder(beside)
        folder.checkpoints.mkdir(parents=True)
        write_atomically(folder.config, to_yaml(to_tree(config)))
        write_json(folder.identity, identity)
        open_checkpoints(folder, warn=lambda text: None).save(
            step, tensors=tensors, state={"train": {"step": step}}
        )
        update_status(folder, status=FINISHED, step=step, results={})
