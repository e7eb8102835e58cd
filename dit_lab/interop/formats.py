"""The formats by name, and which of them a file or folder is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dit_lab.interop.adapter import Adapter
from dit_lab.interop.diffusers_folder import CONFIG, DiffusersFormat, is_folder, open_folder
from dit_lab.interop.files import WeightsFile, open_weights
from dit_lab.interop.official import PROJECTORS, DiTFormat, REPAFormat, SiTFormat
from dit_lab.types import RequestError

FORMATS: Mapping[str, Adapter] = {
    adapter.name: adapter for adapter in (DiTFormat(), SiTFormat(), REPAFormat(), DiffusersFormat())
}


@dataclass(frozen=True, slots=True)
class Foreign:
    """Weights of another program, and how they are read."""

    file: WeightsFile
    adapter: Adapter
    why: str  # they are taken to be of this format


def open_foreign(path: Path, asked: str = "auto") -> Foreign:
    """Open a file, or a folder of diffusers; `asked` is a format or "auto". Raises RequestError."""
    if path.is_dir():
        if not is_folder(path):
            raise RequestError(
                f"{path}: no folder of diffusers (neither {CONFIG} nor transformer/{CONFIG} in "
                "it); give a file of weights, or such a folder"
            )
        if asked not in ("auto", "diffusers"):
            raise RequestError(f"--format {asked}: {path} is a folder, which only diffusers writes")
        return Foreign(open_folder(path), FORMATS["diffusers"], "it is a folder")
    if asked == "diffusers":
        raise RequestError(f"--format diffusers: {path} is a file; give the folder that it lies in")
    file = open_weights(path)
    if asked != "auto":
        return Foreign(file, FORMATS[asked], "--format")
    name, why = _recognised(file)
    return Foreign(file, FORMATS[name], why)


def _recognised(file: WeightsFile) -> tuple[str, str]:
    """The format and what gave it away. DiT and SiT have the same tensors: only what a training was
    started with, or the file's name, tells them apart."""
    if any(name.startswith(PROJECTORS) for group in file.groups.values() for name in group):
        return "repa", "its projectors"
    for name in ("sit", "dit"):
        if str(file.args.get("model", "")).lower().startswith(name):
            return name, f"its args.model is {file.args['model']}"
    stem = file.path.name.lower()
    for name in ("sit", "dit"):
        if stem.startswith(name):
            return name, "the file's name"
    raise RequestError(
        f"{file.path}: DiT and SiT have the same tensors, and neither its args nor its name says "
        "which these are; give --format dit or --format sit"
    )
