"""Precedence of values in a configuration, lowest first.

Defaults of components; files of the chosen members; the recipe; options set for one member of a
group; overrides.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dit_lab.config import search_path
from dit_lab.config.compatibility import samplers_for
from dit_lab.config.components import COMPONENT_GROUPS, LISTS, load_component, options_of
from dit_lab.config.hydra_compose import Request
from dit_lab.config.overrides import no_such_choice
from dit_lab.config.recipes import OF_RECIPE, PER_MEMBER, Member, has_option, why_not
from dit_lab.config.schema import DROP_OPTION
from dit_lab.config.validate import no_target, to_plain
from dit_lab.core.errors import RequestError
from dit_lab.core.options import defaults
from dit_lab.training.optimizers.options import SCHEDULE_FREE

Tree = dict[str, Any]

OPEN = ("tags",)
"""Keys with names chosen by the user below them."""


@dataclass(kw_only=True)
class Composition:
    """The composition of a command's overrides."""

    config: DictConfig
    choices: dict[str, str]  # group -> member
    experiment: str = ""  # experiment=NAME
    notes: list[str] = field(default_factory=list)  # recipe values that do not apply, and why
    of_recipe: set[str] = field(default_factory=set)  # keys that have a value of the recipe
    dropped: dict[str, str] = field(default_factory=dict)  # dropped option -> reason

    def blamed(self, refusal: str) -> str:
        """Return a suffix for an error about a value that the recipe has set; else ""."""
        key = refusal.partition(":")[0].partition("=")[0]
        return f"; {self.experiment} sets it" if key in self.of_recipe else ""


def composition(
    request: Request,
    *,
    objective: str | None = None,
    recipe_axes: Collection[str] = (),
    of_sweep: bool = False,
) -> Composition:
    """Compose a configuration and choose the members of its groups.

    Args:
        objective: The `_target_` of the objective that a run recorded, which determines
            `sampler=auto`; None for the objective of this configuration.
        recipe_axes: See `Composer.compose`.
        of_sweep: See `Composer.compose`.

    Raises:
        RequestError: A key or member is unknown.
    """
    chosen, choices = request.choose()
    found = Composition(
        config=copy.deepcopy(chosen), choices=dict(choices), experiment=request.experiment
    )
    layers = Layers(request, found)
    layers.choose_sampler(objective)
    layers.choose_schedule()
    layers.lay_recipe()
    layers.lay_per_member()
    layers.lay_defaults()
    layers.note_options_to_drop(recipe_axes, of_sweep=of_sweep)
    layers.lay_typed()
    return found


