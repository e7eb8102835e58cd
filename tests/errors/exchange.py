"""Errors of import and export of weights."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.errors.case import Case, heavy
from tests.errors.starts import all_of, wrote

IMPORT = "import DiT.pt --out made"
SMALL = "model.num_heads=2 precision=fp32"


class Hostile:
    """An object whose unpickling deletes a folder."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("rm -rf made",)


def tensors(**changes: Any) -> dict[str, Any]:
    """Return the tensors of a tiny DiT."""
    from dit_lab.models.dit import DiT

    options = {
        "input_size": (8, 8), "patch_size": 2, "in_channels": 1, "hidden_size": 12, "depth": 1,
        "num_heads": 2, "num_classes": 10, **changes,
    }  # fmt: skip
    return dict(DiT(**options).state_dict())


def saved(make: Callable[[], object] = tensors, name: str = "DiT.pt") -> Callable[[Path], object]:
    """Prepare a folder with a file of torch.save."""

    def prepare(folder: Path) -> None:
        import torch

        torch.save(make(), folder / name)

    return prepare


def changed(name: str, change: Callable[[Any], Any] | None) -> Callable[[Path], object]:
    """Return tensors, one of which is replaced or missing."""

    def make() -> dict[str, Any]:
        found = tensors()
        tensor = found.pop(name, None)
        if change is not None:
            found[name] = change(tensor)
        return found

    return saved(make)


def hostile_arguments() -> dict[str, Any]:
    return {"ema": tensors(), "args": argparse.Namespace(model=Hostile())}


