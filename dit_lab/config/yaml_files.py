"""Reading and writing of YAML files of this package and of users.

Aliases are not allowed, since a few lines of them expand to gigabytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from dit_lab.config.validate import to_plain
from dit_lab.core.errors import RequestError
from dit_lab.core.files import MOST_DEPTH, read_within, refuse_unplain
from dit_lab.core.typed import read_as
from dit_lab.runs import records
from dit_lab.runs.folder import RunFolder

Config = dict[str, Any]
Tree = TypeVar("Tree")

WRITTEN_BYTES = 2 * 2**20  # limit for the package's own files: ten times the longest
RECIPE_BYTES = 2**18
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Config:
    """Return a configuration that this package wrote, as plain values. Raises RequestError.

    OmegaConf's own reader, which files of users need, is twenty times slower.
    """
    with _reading(path):
        loaded = yaml.load(_text(path, WRITTEN_BYTES), Loader=_Loader)
        refuse_unplain(loaded)
    return _mapping({} if loaded is None else loaded, dict, path)  # of an empty file


def read_config(folder: RunFolder) -> Config:
    """Return the config.yaml of a run as plain values of the types in `runs.records`.

    Raises RequestError. Code that composes with it uses `config.recorded.read_recorded`.
    """
    return dict(read_as(records.Config, read_yaml(folder.config), where=folder.config))


def read_recipe(path: Path) -> Config:
    """Return a recipe as plain values, before it is composed."""
    return to_plain(load_recipe(path))


def load_recipe(path: Path) -> DictConfig:
    """Return the content of a user's file, not to be modified.

    Raises:
        RequestError: It does not contain keys and values.
    """
    with _reading(path):
        loaded = _loaded(_text(path, RECIPE_BYTES).getvalue(), str(path))
    return _mapping(loaded, DictConfig, path)


@lru_cache(64)
def _loaded(text: str, name: str) -> Any:
    """Return the content of a file, parsed by OmegaConf (10 ms for a recipe, therefore cached)."""
    file = io.StringIO(text)
    file.name = name
    return OmegaConf.load(file)


def _text(path: Path, limit: int) -> io.StringIO:
    """Return a file's text, named after the file, if it has no aliases and limited nesting."""
    text = io.StringIO(read_within(path, limit=limit).decode())
    text.name = str(path)
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError("aliases, & and *, are not read; write out what they stand for")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"nested deeper than {MOST_DEPTH}")
    text.seek(0)
    return text


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except RequestError:
        raise
    except YAMLError as error:
        raise RequestError(yaml_trouble(error)) from None
    except (OSError, ValueError, OmegaConfBaseException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RequestError(f"{path}: cannot be read ({reason})") from None


def _mapping(loaded: Any, kind: type[Tree], path: Path) -> Tree:
    if not isinstance(loaded, kind):
        raise RequestError(f"{path}: expected keys and values, `key: value` on each line")
    return loaded


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML for files and `--cfg job`."""
    return OmegaConf.to_yaml(OmegaConf.create(config))


def yaml_trouble(error: YAMLError) -> str:
    """Return the error of a YAML file as one line, with file name and line number."""
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark) is not None:
        return f"{mark.name}: line {mark.line + 1}: no YAML ({error.problem})"
    return " ".join(str(error).split())
