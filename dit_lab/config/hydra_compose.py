"""Composition of the overrides of one command by Hydra.

Every error becomes one line with the key, the given value, the allowed values and the closest valid
spelling.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dit_lab.config import search_path
from dit_lab.config.components import COMPONENT_GROUPS, LISTS
from dit_lab.config.overrides import MEMBER, no_such_choice, parse_override
from dit_lab.config.recipes import PER_MEMBER, recipe_nodes
from dit_lab.config.spelling import names_option, takes_list, unknown_key
from dit_lab.config.validate import refuse_interpolations, to_plain
from dit_lab.config.yaml_files import load_recipe, yaml_trouble
from dit_lab.core.errors import RequestError
from dit_lab.core.text import quoted
from dit_lab.runs.folder import flatten

SET_OTHERS = ("experiment", "patch")
"""Groups whose members set keys of other groups, if they are not defined in files."""

Chosen = tuple[DictConfig, dict[str, str]]
"""The composed configuration and the names of its members; neither may be modified."""

KEPT = 256
"""Number of compositions that are cached per process."""


@dataclass(frozen=True, slots=True, eq=False)
class Folders:
    """The user's configuration folders; their content is cached per object."""

    paths: tuple[Path, ...] = ()


NO_FOLDERS = Folders()


def user_folders(given: Iterable[Path] = ()) -> Folders:
    """Return `./conf` and the given folders, as far as they exist. Raises RequestError."""
    paths = tuple(search_path.user_config_dirs(given))
    return Folders(paths) if paths else NO_FOLDERS


@dataclass(frozen=True, slots=True)
class Sources:
    """Sources of a composition besides the package's files.

    These are the user's folders, and members that are not in files: `group/name` -> values.
    """

    folders: Folders
    nodes: Mapping[str, Any] = field(default_factory=dict, compare=False)
    text: str = ""  # the nodes, for comparison


