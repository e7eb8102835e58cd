"""Files of weights that other programs have written, opened without running anything in them.

What training scripts save is a dictionary of `model`, `ema`, `opt`, and `args` or `config`; what
they release is one dictionary of tensors. Keys may carry the wrappers of the model that was saved.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeGuard

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.files import parse_json, read_within
from dit_lab.core.typed import FileName, read_as
from dit_lab.interop.saved import INSTEAD, StandIn, read_saved

Tensors = Mapping[str, Tensor]

SAVED = (".pt", ".pth", ".ckpt", ".bin")
ENDINGS = (*SAVED, ".safetensors")
INDEX = ".safetensors.index.json"  # of a file that was cut into several
INDEX_NAME = re.compile(r"\.safetensors\.index(\.\w+)?\.json$")  # also of a variant

MARKS = ("x_embedder.proj.weight", "pos_embed.proj.weight")
"""Tensors of a DiT, by our names and by those of diffusers."""

MAX_DEPTH = 3  # of dictionaries in a dictionary
_AVERAGE = re.compile(r"(?i)ema(?![a-z])|averag|shadow")
_OPTIMIZER = re.compile(r"(?i)^(opt|optim|exp_avg|sched|grad)")
_WRAPPERS = re.compile(r"\b_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")

ARGUMENTS = ("args", "config", "hyper_parameters")  # of a training, in what it saved
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
        return WeightsFile(path, _groups(path, read_safetensors(path)))
    if INDEX_NAME.search(path.name):
        return _read_cut(path)
    if path.suffix not in SAVED:
        raise RequestError(
            f"{path}: unknown ending {path.suffix or '(none)'}; expected {', '.join(ENDINGS)}"
        )
    content = read_saved(path)
    if not isinstance(content, Mapping):
        raise RequestError(f"{path}: holds {_kind(content)}, not weights by name; {INSTEAD}")
    groups = _groups(path, content)
    return WeightsFile(
        path, groups, _arguments(next(filter(None, map(content.get, ARGUMENTS)), None))
    )


def _groups(path: Path, content: Mapping[str, Any]) -> dict[str, Tensors]:
    """The sets of weights in what was saved: those under `model` and `ema`, or those of a DiT that
    stand anywhere, under other names or with other words in front of theirs."""
    named = {name: content.get(name) for name in ("model", "ema")}
    groups = {
        name: found for name, found in named.items() if _are_tensors(found) and len(_in(found)) < 2
    }
    if not groups:
        groups = _anywhere(path, content)
    if groups:
        return {name: _alone(_plain_names(path, found)) for name, found in groups.items()}
    for found in (*(content.get(name) for name in RELEASED), content):
        if _are_tensors(found):
            return {"ema": _plain_names(path, found)}
    raise RequestError(
        f"{path}: no weights in it; expected tensors by name, or such under model or ema, and "
        f"found {', '.join(map(str, list(content)[:5])) or 'nothing'}; {INSTEAD}"
    )


def _anywhere(path: Path, content: Mapping[str, Any]) -> dict[str, Tensors]:
    """The weights of a DiT and their average, wherever they stand; {} where none do. What the file
    does not call an average is taken for one if it is alone, as what is released."""
    averages: dict[str, Tensors] = {}
    others: dict[str, Tensors] = {}
    for place, tells, tensors in _sets(content, "", MAX_DEPTH):
        (averages if _AVERAGE.search(tells) else others)[place] = tensors
    for found in (averages, others):
        if len(found) > 1:
            raise RequestError(
                f"{path}: holds several sets of weights ({', '.join(found)}); save the one to use "
                "alone"
            )
    named = {"model": others, "ema": averages} if averages else {"ema": others}
    return {name: next(iter(found.values())) for name, found in named.items() if found}


def _sets(content: Mapping[Any, Any], place: str, depth: int) -> Iterator[tuple[str, str, Tensors]]:
    """The sets of tensors in a dictionary and those in it that have the names of a DiT's: where it
    is, which words tell what it is, and the tensors."""
    found = _in(content)
    for first, tensors in found.items():
        where = f"{place}{first}".rstrip("./")
        yield where, first if len(found) > 1 else where, tensors
    for name, value in content.items():
        if depth and isinstance(value, Mapping) and not _OPTIMIZER.search(str(name)):
            yield from _sets(value, f"{place}{name}/", depth - 1)


def _in(content: Mapping[Any, Any]) -> dict[str, Tensors]:
    """The sets of a dictionary itself by the words in front of their names."""
    tensors = {
        _unwrapped(str(name)): value for name, value in content.items() if isinstance(value, Tensor)
    }
    starts = {name.removesuffix(mark) for name in tensors for mark in MARKS if name.endswith(mark)}
    return {
        first: {name[len(first) :]: of for name, of in tensors.items() if name.startswith(first)}
        for first in sorted(starts)
    }


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
    return WeightsFile(path, _groups(path, tensors), parts=tuple(beside))


def _are_tensors(content: Any) -> TypeGuard[Tensors]:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def _plain_names(path: Path, tensors: Tensors) -> dict[str, Tensor]:
    """Without what DataParallel (`module.`), torch.compile (`_orig_mod.`) and others put into
    names."""
    plain = {
        _unwrapped(str(name)).removeprefix("module."): tensor for name, tensor in tensors.items()
    }
    if len(plain) < len(tensors):
        raise RequestError(f"{path}: two tensors of one name, with and without module.")
    return plain


def _alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of tensors those of the DiT among them, without the words in front of their names."""
    sets = _in(tensors)
    return dict(next(iter(sets.values()))) if len(sets) == 1 else tensors


def _unwrapped(name: str) -> str:
    return _WRAPPERS.sub("", name)


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
    if isinstance(content, StandIn):
        return f"an object of {content.kind}"
    return "nothing" if content is None else f"a {type(content).__name__}"
