"""Files of YAML: those that this package writes, and those that people write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from dit_lab.config.validate import to_plain
from dit_lab.core.errors import RequestError

Config = dict[str, Any]
Tree = TypeVar("Tree")


def read_yaml(path: Path) -> Config:
    """A configuration that this package wrote, as plain values; RequestError where it is none.

    OmegaConf's own reader, which people's files need, takes twenty times as long.
    """
    with _reading(path), open(path, encoding="utf-8") as file:
        loaded = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return _mapping({} if loaded is None else loaded, dict, path)  # an empty file has no keys


def read_recipe(path: Path) -> Config:
    """A recipe as plain values, before it is composed with anything."""
    return to_plain(load_recipe(path))


def load_recipe(path: Path) -> DictConfig:
    """The keys and values of a file that a person wrote; RequestError where it holds something
    else."""
    with _reading(path):
        loaded = OmegaConf.load(path)
    return _mapping(loaded, DictConfig, path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except YAMLError as error:
        raise RequestError(yaml_trouble(error)) from None
    except (OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
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
