"""Weights of other programs: tensor names and shapes, and refusals."""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dit_lab.cli import export, importing
from dit_lab.core.errors import RequestError
from dit_lab.interop.architecture import Architecture, inferred, shapes_of
from dit_lab.interop.files import WeightsFile, open_weights
from dit_lab.interop.formats import FORMATS, open_foreign
from dit_lab.models.dit import DiT
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.flow_matching import FlowMatching
from dit_lab.objectives.rectified_flow import RectifiedFlow
from tests.random_weights import random_weights

SMALL = Architecture(
    input_size=(8, 8),
    patch_size=2,
    in_channels=4,
    hidden_size=36,
    depth=2,
    num_heads=3,
    mlp_ratio=4.0,
    num_classes=10,
    class_dropout_prob=0.1,
    learn_sigma=True,
)

XL = replace(SMALL, input_size=(32, 32), hidden_size=1152, depth=28, num_heads=16, num_classes=1000)
BLOCK = {
    "attn.qkv.weight": (3456, 1152), "attn.qkv.bias": (3456,),
    "attn.proj.weight": (1152, 1152), "attn.proj.bias": (1152,),
    "mlp.fc1.weight": (4608, 1152), "mlp.fc1.bias": (4608,),
    "mlp.fc2.weight": (1152, 4608), "mlp.fc2.bias": (1152,),
    "adaLN_modulation.1.weight": (6912, 1152), "adaLN_modulation.1.bias": (6912,),
}  # fmt: skip
OFFICIAL_XL = {
    "pos_embed": (1, 256, 1152),
    "x_embedder.proj.weight": (1152, 4, 2, 2), "x_embedder.proj.bias": (1152,),
    "t_embedder.mlp.0.weight": (1152, 256), "t_embedder.mlp.0.bias": (1152,),
    "t_embedder.mlp.2.weight": (1152, 1152), "t_embedder.mlp.2.bias": (1152,),
    "y_embedder.embedding_table.weight": (1001, 1152),
    "final_layer.linear.weight": (32, 1152), "final_layer.linear.bias": (32,),
    "final_layer.adaLN_modulation.1.weight": (2304, 1152),
    "final_layer.adaLN_modulation.1.bias": (2304,),
    **{f"blocks.{n}.{name}": shape for n in range(28) for name, shape in BLOCK.items()},
}  # fmt: skip

LIGHTNING = replace(SMALL, learn_sigma=False, norm="rms", mlp="swiglu", rope=True)
LIGHTNING_XL = replace(
    XL, input_size=(16, 16), patch_size=1, in_channels=32, learn_sigma=False, norm="rms",
    mlp="swiglu", rope=True,
)  # fmt: skip
LIGHTNING_BLOCK = {
    **{name: shape for name, shape in BLOCK.items() if not name.startswith("mlp")},
    "norm1.weight": (1152,), "norm2.weight": (1152,),
    "mlp.w12.weight": (6144, 1152), "mlp.w12.bias": (6144,),
    "mlp.w3.weight": (1152, 3072), "mlp.w3.bias": (1152,),
}  # fmt: skip
RELEASED_XL = {
    **{name: shape for name, shape in OFFICIAL_XL.items() if not name.startswith("blocks.")},
    "x_embedder.proj.weight": (1152, 32, 1, 1),
    "feat_rope.freqs_cos": (256, 72), "feat_rope.freqs_sin": (256, 72),
    "final_layer.norm_final.weight": (1152,),
    **{f"blocks.{n}.{name}": shape for n in range(28) for name, shape in LIGHTNING_BLOCK.items()},
}  # fmt: skip


def weights(architecture: Architecture = SMALL) -> dict[str, Tensor]:
    return random_weights(**asdict(architecture))


# ---- names and shapes ---------------------------------------------------------------------------


def test_the_commands_know_every_format() -> None:
    """They list them without importing them."""
    assert ("auto", *FORMATS) == importing.FORMATS
    assert set(export.ENDINGS) - {"safetensors", "mlflow"} == set(FORMATS) - {"repa"}