def lightning(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Return LightningDiT tensors, one of which is replaced."""

    def make() -> dict[str, Any]:
        from dataclasses import replace

        from dit_lab.interop.architecture import inferred, shapes_of
        from dit_lab.interop.formats import FORMATS

        layers = {"norm": "rms", "mlp": "swiglu", "rope": True}
        ours = tensors(**layers, learn_sigma=False, num_heads=3)
        architecture = replace(inferred(shapes_of(ours)), num_heads=3, rope=True)
        theirs = dict(FORMATS["lightningdit"].from_ours(ours, architecture))
        return {**theirs, name: change(theirs[name])}

    return saved(make)


def diffusers(config: object = None, *, index: str = "{}") -> Callable[[Path], object]:
    """Prepare a diffusers folder without weights."""

    def prepare(folder: Path) -> None:
        place = folder / "model" / "transformer"
        place.mkdir(parents=True)
        text = config if isinstance(config, str) else json.dumps(config)
        (place / "config.json").write_text(text)
        (folder / "model" / "model_index.json").write_text(index)

    return prepare


def two_variants(folder: Path) -> None:
    """Prepare half-precision weights of two kinds in the folder of `diffusers`."""
    for variant in ("fp16", "bf16"):
        name = f"diffusion_pytorch_model.{variant}.safetensors"
        (folder / "model/transformer" / name).write_bytes(b"")


def of_blocks(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[Path], object]:
    """Prepare a diffusers folder with changes to its config or tensors."""

    def prepare(folder: Path) -> None:
        from dataclasses import replace

        from safetensors.torch import save_file

        from dit_lab.interop.architecture import inferred, shapes_of
        from dit_lab.interop.formats import FORMATS

        adapter, ours = FORMATS["diffusers"], tensors(depth=2)
        architecture = replace(inferred(shapes_of(ours)), num_heads=2)
        config = adapter.config(architecture)
        theirs = dict(adapter.from_ours(ours, architecture))
        change(config, theirs)
        diffusers(config)(folder)
        place = folder / "model/transformer/diffusion_pytorch_model.safetensors"
        save_file(theirs, place)

    return prepare


def index_of(text: str) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        of_blocks(lambda config, theirs: None)(folder)
        place = folder / "model/transformer"
        (place / "diffusion_pytorch_model.safetensors").unlink()
        (place / "diffusion_pytorch_model.safetensors.index.json").write_text(text)

    return prepare


def other_copy(config: dict[str, Any], theirs: dict[str, Any]) -> None:
    theirs["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"] += 1


def imported(folder: Path) -> None:
    """Prepare a run imported from a file with one set of weights."""
    from dit_lab.actions.import_weights import import_weights

    saved()(folder)
    import_weights(folder / "DiT.pt", folder / "made", overrides=SMALL.split())


def headed(folder: Path, name: str, metadata: dict[str, str]) -> None:
    """Write a safetensors file without tensors."""
    header = json.dumps({"__metadata__": metadata}).encode()
    (folder / name).write_bytes(len(header).to_bytes(8, "little") + header)


def exported(folder: Path, weights: str = "ema-0.9") -> None:
    """Write the header of an exported file of the run, without tensors."""
    from dit_lab.config.yaml_files import read_yaml
    from dit_lab.runs.exported import HEADER_KEY
    from dit_lab.runs.folder import RunFolder, read_json

    run = RunFolder(next(folder.glob("outputs/runs/tiny/*")))
    known = {
        "config": read_yaml(run.config),
        "identity": read_json(run.identity),
        "step": 4,
        "weights": weights,
    }
    headed(folder, "tiny.safetensors", {HEADER_KEY: json.dumps(known)})


def no_safetensors(folder: Path) -> None:
    (folder / "DiT.safetensors").write_text("half a page of prose")


def own_model(folder: Path) -> None:
    """Prepare weights of a DiT, and a user-defined model with the same options."""
    saved()(folder)
    options = "patch_size: int, hidden_size: int, depth: int, num_heads: int, mlp_ratio: float = 4"
    more = "class_dropout_prob: float = 0.1, activation_checkpointing: str = 'none'"
    layers = "norm: str = 'layer', mlp: str = 'gelu', rope: bool = False, qk_norm: bool = False"
    given = "input_size, in_channels, num_classes, learn_sigma, generator"
    (folder / "mylab.py").write_text(
        "from torch import nn\n"
        "class Model(nn.Module):\n"
        f"    def __init__(self, *, {given}, {options}, {more}, {layers}): ...\n"
        "    def forward(self, x, time, labels): ...\n"
    )


def without_checkpoints(folder: Path) -> None:
    for marker in folder.glob("outputs/runs/tiny/*/checkpoints/*/COMPLETE"):
        marker.unlink()


# fmt: off
CASES = (
    Case("a file of weights that is not there", IMPORT,
         "DiT.pt: does not exist; give a file of weights or a diffusers folder"),
    Case("an empty file of weights", IMPORT, "DiT.pt: is empty; fetch it again",
         prepare=wrote("DiT.pt", "")),
    heavy("a text file in the place of weights", IMPORT,
         "DiT.pt: not written by torch.save, or damaged",
         prepare=wrote("DiT.pt", "not weights at all\n")),
    heavy("half a zip file in the place of weights", IMPORT,
         "DiT.pt: not written by torch.save, or damaged",
         prepare=lambda folder: (folder / "DiT.pt").write_bytes(b"PK\5\6" + bytes(18))),
    heavy("weights by another ending", "import weights.h5 --out made",
         r"weights.h5: unknown ending .h5; expected .pt, .pth, .ckpt, .bin, .safetensors",
         prepare=wrote("weights.h5", "x")),
    heavy("prose in a safetensors file", "import DiT.safetensors --out made",
         "DiT.safetensors: no safetensors file, or damaged; fetch it again",
         prepare=no_safetensors),
    heavy("prose in a safetensors file, with a format",
         "import DiT.safetensors --out made --format dit",
         r"DiT.safetensors: no safetensors file \(.*\); fetch it again", prepare=no_safetensors),
    heavy("a pickle that would run a command", IMPORT,
         r"DiT.pt: refused, for reading it would call \w+.system; only tensors, numbers",
         prepare=saved(Hostile)),
    heavy("a Namespace that would run a command", IMPORT,
         r"DiT.pt: refused, for reading it would call \w+.system; only tensors, numbers",
         prepare=saved(hostile_arguments)),
    heavy("a list in the place of weights", IMPORT, "DiT.pt: holds a list, not weights by name",
         prepare=saved(lambda: [1, 2])),
    heavy("a dictionary without weights", IMPORT,
         "DiT.pt: holds no weights; expected tensors by name, .*; found epoch, args",
         prepare=saved(lambda: {"epoch": 3, "args": argparse.Namespace(model="DiT-S/2")})),
    heavy("several sets of weights", IMPORT,
         r"DiT.pt: holds several sets of weights \(net_a, net_b\); save the one to use alone",
         prepare=saved(lambda: {"net_a": tensors(), "net_b": tensors()})),
    heavy("weights whose names meet", IMPORT,
         "DiT.pt: two tensors of one name, with and without module.",
         prepare=saved(lambda: {**tensors(), "module.pos_embed": tensors()["pos_embed"]})),
    heavy("weights that could be DiT's or SiT's", "import weights.pt --out made",
         "weights.pt: DiT, SiT and LightningDiT can have the .* give --format dit, sit or",
         prepare=saved(name="weights.pt")),
    heavy("weights of another kind of model", IMPORT,
         "DiT.pt: x_embedder.proj.weight: missing, so these are not the weights of a DiT",
         prepare=saved(lambda: {"conv.weight": tensors()["pos_embed"]})),
    heavy("weights with patches of one dimension", IMPORT,
         r"DiT.pt: x_embedder.proj.weight: has shape \(12, 4\), expected 4 dimensions",
         prepare=changed("x_embedder.proj.weight", lambda tensor: tensor.flatten(1))),
    heavy("weights for images that are no squares", IMPORT,
         "DiT.pt: pos_embed: 32 tokens do not form a square, so height and width are",
         prepare=saved(lambda: tensors(input_size=(8, 16)))),
    heavy("weights with a third of a channel", IMPORT,
         "DiT.pt: final_layer.linear.weight: 3 outputs per token are neither 1 nor 2",
         prepare=changed("final_layer.linear.weight", lambda tensor: tensor[:3])),
    heavy("weights of unknown heads", IMPORT,
         "model.num_heads: cannot be inferred.* give model.num_heads=N", prepare=saved()),
    heavy("weights of which one is missing", f"{IMPORT} {SMALL}",
         "not the tensors of this model: 1 are missing, such as blocks.0.attn.qkv.bias",
         prepare=changed("blocks.0.attn.qkv.bias", None)),
    heavy("weights of which one is unknown", f"{IMPORT} {SMALL}",
         "not the tensors of this model: 1 are unknown, such as blocks.0.norm1.bias",
         prepare=saved(lambda: {**tensors(), "blocks.0.norm1.bias": tensors()["pos_embed"]})),
    heavy("weights of which one has another shape", f"{IMPORT} {SMALL}",
         r"blocks.0.mlp.fc2.bias has shape \(5,\), expected \(12,\)",
         prepare=changed("blocks.0.mlp.fc2.bias", lambda tensor: tensor[:5])),
    heavy("weights with other positions", f"{IMPORT} {SMALL}",
         "DiT.pt: pos_embed: differs by up to .* from the sin-cos code",
         prepare=changed("pos_embed", lambda tensor: tensor.flip(2))),
    heavy("weights that are not finite", f"{IMPORT} {SMALL}",
         "DiT.pt: blocks.0.mlp.fc2.bias: holds numbers that are not finite",
         prepare=changed("blocks.0.mlp.fc2.bias", lambda tensor: tensor / 0)),
    heavy("LightningDiT's weights as DiT's", f"{IMPORT} --format dit",
         "DiT.pt: model.norm=rms, model.mlp=swiglu: this format supports the original's",
         prepare=lightning("pos_embed", lambda tensor: tensor)),
    heavy("weights of a LightningDiT without shifts", IMPORT,
         "DiT.pt: blocks.0.adaLN_modulation.1.weight: a model without shifts",
         prepare=lightning("blocks.0.adaLN_modulation.1.weight", lambda tensor: tensor[:48])),
    heavy("weights with other rotary positions", f"{IMPORT} model.num_heads=3",
         "DiT.pt: feat_rope.freqs_cos: differs by up to .* from that of its tokens' rows",
         prepare=lightning("feat_rope.freqs_cos", lambda tensor: tensor.flip(0))),
    heavy("weights for another size of images", f"{IMPORT} {SMALL} dataset.image_size=16",
         "codec=identity: makes 1 x 16 x 16 of images of 16 x 16, .* are for 1 x 8 x 8",
         prepare=saved()),
    heavy("weights for other data", f"{IMPORT} {SMALL} dataset=digits",
         "dataset=digits: has images of 1 x 8 x 8 in 10 classes, the weights are for .* 3",
         prepare=saved(lambda: tensors(num_classes=3))),
    heavy("weights for a model of one's own",
         f"{IMPORT} {SMALL} model._target_=mylab.Model trusted_modules=[mylab]",
         "model=.*: the weights are for the built-in DiT", prepare=own_model),
    heavy("an empty folder of weights", "import model --out made", "model: no folder of diffusers",
         prepare=lambda folder: (folder / "model").mkdir()),
    heavy("a folder in another format", "import model --out made --format dit",
         "--format dit: model is a folder, which only diffusers writes", prepare=diffusers({})),
    heavy("a file in the format of folders", f"{IMPORT} --format diffusers",
         "--format diffusers: DiT.pt is a file; give the folder that it lies in", prepare=saved()),
    heavy("a folder of two variants", "import model --out made",
         r"model/transformer: holds .*bf16.safetensors, .*fp16.safetensors; keep one of them",
         prepare=all_of(diffusers({"_class_name": "DiTTransformer2DModel"}), two_variants)),
    heavy("a folder of another class of diffusers", "import model --out made",
         "config.json: of a UNet2DModel; expected a DiTTransformer2DModel",
         prepare=diffusers({"_class_name": "UNet2DModel"})),
    heavy("a folder whose config is no JSON", "import model --out made",
         r"config.json: not JSON \(", prepare=diffusers("half a")),
    heavy("a folder whose config is a list", "import model --out made",
         "config.json: not the config of a model; fetch it again", prepare=diffusers([])),
    heavy("a folder without weights", "import model --out made",
         "transformer: holds no weights; expected diffusion_pytorch_model.safetensors",
         prepare=diffusers({"_class_name": "DiTTransformer2DModel"})),
    heavy("a folder whose config lacks a size", "import model --out made",
         r"model: config.json: damaged \(lacks sample_size\); fetch it again",
         prepare=of_blocks(lambda config, theirs: config.pop("sample_size"))),
    heavy("a folder whose blocks have embedders of their own", "import model --out made",
         "model: transformer_blocks.1.norm1.emb.*: differs from that of block 0",
         prepare=of_blocks(other_copy)),
    heavy("a folder whose index is no index", "import model --out made",
         r"index.json: no index of safetensors files \(.*\); fetch it again", 
         prepare=index_of("[]")),
    heavy("a folder whose index lists what is not there", "import model --out made",
         "one.safetensors: missing, and .*index.json lists it; fetch it",
         prepare=index_of('{"weight_map": {"a": "one.safetensors"}}')),
    Case("an import into what is there", "import DiT.pt --out made",
         "--out FOLDER/made: exists already; choose another name, or move it away",
         prepare=lambda folder: (folder / "made").mkdir()),
    Case("an import into a folder that is not there", "import DiT.pt --out a/b",
         "--out FOLDER/a/b: the folder FOLDER/a does not exist; create it first"),
    heavy("keys for an exported file", "import tiny.safetensors --out made model.depth=3",
         "model.depth=3: tiny.safetensors was exported by the lab and keeps its own keys",
         start="tiny", prepare=exported),
    heavy("an exported average of any width, as a run folder", "import tiny.safetensors --out made",
         "tiny.safetensors: holds the post-hoc EMA power-0.1, which no run folder can hold; use",
         start="tiny", prepare=lambda folder: exported(folder, "power-0.1")),
    heavy("weights for a codec that is not there",
         f"{IMPORT} model.num_heads=2 codec=vae codec.path=nowhere",
         "FOLDER/nowhere/config.json is missing: give a folder in diffusers format",
         prepare=saved(lambda: tensors(in_channels=4))),
    Case("an exported file that is measured", "evaluate run=tiny.safetensors",
         "run=tiny.safetensors: an exported file has no folder for results; dit-lab import",
         start="tiny", prepare=exported),
    heavy("weights that an exported file does not hold",
         "sample run=tiny.safetensors sample.weights=raw out=a.png",
         "sample.weights=raw: FOLDER/tiny.safetensors holds ema-0.9 alone; leave it out",
         start="tiny", prepare=exported),
    Case("another program's file in the place of a run", "sample run=DiT.safetensors out=a.png",
         "DiT.safetensors: not exported by the lab; dit-lab import .* makes a run of it",
         prepare=lambda folder: headed(folder, "DiT.safetensors", {})),
    Case("an export by another ending", "export RUN model.pt",
         "OUT FOLDER/model.pt: --format safetensors writes NAME.safetensors", start="tiny"),
    Case("an export into what is there", "export RUN outputs --format diffusers",
         "OUT FOLDER/outputs: exists already; choose another name, or move it away", start="tiny"),
    Case("an export into a folder that is not there", "export RUN a/model.safetensors",
         "OUT FOLDER/a/model.safetensors: the folder FOLDER/a does not exist; create it",
         start="tiny"),
    heavy("a flow for DiT's code", "export RUN model.pt --format dit",
         "--format dit: the original DiT predicts noise on a chain .* keeps everything",
         start="tiny"),
    heavy("scaled times for SiT's code", "export RUN model.pt --format sit",
         "--format sit: SiT uses unscaled time, .* objective.time_scale=1000; --f", start="tiny"),
    heavy("a model for MLflow of what is no picture",
         "export RUN noise --format mlflow trusted_modules=[mylab]",
         "--format mlflow: images of 2 channels are no pictures", start="own"),
    heavy("a model for a server that does not answer",
         "export RUN digits --format mlflow --uri http://127.0.0.1:1",
         "tracking.uri=http://127.0.0.1:1: .*refused", start="tiny"),
    Case("a store for another format",
         "export RUN model.safetensors --uri sqlite:///FOLDER/mlflow.db",
         "--uri: is for --format mlflow, not safetensors", start="tiny"),
    Case("a registry for another format", "export RUN model.safetensors --register",
         "--register: is for --format mlflow, not safetensors", start="tiny"),
    heavy("weights that were not in the imported file",
         "sample run=made sample.weights=raw out=a.png",
         "sample.weights=raw: .* holds no model; the file that it was imported from had",
         prepare=imported),
    Case("a beginning that is no run", "train experiment=quickstart init_from=nowhere",
         "init_from=nowhere: does not exist; give a run folder"),
    Case("a beginning with another width", "train experiment=quickstart init_from=RUN",
         "init_from=FOLDER/.*/HASH: has model.hidden_size=16, here it is 64; choose", start="tiny"),
    Case("a beginning without a checkpoint", "train experiment=quickstart init_from=RUN",
         "init_from=FOLDER/outputs/runs/tiny/HASH: has no checkpoint yet", start="tiny",
         prepare=without_checkpoints),
    Case("more steps for weights alone", "train resume=tiny.safetensors training.total_steps=9",
         "has weights but no training state; init_from=.* starts a training with them",
         start="tiny", prepare=exported),
)
