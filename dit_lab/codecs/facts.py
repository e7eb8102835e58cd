"""Latent shapes of the codecs, read from config.json without the weights. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from dit_lab.core.errors import QUICKSTART, RequestError
from dit_lab.core.files import parse_json, read_within
from dit_lab.core.text import counted, local_path
from dit_lab.core.typed import read_as, within

IDENTITY = "dit_lab.codecs.identity.Identity"
AUTOENCODER = "dit_lab.codecs.autoencoder.Autoencoder"
HUB = "hub:"
"""Prefix of a codec.path that names a repository of the Hugging Face hub."""

BLOCKS = {
    "AutoencoderKL": "block_out_channels",
    "AutoencoderTiny": "encoder_block_out_channels",
    "AutoencoderDC": "encoder_block_out_channels",
}
"""Keys of config.json that list the blocks of diffusers' image autoencoders, by class. Every block
but the last halves height and width.
"""

PIPELINE = "model_index.json"
_REPOSITORY = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:/([\w./-]+))?")


def codec_facts(
    target: str, options: Mapping[str, Any], *, channels: int, height: int, width: int
) -> tuple[int, int, int]:
    """Return (channels, height, width) of the latents of images, without loading the codec.

    The result equals `Codec.latent_shape`. For an autoencoder, the config.json of `options["path"]`
    is read.

    Raises:
        RequestError: the path is missing or no known autoencoder, or the images do not suit it.
    """
    if target == IDENTITY:
        return channels, height, width
    path = options.get("path")
    if not path:
        raise RequestError(f"codec.path is not set: give codec.path=FOLDER, {QUICKSTART}")
    config = read_config(path)
    return latent_shape(path, config, channels=channels, height=height, width=width)


def latent_shape(
    path: str | Path, config: Mapping[str, Any], *, channels: int, height: int, width: int
) -> tuple[int, int, int]:
    """Return (channels, height, width) of the latents; raise RequestError if images do not suit."""
    if channels != config["in_channels"]:
        raise RequestError(
            f"codec.path={path}: encodes {counted(config['in_channels'], 'channel')}, the "
            f"images have {channels}; choose another codec, such as codec=identity"
        )
    factor = 2 ** (len(config[BLOCKS[config["_class_name"]]]) - 1)
    if height % factor or width % factor:
        raise RequestError(
            f"codec.path={path}: images of {height}x{width} do not divide by {factor}; "
            f"choose dataset.image_size as a multiple of {factor}"
        )
    return config["latent_channels"], height // factor, width // factor


def few_blocks(blocks: Sequence[Any]) -> str:
    return "" if 1 <= len(blocks) <= 16 else "1 to 16 blocks"


def read_config(path: str | Path) -> dict[str, Any]:
    """Read the config.json of an autoencoder; raise RequestError if it is invalid or not known."""
    file = config_file(path)
    try:
        config = parse_json(read_within(file))
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(
            f"{file} is missing: give a folder in diffusers format with codec.path=FOLDER, "
            f"or a repository with codec.path={HUB}OWNER/NAME, {QUICKSTART}"
        ) from None
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(f"{file}: not JSON ({error}); save the autoencoder again") from None
    name = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in BLOCKS:
        raise RequestError(
            f"{file}: is not of one of diffusers' {', '.join(BLOCKS)} (_class_name is {name}); "
            "save one of these"
        )
    again = "save the autoencoder again"
    lacking = [key for key in ("in_channels", "latent_channels", BLOCKS[name]) if key not in config]
    if lacking:
        raise RequestError(f"{file}: lacks {', '.join(lacking)}; {again}")
    read_as(_Autoencoder, {**config, "blocks": config[BLOCKS[name]]}, where=file, instead=again)
    return config


class _Autoencoder(TypedDict):
    in_channels: Annotated[int, within(1, 2**12)]
    latent_channels: Annotated[int, within(1, 2**12)]
    blocks: Annotated[list[Any], few_blocks]


def config_file(path: str | Path) -> Path:
    """Return the path of the config.json of `codec.path`, downloaded if that names a repository."""
    if not str(path).startswith(HUB):
        return local_folder(path) / "config.json"
    repository, subfolder = repository_of(str(path))
    from huggingface_hub import hf_hub_download  # takes 0.5 s
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(repository, "config.json", subfolder=subfolder))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise RequestError(
            f"codec.path={path}: config.json cannot be downloaded ({reason(error)}); copy the "
            "repository to this machine and give its folder"
        ) from None


def local_folder(path: str | Path) -> Path:
    """Return the folder of an autoencoder: `codec.path`, or `vae` in the folder of a pipeline."""
    folder = local_path(path, "codec.path=")
    is_pipeline = not (folder / "config.json").is_file() and (folder / PIPELINE).is_file()
    return folder / "vae" if is_pipeline and (folder / "vae").is_dir() else folder


def repository_of(path: str) -> tuple[str, str | None]:
    """Split hub:OWNER/NAME/SUBFOLDER into (OWNER/NAME, subfolder or None)."""
    found = _REPOSITORY.fullmatch(path)
    if found is None:
        raise RequestError(f"codec.path={path}: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME/FOLDER")
    return found[1], found[2]


def reason(error: Exception) -> str:
    """Return an exception's message on one line, shortened to 200 characters."""
    return " ".join(str(error).split())[:200].rstrip(".")