@pytest.mark.parametrize("name", ["dit", "sit"])
def test_the_originals_names(name: str) -> None:
    assert FORMATS[name].expected(XL) == OFFICIAL_XL
    assert inferred(OFFICIAL_XL) == replace(XL, num_heads=0)


def test_lightningdit_s_names() -> None:
    """351, and 675,256,736 numbers in the model, as its code says of LightningDiT-XL/1."""
    adapter = FORMATS["lightningdit"]
    assert adapter.expected(LIGHTNING_XL) == RELEASED_XL
    assert len(RELEASED_XL) == 351
    kept = {name for name in RELEASED_XL if not name.startswith("feat_rope")}
    assert sum(math.prod(RELEASED_XL[name]) for name in kept) == 675_256_736
    file = WeightsFile(Path("x.pt"), {})
    assert adapter.architecture(file, RELEASED_XL) == LIGHTNING_XL


@pytest.mark.parametrize("width", [768, 1024, 1152, 1536, 1792])
@pytest.mark.parametrize("changes", [{}, {"mlp": "gelu"}, {"norm": "layer"}, {"qk_norm": True}])
def test_lightningdit_s_options_show_in_its_shapes(width: int, changes: dict[str, Any]) -> None:
    adapter, file = FORMATS["lightningdit"], WeightsFile(Path("x.pt"), {})
    architecture = replace(LIGHTNING, hidden_size=width, num_heads=4, **changes)
    assert adapter.architecture(file, adapter.expected(architecture)) == architecture


def test_lightningdit_s_damaged_shapes() -> None:
    """Missing tensors are reported by the complete list; one-dimensional angles immediately."""
    adapter, file = FORMATS["lightningdit"], WeightsFile(Path("x.pt"), {})
    shapes = adapter.expected(LIGHTNING)
    name = "blocks.0.adaLN_modulation.1.weight"
    missing = {key: shape for key, shape in shapes.items() if key != name}
    assert adapter.architecture(file, missing) == LIGHTNING
    with pytest.raises(RequestError, match="without shifts"):
        adapter.architecture(file, shapes | {name: (4 * 36, 36)})
    with pytest.raises(RequestError, match=r"freqs_cos: has shape \(16,\), expected 2"):
        adapter.architecture(file, shapes | {"feat_rope.freqs_cos": (16,)})


def test_the_names_of_diffusers() -> None:
    """Those of the class itself."""
    from diffusers import DiTTransformer2DModel

    adapter = FORMATS["diffusers"]
    for architecture in (SMALL, replace(SMALL, num_classes=0), replace(SMALL, learn_sigma=False)):
        config = adapter.config(architecture)
        theirs = DiTTransformer2DModel.from_config(config)
        assert adapter.expected(architecture) == shapes_of(theirs.state_dict())
        assert (
            dict(theirs.config).items() >= {k: v for k, v in config.items() if k[0] != "_"}.items()
        )


@pytest.mark.parametrize("name", ["dit", "sit", "diffusers"])
@pytest.mark.parametrize(
    "architecture",
    [SMALL, replace(SMALL, learn_sigma=False, in_channels=1, num_classes=3)],
)
def test_there_and_back(name: str, architecture: Architecture) -> None:
    """All tensors are bit-identical, and none shares memory with another."""
    adapter, ours = FORMATS[name], weights(architecture)
    theirs = dict(adapter.from_ours(ours, architecture))
    assert shapes_of(theirs) == adapter.expected(architecture)
    back = adapter.to_ours(theirs, architecture)
    assert back.keys() == ours.keys()
    assert all(back[key].equal(ours[key]) for key in ours)
    again = adapter.from_ours(back, architecture)
    assert all(again[key].equal(theirs[key]) for key in theirs)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"rope": False, "mlp": "gelu"}])
