"""Axes, fixed overrides and search space of a sweep, parsed from overrides. Torch-free."""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, ValueType

from dit_lab.config import search_path
from dit_lab.config.arms import ONE_FOR_ALL
from dit_lab.config.overrides import parse_override
from dit_lab.config.yaml_files import read_recipe
from dit_lab.core.errors import RequestError
from dit_lab.core.text import LONGEST_NAME

LAUNCHER_EXTRAS = ("joblib", "submitit", "ray")
"""Extras of this package that install Hydra's launchers, and have their names."""

SEARCH = "hydra/sweeper=optuna"
"""The override for a search, where an optimiser proposes values instead of a grid."""

LISTED = (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.CHOICE_SWEEP, ValueType.RANGE_SWEEP)
"""Kinds of axes that list all their values, unlike intervals and globs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """An axis of numbers from `low` to `high`, both included; integers if both are."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def ends(self) -> list[str]:
        return [as_text(self.low), as_text(self.high)]


def sweep_overrides(overrides: Sequence[str], config_dirs: Iterable[Path] = ()) -> list[Override]:
    """Return the overrides, with the axes of a named sweep that were not overridden.

    `~KEY` removes an axis of a named sweep. Raises RequestError for unsupported overrides of Hydra.
    """
    of_keys = [text for text in overrides if not is_for_launcher(text) and text != SEARCH]
    parsed = [parse_override(text) for text in of_keys]
    typed = list({one.key_or_group: one for one in parsed}.values())  # the last of each key
    keys = {one.key_or_group for one in typed}
    for one in typed:
        if one.key_or_group.partition(".")[0].partition("/")[0] == "hydra":
            raise RequestError(f"{one.input_line}: not read; see docs/sweeps.md for what is")
    grid = _grid(typed, config_dirs)
    kept = [one for one in typed if not (one.is_delete() and one.key_or_group in grid)]
    return kept + [parse_override(f"{k}={texts}") for k, texts in grid.items() if k not in keys]


def recipe_grid(overrides: Sequence[str], config_dirs: Iterable[Path] = ()) -> dict[str, str]:
    """Return all axes of a named sweep with the values of its recipe, overridden or not."""
    typed = [parse_override(t) for t in overrides if not is_for_launcher(t) and t != SEARCH]
    return _grid(typed, config_dirs)


def recipe_axes(overrides: Sequence[str], config_dirs: Iterable[Path] = ()) -> frozenset[str]:
    """Return the axes of a named sweep that were not overridden.

    Like other options of a recipe, they are dropped if the chosen members do not have them.
    """
    typed = {text.lstrip("+~").partition("=")[0] for text in overrides}
    return frozenset(recipe_grid(overrides, config_dirs)) - typed


def is_for_launcher(text: str) -> bool:
    """Return whether an override chooses or configures one of Hydra's launchers."""
    return text.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher."))


def asks_for_sweep(overrides: Sequence[str], config_dirs: Iterable[Path] = ()) -> bool:
    """Return whether overrides name a sweep with an axis left, so that -m is implied."""
    typed = sweep_overrides(overrides, config_dirs)
    return bool(_grid(typed, config_dirs)) and any(one.is_sweep_override() for one in typed)


def _grid(typed: Sequence[Override], config_dirs: Iterable[Path]) -> dict[str, str]:
    """Return the axes of the named experiment; {} if it is not a sweep."""
    chosen = [one for one in typed if one.key_or_group == "experiment"]
    names = [name for one in chosen for name in values_of(one)]
    grids = {
        name: _recipe_grid(recipe / "recipe.yaml")
        for name, recipe in search_path.experiments(config_dirs).items()
        if name in names
    }
    sweeps = [name for name, grid in grids.items() if grid]
    if sweeps and len(names) > 1:
        raise RequestError(
            f"experiment={','.join(names)}: {sweeps[0]} is a named sweep, which cannot be combined "
            "with others; run it alone"
        )
    return grids[sweeps[0]] if sweeps else {}


def _recipe_grid(recipe: Path) -> dict[str, str]:
    settings = read_recipe(recipe).get("hydra", {})
    grid = settings.get("sweeper", {}).get("params", {})
    unread = [key for key in settings if key not in ("mode", "sweeper")]
    unread += [f"sweeper.{key}" for key in settings.get("sweeper", {}) if key != "params"]
    if unread:
        raise RequestError(
            f"{recipe}: hydra.{unread[0]}: not read from a recipe; a named sweep has hydra.mode "
            "and hydra.sweeper.params"
        )
    if bool(grid) != (settings.get("mode") == "MULTIRUN"):
        raise RequestError(
            f"{recipe}: a named sweep has both hydra.mode: MULTIRUN and hydra.sweeper.params"
        )
    return {str(key): str(values) for key, values in grid.items()}


