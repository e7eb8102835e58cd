"""Weight files of other programs, read without executing any code in them.

Training scripts save a dictionary with `model`, `ema`, `opt`, and `args` or `config`; published
weights are one dictionary of tensors. Names may have prefixes of model wrappers.
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
INDEX = ".safetensors.index.json"  # of a file split into shards
INDEX_NAME = re.compile(r"\.safetensors\.index(\.\w+)?\.json$")  # also of a precision variant

MARKS = ("x_embedder.proj.weight", "pos_embed.proj.weight")
"""Names of a tensor that identifies a DiT: the lab's and diffusers'."""

MAX_DEPTH = 3  # of nested dictionaries
_AVERAGE = re.compile(r"(?i)ema(?![a-z])|averag|shadow")
_OPTIMIZER = re.compile(r"(?i)^(opt|optim|exp_avg|sched|grad)")
_WRAPPERS = re.compile(r"\b_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")

ARGUMENTS = ("args", "config", "hyper_parameters")  # keys of training arguments in a saved state
RELEASED = ("state_dict", "module")  # keys of a single set of weights, besides `model`


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The sets of weights in a file, and the arguments of their training."""

    path: Path
    groups: Mapping[str, Tensors]  # "model", "ema"; only "ema" if the file does not say
    args: dict[str, Any] = field(default_factory=dict)  # numbers and strings, also nested
    parts: tuple[Path, ...] = ()  # shards, if the path is an index

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return self.parts or (self.path,)


def open_weights(path: Path) -> WeightsFile:
    """Open a file of weights by its extension; no code in a pickle is executed.

    Raises:
        RequestError: if it is not a file of weights.
    """
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
    """Return the sets of weights in a saved object.

    These are `model` and `ema`, or otherwise DiT weights found anywhere, also under prefixed names.
    """
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
        f"{path}: holds no weights; expected tensors by name, at the top or under model or ema; "
        f"found {', '.join(map(str, list(content)[:5])) or 'nothing'}; {INSTEAD}"
    )


def _anywhere(path: Path, content: Mapping[str, Any]) -> dict[str, Tensors]:
    """Return DiT weights and their EMA, found anywhere in a saved object; {} if there are none.

    A single set that is not called an average is taken for the EMA, as in published weights.
    """
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
    """Yield sets of DiT tensors in a dictionary and in nested ones: (path, name, tensors).

    The name tells whether the set is an average.
    """
    found = _in(content)
    for first, tensors in found.items():
        where = f"{place}{first}".rstrip("./")
        yield where, first if len(found) > 1 else where, tensors
    for name, value in content.items():
        if depth and isinstance(value, Mapping) and not _OPTIMIZER.search(str(name)):
            yield from _sets(value, f"{place}{name}/", depth - 1)


def _in(content: Mapping[Any, Any]) -> dict[str, Tensors]:
    """Return the sets of DiT tensors directly in a dictionary, by their name prefix."""
    tensors = {
        _unwrapped(str(name)): value for name, value in content.items() if isinstance(value, Tensor)
    }
    starts = {name.removesuffix(mark) for name in tensors for mark in MARKS if name.endswith(mark)}
    return {
        first: {name[len(first) :]: of for name, of in tensors.items() if name.startswith(first)}
        for first in sorted(starts)
    }


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; raise RequestError if it is invalid."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{path}: no safetensors file ({error}); fetch it again") from None


class _Index(TypedDict):
    weight_map: dict[str, FileName]  # tensor -> its file


def _read_cut(path: Path) -> WeightsFile:
    """Read all files that an index lists."""
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
    """Remove name prefixes of DataParallel (`module.`), torch.compile (`_orig_mod.`), etc."""
    plain = {
        _unwrapped(str(name)).removeprefix("module."): tensor for name, tensor in tensors.items()
    }
    if len(plain) < len(tensors):
        raise RequestError(f"{path}: two tensors of one name, with and without module.")
    return plain


def _alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return only the DiT tensors, without their name prefix."""
    sets = _in(tensors)
    return dict(next(iter(sets.values()))) if len(sets) == 1 else tensors


def _unwrapped(name: str) -> str:
    return _WRAPPERS.sub("", name)


def _arguments(args: Any) -> dict[str, Any]:
    """Return the numbers and strings among a training script's arguments or in its config."""
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