def test_lightningdit_there_and_back(changes: dict[str, Any]) -> None:
    architecture = replace(LIGHTNING, **changes)
    adapter, ours = FORMATS["lightningdit"], weights(architecture)
    theirs = adapter.from_ours(ours, architecture)
    assert shapes_of(theirs) == adapter.expected(architecture)
    back = adapter.to_ours(theirs, architecture)
    assert back.keys() == ours.keys() and all(back[key] is ours[key] for key in ours)


@pytest.mark.parametrize("changes", [{"num_classes": 0}, {"class_dropout_prob": 0.0}])
def test_diffusers_without_a_null_label(changes: dict[str, Any]) -> None:
    """Rows that the diffusers class requires are zeros, and are removed on import."""
    architecture = replace(SMALL, **changes)
    adapter, ours = FORMATS["diffusers"], weights(architecture)
    theirs = dict(adapter.from_ours(ours, architecture))
    assert shapes_of(theirs) == adapter.expected(architecture)
    back = adapter.to_ours(theirs, architecture)
    assert back.keys() == ours.keys() and all(back[key].equal(ours[key]) for key in ours)


# ---- the same function --------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("timestep", [0, 10, 500, 999])
def test_diffusers_computes_the_same(timestep: int) -> None:
    """With time frequencies divided by 128. Without this the outputs differ strongly."""
    from diffusers import DiTTransformer2DModel

    adapter = FORMATS["diffusers"]
    theirs = DiTTransformer2DModel.from_config(adapter.config(SMALL)).eval()
    theirs.load_state_dict(dict(adapter.from_ours(weights(), SMALL)))
    ours = DiT(**asdict(SMALL)).eval()
    ours.load_state_dict(weights())
    x, labels = torch.randn(3, 4, 8, 8), torch.tensor([0, 7, 10])
    time = torch.full((3,), timestep)
    expected = ours(x, time, labels)
    stock = theirs(x, timestep=time, class_labels=labels).sample
    assert timestep == 0 or (stock - expected).abs().max() > 1e-3
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    mended = theirs(x, timestep=time, class_labels=labels).sample
    torch.testing.assert_close(mended, expected, rtol=0, atol=1e-5)  # sums in another order


@torch.no_grad()
def test_repa_s_time_runs_the_other_way() -> None:
    """Its output at its time is that of ours at 1 - t with the sign changed.

    Back and forth loses only float32 rounding.
    """
    adapter, theirs = FORMATS["repa"], weights(replace(SMALL, learn_sigma=False))
    converted = adapter.to_ours(theirs, SMALL)
    models = []
    for tensors in (theirs, converted):
        models.append(DiT(**asdict(replace(SMALL, learn_sigma=False))).eval())
        models[-1].load_state_dict(dict(tensors))
    x, labels = torch.randn(5, 4, 8, 8), torch.tensor([0, 7, 10, 3, 3])
    t = torch.tensor([0.0, 0.1, 0.5, 0.93, 1.0])
    expected = -models[0](x, t, labels)
    torch.testing.assert_close(models[1](x, 1 - t, labels), expected, rtol=0, atol=2e-6)
    assert (models[0](x, 1 - t, labels) + expected).abs().max() > 1e-2  # it is another function
    back = adapter.from_ours(converted, SMALL)
    for name in theirs:
        torch.testing.assert_close(back[name], theirs[name], rtol=0, atol=1e-7)


def test_repa_is_known_by_its_projectors(tmp_path: Path) -> None:
    tensors = {**weights(), "projectors.0.0.weight": torch.ones(2, 2)}
    arguments = argparse.Namespace(model="SiT-XL/2", path_type="cosine", prediction="v")
    found = open_foreign(saved(tmp_path, {"ema": tensors, "args": arguments, "steps": 3}))
    assert found.adapter.name == "repa"
    assert found.adapter.skipped("projectors.0.0.weight") and not found.adapter.skipped("pos_embed")
    name, options = found.adapter.objective_of(found.file)
    assert (name, options["path"], options["time_scale"]) == ("flow_matching", "trigonometric", 1)


