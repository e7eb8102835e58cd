"""Saved states of training scripts, in many layouts: weights are found, no code is run."""

from __future__ import annotations

import argparse
import datetime
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from dit_lab.actions.import_weights import import_weights
from dit_lab.core.errors import RequestError
from dit_lab.interop.architecture import positions, refuse_other_positions, rounding_of
from dit_lab.interop.files import open_weights
from dit_lab.interop.formats import FORMATS, open_foreign
from tests.interop.test_interop import SMALL, saved, weights


class Settings:
    """An object of a script's own class."""

    def __init__(self) -> None:
        self.folder = Path("data")


class Bunch(dict[str, Any]):
    """A dictionary of a script's own."""


class Phase(Enum):
    WARM = 1


OBJECTS: dict[str, Callable[[], Any]] = {
    "a number of numpy": lambda: np.float64(3.25),
    "an array of numpy": lambda: np.arange(5),
    "a path": lambda: Path("/data/images"),
    "a Namespace with a path": lambda: argparse.Namespace(model="SiT-S/2", results=Path("x")),
    "a time": lambda: datetime.datetime(2026, 1, 1),
    "an enumeration": lambda: Phase.WARM,
    "a dictionary with a default": lambda: defaultdict(list, {"a": [1]}),
    "the script's own dictionary": lambda: Bunch(a=torch.ones(2)),
    "the script's own object": Settings,
    "a configuration of OmegaConf": lambda: OmegaConf.create({"model": {"depth": [1, 2]}}),
    "the state of a generator": np.random.get_state,
    "a function": lambda: print,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", OBJECTS)
def test_weights_beside_anything(tmp_path: Path, name: str, zipped: bool) -> None:
    content = {"model": weights(), "other": OBJECTS[name](), "best": np.float32(1.5)}
    torch.save(content, tmp_path / "DiT.pt", _use_new_zipfile_serialization=zipped)
    found = open_weights(tmp_path / "DiT.pt")
    assert {name: tensor.tolist() for name, tensor in found.groups["model"].items()} == {
        name: tensor.tolist() for name, tensor in weights().items()
    }


def test_arguments_are_read_beside_what_is_not(tmp_path: Path) -> None:
    args = argparse.Namespace(model="SiT-S/2", results=Path("x"), lr=1e-4, started=np.int64(3))
    found = open_weights(saved(tmp_path, {"ema": weights(), "args": args}))
    assert found.args == {"model": "SiT-S/2", "lr": 1e-4}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


LAYOUTS: dict[str, Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Any]]] = {
    "model and ema": lambda model, ema: {"model": model, "ema": ema},
    "model_state_dict": lambda model, ema: {"model_state_dict": model, "ema_state_dict": ema},
    "ema_model": lambda model, ema: {"ema_model": ema, "online_model": model, "step": 3},
    "Lightning": lambda model, ema: {
        "state_dict": {
            **under("model.", model), **under("ema_model.", ema), "loss.scale": torch.ones(1)
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "hyper_parameters": {"lr": 1e-4},
    },
    "ema_pytorch": lambda model, ema: {
        "ema": {**under("online_model.", model), **under("ema_model.", ema),
                "initted": torch.tensor(True)}
    },
    "an average that counts": lambda model, ema: {
        "net": under("module.", model), "ema": {"shadow": ema, "decay": 0.999}
    },
    "moments by name": lambda model, ema: {
        "weights": model, "averaged": under("_orig_mod.", ema), "optimizer": {"exp_avg": model}
    },
    "FSDP": lambda model, ema: {
        "model": under("_fsdp_wrapped_module.", model), "ema": under("net._orig_mod.", ema)
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_sets_are_found_whatever_they_are_called(tmp_path: Path, layout: str) -> None:
    ema, model = weights(), {name: tensor + 1 for name, tensor in weights().items()}
    found = open_weights(saved(tmp_path, LAYOUTS[layout](model, ema))).groups
    assert found.keys() == {"model", "ema"}
    for name, expected in (("model", model), ("ema", ema)):
        assert found[name].keys() == expected.keys()
        assert all(found[name][key].equal(tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("prefix", ["", "model.", "diffusion.net.", "module.model._orig_mod."])
def test_one_set_alone_is_what_was_released(tmp_path: Path, prefix: str) -> None:
    theirs = under(prefix, weights())
    save_file(theirs, tmp_path / "DiT.safetensors")
    files = [tmp_path / "DiT.safetensors", saved(tmp_path, {"state_dict": theirs})]
    for file in files:
        found = open_weights(file).groups
        assert found.keys() == {"ema"} and found["ema"].keys() == weights().keys()


def test_several_sets_are_not_guessed_at(tmp_path: Path) -> None:
    file = saved(tmp_path, {"ema_1": weights(), "ema_2": weights(), "step": 1})
    with pytest.raises(RequestError, match=r"several sets of weights \(ema_1, ema_2\); save the"):
        open_weights(file)


def test_a_model_that_was_saved_whole(tmp_path: Path) -> None:
    """What cannot be read says what to do."""
    with pytest.raises(RequestError, match=r"holds an object of .*Settings, not weights by name; "
                       r"save the weights alone: torch\.save\(model\.state_dict"):  # fmt: skip
        open_weights(saved(tmp_path, Settings()))


# ---- precision ----------------------------------------------------------------------------------

KINDS = {
    "float16": lambda tensor: tensor.half(),
    "bfloat16": lambda tensor: tensor.bfloat16(),
    "float64": lambda tensor: tensor.double(),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "float16 as float32": lambda tensor: tensor.half().float(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_of_any_precision(tmp_path: Path, kind: str, ending: str) -> None:
    theirs = {name: KINDS[kind](tensor) for name, tensor in weights().items()}
    file = tmp_path / f"DiT.{ending}"
    (torch.save if ending == "pt" else save_file)(theirs, file)
    done = import_weights(file, tmp_path / "run", overrides=["model.num_heads=3"])
    (kept,) = done.folder.root.glob("checkpoints/*/ema*.safetensors")
    tensors = open_weights(kept).groups["ema"]
    for name, tensor in tensors.items():
        if name != "pos_embed":
            assert tensor.equal(theirs[name].float()) and tensor.dtype == torch.float32
    assert (tensors["pos_embed"] - positions(SMALL)).abs().max() < 1e-6


def test_other_positions_are_still_refused(tmp_path: Path) -> None:
    """Half precision is no excuse for another code, nor float32 for one that is a little off."""
    exact = positions(SMALL)
    assert rounding_of(exact) == 0
    for wrong in (exact + 1e-4, (exact + 0.01).half(), (exact + 0.01).half().float()):
        with pytest.raises(RequestError, match="pos_embed: differs by up to"):
            refuse_other_positions(wrong, SMALL)


# ---- folders of diffusers -----------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
@pytest.mark.parametrize("cut", [False, True])
def test_variants_of_diffusers(tmp_path: Path, variant: str, cut: bool) -> None:
    adapter = FORMATS["diffusers"]
    theirs = {k: v.half() for k, v in adapter.from_ours(weights(), SMALL).items()}
    (tmp_path / "config.json").write_text(json.dumps(adapter.config(SMALL)))
    stem = "diffusion_pytorch_model"
    if cut:
        name = f"{stem}.{variant}-00001-of-00001.safetensors"
        index = tmp_path / f"{stem}.safetensors.index.{variant}.json"
        index.write_text(json.dumps({"weight_map": dict.fromkeys(theirs, name)}))
    else:
        name = f"{stem}.{variant}.safetensors"
    save_file(theirs, tmp_path / name)
    found = open_foreign(tmp_path).file
    assert [file.name for file in found.files] == [name]
    assert found.groups["ema"].keys() == theirs.keys()


def test_two_variants_are_not_chosen_from(tmp_path: Path) -> None:
    adapter = FORMATS["diffusers"]
    (tmp_path / "config.json").write_text(json.dumps(adapter.config(SMALL)))
    for variant in ("fp16", "bf16"):
        (tmp_path / f"diffusion_pytorch_model.{variant}.safetensors").touch()
    with pytest.raises(RequestError, match=r"bf16\.safetensors, .*fp16\.safetensors; keep one"):
        open_foreign(tmp_path)
