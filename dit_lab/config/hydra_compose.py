"""The overrides of one command, composed by Hydra.

Every refusal becomes one line that names the key, what was given, what is allowed and the closest
valid spelling.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dit_lab.config import search_path
from dit_lab.config.compatibility import samplers_for
from dit_lab.config.components import COMPONENT_GROUPS, LISTS, load_component, options_of
from dit_lab.config.spelling import names_option, takes_list
from dit_lab.config.validate import no_target, refuse_interpolations, to_plain, unknown_key
from dit_lab.config.yaml_files import load_recipe, yaml_trouble
from dit_lab.core.errors import RequestError
from dit_lab.core.options import defaults
from dit_lab.core.text import quoted
from dit_lab.runs.folder import flatten


def parse_override(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        raise RequestError(
            f"{text}: not understood; write KEY=VALUE, lists as KEY=[1,2], and quote text "
            "with special characters as KEY=\\'a b\\'"
        ) from None


MEMBER = re.compile(r"[\w+-][\w .+-]*")
"""The name of a member of a group, which is that of its file: nothing that leads elsewhere."""

SAMPLER_ALONE = "sampler_alone"  # the name of a configuration of this group and no other

Chosen = tuple[DictConfig, dict[str, str]]
"""The composed members of the groups, and their names."""


class Request:
    """The overrides of one command, parsed and told apart: those that choose a group's member,
    which decide what keys exist, and those that set a key.

    Requests that share `chosen` compose the same choice of members once.
    """

    def __init__(
        self,
        config_name: str,
        overrides: Sequence[str],
        dirs: Sequence[Path],
        chosen: dict[tuple[str, ...], Chosen] | None = None,
    ) -> None:
        self._config_name = config_name
        self._dirs = dirs
        self._known = {} if chosen is None else chosen
        self._groups: dict[str, str] = {}  # group -> chosen member
        self._early: list[str] = []  # groups taken away
        self._values: list[tuple[str, str]] = []  # (key, override text)
        known = search_path.groups()
        for text in overrides:
            self._add(text, known)

    def _add(self, text: str, groups: Sequence[str]) -> None:
        parsed = parse_override(text)
        if parsed.is_sweep_override():
            key, _, values = text.partition("=")
            one = f"; for one list write {key}=[{values}]" if takes_list(key) else ""
            raise RequestError(f"{text}: several values at once make a sweep, which needs -m{one}")
        key, value = parsed.key_or_group, parsed.get_value_element_as_str()
        if key in groups and parsed.package is not None:
            raise RequestError(f"{text}: a group has one place; write {key}=NAME")
        if key in groups and not parsed.is_delete():
            _check_members(text, key, parsed.value())
            self._groups[key] = value.strip("'\"")
        elif key in groups:
            self._early.append(text)
        elif key.partition(".")[0] in (*COMPONENT_GROUPS, *LISTS) and not parsed.is_delete():
            # The class says which keys there are: its file may leave out those with a default.
            self._values.append(("", text if text.startswith("+") else f"++{text}"))
        else:
            self._values.append((key if not parsed.is_add() else "", text))

    def compose(self, *, objective: str | None = None) -> Chosen:
        """The composed configuration and the chosen members of its groups.

        `sampler=auto` becomes the natural sampler of the objective: the composed one, or the one
        that a run recorded.
        """
        chosen, choices = self._choose()
        composed = copy.deepcopy(chosen)
        if choices.get("sampler") == "auto":
            name = self._natural_sampler(chosen, objective)
            composed.sampler = OmegaConf.merge(self._sampler(name), chosen.sampler)
            choices = {**choices, "sampler": name}
        try:
            # Hydra has no public name for this. To compose again takes 109 ms, this 3 ms. Versions
            # of Hydra that might lack it are not allowed (pyproject.toml).
            ConfigLoaderImpl._apply_overrides_to_config(
                [parse_override(text) for _, text in self._values], composed
            )
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            self._refuse_unknown_keys(chosen)
            raise RequestError(" ".join(str(error).split())) from None
        OmegaConf.set_struct(composed, False)
        return composed, choices

    def _natural_sampler(self, chosen: DictConfig, objective: str | None) -> str:
        target = objective or (chosen.get("objective") or {}).get("_target_")
        if target is None:
            raise RequestError(no_target("objective"))
        return samplers_for(target, lambda name: load_component(name, key="objective._target_"))[0]

    def _sampler(self, name: str) -> DictConfig:
        """The options of a sampler, which is known only when the rest is composed."""
        register(SAMPLER_ALONE, {"defaults": [{"sampler": "???"}]})
        alone: DictConfig = self._composed(SAMPLER_ALONE, [f"sampler={quoted(name)}"])[0].sampler
        return alone

    def _choose(self) -> Chosen:
        overrides = [
            # Quoted, so that patch=2 names a member and not a number.
            f"{group}={member}" if group in LISTS else f"{group}={quoted(member)}"
            for group, member in self._groups.items()
        ]
        overrides += self._early
        return self._composed(self._config_name, overrides)

    def _composed(self, config_name: str, overrides: list[str]) -> Chosen:
        key = (config_name, *overrides)
        if key not in self._known:
            self._known[key] = self._compose(config_name, overrides)
        return self._known[key]

    def _compose(self, config_name: str, overrides: list[str]) -> Chosen:
        if (experiment := self._groups.get("experiment")) is not None:
            _register_recipe(experiment, search_path.experiments())
        register("hook/_none", {})  # else Hydra takes an empty list for a value
        if self._dirs:
            places = ",".join(quoted(f"file://{path}") for path in self._dirs)
            overrides = [*overrides, f"hydra.searchpath=[{places}]"]
        try:
            with initialize_config_dir(str(search_path.packaged("conf")), version_base="1.3"):
                composed = compose(config_name, overrides=overrides, return_hydra_config=True)
        except MissingConfigException as error:
            raise RequestError(self._no_such_member(error)) from None
        except YAMLError as error:
            raise RequestError(yaml_trouble(error)) from None
        except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
            self._refuse_other_files()
            raise RequestError(" ".join(str(error).split())) from None
        choices = {
            name: member
            for name, member in composed.hydra.runtime.choices.items()
            if member is not None and name not in LISTS and not name.startswith("hydra/")
        }
        for group, member in choices.items():
            if not MEMBER.fullmatch(member):
                raise RequestError(f"{group}={member}: is no name of a member of {group}")
        with open_dict(composed):
            del composed["hydra"]
            _fill(composed)
        return composed, choices

    def _refuse_other_files(self) -> None:
        """Refuse a member's file of the user's own that holds no keys and values, by its name."""
        chosen = [Path(group, f"{member}.yaml") for group, member in self._groups.items()]
        for file in (folder / path for folder in self._dirs for path in chosen):
            if file.is_file():
                load_recipe(file)

    def _no_such_member(self, error: MissingConfigException) -> str:
        group, _, member = (error.missing_cfg_file or "").rpartition("/")
        allowed = search_path.choices(group, self._dirs) if group else []
        if group in LISTS and not allowed:
            return (
                f"{group}={member}: there is none yet; write your own as conf/{group}/NAME.yaml, "
                "as docs/extend.md shows"
            )
        if not allowed:
            return " ".join(str(error).split("Config search path")[0].split())
        return no_such_choice(group, member, allowed)

    def _refuse_unknown_keys(self, chosen: DictConfig) -> None:
        """Refuse a value for a key that the chosen groups do not have, before Hydra does."""
        known = {key for key, _ in flatten(to_plain(chosen))}
        for key, _ in self._values:
            if key and key not in known and not any(name.startswith(f"{key}.") for name in known):
                groups = search_path.groups_to_choose(self._dirs)
                is_group = "." not in key and not names_option(key, known)
                close = difflib.get_close_matches(key, groups, n=1) if is_group else []
                if close:
                    raise RequestError(
                        f"{key}: no such group or key; did you mean {close[0]}=NAME?"
                    )
                raise RequestError(unknown_key(key, known, verb=self._config_name))


def _check_members(text: str, group: str, chosen: Any) -> None:
    """Refuse what is no name of a member of a group, or of a list no names, such as a path."""
    names = chosen if isinstance(chosen, list) and group in LISTS else [chosen]
    if not all(
        isinstance(name, str | int | float | None) and MEMBER.fullmatch(str(name)) for name in names
    ):
        written = f"{group}=[NAME,...]" if group in LISTS else f"{group}=NAME"
        raise RequestError(f"{text}: names no member; write {written}, see dit-lab --help")


def _fill(composed: DictConfig) -> None:
    """Give the package's components their defaults: keys that may be set and referred to."""
    places = [(composed, group, group) for group in COMPONENT_GROUPS]
    places += [
        (composed[group], name, group) for group in LISTS for name in composed.get(group) or {}
    ]
    for parent, name, group in places:
        options = parent.get(name)
        if isinstance(options, DictConfig) and (
            schema := options_of(group, options.get("_target_"))
        ):
            parent[name] = OmegaConf.merge(defaults(schema), options)


