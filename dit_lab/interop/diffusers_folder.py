"""diffusers' DiTTransformer2DModel: another layout of the same model, in a folder.

Every block has its own copy of the time and label embedders (the final layer uses the first one),
queries, keys and values are three matrices, and positions are computed, not stored. Two constants
differ: norms add 1e-5 to the variance unless `norm_eps` is 1e-6, and the 128 time frequencies are
divided by 127 instead of 128, which no option changes. Weights that were converted from the
originals are therefore read as the originals are, and exported folders include a pipeline that
corrects both constants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.files import parse_json, read_within
from dit_lab.core.typed import read_as, spelled, within
from dit_lab.core.types import Objective
from dit_lab.interop.adapter import Adapter
from dit_lab.interop.architecture import DROPOUT, Architecture, Shape, Shapes, positions
from dit_lab.interop.files import INDEX, Tensors, WeightsFile, open_weights
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.flow import FlowObjective
from dit_lab.runs.records import MOST_CLASSES, few_cells

CONFIG = "config.json"
INDEX_OF_PIPELINE = "model_index.json"
CLASS = "DiTTransformer2DModel"
FILES = (
    "diffusion_pytorch_model.safetensors", f"diffusion_pytorch_model{INDEX}",
    "diffusion_pytorch_model.bin",
)  # fmt: skip

VARIANTS = (
    r"diffusion_pytorch_model\.\w+\.safetensors",
    r"diffusion_pytorch_model\.safetensors\.index\.\w+\.json",
    r"diffusion_pytorch_model\.\w+\.bin",
)
"""Names of weight files in another precision, such as fp16."""

EMBEDDERS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
}
TABLE = "class_embedder.embedding_table.weight"
IN_A_BLOCK = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
KINDS = ("weight", "bias")
OUR_TABLE = "y_embedder.embedding_table.weight"
MLP_RATIO = 4.0  # of every block
PREDICTIONS = {"noise": "epsilon", "data": "sample", "v": "v_prediction"}


Word = Annotated[str, spelled(r"\w{1,60}", "a word")]
Sides = Annotated[int, within(1, 2**16)]
Layers = Annotated[int, within(1, 2**12)]


def few_positions(config: Mapping[str, int]) -> str:
    width = config["num_attention_heads"] * config["attention_head_dim"]
    side = config["sample_size"] // config["patch_size"]
    return few_cells((width, side, side))


class Transformer(TypedDict):
    """The entries of a CLASS's config that are read."""

    in_channels: Sides
    sample_size: Sides
    num_embeds_ada_norm: Annotated[int, within(0, MOST_CLASSES)]
    patch_size: Sides
    num_attention_heads: Layers
    attention_head_dim: Sides
    num_layers: Layers
    out_channels: NotRequired[Sides | None]


class Lab(TypedDict):
    """The facts that the lab's pipeline stores in its model_index.json."""

    objective: NotRequired[dict[Word, Word | float | int | bool | None]]
    num_classes: NotRequired[Annotated[int, within(0, MOST_CLASSES)]]
    null_label: NotRequired[bool]
    class_names: NotRequired[list[str]]
    levels: NotRequired[Annotated[int, within(2, 2**16)]]


def is_folder(path: Path) -> bool:
    """Return whether `path` is the folder of a pipeline or of its transformer."""
    return (path / CONFIG).is_file() or (path / "transformer" / CONFIG).is_file()


def open_folder(path: Path) -> WeightsFile:
    """Open the weights of a transformer, or of the transformer in a pipeline folder.

    `args` of the result is the transformer's config, with the pipeline's config under `pipeline`.

    Raises:
        RequestError: if the folder does not hold a CLASS.
    """
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    config = _read_config(folder / CONFIG)
    if config.get("_class_name") != CLASS:
        raise RequestError(
            f"{folder / CONFIG}: of a {config.get('_class_name')}; expected a {CLASS}"
        )
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    found = found or _variant(folder)
    index = path / INDEX_OF_PIPELINE
    pipeline = _read_config(index) if index.is_file() else {}
    opened = open_weights(found)
    return replace(opened, args={**config, "pipeline": pipeline})