@pytest.mark.parametrize(
    ("path", "prediction", "expected"),
    [
        ("Linear", "velocity", ("rectified_flow", None, None)),
        ("GVP", "velocity", ("flow_matching", "trigonometric", "velocity")),
        ("VP", "noise", ("flow_matching", "vp", "noise")),
        ("Linear", "score", ("flow_matching", "linear", "score")),
    ],
)
def test_what_sit_was_trained_with(
    tmp_path: Path, path: str, prediction: str, expected: tuple[str, str | None, str | None]
) -> None:
    arguments = {"model": "SiT-S/2", "path_type": path, "prediction": prediction}
    found = open_foreign(saved(tmp_path, {"ema": weights(), "args": arguments}))
    name, options = found.adapter.objective_of(found.file)
    assert (name, options.get("path"), options.get("prediction")) == expected
    assert options["time_scale"] == 1.0
    assert options.get("sigma_min", 0.0) == 0.0


def test_what_lightningdit_was_trained_with(tmp_path: Path) -> None:
    """The configuration in sections that its training script saves; without one, the defaults."""
    adapter = FORMATS["lightningdit"]
    theirs = dict(adapter.from_ours(weights(LIGHTNING), LIGHTNING))
    transport = {
        "path_type": "Linear", "prediction": "velocity", "loss_weight": None,
        "use_cosine_loss": True, "use_lognorm": True,
    }  # fmt: skip
    config = {"model": {"model_type": "LightningDiT-XL/1"}, "transport": transport}
    found = open_foreign(saved(tmp_path, {"ema": theirs, "opt": {}, "config": config}))
    assert found.adapter.name == "lightningdit" and found.why.startswith("its blocks.0.mlp.w12")
    assert found.adapter.objective_of(found.file) == (
        "rectified_flow",
        {"time_scale": 1.0, "time_sampling": "logit_normal", "direction_weight": 1.0},
    )
    bare = open_foreign(saved(tmp_path, theirs))
    assert bare.adapter.objective_of(bare.file) == ("rectified_flow", {"time_scale": 1.0})
    transport |= {"path_type": "GVP"}
    other = open_foreign(saved(tmp_path, {"ema": weights(), "config": config}))
    assert (other.adapter.name, other.why) == (
        "lightningdit",
        "its config.model.model_type is LightningDiT-XL/1",
    )
    name, options = other.adapter.objective_of(other.file)
    assert (name, options["path"]) == ("flow_matching", "trigonometric")
    assert "direction_weight" not in options  # flow_matching has none


# ---- files --------------------------------------------------------------------------------------


