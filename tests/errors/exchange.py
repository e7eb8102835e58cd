"""Weights of other programs that cannot be read, and runs that cannot be written in their forms."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.errors.case import Area, Case
from tests.errors.starts import wrote

IMPORT = "import DiT.pt --out made"
SMALL = "model.num_heads=2 precision=fp32"


class Hostile:
    """What removes a folder where it is unpickled by a reader that trusts it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("rm -rf made",)


def tensors(**changes: Any) -> dict[str, Any]:
    """Of a tiny DiT."""
    from dit_lab.models.dit import DiT

    options = {
        "input_size": (8, 8), "patch_size": 2, "in_channels": 1, "hidden_size": 12, "depth": 1,
        "num_heads": 2, "num_classes": 10, **changes,
    }  # fmt: skip
    return dict(DiT(**options).state_dict())


def saved(make: Callable[[], object] = tensors, name: str = "DiT.pt") -> Callable[[Path], object]:
    """Puts what torch.save writes into the folder."""

    def prepare(folder: Path) -> None:
        import torch

        torch.save(make(), folder / name)

    return prepare


def changed(name: str, change: Callable[[Any], Any] | None) -> Callable[[Path], object]:
    """Tensors of which one is another, or missing."""

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
    """LightningDiT's tensors, of which one is another."""

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
    """A folder as diffusers has it, without weights."""

    def prepare(folder: Path) -> None:
        place = folder / "model" / "transformer"
        place.mkdir(parents=True)
        text = config if isinstance(config, str) else json.dumps(config)
        (place / "config.json").write_text(text)
        (folder / "model" / "model_index.json").write_text(index)

    return prepare


def of_blocks(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[Path], object]:
    """A folder of diffusers, with something changed in its config or its tensors."""

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
    """A run made of a file with one set of weights."""
    from dit_lab.actions.import_weights import import_weights

    saved()(folder)
    import_weights(folder / "DiT.pt", folder / "made", overrides=SMALL.split())


def headed(folder: Path, name: str, metadata: dict[str, str]) -> None:
    """A safetensors file without tensors."""
    header = json.dumps({"__metadata__": metadata}).encode()
    (folder / name).write_bytes(len(header).to_bytes(8, "little") + header)


def exported(folder: Path, weights: str = "ema-0.9") -> None:
    """What `dit-lab export` would write of the run there, without its tensors."""
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
    """Weights of a DiT, and a model of the user's own with the same options."""
    saved()(folder)
    options = "patch_size: int, hidden_size: int, depth: int, num_heads: int, mlp_ratio: float"
    more = "class_dropout_prob: float, activation_checkpointing: str"
    layers = "norm: str, mlp: str, rope: bool, qk_norm: bool"
    (folder / "mylab.py").write_text(
        f"class Model:\n    def __init__(self, *, {options}, {more}, {layers}): ...\n"
    )


def without_checkpoints(folder: Path) -> None:
    for marker in folder.glob("outputs/runs/tiny/*/checkpoints/*/COMPLETE"):
        marker.unlink()


