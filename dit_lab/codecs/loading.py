"""Loading of diffusers' autoencoders: network, latent statistics and fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit_lab.codecs.facts import (
    HUB,
    config_file,
    local_folder,
    read_config,
    reason,
    repository_of,
)
from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted

WEIGHTS = (
    "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"
)  # fmt: skip
VARIANT = re.compile(
    r"diffusion_pytorch_model\.(?:safetensors\.index\.(\w+)\.json|(\w+)\.safetensors)$"
)


def load_network(path: str | Path) -> Any:
    """Load an autoencoder in evaluation mode and float32, without gradients.

    Raises:
        RequestError: it cannot be loaded, or some of its weights are missing.
    """
    name = read_config(path)["_class_name"]
    import diffusers  # takes seconds to import

    place: dict[str, Any]
    if str(path).startswith(HUB):
        repository, subfolder = repository_of(str(path))
        place = {"pretrained_model_name_or_path": repository, "subfolder": subfolder}
    else:
        folder = local_folder(path)
        place = {"pretrained_model_name_or_path": folder, "variant": _variant(folder)}
    try:
        with quiet():  # errors are reported below
            network, report = getattr(diffusers, name).from_pretrained(
                **place,
                local_files_only="subfolder" not in place,
                use_safetensors=True,  # never a pickle
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise RequestError(
            f"codec.path={path}: cannot be loaded ({reason(error)}); save the autoencoder again"
        ) from error
    if report["missing_keys"]:  # diffusers only warns, and keeps random weights
        missing = sorted(report["missing_keys"])
        raise RequestError(
            f"codec.path={path}: {counted(len(missing), 'weight')} missing, such as {missing[0]}; "
            "save the autoencoder again"
        )
    return network.eval().requires_grad_(False)


def _variant(folder: Path) -> str | None:
    """Return the variant of a folder's weights, such as fp16; None if there are plain ones."""
    if any((folder / name).is_file() for name in WEIGHTS):
        return None
    names = sorted(file.name for file in folder.glob("*.safetensors*"))
    found = {named[1] or named[2] for name in names if (named := VARIANT.match(name))}
    return min(found, default=None)


@contextmanager
def quiet() -> Iterator[None]:
    """Context without log messages of diffusers."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def latent_statistics(path: str | Path, config: Any) -> tuple[Tensor, Tensor]:
    """Return (mean, std) that normalise a raw latent, (z - mean) / std; each (1, C or 1, 1, 1)."""
    shift, mean, std = (
        config.get(name) for name in ("shift_factor", "latents_mean", "latents_std")
    )
    if shift and mean is not None:
        raise RequestError(
            f"{config_file(path)}: gives both shift_factor and latents_mean; "
            "keep the one that the weights were trained with"
        )
    mean = torch.tensor((shift or 0.0) if mean is None else mean).reshape(1, -1, 1, 1)
    std = torch.tensor(1.0 if std is None else std).reshape(1, -1, 1, 1)
    return mean, std / config.scaling_factor


def fingerprint_of(network: Any, **computed: Any) -> str:
    """Return a hash of the config, all weights and the settings `computed` of the computation.

    Config keys that start with an underscore, which diffusers adds on saving, are excluded.
    """
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps([config, computed], sort_keys=True).encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().numpy())
    return digest.hexdigest()
