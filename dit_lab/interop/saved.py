"""Reader for files of torch.save that executes no code from the pickle.

A saved training state contains more than tensors: numpy numbers, paths, configs, objects of the
script's own classes. torch's weights-only loader refuses these; here they are replaced by empty
stand-ins.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from dit_lab.core.errors import RequestError

MOST_KINDS = 1000  # maximum number of classes in a file
INSTEAD = "save the weights alone: torch.save(model.state_dict(), FILE)"

_UNKNOWN = re.compile(r"Unsupported global: GLOBAL (\S+) was not")
_BLOCKED = re.compile(r"GLOBAL (\S+)")
_ITEMS = re.compile(r"Can only SETITEMS? for .* but got <class '(?:[\w.]*\.)?StandIn (\S+)'>")


class StandIn(list[Any]):
    """Replaces an object of any class, whatever its arguments and state."""

    kind = ""  # the class name in the file

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        return


class Items:
    """Replaces a dictionary of a custom class by an OrderedDict."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


def read_saved(path: Path) -> Any:
    """Return tensors, numbers, strings and script arguments; other objects become `StandIn`s.

    Tensors are memory-mapped if the file format allows.

    Raises:
        RequestError: if the file is not of torch.save, is damaged, or would call other code.
    """
    kinds: dict[str, Any] = {}
    while len(kinds) < MOST_KINDS:
        known = [(kind, name) for name, kind in kinds.items()]
        try:
            with torch.serialization.safe_globals([argparse.Namespace, *known]):
                return torch.load(
                    path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
                )
        except pickle.UnpicklingError as error:
            _learn(kinds, path, str(error))
        except (RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError):
            break
    raise RequestError(f"{path}: not written by torch.save, or damaged; fetch it again")


def _learn(kinds: dict[str, Any], path: Path, said: str) -> None:
    """Add a stand-in for the class that torch refused; raise RequestError if that is impossible."""
    if (unknown := _UNKNOWN.search(said)) and unknown[1] not in kinds:
        names = {unknown[1], f"builtins.{unknown[1]}"}  # torch omits the builtins prefix
        kinds |= {name: type(f"StandIn {name}", (StandIn,), {"kind": name}) for name in names}
    elif (items := _ITEMS.search(said)) and kinds.get(items[1]) is not Items:
        kinds[items[1]] = Items  # a subclass of dict
    elif blocked := _BLOCKED.search(said):
        raise RequestError(
            f"{path}: refused, for reading it would call {blocked[1]}; only tensors, numbers and "
            f"words are read: {INSTEAD}"
        )
    else:
        raise RequestError(f"{path}: not written by torch.save, or damaged; fetch it again")