def check_extras(overrides: Sequence[str]) -> None:
    """Raise RequestError if a chosen launcher of LAUNCHER_EXTRAS, or Optuna, is not installed."""
    for text in overrides:
        name = text.rpartition("launcher=")[2].partition("_")[0]
        if is_for_launcher(text) and name in LAUNCHER_EXTRAS:
            _require(f"hydra_plugins.hydra_{name}_launcher", text, extra=name)
        elif text == SEARCH:
            _require("optuna", text, extra="optuna")


def _require(package: str, text: str, *, extra: str) -> None:
    if _missing(package):
        raise RequestError(f"{text}: not installed; pip install 'dit-lab[{extra}]' brings it")


def _missing(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except ModuleNotFoundError:  # the parent package is missing: no plugins at all
        return True


def name_of(axes: Iterable[str]) -> str:
    """Return the default name of a sweep: its axes, cut to the length of a name."""
    name = "-".join(key.rpartition(".")[2].replace("/", "-") for key in axes)
    return name[:LONGEST_NAME].rstrip("-")


def axes_of(typed: Sequence[Override], *, search: bool) -> dict[str, list[str]]:
    """Return axis -> values as text; for numbers of a search, both ends. Raises RequestError."""
    space = space_of(typed) if search else {}
    axes = {
        one.key_or_group: found.ends if isinstance(found, Span) else values_of(one)
        for one in typed
        if one.is_sweep_override()
        for found in [space.get(one.key_or_group)]
    }
    _check_axes(axes)
    return axes


def product(typed: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of each job for the axes; the last axis varies fastest."""
    axes = [
        [f"{one.get_key_element()}={text}" for text in one.sweep_string_iterator()]
        for one in typed
        if one.is_sweep_override()
    ]
    return [list(texts) for texts in itertools.product(*axes)]


def settings_of(texts: Iterable[str]) -> dict[str, str]:
    """Return the overrides of a job as a mapping from key to value, without Hydra's escapes."""
    pairs = (text.lstrip("+").partition("=")[::2] for text in texts)
    return {key: re.sub(r"\\(.)", r"\1", value) for key, value in pairs}


def label_of(settings: Mapping[str, str]) -> str:
    """Return a label such as `model=s patch=8`."""
    return " ".join(f"{key}={text}" for key, text in settings.items())


def combinations(overrides: Sequence[str]) -> list[tuple[dict[str, str], list[str]]]:
    """Return each combination of values in overrides: the settings that vary, and all overrides.

    Raises RequestError if no override has several values.
    """
    typed = sweep_overrides(overrides)
    if "run" in axes_of(typed, search=False):
        raise RequestError(
            "run: several values; give one RUN, or compare several with dit-lab report"
        )
    fixed = [str(one.input_line) for one in typed if not one.is_sweep_override()]
    return [(settings_of(texts), [*fixed, *texts]) for texts in product(typed)]


def corners(typed: Sequence[Override]) -> list[list[str]]:
    """Return the overrides with the first values of all axes of a search, and with the last."""
    axes = axes_of(typed, search=True)
    return [[f"{key}={values[end]}" for key, values in axes.items()] for end in (0, -1)]


def values_of(one: Override) -> list[str]:
    """Return the values of an axis, or the only value of a key, as text."""
    if not one.is_sweep_override():
        return [one.get_value_element_as_str().strip("'\"")]
    if one.value_type not in LISTED:
        raise RequestError(
            f"{one.input_line}: does not list its values; write them out, as in seed=0,1,2 or "
            f"seed=range(3), or add {SEARCH} for a search"
        )
    return [text.strip("'\"") for text in one.sweep_string_iterator()]


def space_of(typed: Sequence[Override]) -> dict[str, Span | list[str]]:
    """Return the search space: for each axis its values, or its interval."""
    swept = [one for one in typed if one.is_sweep_override()]
    return {one.key_or_group: _span(one) or values_of(one) for one in swept}


def _span(one: Override) -> Span | None:
    """Return the range of `interval(a,b)`, `tag(log,interval(a,b))` or `range(a,b,step)`."""
    value = one.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        log = "log" in value.tags
        if value.start >= value.end or (log and value.start <= 0):
            raise RequestError(
                f"{one.input_line}: not an interval; write the smaller number first"
                + (", and only positive ones with tag(log, ...)" if log else "")
            )
        return Span(low=value.start, high=value.end, log=log)
    if isinstance(value, RangeSweep) and (texts := values_of(one)):
        whole = isinstance(value.start, int) and isinstance(value.step, int)
        number = int if whole else float
        return Span(low=number(texts[0]), high=number(texts[-1]), step=value.step)
    return None


def _check_axes(axes: Mapping[str, Sequence[str]]) -> None:
    if not axes:
        raise RequestError("-m: nothing is swept; give several values, such as seed=0,1,2")
    for key, values in axes.items():
        if not values:
            raise RequestError(f"{key}: has no values; give two or more, or leave it out")
        if key.partition(".")[0] in ONE_FOR_ALL:
            raise RequestError(
                f"{key}={','.join(values)}: is set once for the whole sweep; give one value"
            )


def as_text(value: float | str) -> str:
    """Return a value of an axis as it is written in an override."""
    return value if isinstance(value, str) else repr(value)
