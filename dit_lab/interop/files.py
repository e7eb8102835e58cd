"""Files of weights that other programs have written, opened without running anything in them.

What training scripts save is a dictionary of `model`, `ema`, `opt`, and `args` or `config`; what
they release is one dictionary of tensors. Keys may carry the wrappers of the model that was saved.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.files import parse_json, read_within
from dit_lab.core.typed import FileName, read_as

Tensors = Mapping[str, Tensor]

SAVED = (".pt", ".pth", ".ckpt", ".bin")
ENDINGS = (*SAVED, ".safetensors")
INDEX = ".safetensors.index.json"  # of a file that was cut into several

RELEASED = ("state_dict", "module")  # names under which one set of weights is kept, besides `model`


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What a file holds: its sets of weights by name, and what its training was started with."""

    path: Path
    groups: Mapping[str, Tensors]  # "model", "ema"; "ema" alone where the file does not say
    args: dict[str, Any] = field(default_factory=dict)  # numbers and words, also in sections
    parts: tuple[Path, ...] = ()  # where the path only lists them

    @property
    def files(self) -> tuple[Path, ...]:
        """Where the tensors are."""
        return self.parts or (self.path,)


def open_weights(path: Path) -> WeightsFile:
    """Open a file by its ending. Raises RequestError in one line for everything that is no file of
    weights; nothing that a pickle asks for is ever called."""
    if path.suffix == ".safetensors":
        return WeightsFile(path, {"ema": _plain_names(path, read_safetensors(path))})
    if path.name.endswith(INDEX):
        return _read_cut(path)
    if path.suffix not in SAVED:
        raise RequestError(
            f"{path}: unknown ending {path.suffix or '(none)'}; expected {', '.join(ENDINGS)}"
        )
    content = _read_saved(path)
    if not isinstance(content, Mapping):
        raise RequestError(f"{path}: holds {_kind(content)}, not weights by name")
    named = {name: _plain_names(path, found) for name, found in _groups(path, content).items()}
    return WeightsFile(path, named, _arguments(content.get("args", content.get("config"))))


def _groups(path: Path, content: Mapping[str, Any]) -> dict[str, Tensors]:
    """The sets of weights in what was saved."""
    groups = {name: content[name] for name in ("model", "ema") if _are_tensors(content.get(name))}
    if groups:
        return groups
    for found in (*(content.get(name) for name in RELEASED), content):
        if _are_tensors(found):
            return {"ema": found}
    raise RequestError(
        f"{path}: no weights in it; expected tensors by name, or such under model or ema, and "
        f"found {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, which are no larger than it. Raises RequestError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{path}: no safetensors file ({error}); fetch it again") from None


class _Index(TypedDict):
    weight_map: dict[str, FileName]  # tensor -> the file that it is in


def _read_cut(path: Path) -> WeightsFile:
    """All files that an index lists."""
    what = "no index of safetensors files"
    try:
        found = parse_json(read_within(path))
        listed = read_as(_Index, found, where=path, what=what, instead="fetch it again")
    except RequestError:
        raise
    except (OSError, ValueError):
        raise RequestError(f"{path}: {what}; fetch it again") from None
    beside = [path.parent / name for name in sorted(set(listed["weight_map"].values()))]
    tensors: dict[str, Tensor] = {}
    for file in beside:
        if not file.is_file():
            raise RequestError(f"{file}: missing, and {path.name} lists it; fetch it")
        tensors |= read_safetensors(file)
    return WeightsFile(path, {"ema": _plain_names(path, tensors)}, parts=tuple(beside))


def _read_saved(path: Path) -> Any:
    """What torch.save wrote: tensors, numbers and words, and the arguments of a training script.

    Tensors stay in the file until they are used, where its form allows.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named:
            raise RequestError(
                f"{path}: refused, for reading it would call {named[1]}; only tensors, numbers and "
                "words are read"
            ) from None
        raise RequestError(f"{path}: not written by torch.save, or damaged") from None
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError):
        raise RequestError(f"{path}: not written by torch.save, or damaged") from None


def _are_tensors(content: Any) -> TypeGuard[Tensors]:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def _plain_names(path: Path, tensors: Tensors) -> dict[str, Tensor]:
    """Without what DataParallel (`module.`) and torch.compile (`_orig_mod.`) put into names."""
    plain = {
        str(name).replace("_orig_mod.", "").removeprefix("module."): tensor
        for name, tensor in tensors.items()
    }
    if len(plain) < len(tensors):
        raise RequestError(f"{path}: two tensors of one name, with and without module.")
    return plain


def _arguments(args: Any) -> dict[str, Any]:
    """The numbers and words among the arguments of a training script, or in its configuration."""
    found = vars(args) if isinstance(args, argparse.Namespace) else args
    if not isinstance(found, Mapping):
        return {}
    sections = {
        str(name): _plain(value) for name, value in found.items() if isinstance(value, Mapping)
    }
    return _plain(found) | sections


def _plain(found: Mapping[Any, Any]) -> dict[str, Any]:
    kinds = (str, int, float, bool)
    return {str(name): value for name, value in found.items() if isinstance(value, kinds)}


def _kind(content: Any) -> str:
    return "nothing" if content is None else f"a {type(content).__name__}"