class Layers:
    """A composition in progress, to which each method applies one layer."""

    def __init__(self, request: Request, found: Composition) -> None:
        self._request = request
        self._found = found
        self._config = found.config
        OmegaConf.set_struct(self._config, False)
        of_recipe: Tree = to_plain(self._config.pop(OF_RECIPE, OmegaConf.create()))
        self._of_recipe = of_recipe
        request.apply(self._config, which=_is_per_member)
        self._per_member: Tree = to_plain(self._config.pop(PER_MEMBER, OmegaConf.create()))
        _check_per_member(self._per_member, request)

    # ---- chosen members --------------------------------------------------------------------------

    def _now(self, group: str) -> Member:
        """Return the chosen member, from its file or a `_target_` of the recipe or overrides."""
        name = self._found.choices.get(group, group)
        target = (self._config.get(group) or {}).get("_target_")
        of_recipe = self._of_recipe.get(group, {}).get("_target_")
        if of_recipe is not None and not self._is_anew(group):
            target = of_recipe
        if (typed := self._request.value(f"{group}._target_")) is not None:
            name, target = str(typed).rpartition(".")[2], typed
        return Member(group=group, name=name, target=target)

    def _before(self, group: str) -> Member | None:
        """Return the member for which the recipe was written; None if it leaves that open."""
        if (alone := self._request.of_recipe_alone()) is None:
            return None
        config, choices = alone
        target = (config.get(group) or {}).get("_target_")
        target = self._of_recipe.get(group, {}).get("_target_", target)
        return Member(group=group, name=choices.get(group, group), target=target)

    def _is_anew(self, group: str) -> bool:
        """Return whether overrides choose another member of a group than the recipe."""
        if group not in self._request.groups:
            return False
        alone = self._request.of_recipe_alone()
        return alone is not None and alone[1].get(group) != self._request.groups[group]

    def _own(self, group: str) -> set[str]:
        """Return the options of a group that come from files chosen instead of the recipe's.

        These are the files of the group's member, and of groups that set a part of it, such as
        `patch`.
        """
        others = [name for name in self._request.groups if name not in (*COMPONENT_GROUPS, *LISTS)]
        files = [
            self._request.alone(name, self._request.groups[name])
            for name in (group, *others)
            if name != "experiment" and self._is_anew(name)
        ]
        return {option for file in files for option in file.get(group) or {}}

    # ---- layers ----------------------------------------------------------------------------------

    def choose_sampler(self, objective: str | None) -> None:
        """Choose the default sampler of the objective for `sampler=auto`.

        It also replaces a recipe's sampler that does not fit an objective chosen by overrides.
        """
        named = self._found.choices.get("sampler")
        is_auto = named == "auto"
        if not is_auto and ("sampler" in self._request.groups or not self._is_anew("objective")):
            return
        target = objective or self._now("objective").target
        if target is None:
            raise RequestError(no_target("objective"))
        fit = samplers_for(target, lambda name: load_component(name, key="objective._target_"))
        if named not in fit:
            self._take("sampler", fit[0])
            if not is_auto:
                self._note([f"sampler={named}"], f"{self._now('objective').name} takes {fit[0]}")

    def choose_schedule(self) -> None:
        """Replace a recipe's decaying schedule by a constant one for a schedule-free optimizer."""
        if "schedule" in self._request.groups or not self._is_anew("optimizer"):
            return
        optimizer, target = self._now("optimizer"), self._now("schedule").target
        if optimizer.target != SCHEDULE_FREE or target is None:
            return
        if getattr(load_component(target, key="schedule._target_"), "depends_on_end", True):
            named = self._found.choices.get("schedule", "schedule")
            self._take("schedule", "constant")
            self._note([f"schedule={named}"], f"{optimizer.name} takes constant")

    def _take(self, group: str, member: str) -> None:
        """Replace the chosen member of a group."""
        self._config[group] = self._request.alone(group, member)[group]
        self._found.choices[group] = member

    def lay_recipe(self) -> None:
        """Apply the values of the recipe that fit the chosen members, and note the others."""
        for group, section in self._of_recipe.items():
            if group in LISTS:
                self._lay_list(group, section)
            else:
                self._lay_section(group, section)

    def _lay_section(self, group: str, section: Tree) -> None:
        now, before = self._now(group), self._before(group)
        own = self._own(group)
        set_otherwise = {*self._options_of(now), *self._typed_of(group)}
        kept: Tree = {}
        whys: dict[str, list[str]] = {}
        for name, value in section.items():
            if name == "_target_":
                why = f"{group}={now.name} is chosen" if self._is_anew(group) else ""
            else:
                why = why_not(name, value, now, before, own=own)
            if not why:
                kept[name] = value
            elif name not in set_otherwise:
                whys.setdefault(why, []).append(f"{group}.{name}")
        for why, keys in whys.items():
            self._note(keys, why)
        self._config[group] = OmegaConf.merge(self._config.get(group) or {}, kept)
        self._found.of_recipe |= {f"{group}.{name}" for name in kept if name not in set_otherwise}

    def _lay_list(self, group: str, section: Tree) -> None:
        """Apply the recipe's values for a group with several members, each under its own name."""
        members = self._config.get(group) or {}
        known = search_path.choices(group, self._request.folders.paths)
        for name, options in section.items():
            if name in members or name not in known:  # unknown: misspelt, or a whole component
                self._config[group] = OmegaConf.merge(
                    self._config.get(group) or {}, {name: options}
                )
                self._found.of_recipe |= {f"{group}.{name}.{option}" for option in options or {}}
            else:
                keys = [f"{group}.{name}.{option}" for option in options or {}]
                self._note(keys, f"{name} is not chosen")

    def lay_per_member(self) -> None:
        """Apply the options that are set for the chosen members by name."""
        for group in self._per_member:
            if group in LISTS:
                chosen = self._config.get(group) or {}
                given = {n: o for n, o in self._per_member[group].items() if n in chosen}
            else:
                given = self._options_of(self._now(group))
            self._config[group] = OmegaConf.merge(self._config.get(group) or {}, given)

    def lay_defaults(self) -> None:
        """Add the defaults of components, so that these keys can be overridden and referred to."""
        places = [(self._config, group, group) for group in COMPONENT_GROUPS]
        places += [
            (self._config[group], name, group)
            for group in LISTS
            for name in self._config.get(group) or {}
        ]
        for parent, name, group in places:
            options = parent.get(name)
            if isinstance(options, DictConfig):
                target = options.get("_target_") if group in LISTS else self._now(group).target
                if schema := options_of(group, target):
                    parent[name] = OmegaConf.merge(defaults(schema), options)

    def note_options_to_drop(self, recipe_axes: Collection[str], *, of_sweep: bool) -> None:
        """Note overridden options that the chosen members do not have, to be dropped.

        Dropped are options of the recipe's axes and, with `sweep.on_refusal=drop_option`, all.
        """
        typed = self._request.value("sweep.on_refusal")
        asked = typed or (self._config.get("sweep") or {}).get("on_refusal")
        for group in COMPONENT_GROUPS:
            now = self._now(group)
            for option in self._typed_of(group):
                key = f"{group}.{option}"
                if option == "_target_" or has_option(now.schema, option):
                    continue
                if key in recipe_axes:
                    self._found.dropped[key] = self._said([key], f"{now.name} has none")
                elif of_sweep and asked == DROP_OPTION:
                    self._found.dropped[key] = f"{key}: {now.name} has none"

    def lay_typed(self) -> None:
        """Apply the overrides, except dropped ones."""
        dropped = self._found.dropped
        OmegaConf.set_struct(self._config, True)  # unknown keys are refused
        for name in OPEN:
            if isinstance(self._config.get(name), DictConfig):
                OmegaConf.set_struct(self._config[name], False)
        self._request.apply(
            self._config, which=lambda key: key not in dropped and not _is_per_member(key)
        )
        OmegaConf.set_struct(self._config, False)

    # ---- helpers ---------------------------------------------------------------------------------

    def _typed_of(self, group: str) -> list[str]:
        """Return the options of a group that overrides set."""
        return [
            key.removeprefix(f"{group}.")
            for key in self._request.typed
            if key.startswith(f"{group}.")
        ]

    def _options_of(self, member: Member) -> Tree:
        """Return the options that are set for a member by its name."""
        return self._per_member.get(member.group, {}).get(member.name) or {}

    def _note(self, keys: list[str], why: str) -> None:
        self._found.notes.append(self._said(keys, why))

    def _said(self, keys: list[str], why: str) -> str:
        return f"{self._found.experiment} sets {', '.join(keys)}; {why}"


def _is_per_member(key: str) -> bool:
    return key.partition(".")[0] == PER_MEMBER


def _check_per_member(given: Tree, request: Request) -> None:
    """Raise RequestError for options that are set for an unknown group or member."""
    for group, members in given.items():
        key = f"{PER_MEMBER}.{group}"
        if group not in (*COMPONENT_GROUPS, *LISTS):
            known = ", ".join((*COMPONENT_GROUPS, *LISTS))
            raise RequestError(f"{key}: no group of components; there are {known}")
        choices = search_path.choices(group, request.folders.paths)
        for name, options in (members if isinstance(members, Mapping) else {"": None}).items():
            if not isinstance(options, Mapping | None) or not name:
                raise RequestError(f"{key}: expected options by member, {key}.NAME.OPTION=VALUE")
            if name not in choices:
                raise RequestError(f"{key}.{name}: {no_such_choice(group, name, choices)}")
