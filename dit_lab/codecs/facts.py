"""What a codec's config.json says of its latents, read without its weights. Torch-free."""

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
"""What begins a codec.path that names a repository of the Hugging Face hub."""

BLOCKS = {
    "AutoencoderKL": "block_out_channels",
    "AutoencoderTiny": "encoder_block_out_channels",
    "AutoencoderDC": "encoder_block_out_channels",
}
"""diffusers' autoencoders of images, by class: where their resolutions are listed. Every block but
the last halves the sides."""

PIPELINE = "model_index.json"
_REPOSITORY = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:/([\w./-]+))?")


def codec_facts(
    target: str, options: Mapping[str, Any], *, channels: int, height: int, width: int
) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of such images by a codec of the lab; equals
    `Codec.latent_shape`.

    An autoencoder is known by the config.json of its folder, `options["path"]`.
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
    """The shape of the latents of such images; `RequestError` where they do not fit."""
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
    """The config.json of an autoencoder; `RequestError` where it is none that the lab knows."""
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
    """Where the config.json of `codec.path` lies; fetched where it names a repository."""
    if not str(path).startswith(HUB):
        return local_folder(path) / "config.json"
    repository, subfolder = repository_of(str(path))
    from huggingface_hub import hf_hub_download  # half a second, for repositories only
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(repository, "config.json", subfolder=subfolder))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise RequestError(
            f"codec.path={path}: config.json cannot be had ({reason(error)}); copy the repository "
            "to this machine and give its folder"
        ) from None


def local_folder(path: str | Path) -> Path:
    """The folder of an autoencoder: `codec.path`, or `vae` in the folder of a whole pipeline."""
    folder = local_path(path, "codec.path=")
    is_pipeline = not (folder / "config.json").is_file() and (folder / PIPELINE).is_file()
    return folder / "vae" if is_pipeline and (folder / "vae").is_dir() else folder


def repository_of(path: str) -> tuple[str, str | None]:
    """(OWNER/NAME, subfolder) of hub:OWNER/NAME/SUBFOLDER."""
    found = _REPOSITORY.fullmatch(path)
    if found is None:
        raise RequestError(f"codec.path={path}: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME/FOLDER")
    return found[1], found[2]


def reason(error: Exception) -> str:
    """The first sentence or so of what a library complains about."""
    return " ".join(str(error).split())[:200].rstrip(".")