class Request:
    """The parsed overrides of a command: choices of group members, and values of keys.

    The chosen members determine which keys exist. `recorded` is the configuration that a run
    recorded: `group/name` -> values.
    """

    def __init__(
        self,
        config_name: str,
        overrides: Sequence[str],
        folders: Folders,
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        self.config_name = config_name
        self.folders = folders
        self._recorded = recorded or {}
        self.groups: dict[str, str] = {}  # group -> chosen member
        self._early: list[str] = []  # overrides that remove a group
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
            raise RequestError(
                f"{text}: the package of a group cannot be changed; write {key}=NAME"
            )
        if key in groups and not parsed.is_delete():
            _check_members(text, key, parsed.value())
            self.groups[key] = value.strip("'\"")
        elif key in groups:
            self._early.append(text)
        elif self._is_of_component(key) and not parsed.is_delete():
            # The class defines the keys: the member's file may omit those with a default.
            self._values.append((key, text if text.startswith("+") else f"++{text}"))
        else:
            self._values.append((key, text))

    def _is_of_component(self, key: str) -> bool:
        """Return whether a key is an option of a component, or of a named member of its group."""
        top = key.partition(".")[0]
        per_member = top == PER_MEMBER and self.config_name == "train"
        return top in (*COMPONENT_GROUPS, *LISTS) or per_member

    @property
    def experiment(self) -> str:
        """The override `experiment=NAME` that names a recipe, or ""."""
        name = self.groups.get("experiment", "")
        return f"experiment={name}" if name else ""

    @property
    def typed(self) -> set[str]:
        """The keys that overrides set, apart from groups."""
        return {key for key, _ in self._values}

    def value(self, key: str) -> Any:
        """Return the value that overrides set for a key, or None."""
        texts = [text for of, text in self._values if of == key]
        return parse_override(texts[-1]).value() if texts else None

    def apply(self, config: DictConfig, *, which: Callable[[str], bool]) -> None:
        """Set the keys of overrides that `which` selects. Raises RequestError for an unknown key.

        This calls a private function of Hydra, because composing again takes 109 ms instead of 3
        ms. Versions of Hydra that might lack it are excluded in pyproject.toml.
        """
        texts = [text for key, text in self._values if which(key)]
        try:
            ConfigLoaderImpl._apply_overrides_to_config(
                [parse_override(text) for text in texts], config
            )
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            if "Cannot merge DictConfig" in str(error.__cause__):
                given = str(error).removeprefix("Error merging override ")
                raise RequestError(f"{given}: expected names and values such as {{a: 1}}") from None
            self._refuse_unknown_keys(config)
            raise RequestError(" ".join(str(error).split())) from None

    def of_recipe_alone(self) -> Chosen | None:
        """Return the composition of the recipe without other overrides.

        Returns None without a recipe, or if the recipe leaves a choice to the command.
        """
        if "experiment" not in self.groups:
            return None
        with suppress(RequestError):
            name = quoted(self.groups["experiment"])
            return self._composed(self.config_name, [f"experiment={name}"], self._sources)
        return None

    def alone(self, group: str, member: str) -> DictConfig:
        """Return the values that a single member of a group sets."""
        typed = [f"{group}={quoted(member)}"]
        return self._composed(_alone(group), typed, Sources(self.folders))[0]

    def choose(self) -> Chosen:
        """Return the composition of the chosen members, and their names."""
        overrides = [
            # Quoted, so that Hydra reads patch=2 as a name and not as a number.
            f"{group}={member}" if group in LISTS else f"{group}={quoted(member)}"
            for group, member in self.groups.items()
        ]
        overrides += self._early
        return self._composed(self.config_name, overrides, self._sources)

    @cached_property
    def _sources(self) -> Sources:
        """The sources of the composition. Raises RequestError for an unknown experiment."""
        nodes = dict(self._recorded)
        if (experiment := self.groups.get("experiment")) is not None:
            nodes |= recipe_nodes(experiment, search_path.experiments(self.folders.paths))
        return Sources(self.folders, nodes, repr(nodes))

    def _composed(self, config_name: str, overrides: list[str], sources: Sources) -> Chosen:
        try:
            return _compose(config_name, tuple(overrides), sources)
        except MissingConfigException as error:
            raise RequestError(self._no_such_member(error)) from None
        except YAMLError as error:
            raise RequestError(yaml_trouble(error)) from None
        except RecursionError:
            chosen = ", ".join(f"{group}={member}" for group, member in self.groups.items())
            raise RequestError(
                f"{chosen}: circular defaults; a user-defined member that extends one of the lab "
                "needs another name"
            ) from None
        except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
            self._refuse_other_files()
            raise RequestError(" ".join(str(error).split())) from None

    def _refuse_other_files(self) -> None:
        """Raise RequestError for a chosen file of the user without keys and values, by its name."""
        chosen = [Path(group, f"{member}.yaml") for group, member in self.groups.items()]
        for file in (folder / path for folder in self.folders.paths for path in chosen):
            if file.is_file():
                load_recipe(file)

    def _no_such_member(self, error: MissingConfigException) -> str:
        group, _, member = (error.missing_cfg_file or "").rpartition("/")
        allowed = search_path.choices(group, self.folders.paths) if group else []
        if group in LISTS and not allowed:
            return (
                f"{group}={member}: there is none yet; write your own as conf/{group}/NAME.yaml, "
                "as docs/extend.md shows"
            )
        if not allowed:
            return " ".join(str(error).split("Config search path")[0].split())
        return no_such_choice(group, member, allowed)

    def _refuse_unknown_keys(self, chosen: DictConfig) -> None:
        """Raise RequestError for keys that the chosen members do not have."""
        known = {key for key, _ in flatten(to_plain(chosen))}
        for key, text in self._values:
            if text.startswith("+") or key in known:
                continue
            if not any(name.startswith(f"{key}.") for name in known):
                groups = search_path.groups_to_choose(self.folders.paths)
                is_group = "." not in key and not names_option(key, known)
                close = difflib.get_close_matches(key, groups, n=1) if is_group else []
                if close:
                    raise RequestError(
                        f"{key}: no such group or key; did you mean {close[0]}=NAME?"
                    )
                raise RequestError(unknown_key(key, known, verb=self.config_name))


@lru_cache(KEPT)
def _compose(config_name: str, overrides: tuple[str, ...], sources: Sources) -> Chosen:
    """Compose with Hydra; cached, since the package's own files do not change while a process runs.

    Raises RequestError, and all errors of Hydra.
    """
    alone = {_alone(group): {"defaults": [{group: "???"}]} for group in search_path.groups()}
    # NAME/_none: without a member, Hydra reads an empty list as a value
    empty: dict[str, Any] = {f"{group}/_none": {} for group in LISTS}
    for path, values in {**alone, **empty, **sources.nodes}.items():
        group, _, name = path.rpartition("/")
        package = "_global_" if group in SET_OTHERS else None
        ConfigStore.instance().store(name, values, group or None, package)
    with initialize_config_dir(str(search_path.packaged("conf")), version_base="1.3"):
        _put_first(sources.folders.paths)
        composed = compose(config_name, overrides=list(overrides), return_hydra_config=True)
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
    return composed, choices


class Members(FileConfigSource):
    """The members of groups in a folder of the user.

    Excludes other files, which may belong to another program, and partial files that have the name
    of one of the package's.
    """

    @staticmethod
    def scheme() -> str:
        return "members"

    def is_config(self, config_path: str) -> bool:
        file = Path(self._normalize_file_name(config_path))
        is_part = file.name.startswith("_") and (search_path.packaged("conf") / file).exists()
        return len(file.parts) > 1 and not is_part and bool(super().is_config(config_path))


def _put_first(folders: Sequence[Path]) -> None:
    """Put the user's folders before the package's in Hydra's search path, the last one first.

    A member of the user thus replaces the package's member of the same name. This uses private
    functions of Hydra, since `hydra.searchpath` comes after the package's folder.
    """
    SourcesRegistry.instance().register(Members)
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    places = loader.get_search_path()
    for folder in folders:
        places.prepend("user", f"{Members.scheme()}://{folder}")
    loader.repository.initialize_sources(places)


def _alone(group: str) -> str:
    """Return the name of a configuration that contains only a member of this group."""
    return f"{group}_alone"


def _check_members(text: str, group: str, chosen: Any) -> None:
    """Raise RequestError if a value is not a member's name, or a list of names for a list group."""
    names = chosen if isinstance(chosen, list) and group in LISTS else [chosen]
    if not all(
        isinstance(name, str | int | float | None) and MEMBER.fullmatch(str(name)) for name in names
    ):
        written = f"{group}=[NAME,...]" if group in LISTS else f"{group}=NAME"
        raise RequestError(f"{text}: names no member; write {written}, see dit-lab --help")


def check_launcher(overrides: Sequence[str]) -> None:
    """Compose a Hydra launcher with its settings, as its process will do. Raises RequestError."""
    try:
        with initialize_config_dir(str(search_path.packaged("conf")), version_base="1.3"):
            compose(None, overrides=list(overrides), return_hydra_config=True)
    except MissingConfigException as error:
        group, _, member = (error.missing_cfg_file or "").rpartition("/")
        raise RequestError(no_such_choice(group, member, sorted(error.options or []))) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RequestError(" ".join(str(error).split())) from None


def plain(composed: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values, with interpolations resolved."""
    try:
        resolved = to_plain(composed, resolve=True)
        refuse_interpolations(resolved)
        return resolved
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{error.full_key}: cannot be resolved ({reason})") from None