def _variant(folder: Path) -> Path:
    """Return the weights file of a folder that only has another precision, such as fp16."""
    for form in VARIANTS:
        files = sorted(file for file in folder.iterdir() if re.fullmatch(form, file.name))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise RequestError(f"{folder}: holds {names}; keep one of them")
        if files:
            return files[0]
    raise RequestError(f"{folder}: holds no weights; expected {FILES[0]}")


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = parse_json(read_within(file))
    except RequestError:
        raise
    except (OSError, ValueError) as error:
        raise RequestError(f"{file}: not JSON ({error}); fetch it again") from None
    if not isinstance(config, dict):
        raise RequestError(f"{file}: not the config of a model; fetch it again")
    return config


class DiffusersFormat(Adapter):
    """The transformer of diffusers."""

    name = "diffusers"
    objective = "ddpm"
    sizes_from = "the config"

    def objective_of(self, file: WeightsFile) -> tuple[str, Mapping[str, Any]]:
        recorded = _lab_facts(file).get("objective", {})
        options = {key: value for key, value in recorded.items() if key != "name"}
        return recorded.get("name", self.objective), options

    def data_of(self, file: WeightsFile) -> Mapping[str, Any]:
        lab = _lab_facts(file)
        return {key: lab[key] for key in ("class_names", "levels") if key in lab}

    def architecture(self, file: WeightsFile, shapes: Shapes) -> Architecture:
        """Return the architecture given by the config; raise RequestError if it is invalid."""
        lab = _lab_facts(file)
        kind: Any = Annotated[Transformer, few_positions]
        config = read_as(kind, file.args, where=CONFIG, instead="fetch it again")
        channels, side = config["in_channels"], config["sample_size"]
        labels = lab.get("num_classes", config["num_embeds_ada_norm"])
        return Architecture(
            input_size=(side, side),
            patch_size=config["patch_size"],
            in_channels=channels,
            hidden_size=config["num_attention_heads"] * config["attention_head_dim"],
            depth=config["num_layers"],
            num_heads=config["num_attention_heads"],
            mlp_ratio=MLP_RATIO,
            num_classes=labels,
            class_dropout_prob=DROPOUT if lab.get("null_label", True) else 0.0,
            learn_sigma=(config.get("out_channels") or channels) == 2 * channels,
        )

    def expected(self, architecture: Architecture) -> dict[str, Shape]:
        ours = architecture.shapes()
        width = architecture.hidden_size
        shapes: dict[str, Shape] = {}
        for theirs, (name, part) in _sources(architecture).items():
            shape = ours.get(name, (architecture.label_rows, width))
            shapes[theirs] = (shape[0] // 3, *shape[1:]) if part is not None else shape
        rows = max(architecture.num_classes, 1) + 1
        return {
            name: (rows, width) if name.endswith(TABLE) else shape for name, shape in shapes.items()
        }

    def to_ours(self, theirs: Tensors, architecture: Architecture) -> Tensors:
        """Convert to the lab's tensors; raise RequestError if the blocks' embedders differ."""
        parts: dict[str, list[Tensor]] = {}
        for name, (ours, part) in _sources(architecture).items():
            known = parts.setdefault(ours, [])
            if part is None and known:
                if not known[0].equal(theirs[name]):
                    raise RequestError(
                        f"{name}: differs from that of block 0; this model has one for all blocks"
                    )
            else:
                known.append(theirs[name])
        tensors = {
            name: found[0] if len(found) == 1 else torch.cat(found) for name, found in parts.items()
        }
        tensors["pos_embed"] = positions(architecture)
        table = tensors.pop(OUR_TABLE)
        if architecture.num_classes:
            tensors[OUR_TABLE] = table[: architecture.label_rows]
        return tensors

    def from_ours(self, ours: Tensors, architecture: Architecture) -> Tensors:
        table = torch.zeros(max(architecture.num_classes, 1) + 1, architecture.hidden_size)
        if architecture.num_classes:
            table[: architecture.label_rows] = ours[OUR_TABLE]
        tensors = {}
        for name, (source, part) in _sources(architecture).items():
            whole = table if source == OUR_TABLE else ours[source]
            tensors[name] = (whole if part is None else whole.chunk(3)[part]).clone()
        return tensors

    def config(self, architecture: Architecture) -> dict[str, Any]:
        """Return the transformer's config.json."""
        return {
            "_class_name": CLASS,
            "num_attention_heads": architecture.num_heads,
            "attention_head_dim": architecture.hidden_size // architecture.num_heads,
            "in_channels": architecture.in_channels,
            "out_channels": architecture.out_channels,
            "num_layers": architecture.depth,
            "sample_size": architecture.input_size[0],
            "patch_size": architecture.patch_size,
            "attention_bias": True,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": max(architecture.num_classes, 1),
            "norm_type": "ada_norm_zero",
            "norm_elementwise_affine": False,
            "norm_eps": 1e-6,
        }

    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        """Raise RequestError if neither diffusers nor the lab's pipeline could use such weights."""
        super().refuse(architecture, objective)
        if architecture.mlp_ratio != MLP_RATIO:
            raise RequestError(
                f"model.mlp_ratio={architecture.mlp_ratio:g}: that of {CLASS} is {MLP_RATIO:g}"
            )
        scheduler_config(objective)


def _lab_facts(file: WeightsFile) -> Mapping[str, Any]:
    """Return the facts that the lab's pipeline stored in model_index.json; {} for others."""
    facts = file.args["pipeline"].get("lab", {})
    return dict(read_as(Lab, facts, where=f"{INDEX_OF_PIPELINE}: lab", instead="fetch it again"))


def _sources(architecture: Architecture) -> dict[str, tuple[str, int | None]]:
    """Return diffusers name -> (lab's name, third of the lab's tensor, or None for all of it)."""
    found: dict[str, tuple[str, int | None]] = {}
    for kind in KINDS:
        for ours, theirs in OUTSIDE.items():
            found[f"{theirs}.{kind}"] = (f"{ours}.{kind}", None)
    for block in range(architecture.depth):
        there, here = f"transformer_blocks.{block}", f"blocks.{block}"
        for kind in KINDS:
            for ours, theirs in EMBEDDERS.items():
                found[f"{there}.norm1.emb.{theirs}.{kind}"] = (f"{ours}.{kind}", None)
            for ours, theirs in IN_A_BLOCK.items():
                found[f"{there}.{theirs}.{kind}"] = (f"{here}.{ours}.{kind}", None)
            for third, theirs in enumerate(QKV):
                found[f"{there}.{theirs}.{kind}"] = (f"{here}.attn.qkv.{kind}", third)
        found[f"{there}.norm1.emb.{TABLE}"] = (OUR_TABLE, None)
    return found


def scheduler_config(objective: Objective) -> dict[str, Any]:
    """Return the scheduler_config.json for sampling with this objective.

    Raises:
        RequestError: if diffusers has no scheduler for it.
    """
    if isinstance(objective, DDPM):
        chain = objective.interpolant
        return {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": chain.num_timesteps,
            "trained_betas": chain.betas.tolist(),
            "prediction_type": PREDICTIONS[objective.kind],
            "clip_sample": False,
            "set_alpha_to_one": True,
            "timestep_spacing": "leading",
            "steps_offset": 0,
        }
    if isinstance(objective, FlowObjective) and objective.kind == "velocity":
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}
    raise RequestError(
        "no scheduler of diffusers samples this objective; DDPM and flows with "
        "objective.prediction=velocity can be exported"
    )
