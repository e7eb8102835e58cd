"""Files of YAML: those that this package writes, and those that people write.

Neither may hold aliases, of which a few lines make gigabytes.
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

WRITTEN_BYTES = 2 * 2**20  # of what this package writes: ten times its longest
RECIPE_BYTES = 2**18
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Config:
    """A configuration that this package wrote, as plain values; RequestError where it is none.

    OmegaConf's own reader, which people's files need, takes twenty times as long.
    """
    with _reading(path):
        loaded = yaml.load(_text(path, WRITTEN_BYTES), Loader=_Loader)
        refuse_unplain(loaded)
    return _mapping({} if loaded is None else loaded, dict, path)  # an empty file has no keys


def read_config(folder: RunFolder) -> Config:
    """config.yaml of a run as plain values, of the types that `runs.records` declares. Raises
    RequestError. What composes with it reads it by `config.compose.read_recorded`."""
    return dict(read_as(records.Config, read_yaml(folder.config), where=folder.config))


def read_recipe(path: Path) -> Config:
    """A recipe as plain values, before it is composed with anything."""
    return to_plain(load_recipe(path))


def load_recipe(path: Path) -> DictConfig:
    """The keys and values of a file that a person wrote, not to be changed; RequestError where it
    holds something else."""
    with _reading(path):
        loaded = _loaded(_text(path, RECIPE_BYTES).getvalue(), str(path))
    return _mapping(loaded, DictConfig, path)


@lru_cache(64)
def _loaded(text: str, name: str) -> Any:
    """What OmegaConf makes of a file, which takes it 10 ms for a recipe."""
    file = io.StringIO(text)
    file.name = name
    return OmegaConf.load(file)


def _text(path: Path, limit: int) -> io.StringIO:
    """The text of a file without aliases and of little depth, which knows the file's name."""
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
    """The configuration as files and `--cfg job` show it."""
    return OmegaConf.to_yaml(OmegaConf.create(config))


def yaml_trouble(error: YAMLError) -> str:
    """Why a file is no YAML, with its name and line, as one line."""
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark) is not None:
        return f"{mark.name}: line {mark.line + 1}: no YAML ({error.problem})"
    return " ".join(str(error).split())
