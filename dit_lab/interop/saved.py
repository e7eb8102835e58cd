"""What torch.save wrote, read without calling anything that a pickle asks for.

A state of training holds more than tensors: numbers of numpy, paths, configurations, objects of the
script's own classes. torch's loader for weights refuses all of that; here a stand-in takes its
place, which keeps nothing.
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

MOST_KINDS = 1000  # of objects in a file
INSTEAD = "save the weights alone: torch.save(model.state_dict(), FILE)"

_UNKNOWN = re.compile(r"Unsupported global: GLOBAL (\S+) was not")
_BLOCKED = re.compile(r"GLOBAL (\S+)")
_ITEMS = re.compile(r"Can only SETITEMS? for .* but got <class '(?:[\w.]*\.)?StandIn (\S+)'>")


class StandIn(list[Any]):
    """In the place of an object, whatever it is made of and filled with."""

    kind = ""  # the name that the file gives

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        return


class Items:
    """In the place of a dictionary of the script's own kind: a plain one."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


def read_saved(path: Path) -> Any:
    """Tensors, numbers and words, and the arguments of a training script; `StandIn`s for the rest.

    Tensors stay in the file until they are used, where its form allows. Raises RequestError.
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
    """Give one more object of a file a stand-in. Raises RequestError where that cannot be."""
    if (unknown := _UNKNOWN.search(said)) and unknown[1] not in kinds:
        names = {unknown[1], f"builtins.{unknown[1]}"}  # torch does not say builtins
        kinds |= {name: type(f"StandIn {name}", (StandIn,), {"kind": name}) for name in names}
    elif (items := _ITEMS.search(said)) and kinds.get(items[1]) is not Items:
        kinds[items[1]] = Items  # a kind of dictionary
    elif blocked := _BLOCKED.search(said):
        raise RequestError(
            f"{path}: refused, for reading it would call {blocked[1]}; only tensors, numbers and "
            f"words are read: {INSTEAD}"
        )
    else:
        raise RequestError(f"{path}: not written by torch.save, or damaged; fetch it again")