AREA = Area(
    title="Weights from elsewhere, and for elsewhere",
    cases=(
        Case(
            title="a file of weights that is not there",
            command=IMPORT,
            says="DiT.pt: does not exist; give a file of weights or a diffusers folder",
        ),
        Case(
            title="an empty file of weights",
            command=IMPORT,
            prepare=wrote("DiT.pt", ""),
            says="DiT.pt: is empty; fetch it again",
        ),
        Case(
            title="a text file in the place of weights",
            command=IMPORT,
            prepare=wrote("DiT.pt", "not weights at all\n"),
            says="DiT.pt: not written by torch.save, or damaged",
            slow=True,
        ),
        Case(
            title="half a zip file in the place of weights",
            command=IMPORT,
            prepare=lambda folder: (folder / "DiT.pt").write_bytes(b"PK\5\6" + bytes(18)),
            says="DiT.pt: not written by torch.save, or damaged",
            slow=True,
        ),
        Case(
            title="weights by another ending",
            command="import weights.h5 --out made",
            prepare=wrote("weights.h5", "x"),
            says=r"weights.h5: unknown ending .h5; expected .pt, .pth, .ckpt, .bin, .safetensors",
            slow=True,
        ),
        Case(
            title="prose in a safetensors file",
            command="import DiT.safetensors --out made",
            prepare=no_safetensors,
            says="DiT.safetensors: no safetensors file, or damaged; fetch it again",
            slow=True,
        ),
        Case(
            title="prose in a safetensors file, with a format",
            command="import DiT.safetensors --out made --format dit",
            prepare=no_safetensors,
            says=r"DiT.safetensors: no safetensors file \(.*\); fetch it again",
            slow=True,
        ),
        Case(
            title="a pickle that would run a command",
            command=IMPORT,
            prepare=saved(Hostile),
            says=r"DiT.pt: refused, for reading it would call \w+.system; only tensors, numbers",
            slow=True,
        ),
        Case(
            title="a Namespace that would run a command",
            command=IMPORT,
            prepare=saved(hostile_arguments),
            says=r"DiT.pt: refused, for reading it would call \w+.system; only tensors, numbers",
            slow=True,
        ),
        Case(
            title="a list in the place of weights",
            command=IMPORT,
            prepare=saved(lambda: [1, 2]),
            says="DiT.pt: holds a list, not weights by name",
            slow=True,
        ),
        Case(
            title="a dictionary without weights",
            command=IMPORT,
            prepare=saved(lambda: {"epoch": 3, "args": argparse.Namespace(model="DiT-S/2")}),
            says="DiT.pt: no weights in it; expected tensors by name, .* and found epoch, args",
            slow=True,
        ),
        Case(
            title="weights whose names meet",
            command=IMPORT,
            prepare=saved(lambda: {**tensors(), "module.pos_embed": tensors()["pos_embed"]}),
            says="DiT.pt: two tensors of one name, with and without module.",
            slow=True,
        ),
        Case(
            title="weights that could be DiT's or SiT's",
            command="import weights.pt --out made",
            prepare=saved(name="weights.pt"),
            says="weights.pt: DiT, SiT and LightningDiT can have the .* give --format dit, sit or",
            slow=True,
        ),
        Case(
            title="weights of another kind of model",
            command=IMPORT,
            prepare=saved(lambda: {"conv.weight": tensors()["pos_embed"]}),
            says="DiT.pt: x_embedder.proj.weight: missing, so these are not the weights of a DiT",
            slow=True,
        ),
        Case(
            title="weights with patches of one dimension",
            command=IMPORT,
            prepare=changed("x_embedder.proj.weight", lambda tensor: tensor.flatten(1)),
            says=r"DiT.pt: x_embedder.proj.weight: has shape \(12, 4\), expected 4 dimensions",
            slow=True,
        ),
        Case(
            title="weights for images that are no squares",
            command=IMPORT,
            prepare=saved(lambda: tensors(input_size=(8, 16))),
            says="DiT.pt: pos_embed: 32 tokens are no square, so height and width are open",
            slow=True,
        ),
        Case(
            title="weights with a third of a channel",
            command=IMPORT,
            prepare=changed("final_layer.linear.weight", lambda tensor: tensor[:3]),
            says="DiT.pt: final_layer.linear.weight: 3 numbers a token are neither 1 nor 2",
            slow=True,
        ),
        Case(
            title="weights of unknown heads",
            command=IMPORT,
            prepare=saved(),
            says="model.num_heads: the weights do not tell.* give model.num_heads=N",
            slow=True,
        ),
        Case(
            title="weights of which one is missing",
            command=f"{IMPORT} {SMALL}",
            prepare=changed("blocks.0.attn.qkv.bias", None),
            says="not the tensors of this model: 1 are missing, such as blocks.0.attn.qkv.bias",
            slow=True,
        ),
        Case(
            title="weights of which one is unknown",
            command=f"{IMPORT} {SMALL}",
            prepare=saved(lambda: {**tensors(), "blocks.0.norm1.bias": tensors()["pos_embed"]}),
            says="not the tensors of this model: 1 are unknown, such as blocks.0.norm1.bias",
            slow=True,
        ),
        Case(
            title="weights of which one has another shape",
            command=f"{IMPORT} {SMALL}",
            prepare=changed("blocks.0.mlp.fc2.bias", lambda tensor: tensor[:5]),
            says=r"blocks.0.mlp.fc2.bias has shape \(5,\), expected \(12,\)",
            slow=True,
        ),
        Case(
            title="weights with other positions",
            command=f"{IMPORT} {SMALL}",
            prepare=changed("pos_embed", lambda tensor: tensor.flip(2)),
            says="DiT.pt: pos_embed: differs by up to .* from the sin-cos code",
            slow=True,
        ),
        Case(
            title="weights that are not finite",
            command=f"{IMPORT} {SMALL}",
            prepare=changed("blocks.0.mlp.fc2.bias", lambda tensor: tensor / 0),
            says="DiT.pt: blocks.0.mlp.fc2.bias: holds numbers that are not finite",
            slow=True,
        ),
        Case(
            title="LightningDiT's weights as DiT's",
            command=f"{IMPORT} --format dit",
            prepare=lightning("pos_embed", lambda tensor: tensor),
            says="DiT.pt: model.norm=rms, model.mlp=swiglu: this format knows the original's",
            slow=True,
        ),
        Case(
            title="weights of a LightningDiT without shifts",
            command=IMPORT,
            prepare=lightning("blocks.0.adaLN_modulation.1.weight", lambda tensor: tensor[:48]),
            says="DiT.pt: blocks.0.adaLN_modulation.1.weight: a model without shifts",
            slow=True,
        ),
        Case(
            title="weights with other rotary positions",
            command=f"{IMPORT} model.num_heads=3",
            prepare=lightning("feat_rope.freqs_cos", lambda tensor: tensor.flip(0)),
            says="DiT.pt: feat_rope.freqs_cos: differs by up to .* from that of its tokens' rows",
            slow=True,
        ),
        Case(
            title="weights for another size of images",
            command=f"{IMPORT} {SMALL} dataset.image_size=16",
            prepare=saved(),
            says="codec=identity: makes 1 x 16 x 16 of images of 16 x 16, .* are for 1 x 8 x 8",
            slow=True,
        ),
        Case(
            title="weights for other data",
            command=f"{IMPORT} {SMALL} dataset=digits",
            prepare=saved(lambda: tensors(num_classes=3)),
            says="dataset=digits: has images of 1 x 8 x 8 in 10 classes, the weights are for .* 3",
            slow=True,
        ),
        Case(
            title="weights for a model of one's own",
            command=f"{IMPORT} {SMALL} model._target_=mylab.Model trusted_modules=[mylab]",
            prepare=own_model,
            says="model=.*: only the lab's DiT has such weights",
            slow=True,
        ),
        Case(
            title="an empty folder of weights",
            command="import model --out made",
            prepare=lambda folder: (folder / "model").mkdir(),
            says="model: no folder of diffusers",
            slow=True,
        ),
        Case(
            title="a folder in another format",
            command="import model --out made --format dit",
            prepare=diffusers({}),
            says="--format dit: model is a folder, which only diffusers writes",
            slow=True,
        ),
        Case(
            title="a file in the format of folders",
            command=f"{IMPORT} --format diffusers",
            prepare=saved(),
            says="--format diffusers: DiT.pt is a file; give the folder that it lies in",
            slow=True,
        ),
        Case(
            title="a folder of another class of diffusers",
            command="import model --out made",
            prepare=diffusers({"_class_name": "UNet2DModel"}),
            says="config.json: of a UNet2DModel; expected a DiTTransformer2DModel",
            slow=True,
        ),
        Case(
            title="a folder whose config is no JSON",
            command="import model --out made",
            prepare=diffusers("half a"),
            says=r"config.json: not JSON \(",
            slow=True,
        ),
        Case(
            title="a folder whose config is a list",
            command="import model --out made",
            prepare=diffusers([]),
            says="config.json: not the config of a model; fetch it again",
            slow=True,
        ),
        Case(
            title="a folder without weights",
            command="import model --out made",
            prepare=diffusers({"_class_name": "DiTTransformer2DModel"}),
            says="transformer: holds no weights; expected diffusion_pytorch_model.safetensors",
            slow=True,
        ),
        Case(
            title="a folder whose config lacks a size",
            command="import model --out made",
            prepare=of_blocks(lambda config, theirs: config.pop("sample_size")),
            says="model: config.json: lacks sample_size",
            slow=True,
        ),
        Case(
            title="a folder whose blocks have embedders of their own",
            command="import model --out made",
            prepare=of_blocks(other_copy),
            says="model: transformer_blocks.1.norm1.emb.*: differs from that of block 0",
            slow=True,
        ),
        Case(
            title="a folder whose index is no index",
            command="import model --out made",
            prepare=index_of("[]"),
            says="index.json: no index of safetensors files; fetch it again",
            slow=True,
        ),
        Case(
            title="a folder whose index lists what is not there",
            command="import model --out made",
            prepare=index_of('{"weight_map": {"a": "one.safetensors"}}'),
            says="one.safetensors: missing, and .*index.json lists it; fetch it",
            slow=True,
        ),
        Case(
            title="an import into what is there",
            command="import DiT.pt --out made",
            prepare=lambda folder: (folder / "made").mkdir(),
            says="--out FOLDER/made: exists already; choose another name, or move it away",
        ),
        Case(
            title="an import into a folder that is not there",
            command="import DiT.pt --out a/b",
            says="--out FOLDER/a/b: the folder FOLDER/a does not exist; create it first",
        ),
        Case(
            title="keys for an exported file",
            command="import tiny.safetensors --out made model.depth=3",
            start="tiny",
            prepare=exported,
            says="model.depth=3: tiny.safetensors was exported by the lab and keeps its own keys",
            slow=True,
        ),
        Case(
            title="an exported average of any width, as a run folder",
            command="import tiny.safetensors --out made",
            start="tiny",
            prepare=lambda folder: exported(folder, "power-0.1"),
            says="tiny.safetensors: holds power-0.1, which no checkpoint does; it is a RUN itself",
            slow=True,
        ),
        Case(
            title="weights for a codec that is not there",
            command=f"{IMPORT} model.num_heads=2 codec=vae codec.path=nowhere",
            prepare=saved(lambda: tensors(in_channels=4)),
            says="FOLDER/nowhere/config.json is missing: give a folder in diffusers format",
            slow=True,
        ),
        Case(
            title="an exported file that is measured",
            command="evaluate run=tiny.safetensors",
            start="tiny",
            prepare=exported,
            says="run=tiny.safetensors: a file has no place for results; dit-lab import",
        ),
        Case(
            title="weights that an exported file does not hold",
            command="sample run=tiny.safetensors sample.weights=raw out=a.png",
            start="tiny",
            prepare=exported,
            says="sample.weights=raw: FOLDER/tiny.safetensors holds ema-0.9 alone; leave it out",
            slow=True,
        ),
        Case(
            title="another program's file in the place of a run",
            command="sample run=DiT.safetensors out=a.png",
            prepare=lambda folder: headed(folder, "DiT.safetensors", {}),
            says="DiT.safetensors: not exported by the lab; dit-lab import .* makes a run of it",
        ),
        Case(
            title="an export by another ending",
            command="export RUN model.pt",
            start="tiny",
            says="OUT FOLDER/model.pt: --format safetensors writes NAME.safetensors",
        ),
        Case(
            title="an export into what is there",
            command="export RUN outputs --format diffusers",
            start="tiny",
            says="OUT FOLDER/outputs: exists already; choose another name, or move it away",
        ),
        Case(
            title="an export into a folder that is not there",
            command="export RUN a/model.safetensors",
            start="tiny",
            says="OUT FOLDER/a/model.safetensors: the folder FOLDER/a does not exist; create it",
        ),
        Case(
            title="a flow for DiT's code",
            command="export RUN model.pt --format dit",
            start="tiny",
            says="--format dit: the original DiT predicts noise on a chain .* keeps everything",
            slow=True,
        ),
        Case(
            title="scaled times for SiT's code",
            command="export RUN model.pt --format sit",
            start="tiny",
            says="--format sit: SiT feeds time as it is, .* objective.time_scale=1000; --f",
            slow=True,
        ),
        Case(
            title="a model for MLflow of what is no picture",
            command="export RUN noise --format mlflow --trusted mylab",
            start="own",
            says="--format mlflow: images of 2 channels are no pictures",
            slow=True,
        ),
        Case(
            title="a model for a server that does not answer",
            command="export RUN digits --format mlflow --uri http://127.0.0.1:1",
            start="tiny",
            says="tracking.uri=http://127.0.0.1:1: .*refused",
            slow=True,
        ),
        Case(
            title="a store for another format",
            command="export RUN model.safetensors --uri sqlite:///FOLDER/mlflow.db",
            start="tiny",
            says="--uri sqlite:///FOLDER/mlflow.db: is for --format mlflow, not safetensors",
        ),
        Case(
            title="weights that were not in the imported file",
            command="sample run=made sample.weights=raw out=a.png",
            prepare=imported,
            says="sample.weights=raw: .* holds no model; the file that it was imported from had",
            slow=True,
        ),
        Case(
            title="a beginning that is no run",
            command="train experiment=quickstart init_from=nowhere",
            says="init_from=nowhere: does not exist; give a run folder",
        ),
        Case(
            title="a beginning with another width",
            command="train experiment=quickstart init_from=RUN",
            start="tiny",
            says="init_from=FOLDER/.*/HASH: has model.hidden_size=16, here it is 64; choose",
        ),
        Case(
            title="a beginning without a checkpoint",
            command="train experiment=quickstart init_from=RUN",
            start="tiny",
            prepare=without_checkpoints,
            says="init_from=FOLDER/outputs/runs/tiny/HASH: has no checkpoint yet",
        ),
        Case(
            title="more steps for weights alone",
            command="train resume=tiny.safetensors training.total_steps=9",
            start="tiny",
            prepare=exported,
            says="holds weights without the rest of a training; init_from=.* begins one with them",
        ),
    ),
)