def check_launcher(overrides: Sequence[str]) -> None:
    """Compose a launcher of Hydra's with its settings, as the process that runs it will do. Raises
    RequestError."""
    try:
        with initialize_config_dir(str(search_path.packaged("conf")), version_base="1.3"):
            compose(None, overrides=list(overrides), return_hydra_config=True)
    except MissingConfigException as error:
        group, _, member = (error.missing_cfg_file or "").rpartition("/")
        raise RequestError(no_such_choice(group, member, sorted(error.options or []))) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RequestError(" ".join(str(error).split())) from None


def no_such_choice(group: str, member: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(member, allowed, n=1)
    hint = f"; did you mean {group}={close[0]}?" if close else ""
    return f"{group}={member}: no such choice; allowed: {', '.join(allowed)}{hint}"


def _register_recipe(name: str, known: Mapping[str, Path]) -> None:
    """Make a named experiment known to Hydra, and those that it is built on. Raises
    RequestError."""
    if name not in known:
        raise RequestError(no_such_choice("experiment", name, sorted(known)))
    recipe = load_recipe(known[name] / "recipe.yaml")
    register(f"experiment/{name}", recipe, package="_global_")
    for entry in recipe.get("defaults", []):
        if isinstance(entry, str) and (base := entry.removeprefix("/experiment/")) in known:
            _register_recipe(base, known)


def register(path: str, node: Any, package: str | None = None) -> None:
    """Make a node known to Hydra as `group/name` beside the files of conf/."""
    group, _, name = path.rpartition("/")
    ConfigStore.instance().store(group=group or None, name=name, node=node, package=package)


def plain(composed: DictConfig) -> dict[str, Any]:
    """Interpolations resolved, nothing of OmegaConf left."""
    try:
        resolved = to_plain(composed, resolve=True)
        refuse_interpolations(resolved)
        return resolved
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{error.full_key}: cannot be resolved ({reason})") from None
