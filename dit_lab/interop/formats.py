"""Registry of weight formats, and recognition of the format of a file or folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.interop.adapter import Adapter
from dit_lab.interop.diffusers_folder import CONFIG, DiffusersFormat, is_folder, open_folder
from dit_lab.interop.files import WeightsFile, open_weights
from dit_lab.interop.lightning import MARKS, LightningDiTFormat, section
from dit_lab.interop.official import PROJECTORS, DiTFormat, REPAFormat, SiTFormat

FORMATS: Mapping[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        DiTFormat(),
        SiTFormat(),
        REPAFormat(),
        LightningDiTFormat(),
        DiffusersFormat(),
    )
}
FOLDERS = "diffusers"  # the only format that is a folder


@dataclass(frozen=True, slots=True)
class Foreign:
    """Weights of another program and their adapter."""

    file: WeightsFile
    adapter: Adapter
    why: str  # why this format was chosen


def open_foreign(path: Path, asked: str = "auto") -> Foreign:
    """Open a weights file or a diffusers folder.

    Args:
        path: the file or folder.
        asked: a format, or "auto" to recognise it.

    Raises:
        RequestError: if it cannot be read or recognised.
    """
    if path.is_dir():
        if not is_folder(path):
            raise RequestError(
                f"{path}: no folder of diffusers (neither {CONFIG} nor transformer/{CONFIG} in "
                "it); give a file of weights, or such a folder"
            )
        if asked not in ("auto", FOLDERS):
            raise RequestError(f"--format {asked}: {path} is a folder, which only diffusers writes")
        return Foreign(open_folder(path), FORMATS[FOLDERS], "it is a folder")
    if asked == FOLDERS:
        raise RequestError(f"--format diffusers: {path} is a file; give the folder that it lies in")
    file = open_weights(path)
    if asked != "auto":
        return Foreign(file, FORMATS[asked], "--format")
    name, why = _recognised(file)
    return Foreign(file, FORMATS[name], why)


def _recognised(file: WeightsFile) -> tuple[str, str]:
    """Return the format and what identified it.

    Formats with the same tensors are distinguished by training arguments or by the file name.
    """
    tensors = {name for group in file.groups.values() for name in group}
    if any(name.startswith(PROJECTORS) for name in tensors):
        return "repa", "its projectors"
    if marks := MARKS & tensors:
        return "lightningdit", f"its {min(marks)}"
    said = {
        "args.model": file.args.get("model"),
        "config.model.model_type": section(file, "model").get("model_type"),
    }
    for where, model in said.items():
        if isinstance(model, str) and (name := _named(model)):
            return name, f"its {where} is {model}"
    if name := _named(file.path.name):
        return name, "the file's name"
    raise RequestError(
        f"{file.path}: DiT, SiT and LightningDiT can have the same tensors, and neither its "
        "training's options nor its name says which these are; give --format dit, sit or "
        "lightningdit"
    )


def _named(text: str) -> str | None:
    """Return the format whose name is a prefix of `text`, the name of a model or file."""
    names = (name for name in FORMATS if name != FOLDERS)
    return next((name for name in names if text.lower().startswith(name)), None)