class Hostile:
    """An object whose unpickling runs a command."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


def saved(folder: Path, content: object, name: str = "file.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


@pytest.mark.parametrize("place", ["itself", "beside", "in a Namespace", "below ema"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, place: str) -> None:
    hostile = Hostile(f"touch {tmp_path / 'ran'}")
    content: dict[str, object] = {
        "itself": hostile,
        "beside": {"ema": weights(), "other": hostile},
        "in a Namespace": {"ema": weights(), "args": argparse.Namespace(model=hostile)},
        "below ema": {"ema": {**weights(), "x": hostile}},
    }
    file = saved(tmp_path, content[place])
    with pytest.raises(RequestError, match=r"refused, for reading it would call \w+\.system"):
        open_weights(file)
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)  # it is as hostile as it looks
    assert (tmp_path / "ran").exists()


def test_what_training_scripts_save(tmp_path: Path) -> None:
    """model, ema, opt and args, as DiT, fast-DiT and SiT do; wrapped models as well."""
    ours = weights()
    parameters = [torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.AdamW(parameters)
    parameters[0].sum().backward()
    optimizer.step()
    content = {
        "model": {f"module._orig_mod.{name}": tensor + 1 for name, tensor in ours.items()},
        "ema": ours,
        "opt": optimizer.state_dict(),
        "args": argparse.Namespace(model="SiT-XL/2", image_size=256, lr=1e-4, ckpt=None),
    }
    found = open_weights(saved(tmp_path, content))
    assert found.groups.keys() == {"model", "ema"}
    assert all(found.groups["ema"][name].equal(ours[name]) for name in ours)
    assert all(found.groups["model"][name].equal(ours[name] + 1) for name in ours)
    assert found.args == {"model": "SiT-XL/2", "image_size": 256, "lr": 1e-4}
    assert open_foreign(found.path).adapter.name == "sit"


def test_a_file_of_the_old_kind(tmp_path: Path) -> None:
    """Before torch 1.6, which was no zip file."""
    torch.save(weights(), tmp_path / "DiT.pt", _use_new_zipfile_serialization=False)
    found = open_foreign(tmp_path / "DiT.pt")
    assert found.adapter.name == "dit"
    assert found.file.groups["ema"]["pos_embed"].equal(weights()["pos_embed"])


def test_tensors_that_were_cut_into_files(tmp_path: Path) -> None:
    adapter = FORMATS["diffusers"]
    theirs = dict(adapter.from_ours(weights(), SMALL))
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(adapter.config(SMALL)))
    names = sorted(theirs)
    files = {"one.safetensors": names[:9], "two.safetensors": names[9:]}
    for file, part in files.items():
        save_file({name: theirs[name] for name in part}, folder / file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    where = {name: file for file, part in files.items() for name in part}
    index.write_text(json.dumps({"weight_map": where}))
    found = open_foreign(tmp_path).file
    assert found.files == (folder / "one.safetensors", folder / "two.safetensors")
    back = adapter.to_ours(found.groups["ema"], adapter.architecture(found, {}))
    assert all(back[name].equal(tensor) for name, tensor in weights().items())
    (folder / "two.safetensors").unlink()
    with pytest.raises(RequestError, match=r"two\.safetensors: missing"):
        open_foreign(tmp_path)


# ---- what an original could not use -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "objective", "says"),
    [
        ("dit", {"num_classes": 0}, DDPM(), "without classes"),
        ("dit", {"input_size": (8, 16)}, DDPM(), "8 x 16"),
        ("dit", {}, RectifiedFlow(), "predicts noise"),
        ("dit", {}, DDPM(prediction="v", learn_sigma=False), "predicts noise"),
        ("dit", {}, DDPM(beta_schedule="cosine"), "linear betas"),
        ("sit", {}, DDPM(), "supports flows only"),
        ("sit", {}, RectifiedFlow(), "time_scale=1000"),
        ("sit", {}, FlowMatching(time_scale=1.0), "sigma_min=0"),
        ("repa", {}, RectifiedFlow(time_scale=1.0), "requires the projectors"),
        ("dit", {"norm": "rms", "rope": True}, DDPM(), "model.norm=rms, model.rope=true: this"),
        ("sit", {"qk_norm": True}, RectifiedFlow(time_scale=1.0), "model.qk_norm=true: this"),
        ("lightningdit", {"norm": "rms"}, DDPM(), "LightningDiT supports flows only"),
        ("lightningdit", {}, RectifiedFlow(), "LightningDiT uses unscaled time"),
        ("diffusers", {"mlp": "swiglu"}, DDPM(), "model.mlp=swiglu: this"),
        ("diffusers", {"input_size": (8, 16)}, DDPM(), "squares"),
        ("diffusers", {"mlp_ratio": 2.0}, DDPM(), "mlp_ratio"),
        ("diffusers", {}, FlowMatching(prediction="noise"), "no scheduler"),
    ],
)
def test_refused(name: str, changes: dict[str, Any], objective: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        FORMATS[name].refuse(replace(SMALL, **changes), objective)


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("dit", DDPM()),
        ("dit", DDPM(learn_sigma=False)),
        ("sit", RectifiedFlow(time_scale=1.0)),
        ("sit", FlowMatching(path="trigonometric", time_scale=1.0, prediction="noise")),
        ("diffusers", DDPM(prediction="v", learn_sigma=False, beta_schedule="cosine")),
        ("diffusers", FlowMatching()),
    ],
)
def test_taken(name: str, objective: Any) -> None:
    FORMATS[name].refuse(SMALL, objective)
