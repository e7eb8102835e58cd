"""From what was typed to plain, checked values: composed once, by Hydra, before torch is imported.

Hydra does the composing; every refusal becomes one line that names the key, what was given, what
is allowed and the closest valid spelling. `compose_train` and `compose_sample` tell the story.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dit_lab.lab import resources
from dit_lab.lab.compatibility import samplers_for
from dit_lab.lab.trust import load_component
from dit_lab.lab.typed import checked_types, to_plain, unknown_key
from dit_lab.runs import RunFolder, flatten
from dit_lab.types import RequestError

Config = dict[str, Any]

PATHS = ("paths.root", "dataset.root", "codec.path", "out")
"""Keys that hold a path; relative ones are read against the folder the command is typed in."""


def compose_train(overrides: Sequence[str], *, config_dirs: Iterable[Path] = ()) -> Config:
    """`conf/train.yaml` with overrides: resolved, typed, plain; raises RequestError.

    The result names the chosen groups under `choices`, and its paths are absolute.
    """
    for name, folder in resources.experiments().items():
        recipe = OmegaConf.load(folder / "recipe.yaml")
        _register(f"experiment/{name}", recipe, package="_global_")
    request = _Request("train", overrides, resources.user_config_dirs(config_dirs))
    composed, choices = request.compose()
    config = _finish(checked_types("train", _plain(composed)))
    config["choices"] = choices
    tracking = config["tracking"]
    config["name"] = config["name"] or _default_name(choices)
    tracking["uri"] = tracking["uri"] or f"sqlite:///{config['paths']['root']}/mlflow.db"
    tracking["experiment"] = tracking["experiment"] or config["name"]
    return config


def compose_sample(
    overrides: Sequence[str], *, recorded: Config, config_dirs: Iterable[Path] = ()
) -> Config:
    """`conf/sample.yaml` over what a run recorded: resolved, typed, plain; raises RequestError."""
    guidance = dict(recorded["guidance"])
    if option(overrides, "guidance.weight") is not None:
        guidance["scale"] = None  # the recorded scale gives way to the other convention
    kept = {"guidance": guidance, "sample": recorded["sample"], "paths": recorded["paths"]}
    _register("recorded", kept)
    _register("sampler/recorded", recorded["sampler"])
    _register("precision/recorded", recorded["precision"])
    request = _Request("sample", overrides, resources.user_config_dirs(config_dirs))
    composed, choices = request.compose(objective=recorded["objective"]["_target_"])
    config = _finish(checked_types("sample", _plain(composed)))
    config["choices"] = {**recorded["choices"], "sampler": choices["sampler"]}
    return config


def read_recorded(folder: RunFolder, trusted_modules: Sequence[str] = ()) -> Config:
    """The configuration that a run recorded: data only, nothing in it is run or resolved.

    Which of the user's modules may be named is said by the caller, never by the record.
    """
    try:
        recorded = {**read_yaml(folder.config), "trusted_modules": list(trusted_modules)}
        choices = {str(group): str(name) for group, name in recorded.pop("choices").items()}
        return {**checked_types("train", recorded), "choices": choices}
    except (
        OSError,
        OmegaConfBaseException,
        YAMLError,
        AttributeError,
        KeyError,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{folder.config}: not a run's configuration: {reason}") from None


def read_yaml(path: Path) -> Config:
    """A configuration that this package wrote, as plain values."""
    return to_plain(OmegaConf.load(path))


def option(overrides: Sequence[str], key: str) -> Any:
    """The value given for a key on the command line, the last one if there are several; or None."""
    found = [text for text in overrides if text.partition("=")[0] == key]
    return _parse(found[-1]).value() if found else None


def to_yaml(config: Config) -> str:
    """The configuration as files and `--cfg job` show it."""
    return OmegaConf.to_yaml(OmegaConf.create(config))


# ---- Hydra --------------------------------------------------------------------------------------


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        raise RequestError(
            f"{text}: not understood; write KEY=VALUE, lists as KEY=[1,2], and quote text "
            "with special characters as KEY=\\'a b\\'"
        ) from None


class _Request:
    """The overrides of one command, parsed and told apart: those that choose a group's member,
    which decide what keys exist, and those that set a key."""

    def __init__(self, config_name: str, overrides: Sequence[str], dirs: Sequence[Path]) -> None:
        self._config_name = config_name
        self._dirs = dirs
        self._groups: dict[str, str] = {}  # group -> chosen member
        self._early: list[str] = []  # trusted_modules, needed to read a user's own classes
        self._values: list[tuple[str, str]] = []  # (key, override text)
        known = resources.groups(dirs)
        for text in overrides:
            self._add(text, known)

    def _add(self, text: str, groups: Sequence[str]) -> None:
        parsed = _parse(text)
        if parsed.is_sweep_override():
            raise RequestError(f"{text}: several values at once make a sweep, which needs -m")
        key, value = parsed.key_or_group, parsed.get_value_element_as_str()
        if key in groups and not parsed.is_delete():
            self._groups[key] = value.strip("'\"")
        elif key == "trusted_modules":
            self._early.append(text)
        else:
            self._values.append((key if not parsed.is_add() else "", text))

    def compose(self, *, objective: str | None = None) -> tuple[DictConfig, dict[str, str]]:
        """The composed configuration and the chosen members of its groups.

        `sampler=auto` becomes the natural sampler of the objective: the composed one, or the one
        that a run recorded.
        """
        values = [text for _, text in self._values]
        if self._groups.get("sampler", "auto") == "auto":
            chosen, choices = self._compose([])
            if choices["sampler"] == "auto":
                self._groups["sampler"] = self._natural_sampler(chosen, objective)
        try:
            return self._compose(values)
        except RequestError:
            self._refuse_unknown_keys(self._compose([])[0])
            raise

    def _natural_sampler(self, chosen: DictConfig, objective: str | None) -> str:
        target = objective or chosen.objective.get("_target_", "")
        trusted = list(chosen.trusted_modules)

        def load(name: str) -> Any:
            return load_component(name, trusted_modules=trusted, key="objective._target_")

        return samplers_for(target, load)[0]

    def _compose(self, values: list[str]) -> tuple[DictConfig, dict[str, str]]:
        # Quoted, so that patch=2 names a member and not a number.
        overrides = [f"{group}='{member}'" for group, member in self._groups.items()]
        if self._dirs:
            places = ",".join(f"'file://{path}'" for path in self._dirs)
            overrides.append(f"hydra.searchpath=[{places}]")
        try:
            with initialize_config_dir(str(resources.packaged("conf")), version_base="1.3"):
                composed = compose(
                    self._config_name,
                    overrides=[*overrides, *self._early, *values],
                    return_hydra_config=True,
                )
        except MissingConfigException as error:
            raise RequestError(self._no_such_member(error)) from None
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise RequestError(" ".join(str(error).split())) from None
        choices = {
            name: member
            for name, member in composed.hydra.runtime.choices.items()
            if member is not None and not name.startswith("hydra/")
        }
        OmegaConf.set_struct(composed, False)
        del composed["hydra"]
        return composed, choices

    def _no_such_member(self, error: MissingConfigException) -> str:
        group, _, member = (error.missing_cfg_file or "").rpartition("/")
        allowed = resources.choices(group, self._dirs) if group else []
        if not allowed:
            return " ".join(str(error).split("Config search path")[0].split())
        close = difflib.get_close_matches(member, allowed, n=1)
        hint = f"; did you mean {group}={close[0]}?" if close else ""
        return f"{group}={member}: no such choice; allowed: {', '.join(allowed)}{hint}"

    def _refuse_unknown_keys(self, chosen: DictConfig) -> None:
        """Refuse a value for a key that the chosen groups do not have, before Hydra does."""
        known = {key for key, _ in flatten(to_plain(chosen))}
        for key, _ in self._values:
            if key and key not in known and not any(name.startswith(f"{key}.") for name in known):
                groups = resources.groups(self._dirs)
                close = difflib.get_close_matches(key, groups, n=1) if "." not in key else []
                if close:
                    raise RequestError(
                        f"{key}: no such group or key; did you mean {close[0]}=NAME?"
                    )
                raise RequestError(unknown_key(key, known))


def _register(path: str, node: Any, package: str | None = None) -> None:
    """Make a node known to Hydra as `group/name` beside the files of conf/."""
    group, _, name = path.rpartition("/")
    ConfigStore.instance().store(group=group or None, name=name, node=node, package=package)


def _plain(composed: DictConfig) -> Config:
    """Interpolations resolved, nothing of OmegaConf left."""
    try:
        return to_plain(composed, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{error.full_key}: cannot be resolved ({reason})") from None


# ---- finishing ----------------------------------------------------------------------------------


def _finish(config: Config) -> Config:
    """Paths absolute, guidance in one convention."""
    for path in PATHS:
        *parents, leaf = path.split(".")
        node = config
        for parent in parents:
            node = node.get(parent, {})
        if isinstance(node.get(leaf), str):
            node[leaf] = str(Path(node[leaf]).expanduser().absolute())
    guidance = config["guidance"]
    if guidance["scale"] is not None and guidance["weight"] is not None:
        raise RequestError(
            f"guidance.scale={guidance['scale']} and guidance.weight={guidance['weight']}: two "
            "ways of saying one thing (scale = 1 + weight); give one of them"
        )
    if guidance["scale"] is None:
        guidance["scale"] = 1.0 + (guidance["weight"] or 0.0)
    guidance["weight"] = None
    return config


def _default_name(choices: dict[str, str]) -> str:
    """The run's name where none is given: the experiment, or what was chosen."""
    parts = (choices.get(group, "") for group in ("dataset", "model", "patch", "objective"))
    return choices.get("experiment") or "-".join(parts)
