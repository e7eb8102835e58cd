"""Reading of recorded configurations of runs, jobs and benchmarks as typed configurations.

Somebody else may have made these files, so their values are literals without interpolation, and
they do not determine where this command writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from dit_lab.config.objects import to_config
from dit_lab.config.schema import RunConfig
from dit_lab.config.validate import INTERPOLATION, checked_types, refuse_interpolations
from dit_lab.config.yaml_files import read_yaml
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.files import may_write
from dit_lab.runs.exported import read_exported
from dit_lab.runs.folder import RunFolder
from dit_lab.runs.former_names import with_names_of_today

REFERENCE = "reference"
"""Folder below `paths.root` that caches results about real images, for all runs."""

FORMER_KEYS = ("trusted_modules",)
"""Keys of old records without meaning: only a command can grant trust."""


def read_recorded(folder: RunFolder, *, root: Path | None = None, hooks: bool = False) -> RunConfig:
    """Return the configuration that a run recorded, with the paths of this command.

    Args:
        root: `paths.root`; None for the folder below which the run lies.
        hooks: Keep the hooks, which must then be trusted and found.

    Raises:
        RequestError: The configuration cannot be read, or does not fit this version.
    """
    found = read_exported(folder.root)["config"] if folder.is_exported else read_yaml(folder.config)
    recorded = as_recorded(found, folder.config, hooks=hooks)
    return rebased(recorded, root or root_of(folder))


def as_recorded(tree: Mapping[str, Any], file: Path, *, hooks: bool = False) -> RunConfig:
    """Return the configuration in a file, with its own paths. Raises RequestError.

    `hooks` keeps its hooks, which only training needs to trust and find.
    """
    left_out = FORMER_KEYS if hooks else (*FORMER_KEYS, "hook")
    kept = {key: value for key, value in tree.items() if key not in left_out}
    try:
        refuse_interpolations(kept)
        recorded = with_names_of_today(kept)
        choices = {str(group): str(name) for group, name in recorded.pop("choices").items()}
        config = to_config(RunConfig, {**checked_types("run", recorded), "choices": choices})
        uri = trust.plain_address(config.tracking.uri)
        return replace(config, tracking=replace(config.tracking, uri=uri))
    except RequestError as refusal:
        raise RequestError(f"{file}: {refusal}") from None
    except (OmegaConfBaseException, AttributeError, KeyError) as error:
        reason = f"lacks {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise RequestError(
            f"{file}: not a run's configuration ({reason.splitlines()[0]})"
        ) from None


def rebased(config: RunConfig, root: Path) -> RunConfig:
    """Return the configuration with another `paths.root`, and its default store there as well."""
    tracking = config.tracking
    if tracking.uri == trust.default_store(config.paths.root):
        tracking = replace(tracking, uri=trust.default_store(root))
    paths = replace(config.paths, root=str(root))
    return replace(config, paths=paths, tracking=tracking)


def root_of(folder: RunFolder) -> Path:
    """Return the `paths.root` below which a run lies.

    Returns `outputs` if the run is outside of a root folder, or this user cannot write there.
    """
    above = folder.root.absolute().parents
    inside = not folder.is_exported and len(above) > 2 and above[1].name == "runs"
    own = inside and all(map(may_write, (above[2], above[2] / REFERENCE)))
    return above[2] if own else Path("outputs").absolute()


def recorded_overrides(texts: Iterable[str], where: str) -> list[str]:
    """Return overrides from a file, to compose again. Raises RequestError for interpolations."""
    kept = list(texts)
    for text in kept:
        if INTERPOLATION in text:
            raise RequestError(f"{where}: {text}: not a plain value; type the command itself again")
    return kept
